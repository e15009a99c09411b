"""Times our data path against SpeechBrain's, and weighs a big manifest.

> python tests/benchmarks/data.py --utterances 64
> python tests/benchmarks/data.py --rows 1092009 --workers 8

Both pipelines do in this process, on one thread, what one worker would: read
two crops of 3 s and four of 2 s of each utterance, and add reverberation and
noise from files to every crop. SpeechBrain's is a DynamicItemDataset that
reads each crop as its VoxCeleb recipe does, and its own AddReverb and AddNoise
on the batch. They take turns, so look at the ratios of the medians. The first
round is not counted: it finds the files in no page cache, and fills our banks
of noises, where SpeechBrain reads some for every batch.

With --rows, a new process loads a manifest of that many rows, whose files are
those of the speech. Its forked workers read the names of as many rows as in an
epoch, and draw some items. The memory is the sum of their proportional set
sizes (PSS).
"""

import argparse
import concurrent.futures
import multiprocessing
import pathlib
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
import scipy.signal
import soundfile
import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate
from tqdm import tqdm

from speechbrain.augment import time_domain
from speechbrain.dataio import audio_io
from speechbrain.dataio.batch import PaddedBatch
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_cadino.dataio.augment import AddNoise, AddReverb, CropAugmenter
from speechbrain_cadino.dataio.crops import MultiCropDataset
from speechbrain_cadino.dataio.manifest import write_manifest
from speechbrain_cadino.process.files import write_json

