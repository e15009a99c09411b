"""Time and memory of `train_dino.py`, begun and resumed, with many rows.

> python tests/benchmarks/many_rows.py --rows 1000000 10000000

The manifest has the names of VoxCeleb2, and its rows are of a few files. The
training is that of dino.yaml with a tiny network. It is asked to end at its
first step, when it is told that half of the epoch is behind it, and is started
again. Seconds count from the start of the process; those of a CPU are its own,
which hardly depend on what else runs. Memory is that at the first step: the sum
over the process and its data workers of their proportional set sizes (PSS), and
the peak of the process itself.
"""

import argparse
import json
import multiprocessing
import os
import pathlib
import resource
import runpy
import signal
import subprocess
import sys
import tempfile
import time

import numpy as np
import pandas as pd
from common import RECIPE
from data import make_speech, memory_of, write_files, write_rows

FILES = 16
TINY = {
    "channels": 16,
    "out_dim": 64,
    "head_size": 16,
    "bottleneck_size": 8,
    "warmup_epochs": 1,
    "number_of_epochs": 2,
    "local_crops": 2,
    "global_seconds": 1.0,
    "local_seconds": 0.5,
    "skip_prep": True,
    "device": "cpu",
}


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[10**5, 10**6, 10**7]
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def train(result, started, command):
    """The script, in this process, up to its first step."""
    from speechbrain_cadino.brains.base import EncoderBrain

    take_step = EncoderBrain.fit_batch

    def fit_batch(brain, batch):
        workers = multiprocessing.active_children()
        memory = memory_of() + sum(memory_of(worker.pid) for worker in workers)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
        figures = {
            "seconds to the first batch": time.time() - started,
            "of a CPU": time.process_time(),
            "MiB of all processes": memory,
            "MiB of the process at its peak": peak,
            "step": brain.step,
        }
        pathlib.Path(result).write_text(json.dumps(figures))
        loss = take_step(brain, batch)
        loader = brain.checkpointer.recoverables["dataloader-TRAIN"]
        half = brain.batches_per_epoch // 2
        loader._speechbrain_iterator._num_yielded = brain.step = half
        os.kill(os.getpid(), signal.SIGTERM)
        return loss

    EncoderBrain.fit_batch = fit_batch
    sys.argv = command
    runpy.run_path(command[0], run_name="__main__")


def measure(folder, flags):
    """The figures of a start, or of a resume: whatever is to be done."""
    result = folder / "figures.json"
    result.unlink(missing_ok=True)
    options = {
        **TINY,
        "batch_size": flags.batch,
        "num_workers": flags.workers,
        "train_manifest": folder / "rows.csv",
        "data_folder": folder,
        "output_folder": folder / "run",
    }
    command = [
        str(RECIPE / "train_dino.py"),
        str(RECIPE / "hparams" / "dino.yaml"),
        *(f"--{name}={value}" for name, value in options.items()),
    ]
    code = (
        "import sys, many_rows\n"
        "many_rows.train(sys.argv[1], float(sys.argv[2]), sys.argv[3:])"
    )
    started = time.time()
    done = subprocess.run(
        [sys.executable, "-c", code, result, str(started), *command],
        env={**os.environ, "PYTHONPATH": _path()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if not result.exists():
        sys.exit(done.stdout)
    return json.loads(result.read_text())


def _path():
    """Where Python finds this file, and what it found so far."""
    here = str(pathlib.Path(__file__).parent)
    return os.pathsep.join([here, *filter(None, sys.path)])


def main():
    flags = parse_flags()
    table = []
    for rows in flags.rows:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            rng = np.random.default_rng(0)
            speech = [make_speech(3, rng) for _ in range(FILES)]
            write_files(folder, "speech", speech, "flac")
            write_rows(folder, rows)
            for what in ("start", "resume"):
                figures = measure(folder, flags)
                table.append({"rows": rows, "what": what, **figures})
                print(table[-1], flush=True)
    print(pd.DataFrame(table).to_string(index=False, float_format="%.4g"))
    if flags.json:
        pathlib.Path(flags.json).write_text(json.dumps(table, indent=2))


if __name__ == "__main__":
    main()
