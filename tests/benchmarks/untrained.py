"""Differences of trained arms to an untrained encoder, the mean of its draws;
or, with ``--to``, to arms of other experiments.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/untrained.py DATA curriculum/clean-1 \
    voxmulti/contrastive-1986 [--keep 0=FOLDER 1=FOLDER] \
    [--to voxmulti/supervised_clean-1986]

DATA has meta/veri_{cross,within}_{hard,easy}.txt; the arms are cells of
arms.py. The draws are in results/cells/untrained/DRAW.npz, the scores of each
list (float16): ``--keep`` takes them from the folder that channel.py has
written for ``untrained:ENCODER`` with ``--seed DRAW``. Intervals are of 95%;
each is over the same draws of speakers.
"""

import argparse
import pathlib

import numpy as np
from arms import drawn_difference, mean_difference
from channel import LISTS
from lists import of_voxmulti

from speechbrain_cadino.verification.bootstrap import (
    Bootstrap,
    trial_speakers,
)
from speechbrain_cadino.verification.scoring import read_scores

CELLS = pathlib.Path("results", "cells")
DRAWS = CELLS / "untrained"

# Of each kind of scores of a cell, the name that channel.py has for it
KINDS = {"mean": "", "recording_lda": "_recording_lda"}


def main():
    """Reads the flags, keeps draws, prints a line for each arm."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("cells", nargs="*", help="EXPERIMENT/ARM-SEED")
    parser.add_argument("--keep", nargs="*", default=[], help="DRAW=FOLDER")
    parser.add_argument("--to", nargs="*", default=[], help="other cells")
    flags = parser.parse_args()
    lists = of_voxmulti(flags.data, LISTS)
    for pair in flags.keep:
        draw, _, folder = pair.partition("=")
        keep(draw, pathlib.Path(folder), lists)
    paths = [CELLS / cell / "scores.npz" for cell in flags.to]
    draws = [np.load(path) for path in paths or sorted(DRAWS.glob("*.npz"))]
    print("| arm | scores |", " | ".join(LISTS), "|")
    for cell in flags.cells:
        scores = np.load(CELLS / cell / "scores.npz")
        for kind in KINDS:
            found = [
                difference(trials, f"{name}_{kind}", scores, draws)
                for name, trials in lists.trials.items()
            ]
            print(f"| {cell} | {kind} |", " | ".join(found), "|", flush=True)


def keep(draw, folder, lists):
    """Makes the file of a draw."""
    arrays = {}
    for name, trials in lists.trials.items():
        for kind, suffix in KINDS.items():
            path = folder / f"untrained_{draw}{suffix}_{name}.txt"
            scores = read_scores(path, trials)
            arrays[f"{name}_{kind}"] = scores.astype(np.float16)
    DRAWS.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(DRAWS / f"{draw}.npz", **arrays)


def difference(trials, key, scores, draws):
    """The EER of an arm less that of the draws, with its interval; nothing of a
    list that the arm has no scores of."""
    if key not in scores:
        return ""
    targets = trials["target"].to_numpy()
    enrol, test = trial_speakers(trials)
    samples = []
    for draw in draws:
        pair = {"own": scores[key], "first": draw[key]}
        pair = {name: one.astype(np.float32) for name, one in pair.items()}
        found = Bootstrap(pair, targets, enrol, test, 1000, 0)
        samples.append(drawn_difference(found))
    return mean_difference(samples, found.speakers)


if __name__ == "__main__":
    main()
