"""Times our ECAPA-TDNN against SpeechBrain's, and against any other.

> python tests/benchmarks/ecapa.py --channels 512 --batch 16 --seconds 3

The encoders take turns, and each figure is a median: what else the machine
does then slows all of them alike, so look at the ratios. The peak memory of a
training step is measured by a process of its own for each encoder. On a GPU,
``--compile`` has ours and the peer compiled: ours as trainings do, with CUDA
graphs, the peer by ``torch.compile`` as it comes.
"""

import argparse
import functools
import statistics
import time

import torch
from common import added_memory, in_own_process, load_from
from tqdm import tqdm

from speechbrain.lobes.models import ECAPA_TDNN as speechbrain_ecapa
from speechbrain_cadino.lobes import ecapa
from speechbrain_cadino.process.files import write_json

FEATURES = 80
FRAMES_PER_SECOND = 100
WARM_UP = 3  # rounds: CUDA graphs are recorded in the second


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--compile", action="store_true")
    parser.add_argument(
        "--peer",
        metavar="FILE:CLASS",
        help="a third encoder: CLASS(channels) maps (batch, time, "
        f"{FEATURES}) to embeddings",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def build(name, arguments):
    """Makes an encoder: 'speechbrain', 'ours' or 'peer'."""
    channels = arguments.channels
    if name == "peer":
        encoder = load_from(arguments.peer)(channels)
    else:
        module = {"speechbrain": speechbrain_ecapa, "ours": ecapa}[name]
        # Small encoders have a small attention too, as in the recipes.
        narrow = 128 if channels >= 512 else 64
        encoder = module.ECAPA_TDNN(
            FEATURES,
            channels=4 * [channels] + [3 * channels],
            attention_channels=narrow,
            se_channels=narrow,
        )
    encoder = encoder.to(arguments.device)
    if arguments.compile and name == "ours":
        encoder.compile_training("reduce-overhead")
    elif arguments.compile and name == "peer":
        encoder.compile(dynamic=False)
    return encoder


def run(encoder, features, arguments, backward):
    """One forward pass without gradients, or one forward and backward pass."""
    device = torch.device(arguments.device)
    bf16 = arguments.precision == "bf16"
    torch.compiler.cudagraph_mark_step_begin()
    with (
        torch.set_grad_enabled(backward),
        torch.autocast(device.type, torch.bfloat16, enabled=bf16),
    ):
        embeddings = encoder(features)
    if backward:
        embeddings.float().square().mean().backward()
        encoder.zero_grad()
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def make_features(arguments):
    frames = int(arguments.seconds * FRAMES_PER_SECOND) + 1
    shape = arguments.batch, frames, FEATURES
    return torch.randn(shape, device=arguments.device)


def peak_memory(name, arguments):
    """MiB that two training steps add to the process, or to the GPU."""
    encoder, features = build(name, arguments), make_features(arguments)

    def two_steps():
        for _ in range(2):
            run(encoder, features, arguments, backward=True)

    return added_memory(two_steps, arguments.device)


def measure_time(names, arguments):
    """Median milliseconds, {"forward": {name: ...}, "training step": ...}."""
    encoders = {name: build(name, arguments) for name in names}
    features = make_features(arguments)
    jobs = {
        (label, name): functools.partial(
            run, encoders[name], features, arguments, label != "forward"
        )
        for label in ("forward", "training step")
        for name in names
    }
    seconds = {job: [] for job in jobs}
    for index in tqdm(range(arguments.rounds + WARM_UP), unit="round"):
        for (label, name), job in jobs.items():
            encoders[name].train(label != "forward")
            start = time.perf_counter()
            job()
            if index >= WARM_UP:
                seconds[label, name].append(time.perf_counter() - start)
    return {
        label: {n: 1e3 * statistics.median(seconds[label, n]) for n in names}
        for label in ("forward", "training step")
    }


def main():
    arguments = parse_arguments()
    names = ["speechbrain", "ours"] + ["peer"] * bool(arguments.peer)
    figures = {
        "peak memory (MiB)": in_own_process(peak_memory, names, arguments),
        **{
            f"{label} (ms)": times
            for label, times in measure_time(names, arguments).items()
        },
    }
    others = [name for name in names if name != "ours"]
    header = [*names, *(f"ours/{name}" for name in others)]
    print(f"{'':20}" + "".join(f"{cell:>18}" for cell in header))
    for label, row in figures.items():
        ratios = [row["ours"] / row[name] for name in others]
        cells = [f"{row[name]:.0f}" for name in names]
        cells += [f"{ratio:.2f}" for ratio in ratios]
        print(f"{label:20}" + "".join(f"{cell:>18}" for cell in cells))
    if arguments.json:
        setting = vars(arguments) | {"torch": torch.__version__}
        write_json(arguments.json, {"setting": setting, "figures": figures})


if __name__ == "__main__":
    main()
