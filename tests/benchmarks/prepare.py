#!/usr/bin/env python3
"""Time of the preparation of a folder in VoxCeleb's shape.

Writes short wav files into a temporary folder (TMPDIR says where), prepares
them and, if given, has SpeechBrain's own script prepare them, in turn.

> python tests/benchmarks/prepare.py --files 20000 --peer voxceleb_prepare.py

The peer writes one row for each utterance too (random_segment), for that is
the least work it can be asked for. Both find the files in the page cache.
"""

import argparse
import io
import os
import pathlib
import statistics
import tempfile
import time

import numpy as np
import pandas as pd
import soundfile
from common import load_from

from speechbrain_cadino.prepare.voxceleb import prepare_voxceleb
from speechbrain_cadino.process.files import write_json

SECONDS = 3.1  # the peer may drop what is shorter than 3 s
TRIAL = "1 id00000/0/00000.wav id00000/0/00001.wav\n"


def write_corpus(folder, files):
    """Ten utterances a video, ten videos a speaker; and a trial list."""
    wav = io.BytesIO()
    noise = 0.1 * np.random.default_rng(0).standard_normal(int(16000 * SECONDS))
    soundfile.write(wav, noise, 16000, format="WAV")
    for i in range(files):
        speaker, video, utterance = i // 100, i // 10 % 10, i % 10
        path = folder / f"wav/id{speaker:05d}/{video}/{utterance:05d}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(wav.getvalue())
    (folder / "trials.txt").write_text(TRIAL)


def load_peer(path):
    """The peer's prepare_voxceleb, as a function of three paths."""
    prepare_peer = load_from(f"{path}:prepare_voxceleb")

    def prepare(data, save, trials):
        prepare_peer(
            str(data),
            str(save),
            str(trials),
            splits=["train", "dev"],
            random_segment=True,
        )

    return prepare


def measure(prepare, data, save):
    """The seconds a preparation takes, and the rows it wrote."""
    start = time.perf_counter()
    prepare(data, save, data / "trials.txt")
    seconds = time.perf_counter() - start
    manifests = [save / "train.csv", *save.glob("dev.csv")]
    return seconds, sum(len(pd.read_csv(path)) for path in manifests)


def main():
    """Measures, prints a table and writes it as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=20000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", help="the path of a voxceleb_prepare.py")
    parser.add_argument("--json", help="where to write the figures")
    arguments = parser.parse_args()

    systems = {"ours": prepare_voxceleb}
    if arguments.peer:
        systems["peer"] = load_peer(arguments.peer)
    times = {name: [] for name in [*systems, "ours, unchanged"]}
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        data = pathlib.Path(folder, "data")
        write_corpus(data, arguments.files)
        for i in range(arguments.repeats):
            for name, prepare in systems.items():
                save = pathlib.Path(folder, f"{name}_{i}")
                seconds, rows[name] = measure(prepare, data, save)
                times[name].append(seconds)
            save = pathlib.Path(folder, f"ours_{i}")
            seconds, rows["ours, unchanged"] = measure(
                prepare_voxceleb, data, save
            )
            times["ours, unchanged"].append(seconds)

    medians = {name: statistics.median(times[name]) for name in times}
    print(f"{arguments.files} files of {SECONDS} s, {os.cpu_count()} CPUs")
    print(f"{'system':16} {'seconds':>8} {'of ours':>8} {'rows':>8}")
    for name, median in medians.items():
        ratio = median / medians["ours"]
        print(f"{name:16} {median:8.2f} {ratio:8.2f} {rows[name]:8d}")
    if arguments.json:
        write_json(
            arguments.json,
            {
                "files": arguments.files,
                "cpus": os.cpu_count(),
                "seconds": times,
                "median": medians,
                "rows": rows,
            },
        )


if __name__ == "__main__":
    main()
