"""Trains encoders of frames on several seeds, and compares them by phones.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/frame_arms.py \
    ../../tests/benchmarks/frames.yaml [--arms each last] [--report] \
    [-- --device=cuda:0]

The YAML file says what to prepare, the flags of all arms and of each, and its
seeds. Arms are trained as anybody would; killed and started again, the same
command goes on where it was. What is left of each training is a cell in
results/cells/EXPERIMENT, some 10 kB that are committed: cell.json,
training.csv, frames.csv and frames.json. Only the cells that are missing are
trained. ``--report`` trains nothing.

The table has a line for each run: the ABX errors of its best layer across
voices, and of the same network untrained, of MFCC and of log-mel bands; the
best PNMI of its codes and that of k-means on MFCC; the smallest share of codes
used in the last epoch; minutes. What has to hold: across voices a
fifth below MFCC and the untrained network, PNMI above that of k-means, half of
the codes used.
"""

import argparse
import pathlib
import shutil
import sys

import pandas as pd
from arms import Cell, call, made_of
from ruamel.yaml import YAML

from speechbrain_cadino.demo.corpus import prepare_demo
from speechbrain_cadino.demo.phones import prepare_phones
from speechbrain_cadino.process.files import (
    atomic_folder,
    read_json,
    write_json,
)

HEAD = (
    "run|layer|across|untrained|MFCC|log-mel|to untrained|to MFCC|PNMI|"
    "k-means|used|minutes"
)
KEPT = ["training.csv", "frames.csv", "frames.json"]


def main():
    """Reads the flags, prepares, trains, compares."""
    own, rest = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, rest = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=pathlib.Path, help="a YAML file")
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--again", action="store_true", help="train all")
    flags = parser.parse_args(own)
    experiment = YAML(typ="safe").load(flags.experiment)
    # Of which there may be more some day: no setting of a cell
    seeds = {arm: it.pop("seeds") for arm, it in experiment["arms"].items()}
    place = pathlib.Path("results", "cells", flags.experiment.stem)
    names = flags.arms or list(seeds)
    cells = [
        Cell(arm, seed, place, made_of(experiment, arm, rest))
        for arm in names
        for seed in seeds[arm]
    ]
    missing = [cell for cell in cells if flags.again or not cell.done]
    missing = [] if flags.report else missing
    for options in experiment["demo"] if missing else []:
        prepare_demo(**options)
        prepare_phones(options["data_folder"])
    for cell in missing:
        fill(cell, experiment, rest)
        print(f"{cell.run}: {cell.minutes} minutes", flush=True)
    lines = [HEAD.split("|"), ["---"] * len(HEAD.split("|"))]
    lines += [line(cell) for cell in cells if cell.done]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def fill(cell, experiment, rest):
    """Trains an arm, and keeps its cell."""
    options = {**experiment["common"], **experiment["arms"][cell.arm]}
    command = ["train_dinosr.py", f"hparams/{options.pop('hparams')}"]
    options |= {"seed": cell.seed, "output_folder": cell.run}
    command += [f"--{name}={value}" for name, value in options.items()]
    cell.run.mkdir(parents=True, exist_ok=True)
    call([sys.executable, *command, *rest], cell.run / "arm.log")
    with atomic_folder(cell.folder) as folder:
        for name in KEPT:
            shutil.copyfile(cell.run / name, folder / name)
        write_json(folder / "cell.json", cell.settings)


def line(cell):
    """The cells of a run."""
    answer = read_json(cell.folder / "frames.json")
    table = pd.read_csv(cell.folder / "frames.csv")
    training = pd.read_csv(cell.folder / "training.csv")
    used = training.filter(like="used_").iloc[-1].min()
    units = table.groupby("system")["pnmi"].max()
    others = [answer[other] for other in ("untrained", "mfcc", "log_mel")]
    return [
        f"{cell.arm}, {cell.seed}",
        answer["layer"].removeprefix("layer_"),
        f"{answer['across']:.1f}",
        *(f"{other['across']:.1f}" for other in others),
        *(f"{other['relative']:+.0%}" for other in others[:2]),
        f"{units['trained']:.2f}",
        f"{units['k-means']:.2f}",
        f"{used:.0%}",
        f"{cell.minutes}",
    ]


if __name__ == "__main__":
    main()
