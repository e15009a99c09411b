"""Time and memory of scoring utterances by their embeddings.

> python tests/benchmarks/confidence.py FOLDER [--utterances 1100000] \
    [--segments 2] [--labels 7500]

FOLDER gets a synthetic folder of embeddings: of 7500 voices, D = 192, so many
segments of each utterance. Scored are consistency and density, and with
``--labels`` the agreement with that many labels. The peak is that of the
process; what IDs take of it is told apart, as it is there before anything is
scored.
"""

import argparse
import pathlib
import resource
import time

import numpy as np

from speechbrain_cadino.embeddings.confidence import score
from speechbrain_cadino.embeddings.store import (
    load_embeddings,
    write_ids,
    write_joined,
)

VOICES = 7500
DIMENSIONS = 192
STEP = 10_000  # utterances that are made at a time


def main():
    """Makes the folder, scores, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--utterances", type=int, default=1_100_000)
    parser.add_argument("--segments", type=int, default=2)
    parser.add_argument("--labels", type=int)
    flags = parser.parse_args()
    flags.folder.mkdir(parents=True, exist_ok=True)
    ids = [f"id{i % VOICES:05}/{i:08}" for i in range(flags.utterances)]
    make(flags.folder, ids, flags.segments)
    labels = None
    if flags.labels:
        labels = np.arange(flags.utterances) % flags.labels
    load_embeddings(flags.folder)
    before, begin = peak(), time.perf_counter()
    table = score(flags.folder, ids, labels)
    seconds = time.perf_counter() - begin
    rows = flags.utterances * flags.segments
    print(
        f"{flags.utterances} utterances, {rows} rows: {seconds:.0f} s, peak "
        f"{peak():.0f} MiB, {before:.0f} of them before"
    )
    print(table.describe().round(3).to_string())


def make(folder, ids, segments):
    """Writes voices with noise, a stretch at a time."""
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((VOICES, DIMENSIONS), np.float32)

    def parts():
        for first in range(0, len(ids), STEP):
            voice = np.arange(first, min(first + STEP, len(ids))) % VOICES
            points = voices[np.repeat(voice, segments)]
            yield points + rng.standard_normal(points.shape, np.float32)

    path = folder / "embeddings.npy"
    write_joined(path, path, parts(), (len(ids) * segments, DIMENSIONS))
    write_ids(folder, (name for name in ids for _ in range(segments)))


def peak():
    """The peak memory of this process, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


if __name__ == "__main__":
    main()
