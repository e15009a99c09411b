"""Makes a corpus in the wild of clean voices and noises, and tells how well a
filter sees what is not one voice.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/contaminate.py make VOICES NOISES ROOMS WILD
> python filter_manifest.py hparams/filter.yaml --encoder=FOLDER \
    --manifest=WILD/all.csv --data_folder=WILD --output_folder=results/filter
> python ../../tests/benchmarks/contaminate.py report WILD results/filter

VOICES has wav/SPEAKER/SESSION/FILE and meta/train.txt, those to be used. Three
quarters of its files are taken as they are; of the last quarter, pairs of two
speakers are spliced, a stretch each in turn, or laid over each other at 0 dB,
and passed through one channel, as some files of one voice are, so that a score
of the second voice can be told from one of the channel; noises are cut and
mixed two at a time; chords of harmonics with decaying envelopes stand for
music; silence is hiss at -80 dB. Names tell nothing. WILD gets wav/, the
manifests all.csv and clean.csv (one voice each), and truth.csv (ID, kind,
speaker), which only the report reads.

The report prints how many of each kind are kept, and for each score and kind
the AUC: how often a clean utterance scores higher, and for two voices how often
one voice through such a channel does; also of the mean and the least cosine of
two segments. It writes random_1.csv to random_3.csv into the folder of the
filter: as many utterances as filtered.csv has, at random.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import fftconvolve
from sklearn.metrics import roc_auc_score

from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.demo.channel import degrade
from speechbrain_cadino.embeddings.confidence import SegmentRows
from speechbrain_cadino.prepare.folder import prepare_folder

RATE = 16000
LEVEL = 0.01  # RMS: that of voxmulti, -40 dB

# Of all files. The rest is clean.
SHARES = {
    "channel": 0.08,
    "splice": 0.15,
    "overlap": 0.08,
    "noise": 0.10,
    "music": 0.05,
    "silence": 0.02,
}
ONE_VOICE = ["clean", "channel"]
TWO_VOICES = ["splice", "overlap"]
SCORES = ["speech", "consistency", "density"]
# Of pairs of segments, as in the papers: for comparison, they are no scores
COSINES = ["mean cosine", "least cosine"]


def main():
    """Reads the flags; makes or reports."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True)
    making = actions.add_parser("make")
    for name in ["voices", "noises", "rooms", "wild"]:
        making.add_argument(name, type=pathlib.Path)
    making.add_argument("--seed", type=int, default=1986)
    making.add_argument("--most", type=int, help="so many clean files")
    making.set_defaults(action=make)
    reporting = actions.add_parser("report")
    reporting.add_argument("wild", type=pathlib.Path)
    reporting.add_argument("filter", type=pathlib.Path)
    reporting.set_defaults(action=report)
    flags = parser.parse_args()
    flags.action(flags)


