r"""Time and memory of a training of stage I, by encoder and batch: the table
of RUNNING.md.

> python tests/benchmarks/how_long.py
> python tests/benchmarks/how_long.py --device=cuda --precision=bf16 \
    --batches 64 128 256

A step is one of dino.yaml, from reading FLAC on. On a CPU the seconds are those
of the process on all its cores, over the number of threads: what else the
machine does hardly changes them. On a GPU they are those of a clock.
"""

import argparse
import pathlib
import statistics
import tempfile
import time

import torch
from common import in_own_process
from step import Clock, Ours, peak_memory

UTTERANCES = 1_092_009  # of VoxCeleb2's development set
EPOCHS = 150


def parse_flags():
    """The flags; those of step.py that it does not set are as there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--batches", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    return parser.parse_args()


def cell_flags(flags, channels, batch):
    """The flags of step.py for one cell."""
    return argparse.Namespace(
        stage="dino",
        channels=channels,
        batch=batch,
        out_dim=65536,
        local_crops=4,
        classes=7500,
        precision=flags.precision,
        device=flags.device,
        rounds=flags.rounds,
        eager=False,
        peer=[],
    )


def seconds_of_a_step(name, flags):
    """The median over the rounds, after one to warm up."""
    on_cpu = torch.device(flags.device).type == "cpu"
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(flags, pathlib.Path(folder))
        for _ in range(flags.rounds + 1):
            start = time.process_time() if on_cpu else time.perf_counter()
            ours.whole_step(Clock(flags.device))
            end = time.process_time() if on_cpu else time.perf_counter()
            seconds.append(end - start)
    share = torch.get_num_threads() if on_cpu else 1
    return statistics.median(seconds[1:]) / share


def main():
    """Measures each cell in processes of its own, prints a line of each."""
    flags = parse_flags()
    print("| channels | batch | seconds a step | utterances a second |", end="")
    print(f" GiB | hours of {EPOCHS} epochs of VoxCeleb2 |")
    print("|---|---|---|---|---|---|")
    for channels in flags.channels:
        for batch in flags.batches:
            cell = cell_flags(flags, channels, batch)
            seconds = in_own_process(seconds_of_a_step, ["ours"], cell)["ours"]
            memory = in_own_process(peak_memory, ["ours"], cell)["ours"]
            speed = batch / seconds
            hours = UTTERANCES * EPOCHS / speed / 3600
            print(
                f"| {channels} | {batch} | {seconds:.3g} | {speed:.3g} | "
                f"{memory / 1024:.2g} | {hours:,.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
