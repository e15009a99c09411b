#!/usr/bin/env python3
"""Coverage of 95 % intervals over speakers: do they hold the true figure?

> python tests/benchmarks/intervals.py --speakers 10 40 --lists 1000

Draws trial lists from a population of speakers, and two systems that are
equally good in it: embeddings are a speaker's mean plus noise, more for some
speakers than for others, and scores their cosines. The truth is measured on a
list of very many speakers. The table says how often the intervals of
`bootstrap.interval` hold it; those without its correction of the bias, only
`expanded`; and plain percentiles of the same replicates. The last column is
how often `compare` finds a difference at 5 %, where there is none.
"""

import argparse

import numpy as np
import pandas as pd
from tqdm import tqdm

from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.verification.bootstrap import Bootstrap, interval
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.scoring import cosine, trial_scores

DIM = 16
SYSTEMS = ["first", "second"]


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--speakers", type=int, nargs="+", default=[10, 20, 40, 100]
    )
    parser.add_argument("--utterances", type=int, default=8, help="of each")
    parser.add_argument(
        "--non-targets", type=int, default=5, help="for each target trial"
    )
    parser.add_argument("--lists", type=int, default=100, help="of each size")
    parser.add_argument("--replicates", type=int, default=400)
    parser.add_argument("--population", type=int, default=20_000)
    parser.add_argument("--noise", type=float, default=0.7)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def draw_list(speakers, arguments, rng):
    """Scores by system, targets, and the speakers of both sides."""
    utterances = arguments.utterances
    first, second = np.triu_indices(utterances, 1)
    starts = utterances * np.arange(speakers)[:, None]
    targets = np.stack([(starts + first).ravel(), (starts + second).ravel()])
    others = rng.integers(
        speakers * utterances,
        size=(2, arguments.non_targets * targets.shape[1]),
    )
    others = others[:, others[0] // utterances != others[1] // utterances]
    enrol, test = np.concatenate([targets, others], axis=1)

    # What is heard of a speaker, and how steadily, is partly the same to both.
    means, levels = rng.standard_normal((2, speakers, DIM))
    levels = levels[:, 0]
    scores = {}
    for system in SYSTEMS:
        own_means, own_levels = rng.standard_normal((2, speakers, DIM))
        centres = np.sqrt(0.5) * (means + own_means)
        scale = np.exp(0.3 * np.sqrt(0.5) * (levels + own_levels[:, 0]))
        noise = rng.standard_normal((speakers, utterances, DIM))
        noise *= arguments.noise * scale[:, None, None]
        embeddings = (centres[:, None] + noise).reshape(-1, DIM)
        scores[system] = trial_scores(cosine(embeddings), enrol, test)
    targets = np.arange(len(enrol)) < targets.shape[1]
    return scores, targets, enrol // utterances, test // utterances


def methods(replicates, estimate, speakers):
    """The intervals that are compared."""
    return {
        "ours": interval(replicates, estimate, speakers),
        # Nothing is biased against its own median.
        "expanded": interval(replicates, np.median(replicates), speakers),
        "percentile": tuple(np.quantile(replicates, [0.025, 0.975])),
    }


def measure(speakers, truth, arguments, rng):
    """A row of figures for each figure of the summary."""
    held = {figure: {} for figure in truth}
    differ = {figure: [] for figure in truth}
    widths = {figure: [] for figure in truth}
    lists = tqdm(range(arguments.lists), f"{speakers} speakers", unit="list")
    for seed in lists:
        bootstrap = Bootstrap(
            *draw_list(speakers, arguments, rng),
            replicates=arguments.replicates,
            seed=seed,
        )
        for figure, value in truth.items():
            for system in SYSTEMS:
                intervals = methods(
                    bootstrap.samples[system][figure],
                    bootstrap.figures[system][figure],
                    bootstrap.speakers,
                )
                for method, (low, high) in intervals.items():
                    hits = held[figure].setdefault(method, [])
                    hits.append(low <= value <= high)
                widths[figure].append(np.ptp(intervals["ours"]))
        for figure, found in bootstrap.compare(*SYSTEMS).items():
            differ[figure].append(found["p_value"] <= 0.05)
    return [
        {
            "speakers": speakers,
            "figure": figure,
            "truth": truth[figure],
            "width": float(np.median(widths[figure])),
            **{name: float(np.mean(hits)) for name, hits in by_method.items()},
            "p <= 0.05": float(np.mean(differ[figure])),
        }
        for figure, by_method in held.items()
    ]


def main():
    arguments = parse_arguments()
    rng = np.random.default_rng(arguments.seed)
    scores, targets, _, _ = draw_list(arguments.population, arguments, rng)
    both = [summary(scores[system], targets) for system in SYSTEMS]
    truth = {name: (both[0][name] + both[1][name]) / 2 for name in both[0]}
    rows = []
    for speakers in arguments.speakers:
        rows += measure(speakers, truth, arguments, rng)
    print(pd.DataFrame(rows).round(3).to_string(index=False))
    if arguments.json:
        write_json(
            arguments.json, {"setting": vars(arguments), "figures": rows}
        )


if __name__ == "__main__":
    main()
