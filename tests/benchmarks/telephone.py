"""Makes the corpora of an adaptation: clean voices, and a telephone.

> python tests/benchmarks/telephone.py VOXMINI VOXMULTI OUTPUT

VOXMINI has wav/SPEAKER/SESSION/FILE and meta/veri_test.txt, whose speakers are
those to test; VOXMULTI the same and meta/veri_cross_hard.txt. OUTPUT gets

* ``source/``: every other speaker of VOXMINI's that is not tested, as it is,
  and ``source.csv``, its manifest with the true speakers;
* ``target/``: the other half through the channel, and ``target.csv``, its
  manifest, without labels, with ``speakers.csv`` for one arm alone:
  ``target_labels.csv`` is the manifest with them;
* ``test/``: the files of both lists, as ``SPEAKER/clean`` and
  ``SPEAKER/phone``, and the lists ``{mini,multi}_{clean,phone}.txt``.

The channel is drawn for each file: a band from 200-400 to 3000-3600 Hz, a
slope, noise of 10 to 25 dB, then 8 kHz and 8 bits by the mu-law.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd
import soundfile
import soxr
from scipy import fft
from tqdm import tqdm

from speechbrain_cadino.dataio.manifest import LABEL, write_manifest
from speechbrain_cadino.process.files import write_text
from speechbrain_cadino.process.tables import write_csv

RATE = 16000
PHONE = 8000
MU = 255
LOW, HIGH = (200, 400), (3000, 3600)  # Hz
SLOPE = (-3, 3)  # dB per octave
SNR = (10, 25)  # dB
LEVEL = 0.1  # of full scale, the root mean square before the coding

LISTS = {"mini": "veri_test.txt", "multi": "veri_cross_hard.txt"}


def main():
    """Makes all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("voxmini", type=pathlib.Path)
    parser.add_argument("voxmulti", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    flags = parser.parse_args()
    tested = set()
    for name, data in (("mini", flags.voxmini), ("multi", flags.voxmulti)):
        tested |= make_test(name, data, flags.output)
    files = sorted((flags.voxmini / "wav").rglob("*.flac"))
    speakers = sorted({path.parts[-3] for path in files} - tested)
    halves = {"source": speakers[::2], "target": speakers[1::2]}
    for half, names in halves.items():
        own = [path for path in files if path.parts[-3] in names]
        make_half(half, own, flags.output)


def make_test(name, data, output):
    """The files and both lists of a test; returns its speakers."""
    lines = (data / "meta" / LISTS[name]).read_text("utf-8").splitlines()
    trials = [line.split() for line in lines]
    files = sorted({file for _, *sides in trials for file in sides})
    for file in tqdm(files, desc=name):
        wav, _ = soundfile.read(data / "wav" / file, dtype="float32")
        for kind, signal in (("clean", wav), ("phone", telephone(wav, file))):
            write(output / "test" / renamed(file, kind), signal)
    for kind in ("clean", "phone"):
        text = "".join(
            f"{label} {renamed(one, kind)} {renamed(other, kind)}\n"
            for label, one, other in trials
        )
        write_text(output / "test" / f"{name}_{kind}.txt", text)
    return {file.split("/")[0] for file in files}


def renamed(file, kind):
    """SPEAKER/kind/SESSION/FILE of SPEAKER/SESSION/FILE."""
    speaker, rest = file.split("/", 1)
    return f"{speaker}/{kind}/{rest}"


def make_half(half, files, output):
    """Half of the speakers, and their manifest."""
    rows = []
    for path in tqdm(files, desc=half):
        wav, rate = soundfile.read(path, dtype="float32")
        assert rate == RATE, path
        name = "/".join(path.parts[-3:])
        wav = telephone(wav, name) if half == "target" else wav
        write(output / half / name, wav)
        row = (f"{half}/{name}", len(wav) / RATE, f"$data_root/{half}/{name}")
        rows.append((*row, 0, len(wav), path.parts[-3]))
    columns = ["ID", "duration", "wav", "start", "stop", LABEL]
    table = pd.DataFrame(rows, columns=columns)
    if half == "source":
        write_manifest(output / "source.csv", table)
        return
    write_manifest(output / "target.csv", table.drop(columns=LABEL))
    write_manifest(output / "target_labels.csv", table)
    write_csv(output / "speakers.csv", table[["ID", LABEL]])


def telephone(wav, name):
    """A signal through a telephone of its own, drawn by its name."""
    rng = np.random.default_rng(list(name.encode()))
    wav = soxr.resample(wav, RATE, PHONE)
    spectrum = fft.rfft(wav)
    frequency = np.maximum(fft.rfftfreq(len(wav), 1 / PHONE), 1)
    low, high = rng.uniform(*LOW), rng.uniform(*HIGH)
    gain = (1 + (low / frequency) ** 8) * (1 + (frequency / high) ** 16)
    slope = rng.uniform(*SLOPE) * np.log2(frequency / 1000) / 20
    speech = fft.irfft(spectrum * 10**slope / np.sqrt(gain), len(wav))
    noise = rng.standard_normal(len(wav))
    noise *= 10 ** (-rng.uniform(*SNR) / 20)
    wav = speech / np.sqrt(np.mean(speech**2)) + noise
    wav = np.clip(LEVEL * wav, -1, 1)
    # G.711's law, as a formula: 256 levels, the finer the softer
    coded = np.sign(wav) * np.log1p(MU * np.abs(wav)) / np.log1p(MU)
    coded = np.round(coded * 127) / 127
    wav = np.sign(coded) * np.expm1(np.abs(coded) * np.log1p(MU)) / MU
    return soxr.resample(wav.astype(np.float32), PHONE, RATE)


def write(path, wav):
    """A file of 16 bits."""
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, wav, RATE)


if __name__ == "__main__":
    main()
