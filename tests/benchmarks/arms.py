"""Trains arms of an experiment on several seeds, and compares them.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/arms.py ../../tests/benchmarks/demo60.yaml \
    --output_folder=results/demo60 [--arms dino rdino] [--seeds 1 2 3] \
    [--jobs=4] [-- --device=cuda:0 --precision=bf16]

The YAML file says what to prepare, the flags of all arms and of each; objects
are swapped by an ``overlay``, YAML text on top of the hparams. What
stands after ``--`` goes to each training. Arms are trained by train_dino.py as
anybody would; killed and started again, the same command goes on where it was.
``--jobs`` trains so many at a time: small ones do not fill a GPU.

``arms.md`` has a line for each arm: the EER on all seeds and its mean, the
paired difference to the first arm on the same seed with its 95% interval (a
bootstrap over speakers), and the teacher's last figures: the effective
dimensions, entropy, and how many prototypes the student uses.
"""

import argparse
import concurrent.futures
import math
import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
from ruamel.yaml import YAML

from speechbrain_cadino.demo.corpus import prepare_demo
from speechbrain_cadino.verification.compare import compare


def main():
    """Reads the flags, prepares, trains, compares."""
    own, rest = sys.argv[1:], []
    if "--" in own:
        place = own.index("--")
        own, rest = own[:place], own[place + 1 :]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("experiment", help="a YAML file")
    parser.add_argument("--output_folder", type=pathlib.Path, required=True)
    parser.add_argument("--arms", nargs="*", help="all by default")
    parser.add_argument("--seeds", nargs="*", type=int)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="NAME=VALUE")
    flags = parser.parse_args(own)
    text = pathlib.Path(flags.experiment).read_text(encoding="utf-8")
    for pair in flags.set:
        name, value = pair.split("=", 1)
        text = text.replace(f"<{name}>", value)
    experiment = YAML(typ="safe").load(text)
    for options in experiment.get("demo", []):
        prepare_demo(**options)
    names = flags.arms or list(experiment["arms"])
    seeds = flags.seeds or experiment["seeds"]
    runs = {
        (name, seed): flags.output_folder / name / str(seed)
        for seed in seeds
        for name in names
    }
    with concurrent.futures.ThreadPoolExecutor(flags.jobs) as pool:
        jobs = [
            pool.submit(run_arm, experiment, *key, folder, rest)
            for key, folder in runs.items()
        ]
        for job in concurrent.futures.as_completed(jobs):
            print(job.result(), flush=True)
    table = report(experiment, names, seeds, runs)
    print(table)
    (flags.output_folder / "arms.md").write_text(table, encoding="utf-8")


def run_arm(experiment, name, seed, folder, rest):
    """Trains an arm, unless it is done; returns a line for the log."""
    arm = {**experiment["common"], **experiment["arms"][name]}
    cohort = arm.pop("cohort", None)
    log = folder / "arm.log"
    folder.mkdir(parents=True, exist_ok=True)
    yaml = f"hparams/{arm.pop('hparams')}"
    if "overlay" in arm:
        text = f"base: {pathlib.Path(yaml).name}\n{arm.pop('overlay')}"
        yaml = folder / "arm.yaml"
        yaml.write_text(text, encoding="utf-8")
    if not (folder / "metrics.json").is_file():
        call(
            log,
            "train_dino.py",
            yaml,
            rest,
            **arm,
            seed=seed,
            output_folder=folder,
        )
    if cohort and not (folder / "verify" / "metrics.json").is_file():
        verify_with_cohort(arm, cohort, folder, log)
    return f"{name}, seed {seed}: done"


def verify_with_cohort(arm, cohort, folder, log):
    """Scores by AS-norm; the cohort are the clusters of the training set."""
    manifest = arm.get("train_manifest", folder / "save" / "train.csv")
    call(
        log,
        "pseudo_label.py",
        "hparams/pseudo_label.yaml",
        (),
        encoder=folder / "encoder",
        manifest=manifest,
        data_folder=arm["data_folder"],
        output_folder=folder / "labels",
        **cohort,
    )
    call(
        log,
        "verify.py",
        "hparams/verify.yaml",
        (),
        encoder=folder / "encoder",
        trials=arm["trials"],
        data_folder=arm.get("trials_folder", arm["data_folder"]),
        train_manifest=folder / "labels" / "pseudo_labels.csv",
        train_data_folder=arm["data_folder"],
        back_ends="[cosine, mean, as_norm, mean+as_norm]",
        output_folder=folder / "verify",
    )


def call(log, script, yaml, rest, **flags):
    """Runs a script of the recipe; raises with the end of its log."""
    command = [sys.executable, script, str(yaml), *rest]
    command += [f"--{key}={value}" for key, value in flags.items()]
    with open(log, "a", encoding="utf-8") as file:
        process = subprocess.run(command, stdout=file, stderr=file)
    if process.returncode:
        tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(f"{' '.join(command)}\n{tail}")


def report(experiment, names, seeds, runs):
    """The table of all arms."""
    title = "| arm | EER | mean | difference to the first, 95% interval |"
    lines = [f"{title} dimensions | teacher entropy | prototypes in use |"]
    lines += ["|---|---|---|---|---|---|---|"]
    scores = score_files(experiment, names, seeds, runs)
    first = next(iter(scores))
    trials = experiment["common"]["trials"]
    for name, files in scores.items():
        eers, differences = [], []
        for seed in seeds:
            pair = {first: scores[first][seed], name: files[seed]}
            found = compare(trials, pair)
            eers.append(found["systems"][name]["eer"])
            if name != first:
                differences.append(difference(found["differences"][name]))
        arm = name.split(" ")[0]
        last = [figures(runs[arm, seed]) for seed in seeds]
        cells = [
            name,
            ", ".join(f"{eer:.2f}" for eer in eers),
            f"{np.mean(eers):.2f}",
            "; ".join(differences),
            *(", ".join(column) for column in zip(*last)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def score_files(experiment, names, seeds, runs):
    """The score files of each system, by seed: of arms, and of their back
    ends where there is a cohort."""
    found = {}
    for name in names:
        found[name] = {
            seed: runs[name, seed] / "scores_encoder.txt" for seed in seeds
        }
        if "cohort" not in experiment["arms"][name]:
            continue
        folders = {seed: runs[name, seed] / "verify" for seed in seeds}
        for path in sorted(folders[seeds[0]].glob("scores_*.txt")):
            back_end = path.stem.removeprefix("scores_")
            found[f"{name} {back_end}"] = {
                seed: folder / path.name for seed, folder in folders.items()
            }
    return found


def difference(found):
    """A difference of EERs, in words."""
    eer = found["eer"]
    low, high = eer["interval"]
    return f"{eer['difference']:+.2f} [{low:+.2f}, {high:+.2f}]"


def figures(folder):
    """Of the last epoch: dimensions, teacher entropy, prototypes in use."""
    last = pd.read_csv(folder / "training.csv").iloc[-1]
    settings = (folder / "hyperparams.yaml").read_text(encoding="utf-8")
    used = ""
    if "me_max" in last:
        (line,) = [
            line
            for line in settings.splitlines()
            if line.startswith("out_dim:")
        ]
        prototypes = int(line.split(":")[1].split("#")[0].split()[-1])
        used = f"{prototypes * math.exp(-last['me_max']):.0f}/{prototypes}"
    return f"{last['dimensions']:.1f}", f"{last['teacher_entropy']:.2f}", used


if __name__ == "__main__":
    main()
