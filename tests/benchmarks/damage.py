"""Copies a demo corpus of voices and faces, and spoils a part of each sense.

> python tests/benchmarks/damage.py demo_corpus damaged_corpus
> cd recipes/VoxCeleb
> python run_pipeline.py hparams/demo_av.yaml --data_folder=damaged_corpus

Of the utterances, those of the trials too, 30% get white noise, 15 dB louder
than the voice, and another 30% have black images for a face. No utterance
loses both.
"""

import argparse
import pathlib
import shutil

import numpy as np
import soundfile
from PIL import Image

SHARE = 0.3
SNR = -15.0  # dB


def main():
    """Reads the flags, copies, spoils."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("corpus", type=pathlib.Path)
    parser.add_argument("damaged", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1986)
    flags = parser.parse_args()
    shutil.copytree(flags.corpus, flags.damaged)
    # Manifests of faces are written again: others have a face now
    for path in flags.damaged.glob("faces*"):
        path.unlink()
    rng = np.random.default_rng(flags.seed)
    for wav in sorted(flags.damaged.glob("wav/*/*/*.flac")):
        chance = rng.random()
        if chance < SHARE:
            add_noise(wav, rng)
        elif chance < 2 * SHARE:
            name = wav.relative_to(flags.damaged / "wav").with_suffix("")
            blacken(flags.damaged / "face" / name)


def add_noise(path, rng):
    """Adds white noise to an audio file."""
    wave, rate = soundfile.read(path)
    noise = rng.standard_normal(len(wave))
    wave = wave + noise * wave.std() * 10 ** (-SNR / 20)
    soundfile.write(path, 0.9 * wave / np.abs(wave).max(), rate)


def blacken(track):
    """Blackens the images of a track, if there is one."""
    for path in track.glob("*.jpg"):
        Image.new("RGB", Image.open(path).size).save(path)


if __name__ == "__main__":
    main()
