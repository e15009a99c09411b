"""Times the extraction of embeddings against a plain loop over the files.

> python tests/benchmarks/extraction.py --channels 1024 --files 32

The loop is what a SpeechBrain user writes: load a file, ``encode_batch``. Both
embed the same FLAC files of mixed lengths with the same encoder (ours, or
SpeechBrain's own ECAPA-TDNN in the loop) and take turns; look at the ratio of
the medians. Hours of speech per hour times the hours of a corpus is what its
extraction takes.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import numpy as np
import pandas as pd
import soundfile
import torch
from tqdm import tqdm

from speechbrain.dataio.dataio import read_audio
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models import ECAPA_TDNN as speechbrain_ecapa
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.lobes import ecapa
from speechbrain_cadino.process.files import write_json

RATE = 16000
BANDS = 80


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument(
        "--seconds", type=float, default=7.8, help="mean length of a file"
    )
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--num_workers", type=int, default=0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def write_files(folder, arguments):
    """A manifest of FLAC files with noise, of half to one and a half length."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(arguments.files):
        samples = int(RATE * arguments.seconds * rng.uniform(0.5, 1.5))
        path = folder / f"{i:05}.flac"
        soundfile.write(path, 0.1 * rng.standard_normal(samples), RATE)
        rows.append((path.stem, str(path), 0, samples))
    return pd.DataFrame(rows, columns=["ID", "wav", "start", "stop"])


def make_encode(module, arguments):
    """``encode_batch`` of an encoder, and the encoder."""
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    features = Fbank(n_mels=BANDS).to(device)
    normalize = InputNormalization(norm_type="sentence", std_norm=False)
    encoder = module.ECAPA_TDNN(
        BANDS, channels=4 * [arguments.channels] + [3 * arguments.channels]
    )
    encoder = encoder.to(device).eval()
    bf16 = arguments.precision == "bf16"

    def encode(wavs, lengths):
        wavs, lengths = wavs.to(device), lengths.to(device)
        with torch.inference_mode():
            feats = normalize(features(wavs), lengths)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                return encoder(feats, lengths).float()

    return encode, encoder


def run_ours(table, arguments):
    encode, encoder = make_encode(ecapa, arguments)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        embedder = Embedder(
            encode,
            encoder,
            RATE,
            batch_size=arguments.batch,
            num_workers=arguments.num_workers,
        )
        embedder.extract(folder, table)
        return time.perf_counter() - start


def run_loop(table, arguments):
    encode, _ = make_encode(speechbrain_ecapa, arguments)
    start = time.perf_counter()
    for path in table["wav"]:
        wav = read_audio(path)
        encode(wav.unsqueeze(0), torch.ones(1)).cpu()
    return time.perf_counter() - start


def main():
    arguments = parse_arguments()
    jobs = {"ours": run_ours, "loop": run_loop}
    seconds = {name: [] for name in jobs}
    with tempfile.TemporaryDirectory() as folder:
        table = write_files(pathlib.Path(folder), arguments)
        for _ in tqdm(range(arguments.rounds), unit="round"):
            for name, job in jobs.items():
                seconds[name].append(job(table, arguments))
    speech = table["stop"].sum() / RATE
    figures = {
        name: {
            "files_per_second": len(table) / statistics.median(times),
            "hours_per_hour": speech / statistics.median(times),
        }
        for name, times in seconds.items()
    }
    for name, row in figures.items():
        print(
            f"{name:5} {row['files_per_second']:8.2f} files/s, "
            f"{row['hours_per_hour']:8.1f} hours of speech per hour"
        )
    ratio = statistics.median(seconds["ours"]) / statistics.median(
        seconds["loop"]
    )
    print(f"ours/loop {ratio:.2f}")
    if arguments.json:
        setting = vars(arguments) | {"torch": torch.__version__}
        write_json(
            arguments.json,
            {"setting": setting, "figures": figures, "ours/loop": ratio},
        )


if __name__ == "__main__":
    main()