RATE = 16000
CROPS = {"globals": (2, 3 * RATE), "locals": (4, 2 * RATE)}
SNRS = {"snr_low": 0, "snr_high": 15}
PARTS = ("reading and cropping", "augmentation")


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--utterances", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=7.8, help="their mean length"
    )
    parser.add_argument("--format", choices=["flac", "wav"], default="flac")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--noises", type=int, default=64)
    parser.add_argument(
        "--noise_seconds",
        type=float,
        default=3.0,
        help="SpeechBrain's recipe cuts its noises to 3 s",
    )
    parser.add_argument("--rirs", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--rows", type=int, default=0, help="of the big manifest; 0: none"
    )
    parser.add_argument("--workers", type=int, default=8, help="that draw")
    parser.add_argument(
        "--draws", type=int, default=64, help="items that each of them draws"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def make_speech(seconds, rng):
    """Low noise in syllables: FLAC packs it about as it packs speech."""
    samples = int(RATE * seconds * rng.uniform(0.5, 1.5))
    syllables = np.sin(2 * np.pi * 4 * np.arange(samples) / RATE) ** 2
    noise = scipy.signal.lfilter([1], [1, -0.95], rng.standard_normal(samples))
    return 0.05 * syllables * noise


def make_noise(seconds, rng):
    return 0.1 * rng.standard_normal(int(RATE * seconds))


def make_rir(rng):
    """A direct sound after 20 ms, and noise that falls by 60 dB."""
    seconds = rng.uniform(0.2, 0.8)
    decay = np.linspace(0, -3, int(RATE * seconds))
    rir = np.concatenate(
        [np.zeros(RATE // 50), 0.3 * rng.standard_normal(decay.size)]
    )
    rir[RATE // 50 :] *= 10**decay
    rir[RATE // 50] = 1.0
    return 0.9 * rir / np.abs(rir).max()


def write_files(folder, name, wavs, suffix="wav"):
    """Audio files, and their manifest, which SpeechBrain reads as well."""
    (folder / name).mkdir()
    rows = []
    for i, wav in enumerate(wavs):
        path = folder / name / f"{i:05}.{suffix}"
        soundfile.write(path, wav, RATE)
        rows.append((path.stem, len(wav) / RATE, str(path), 0, len(wav)))
    columns = ["ID", "duration", "wav", "start", "stop"]
    table = pd.DataFrame(rows, columns=columns)
    write_manifest(folder / f"{name}.csv", table)
    # The columns that SpeechBrain's augmentations want.
    table = table[["ID", "duration", "wav"]]
    table.assign(wav_format=suffix, wav_opts="").to_csv(
        folder / f"{name}_speechbrain.csv", index=False
    )


def write_corpus(folder, flags):
    rng = np.random.default_rng(0)
    speech = [make_speech(flags.seconds, rng) for _ in range(flags.utterances)]
    noises = [make_noise(flags.noise_seconds, rng) for _ in range(flags.noises)]
    rirs = [make_rir(rng) for _ in range(flags.rirs)]
    write_files(folder, "speech", speech, flags.format)
    write_files(folder, "noise", noises)
    write_files(folder, "rir", rirs)


class Ours:
    """This package's data path."""

    def __init__(self, folder):
        self.data = MultiCropDataset(folder / "speech.csv")
        bank = {"data_folder": folder}
        reverb = AddReverb(**bank, manifest=folder / "rir.csv")
        noise = AddNoise(**bank, manifest=folder / "noise.csv", **SNRS)
        self.augmenter = CropAugmenter([reverb, noise], [1.0, 1.0])
        self.collate = default_collate

    def augment(self, kind, crops):
        return self.augmenter(crops.flatten(0, 1))


class SpeechBrain:
    """What a user of SpeechBrain alone writes."""

    def __init__(self, folder):
        self.data = DynamicItemDataset.from_csv(folder / "speech.csv")
        self.data.add_dynamic_item(
            read_crops, takes=["wav", "duration"], provides=list(CROPS)
        )
        self.data.set_output_keys(list(CROPS))
        self.reverb = time_domain.AddReverb(folder / "rir_speechbrain.csv")
        # One for each size of batch: it reads just as many noises then.
        self.noise = {
            kind: time_domain.AddNoise(
                folder / "noise_speechbrain.csv", pad_noise=True, **SNRS
            )
            for kind in CROPS
        }
        self.collate = PaddedBatch

    @torch.no_grad()
    def augment(self, kind, crops):
        wavs = crops.data.flatten(0, 1)
        return self.noise[kind](self.reverb(wavs), torch.ones(len(wavs)))


def read_crops(wav, duration):
    """Random crops, each read from the file on its own."""
    samples = round(float(duration) * RATE)
    for count, length in CROPS.values():
        crops = []
        for _ in range(count):
            first = random.randint(0, max(samples - length, 0))
            crop, _ = audio_io.load(
                wav,
                num_frames=min(length, samples),
                frame_offset=first,
            )
            repeats = -(-length // crop.shape[1])
            crops.append(crop.repeat(1, repeats)[0, :length])
        yield torch.stack(crops)


def run(system, flags):
    """The seconds that each part takes for all utterances."""
    seconds = dict.fromkeys(PARTS, 0.0)
    for first in range(0, flags.utterances, flags.batch):
        rows = range(first, min(first + flags.batch, flags.utterances))
        start = time.perf_counter()
        batch = system.collate([system.data[row] for row in rows])
        read = time.perf_counter()
        for kind in CROPS:
            system.augment(kind, batch[kind])
        seconds[PARTS[0]] += read - start
        seconds[PARTS[1]] += time.perf_counter() - read
    return seconds


def measure_speed(folder, flags):
    """Utterances per second, {part: {system: ...}}; medians of the rounds."""
    torch.set_num_threads(1)
    systems = {"ours": Ours(folder), "speechbrain": SpeechBrain(folder)}
    rounds = {name: [] for name in systems}
    for index in tqdm(range(flags.rounds + 1), unit="round"):
        for name, system in systems.items():
            seconds = run(system, flags)
            if index > 0:
                seconds["both"] = sum(seconds.values())
                rounds[name].append(seconds)
    return {
        part: {
            name: flags.utterances / statistics.median(r[part] for r in times)
            for name, times in rounds.items()
        }
        for part in (*PARTS, "both")
    }


def memory(rollup):
    """The proportional set size in a smaps_rollup, in MiB."""
    return int(re.search(r"^Pss:\s+(\d+)", rollup, re.M)[1]) / 2**10


def memory_of(pid="self"):
    return memory(pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text())


def memory_of_imports():
    """That of a process that imports torch and SpeechBrain alone."""
    code = "import torch, speechbrain; print(open('/proc/self/%s').read())"
    code %= "smaps_rollup"
    return memory(
        subprocess.check_output([sys.executable, "-c", code], text=True)
    )


def write_rows(folder, rows):
    """A manifest with the names of VoxCeleb2; it reads the same few files."""
    head, *lines = (folder / "speech.csv").read_text().splitlines()
    lines = [line.partition(",")[2] for line in lines]
    with open(folder / "rows.csv", "w") as file:
        file.write(f"{head}\n")
        file.writelines(
            f"id{i // 180:05}/{i // 7:011}/{i % 7:05},{lines[i % len(lines)]}\n"
            for i in range(rows)
        )


def read_names(worker):
    """Touches the text that a worker touches in an epoch."""
    info = torch.utils.data.get_worker_info()
    for row in range(worker, len(info.dataset), info.num_workers):
        _ = info.dataset.ids[row], info.dataset.crops.wavs[row]


def load_rows(manifest, flags):
    """In a process of its own: figures of loading, and then of drawing."""
    before = memory_of()
    start = time.perf_counter()
    data = MultiCropDataset(manifest)
    seconds = time.perf_counter() - start
    loaded = memory_of()
    # Linux counts in KiB, and what is shared in full.
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    count = flags.workers * flags.draws
    loader = DataLoader(
        data,
        sampler=RandomSampler(data, replacement=True, num_samples=count),
        batch_size=None,
        num_workers=flags.workers,
        multiprocessing_context="fork",
        persistent_workers=True,
        worker_init_fn=read_names,
    )
    for _ in loader:
        pass
    workers = [memory_of(p.pid) for p in multiprocessing.active_children()]
    return {
        "seconds to load": seconds,
        "MiB before loading": before,
        "MiB at the peak (RSS)": peak,
        "MiB after loading": loaded,
        "MiB of each worker": statistics.mean(workers),
        "MiB of all processes": memory_of() + sum(workers),
    }


def measure_rows(folder, flags):
    write_rows(folder, flags.rows)
    figures = {"MiB of imports alone": memory_of_imports()}
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
        task = pool.submit(load_rows, folder / "rows.csv", flags)
        figures |= task.result()
    figures["MiB beyond imports"] = (
        figures["MiB of all processes"] - figures["MiB of imports alone"]
    )
    return figures


def print_speed(figures):
    print(f"{'utterances/s':22}{'ours':>12}{'speechbrain':>12}{'ratio':>8}")
    for part, row in figures.items():
        ours, other = row["ours"], row["speechbrain"]
        print(f"{part:22}{ours:12.1f}{other:12.1f}{ours / other:8.2f}")


def main():
    flags = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_corpus(folder, flags)
        figures = {"utterances_per_second": measure_speed(folder, flags)}
        print_speed(figures["utterances_per_second"])
        if flags.rows:
            figures["rows"] = measure_rows(folder, flags)
            for label, figure in figures["rows"].items():
                print(f"{label:22}{figure:12.1f}")
    if flags.json:
        setting = vars(flags) | {"torch": torch.__version__}
        write_json(flags.json, {"setting": setting, "figures": figures})


if __name__ == "__main__":
    main()
