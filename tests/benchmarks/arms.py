"""Trains arms of an experiment on several seeds, and compares them.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/arms.py ../../tests/benchmarks/demo60.yaml \
    [--arms dino rdino] [--seeds 1 2 3] [--set NAME=VALUE] [--jobs=4] \
    [--report] [--again] [-- --device=cuda:0 --precision=bf16]

The YAML file says what to prepare, the trial lists, the flags of all arms and
of each; objects are swapped by an ``overlay``, YAML text on top of the hparams,
of which there may be several; ``script`` is another one than train_dino.py,
``encoder`` where its result lies below the output folder; ``before``, command
lines to run first. In these and in flags, {seed} and {run}, the output folder,
are filled in, and of an arm that goes on from others {start} and {last}, their
names, which it has as keys. ``speakers``, the true ones, tell how often the
gate of a stage II was right. What stands after ``--`` goes to each training.
Arms are trained as anybody would; killed and started again, the same command
goes on where it was. ``--jobs`` trains so many at a time: small ones do not
fill a GPU.

What is left of each training is a cell in results/cells/EXPERIMENT, some 50 kB
that are committed: cell.json, training.csv, and scores.npz with the scores of
each list (float16), of raw cosines and of those with the mean of the test files
subtracted; with ``kinds: [mean, raw, recording_lda]`` in the YAML file also of
those after recording LDA of the arm's training set, then the mean. Only the
cells that are missing are trained, ``--again`` trains those that are committed,
too: to see whether they come out the same, or for their encoders, from which
other arms start. A training whose output folder is there goes on from it.
``--report`` trains nothing.

The table of each list has a line for each arm: the EER on all seeds, of one
seed with its 95% interval, and its mean, minDCF(0.05), and the paired
difference of the EERs to the first arm of the file, or of ``--arms``, on the
same seed with its 95% interval (a bootstrap over speakers), and of several
seeds its mean, with that of the same draws of speakers; then the teacher's
last figures: the effective dimensions and the entropy. Of stage II: of the
labels that the gate trusts in the last epoch the right ones (precision), of the
right ones those that it trusts (recall), of what was corrected the right ones,
and how many classes are left.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
from lists import Lists
from ruamel.yaml import YAML

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.demo.corpus import prepare_demo
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.gate.report import report_gate
from speechbrain_cadino.process.files import atomic_folder, write_json
from speechbrain_cadino.verification.bootstrap import (
    Bootstrap,
    interval,
    trial_speakers,
)
from speechbrain_cadino.verification.scoring import unit

KINDS = ["mean", "raw"]

# The arms that another one goes on from
OTHERS = ["start", "last"]

# Headings of a table: a figure of the last epoch, and its format
STAGE_1 = {
    "dimensions": ("dimensions", ".1f"),
    "teacher entropy": ("teacher_entropy", ".2f"),
}
STAGE_2 = {
    "precision": ("reliable_right", ".2f"),
    "recall": ("recall", ".2f"),
    "corrected right": ("corrected_right", ".2f"),
    "clusters": ("clusters", ".0f"),
}


def main():
    """Reads the flags, prepares, trains, compares."""
    own, rest = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, rest = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", type=pathlib.Path, help="a YAML file")
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE")
    parser.add_argument("--report", action="store_true", help="train nothing")
    parser.add_argument("--again", action="store_true", help="train all")
    flags = parser.parse_args(own)
    text = flags.experiment.read_text(encoding="utf-8")
    # Without this machine's paths
    settings = YAML(typ="safe").load(text)
    for pair in flags.set:
        name, _, value = pair.partition("=")
        if f"<{name}>" not in text:
            parser.error(f"--set {pair}: {flags.experiment} has no <{name}>")
        text = text.replace(f"<{name}>", value)
    experiment = YAML(typ="safe").load(text)
    for options in experiment.get("demo", []):
        prepare_demo(**options)
    lists = Lists(experiment["lists"], experiment["lists_folder"])
    names = flags.arms or list(experiment["arms"])
    seeds = flags.seeds or experiment["seeds"]
    place = pathlib.Path("results", "cells", flags.experiment.stem)
    cells = [
        Cell(name, seed, place, made_of(settings, name, rest))
        for name in names
        for seed in seeds
    ]
    missing = [
        cell
        for cell in cells
        if not flags.report and (flags.again or not cell.done)
    ]
    check_starts(missing, in_turn=flags.jobs == 1)
    if missing:
        len(lists.files)  # what is not there shows before the work
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        jobs = [
            pool.submit(fill, cell, experiment, lists, rest) for cell in missing
        ]
        for job in concurrent.futures.as_completed(jobs):
            print(job.result(), flush=True)
    done = [cell for cell in cells if cell.done]
    for name, trials in lists.trials.items():
        for kind in experiment.get("kinds", KINDS):
            lines = table(done, names[0], name, kind, trials)
            print(f"\n{name}, {kind}\n\n{lines}")


class Cell:
    """What is left of the training of an arm on a seed."""

    def __init__(self, arm, seed, place, settings):
        self.arm = arm
        self.seed = seed
        self.settings = settings
        self.folder = place / f"{arm}-{seed}"
        self.run = pathlib.Path("results", place.name, arm, str(seed))
        self._check()

    @property
    def done(self):
        """Whether it is there."""
        return self.folder.is_dir()

    def _check(self):
        """Raises if it is there and of other settings."""
        path = self.folder / "cell.json"
        if self.done and json.loads(path.read_text()) != self.settings:
            raise ValueError(
                f"{self.folder} is of other settings than the arm has now: "
                "remove it, or give the arm another name."
            )

    @property
    def minutes(self):
        """The minutes of its epochs, each as long as the median one: some were
        interrupted, or had company."""
        seconds = pd.read_csv(self.folder / "training.csv")["seconds"]
        return round(len(seconds) * seconds.median() / 60)

    def filled(self, value):
        """A flag, with the seed and the output folder in it."""
        known = {name: self.settings.get(name) for name in OTHERS}
        text = str(value)
        for name, one in {**known, "seed": self.seed, "run": self.run}.items():
            text = text.replace(f"{{{name}}}", str(one))
        return text

    def scores(self, name, kind):
        """The scores of a list."""
        with np.load(self.folder / "scores.npz") as arrays:
            return arrays[f"{name}_{kind}"].astype(np.float32)

    def last(self):
        """The figures of the last epoch, those of the gate too."""
        names = ["training.csv", "gate.csv"]
        paths = [self.folder / name for name in names]
        rows = [pd.read_csv(path).iloc[-1] for path in paths if path.is_file()]
        return {key: value for row in rows for key, value in row.items()}


def check_starts(cells, in_turn):
    """Raises if an arm starts from the output folder of another one, which is
    neither there nor trained before."""
    before = set()
    for cell in cells:
        text = cell.filled(json.dumps(cell.settings))
        for run in re.findall(rf"{cell.run.parents[1]}/\w+/\d+", text):
            if run not in {*before, str(cell.run)} and not os.path.isdir(run):
                arm, seed = run.split("/")[-2:]
                raise ValueError(
                    f"{cell.arm} starts from {run}, which is not there: first "
                    f"--again --arms {arm} --seeds {seed}"
                )
        if in_turn:
            before.add(str(cell.run))


def made_of(experiment, arm, rest):
    """All that an arm is made of, whatever the machine."""
    return {
        **experiment["common"],
        **experiment["arms"][arm],
        "flags": [word for word in rest if "device" not in word],
    }


def commands_of(cell, experiment, rest):
    """The command lines of an arm, after ``python``: the training is the last.
    What they read is written."""
    arm = {**experiment["common"], **experiment["arms"][cell.arm]}
    script = arm.pop("script", "train_dino.py")
    for name in ["encoder", *OTHERS]:
        arm.pop(name, None)
    cell.run.mkdir(parents=True, exist_ok=True)
    base = arm.pop("hparams")
    yaml = f"hparams/{base}"
    if "overlay" in arm or isinstance(base, list):
        text = f"base: {json.dumps(base)}\n{arm.pop('overlay', '')}"
        yaml = cell.run / "arm.yaml"
        yaml.write_text(text, encoding="utf-8")
    before = [shlex.split(cell.filled(line)) for line in arm.pop("before", [])]
    flags = {**arm, "seed": cell.seed, "output_folder": cell.run}
    words = [
        f"--{key}={'null' if value is None else cell.filled(value)}"
        for key, value in flags.items()
    ]
    return [*before, [script, str(yaml), *rest, *words]]


def fill(cell, experiment, lists, rest):
    """Trains an arm, and keeps its cell; returns a line for the log."""
    for command in commands_of(cell, experiment, rest):
        call([sys.executable, *command], cell.run / "arm.log")
    arm = {**experiment["common"], **experiment["arms"][cell.arm]}
    encoder = cell.run / arm.get("encoder", "encoder")
    manifest = cell.filled(arm.get("train_manifest", "{run}/save/train.csv"))
    arrays = {
        f"{name}_{kind}": values.astype(np.float16)
        for kind, points in points_of(
            load_encoder(encoder),
            lists.files,
            experiment.get("kinds", KINDS),
            lambda: read_manifest(manifest, arm["data_folder"]),
        ).items()
        for name, values in lists.scores(points).items()
    }
    with atomic_folder(cell.folder) as folder:
        np.savez_compressed(folder / "scores.npz", **arrays)
        figures = encoder.parent / "training.csv"
        shutil.copyfile(figures, folder / "training.csv")
        if "speakers" in experiment and "train_manifest" in arm:
            labels = cell.filled(arm["train_manifest"])
            report_gate(encoder.parent, labels, experiment["speakers"])
            shutil.copyfile(encoder.parent / "gate.csv", folder / "gate.csv")
        write_json(folder / "cell.json", cell.settings)
    return f"{cell.arm}, seed {cell.seed}: {cell.minutes} minutes"


def points_of(embedder, files, kinds, read_training_set):
    """The embeddings of files, of unit length, by the kind of score."""
    embeddings = embedder.embed(files)
    found = {"raw": embeddings, "mean": embeddings - embeddings.mean(0)}
    if "recording_lda" in kinds:
        lda = RecordingLDA().learn(embedder, read_training_set())
        mapped = lda.transform(embeddings)
        found["recording_lda"] = mapped - mapped.mean(0)
    return {kind: unit(found[kind]) for kind in kinds}


def call(command, log):
    """Runs a script of the recipe; raises with the end of its log."""
    # An overlay may name objects of these benchmarks
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.run(command, stdout=file, stderr=file, env=env)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)}\n{tail}")


def table(cells, first, name, kind, trials):
    """The lines of one list, and one kind of score."""
    head = f"arm|EER|mean|minDCF(0.05)|difference to {first}, 95% interval|mean"
    shown = {
        heading: (key, form)
        for heading, (key, form) in {**STAGE_1, **STAGE_2}.items()
        if any(key in cell.last() for cell in cells)
    }
    lines = [[*head.split("|"), *shown, "minutes"]]
    lines.append(["---"] * len(lines[0]))
    targets = trials["target"].to_numpy()
    enrol, test = trial_speakers(trials)
    arms = list(dict.fromkeys(cell.arm for cell in cells))
    of_first = {cell.seed: cell for cell in cells if cell.arm == first}
    for arm in arms:
        eers, costs, differences, samples = [], [], [], []
        own = [cell for cell in cells if cell.arm == arm]
        for cell in own:
            pair = {"own": cell.scores(name, kind)}
            if arm != first and cell.seed in of_first:
                pair["first"] = of_first[cell.seed].scores(name, kind)
            found = Bootstrap(pair, targets, enrol, test, 1000, 0)
            eers.append(found.figures["own"]["eer"])
            low, high = found.intervals()["own"]["eer"]
            alone = f" [{low:.1f}, {high:.1f}]" if len(own) == 1 else ""
            costs.append(found.figures["own"]["min_dcf_0.05"])
            if "first" in pair:
                eer = found.compare("own", "first")["eer"]
                differences.append(shown_difference(**eer))
                samples.append(drawn_difference(found))
        last = [cell.last() for cell in own]
        lines.append(
            [
                arm,
                ", ".join(f"{eer:.1f}" for eer in eers) + alone,
                f"{np.mean(eers):.1f}",
                f"{np.mean(costs):.3f}",
                "; ".join(differences),
                mean_difference(samples, found.speakers)
                if len(samples) > 1
                else "",
                *(listed(last, *figure) for figure in shown.values()),
                ", ".join(str(cell.minutes) for cell in own),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def drawn_difference(found):
    """The difference of two EERs, "own" less "first", and its replicates."""
    drawn = (found.samples[name]["eer"] for name in ("own", "first"))
    eer = found.compare("own", "first")["eer"]
    return eer["difference"], np.subtract(*drawn)


def mean_difference(samples, speakers):
    """The mean of differences with its interval: the replicates of all seeds
    are of the same speakers."""
    differences, drawn = zip(*samples)
    mean, drawn = np.mean(differences), np.mean(drawn, axis=0)
    return shown_difference(mean, interval(drawn, mean, speakers))


def shown_difference(difference, interval, p_value=None):
    """A difference of EERs, and its interval."""
    low, high = interval
    return f"{difference:+.1f} [{low:+.1f}, {high:+.1f}]"


def listed(rows, key, form):
    """A figure of each row that has it."""
    found = [row[key] for row in rows if key in row]
    return ", ".join(f"{value:{form}}" for value in found if value == value)


if __name__ == "__main__":
    main()
