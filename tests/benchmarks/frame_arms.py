"""Trains encoders of frames on several seeds, and compares them by phones.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/frame_arms.py \
    ../../tests/benchmarks/frames.yaml [--arms each last] [--report] \
    [-- --device=cuda:0]

The YAML file says what to prepare, the flags of all arms and of each, and its
seeds. Arms are trained as anybody would; killed and started again, the same
command goes on where it was, and what is whole is not done again. ``--report``
trains nothing.

The table has a line for each run: the ABX errors of its best layer across
voices, and of the same network untrained, of MFCC and of log-mel bands; the
best PNMI of its codes and that of k-means on MFCC; the smallest share of codes
used in the last epoch; minutes. What has to hold: across voices a fifth below
MFCC and the untrained network, PNMI above that of k-means, half of the codes
used.
"""

import argparse
import json
import pathlib
import subprocess
import sys

import pandas as pd
from ruamel.yaml import YAML

from speechbrain_cadino.demo.corpus import prepare_demo
from speechbrain_cadino.demo.phones import prepare_phones

HEAD = (
    "run|layer|across|untrained|MFCC|log-mel|to untrained|to MFCC|PNMI|"
    "k-means|used|minutes"
)


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
    flags = parser.parse_args(own)
    experiment = YAML(typ="safe").load(flags.experiment)
    for options in experiment["demo"]:
        prepare_demo(**options)
        prepare_phones(options["data_folder"])
    done = []
    for arm in flags.arms or experiment["arms"]:
        options = {**experiment["common"], **experiment["arms"][arm]}
        hparams = options.pop("hparams")
        for seed in options.pop("seeds"):
            folder = pathlib.Path("results", flags.experiment.stem, arm)
            folder = folder / str(seed)
            if not flags.report and not (folder / "frames.json").exists():
                train(folder, hparams, {**options, "seed": seed}, rest)
            if (folder / "frames.json").exists():
                done.append((f"{arm}, {seed}", folder))
    lines = [HEAD.split("|"), ["---"] * len(HEAD.split("|"))]
    lines += [line(name, folder) for name, folder in done]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in lines))


def train(folder, hparams, options, rest):
    """Runs the script of the recipe; raises with the end of its log."""
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "train_dinosr.py", f"hparams/{hparams}"]
    command += [f"--{name}={value}" for name, value in options.items()]
    log = folder / "arm.log"
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.run(
            [*command, f"--output_folder={folder}", *rest],
            stdout=file,
            stderr=file,
        )
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)}\n{tail}")


def line(name, folder):
    """The cells of a run."""
    answer = json.loads((folder / "frames.json").read_text(encoding="utf-8"))
    table = pd.read_csv(folder / "frames.csv")
    training = pd.read_csv(folder / "training.csv")
    used = training.filter(like="used_").iloc[-1].min()
    units = table.groupby("system")["pnmi"].max()
    others = [answer[other] for other in ("untrained", "mfcc", "log_mel")]
    return [
        name,
        answer["layer"].removeprefix("layer_"),
        f"{answer['across']:.1f}",
        *(f"{other['across']:.1f}" for other in others),
        *(f"{other['relative']:+.0%}" for other in others[:2]),
        f"{units['trained']:.2f}",
        f"{units['k-means']:.2f}",
        f"{used:.0%}",
        f"{training['seconds'].sum() / 60:.0f}",
    ]


if __name__ == "__main__":
    main()
