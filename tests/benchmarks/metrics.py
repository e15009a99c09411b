#!/usr/bin/env python3
"""Times the EER and two minDCF of a trial list, beside SpeechBrain's.

> python tests/benchmarks/metrics.py --trials 1000 5000 20000

Half of the trials are targets. Both take turns on one core, and each time is
a median of CPU time. SpeechBrain compares every score with every threshold,
which at 20,000 trials takes some 2 GB too: see how the ratio grows. The
greatest number, that of VoxCeleb1-E, is for ours alone.
"""

import argparse
import statistics
import time

import numpy as np
import torch
from tqdm import tqdm

from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.verification.metrics import summary


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--trials", type=int, nargs="+", default=[1000, 5000, 20_000]
    )
    parser.add_argument("--alone", type=int, default=581_480)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def ours(scores, targets):
    summary(scores, targets)


def speechbrain(scores, targets):
    positive, negative = map(
        torch.from_numpy, (scores[targets], scores[~targets])
    )
    EER(positive, negative)
    for p_target in (0.01, 0.05):
        minDCF(positive, negative, p_target=p_target)


def measure(trials, systems, rounds):
    """Median CPU seconds of each system."""
    rng = np.random.default_rng(0)
    targets = rng.random(trials) < 0.5
    scores = rng.standard_normal(trials, np.float32)
    scores[targets] += 3
    seconds = {system.__name__: [] for system in systems}
    for _ in tqdm(range(rounds), f"{trials} trials", unit="round"):
        for system in systems:
            start = time.process_time()
            system(scores, targets)
            seconds[system.__name__].append(time.process_time() - start)
    return {name: statistics.median(times) for name, times in seconds.items()}


def main():
    arguments = parse_arguments()
    torch.set_num_threads(1)
    rows = [
        {"trials": trials}
        | measure(trials, [ours, speechbrain], arguments.rounds)
        for trials in arguments.trials
    ]
    rows.append(
        {"trials": arguments.alone}
        | measure(arguments.alone, [ours], arguments.rounds)
    )
    print(f"{'trials':>8}{'ours (ms)':>14}{'SpeechBrain (ms)':>18}{'ratio':>8}")
    for row in rows:
        line = f"{row['trials']:8}{1e3 * row['ours']:14.1f}"
        if "speechbrain" in row:
            row["ratio"] = row["speechbrain"] / row["ours"]
            line += f"{1e3 * row['speechbrain']:18.1f}{row['ratio']:8.0f}"
        print(line)
    if arguments.json:
        write_json(
            arguments.json, {"setting": vars(arguments), "figures": rows}
        )


if __name__ == "__main__":
    main()
