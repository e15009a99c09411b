"""Times cosine scores and adaptive S-norm of a trial list, with its memory.

> python tests/benchmarks/scoring.py

Without flags there are as many trials as in VoxCeleb1-E, as many files as all
of VoxCeleb1 has, and a cohort of 6000. The peak of memory counts everything in
the process, the embeddings too.
"""

import argparse
import resource
import time

import numpy as np

from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.verification.normalisation import (
    cohort_statistics,
    normalise,
)
from speechbrain_cadino.verification.scoring import cosine, trial_scores


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=145_000)
    parser.add_argument("--dim", type=int, default=192)
    parser.add_argument("--trials", type=int, default=581_480)
    parser.add_argument("--cohort", type=int, default=6000)
    parser.add_argument("--top", type=int, default=300)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def main():
    arguments = parse_arguments()
    rng = np.random.default_rng(0)
    embeddings, impostors = (
        rng.standard_normal((count, arguments.dim), np.float32)
        for count in (arguments.files, arguments.cohort)
    )
    enrol, test = rng.integers(arguments.files, size=(2, arguments.trials))
    times = [time.perf_counter()]
    sides = cosine(embeddings)
    scores = trial_scores(sides, enrol, test)
    times.append(time.perf_counter())
    statistics = cohort_statistics(sides, cosine(impostors), arguments.top)
    normalise(scores, enrol, test, *statistics)
    times.append(time.perf_counter())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    figures = {
        "cosine (s)": times[1] - times[0],
        "as_norm (s)": times[2] - times[1],
        "peak memory (MiB)": peak / 2**10,  # Linux counts in KiB
    }
    for name, value in figures.items():
        print(f"{name:20}{value:10.2f}")
    if arguments.json:
        write_json(arguments.json, vars(arguments) | {"figures": figures})


if __name__ == "__main__":
    main()