def make(flags):
    """Writes the corpus."""
    rng = np.random.default_rng(flags.seed)
    lines = (flags.voices / "meta" / "train.txt").read_text().split()
    files = rng.permutation(
        [f"wav/{name.removeprefix('wav/')}" for name in lines]
    )
    clean, spare = np.split(files, [3 * len(files) // 4])
    clean = clean[: flags.most]
    makers = {
        "channel": lambda: one_voice(flags, spare, rng),
        "splice": lambda: two_voices(flags, spare, rng, splice),
        "overlap": lambda: two_voices(flags, spare, rng, overlap),
        "noise": lambda: noise(flags, rng),
        "music": lambda: chords(rng),
        "silence": lambda: (1e-4 * rng.standard_normal(length(rng)), ""),
    }
    total = len(clean) / (1 - sum(SHARES.values()))
    kinds = ["clean"] * len(clean)
    kinds += [
        k for k, share in SHARES.items() for _ in range(round(share * total))
    ]
    waiting = iter(clean)
    (flags.wild / "wav").mkdir(parents=True)
    rows = []
    for number, kind in enumerate(rng.permutation(kinds)):
        if kind == "clean":
            path = next(waiting)
            signal, speaker = read(flags.voices / path), path.split("/")[1]
        else:
            signal, speaker = makers[kind]()
        if kind not in ("clean", "silence"):
            signal = level(signal)
        name = f"wav/{number:05}"
        soundfile.write(flags.wild / f"{name}.flac", signal, RATE)
        rows.append((name, kind, speaker))
    truth = pd.DataFrame(rows, columns=["ID", "kind", "speaker"])
    truth.to_csv(flags.wild / "truth.csv", index=False)
    prepare_folder(flags.wild, flags.wild, min_duration=2.0, manifest="all.csv")
    table = read_manifest(flags.wild / "all.csv", DATA_ROOT)
    kind = truth.set_index("ID")["kind"][table["ID"]].to_numpy()
    one = np.isin(kind, ONE_VOICE)
    write_manifest(flags.wild / "clean.csv", table[one])
    print(pd.Series(kind).value_counts().to_string())


def read(path):
    """An audio file at the rate of voxmulti."""
    signal, rate = soundfile.read(path)
    if rate != RATE:
        raise ValueError(f"{path} is at {rate} Hz, {RATE} are expected.")
    return signal


def level(signal):
    """A signal at the level of all others."""
    return LEVEL * signal / np.sqrt(np.mean(signal**2))


def length(rng):
    """Samples of a file that is made: 3 to 6 s."""
    return int(rng.uniform(3, 6) * RATE)


def channel(flags, signal, rng):
    """A signal through a room, its noise and a codec."""
    room = rng.choice(sorted(flags.rooms.glob("*.flac")))
    return degrade(fftconvolve(signal, read(room)), rng) / 32768


def one_voice(flags, files, rng):
    """One speaker, passed through a channel."""
    path = rng.choice(files)
    signal = level(read(flags.voices / path))
    return channel(flags, signal, rng), path.split("/")[1]


def two_voices(flags, files, rng, join):
    """Two speakers, joined, and passed through one channel."""
    while True:
        pair = rng.choice(files, 2, replace=False)
        one, two = (path.split("/")[1] for path in pair)
        if one != two:
            break
    voices = [level(read(flags.voices / path)) for path in pair]
    return channel(flags, join(*voices, rng), rng), f"{one}+{two}"


def splice(one, two, rng):
    """Each in turn, once or twice: as long as the clean ones are, as the more
    segments there are the surer is their consistency."""
    turns, half = rng.integers(1, 3), length(rng) // 2
    parts = zip(
        np.array_split(one[:half], turns), np.array_split(two[:half], turns)
    )
    return np.concatenate([part for pair in parts for part in pair])


def overlap(one, two, rng):
    """One over the other at 0 dB; the shorter one is repeated."""
    size = max(len(one), len(two))
    return np.resize(one, size) + np.resize(two, size)


def noise(flags, rng):
    """Two noises at a random ratio."""
    files = rng.choice(sorted(flags.noises.glob("*.flac")), 2, replace=False)
    size = length(rng)
    one, two = (
        level(np.roll(np.resize(read(file), size), rng.integers(size)))
        for file in files
    )
    return one + 10 ** (-rng.uniform(0, 20) / 20) * two, ""


def chords(rng):
    """A major or minor chord every half second or so, of ten harmonics."""
    size = length(rng)
    signal, place = np.zeros(size), 0
    while place < size:
        span = int(rng.uniform(0.3, 0.9) * RATE)
        time = np.arange(min(span, size - place)) / RATE
        root = 110 * 2 ** (rng.integers(24) / 12)
        third = rng.choice([3, 4])
        for step in (0, third, 7):
            tone = root * 2 ** (step / 12)
            for harmonic in range(1, 11):
                if harmonic * tone < RATE / 2:
                    phase = rng.uniform(0, 2 * np.pi)
                    wave = np.sin(2 * np.pi * harmonic * tone * time + phase)
                    signal[place : place + len(time)] += (
                        wave * np.exp(-3 * time) / harmonic
                    )
        place += span
    return signal, ""


def report(flags):
    """Prints the AUC of each score by kind; writes random subsets."""
    truth = pd.read_csv(flags.wild / "truth.csv").set_index("ID")
    table = pd.read_csv(flags.filter / "confidence.csv")
    table["kind"] = truth["kind"][table["ID"]].to_numpy()
    table[COSINES] = cosines(flags.filter / "segments", table["ID"])
    of_kind = dict(list(table.groupby("kind")))
    columns = [*SCORES, *COSINES]
    head = ["kind", "utterances", "kept", "with consistency", *columns]
    lines = [head, ["---"] * len(head)]
    pairs = [(kind, "clean") for kind in ["clean", *SHARES]]
    pairs += [(kind, "channel") for kind in TWO_VOICES]
    for kind, reference in pairs:
        own = of_kind[kind]
        name = kind if reference == "clean" else f"{kind}, against {reference}"
        line = [name, len(own), f"{own['kept'].mean():.0%}"]
        line.append(f"{own['consistency'].notna().mean():.0%}")
        line += [auc(of_kind[reference], own, score) for score in columns]
        lines.append(line)
    print("\n".join(f"| {' | '.join(map(str, line))} |" for line in lines))
    chosen = read_manifest(flags.filter / "filtered.csv", DATA_ROOT)
    every = read_manifest(flags.wild / "all.csv", DATA_ROOT)
    for seed in [1, 2, 3]:
        some = every.sample(len(chosen), random_state=seed)
        write_manifest(flags.filter / f"random_{seed}.csv", some)


def cosines(folder, ids):
    """The mean and the least cosine of two segments of each utterance."""
    rows = SegmentRows(folder, ids)
    found = np.full((len(ids), 2), np.nan)
    for number in np.flatnonzero(rows.counts > 1):
        points = rows.read(np.array([number]))
        points /= np.linalg.norm(points, axis=1, keepdims=True)
        pairs = (points @ points.T)[np.triu_indices(len(points), 1)]
        found[number] = pairs.mean(), pairs.min()
    return found


def auc(one, other, score):
    """How often a file of one kind scores higher than one of the other."""
    if one is other or score not in one:
        return "-"
    scores = [own[score].dropna() for own in (one, other)]
    if not all(len(own) for own in scores):
        return "-"
    truth = np.repeat([True, False], [len(own) for own in scores])
    return f"{roc_auc_score(truth, pd.concat(scores)):.3f}"


if __name__ == "__main__":
    main()
