"""Makes real voices with and without rooms and noise, to be tested on both.

> python tests/benchmarks/noisy.py VOXMULTI NOISE RIR OUTPUT

VOXMULTI has wav/SPEAKER/SESSION/FILE and meta/veri_{cross,within}_hard.txt;
NOISE files whose names begin with their kind, such as 002-; RIR those of rooms.
OUTPUT gets

* ``noise/`` and ``rir/``, for trainings: every other kind of noise, from the
  first on, and every other room;
* ``test/``: the files of both lists, as ``SPEAKER/clean`` and
  ``SPEAKER/noisy``, and the lists ``{cross,within}_{clean,noisy,mixed}.txt``,
  the last of clean files against noisy ones.

Each noisy file is in a room and has noise of 5 to 20 dB, both drawn by its
name from the rooms and the kinds of noise that no training hears.
"""

import argparse
import pathlib
import shutil

import numpy as np
import soundfile
from scipy.signal import fftconvolve
from telephone import LEVEL, RATE, renamed, write
from tqdm import tqdm

from speechbrain_cadino.process.files import write_text

SNR = (5, 20)  # dB


def main():
    """Makes all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("voxmulti", "noise", "rir", "output"):
        parser.add_argument(name, type=pathlib.Path)
    flags = parser.parse_args()
    rooms = sorted(flags.rir.glob("*.flac"))
    noises = sorted(flags.noise.glob("*.flac"))
    kinds = sorted({kind_of(path) for path in noises})
    heard = [path for path in noises if kind_of(path) in kinds[::2]]
    for name, files in (("noise", heard), ("rir", rooms[::2])):
        (flags.output / name).mkdir(parents=True, exist_ok=True)
        for path in files:
            shutil.copyfile(path, flags.output / name / path.name)
    rooms = [read(path) for path in rooms[1::2]]
    noises = [read(path) for path in noises if path not in heard]
    files = set()
    for name in ("cross", "within"):
        lines = flags.voxmulti / "meta" / f"veri_{name}_hard.txt"
        trials = [line.split() for line in lines.read_text("utf-8").split("\n")]
        trials = [trial for trial in trials if trial]
        files |= {file for _, *sides in trials for file in sides}
        for kind, first, second in (
            ("clean", "clean", "clean"),
            ("noisy", "noisy", "noisy"),
            ("mixed", "clean", "noisy"),
        ):
            text = "".join(
                f"{label} {renamed(one, first)} {renamed(other, second)}\n"
                for label, one, other in trials
            )
            write_text(flags.output / "test" / f"{name}_{kind}.txt", text)
    for file in tqdm(sorted(files)):
        wav = read(flags.voxmulti / "wav" / file)
        for kind, signal in (
            ("clean", wav),
            ("noisy", disturbed(wav, file, rooms, noises)),
        ):
            signal = LEVEL * signal / np.sqrt(np.mean(signal**2))
            write(flags.output / "test" / renamed(file, kind), signal)


def kind_of(path):
    """The kind of a noise."""
    return path.name.split("-")[0]


def read(path):
    """The samples of a file."""
    wav, rate = soundfile.read(path)
    assert rate == RATE, path
    return wav


def disturbed(wav, name, rooms, noises):
    """A signal in a room, with noise, both drawn by its name."""
    rng = np.random.default_rng(list(name.encode()))
    room = rooms[rng.integers(len(rooms))]
    wav = fftconvolve(wav, room)[np.abs(room).argmax() :][: len(wav)]
    noise = noises[rng.integers(len(noises))]
    noise = np.resize(np.roll(noise, rng.integers(len(noise))), len(wav))
    gain = np.sqrt(np.mean(wav**2) / np.mean(noise**2))
    return wav + noise * gain * 10 ** (-rng.uniform(*SNR) / 20)


if __name__ == "__main__":
    main()
