"""Times a training step part by part, ours and peers' side by side.

> python tests/benchmarks/step.py --channels 512 --batch 8 --out_dim 65536 \
      --peer /path/to/adapter.py:Peer
> python tests/benchmarks/step.py --stage dlg_lc --channels 512 --batch 64
> python tests/benchmarks/step.py --grow batch=2,4,8 --grow out_dim=8192,65536

Ours is the Brain of the recipe with the values of its YAML file. A peer is a
class in a file of yours, so that no other project's code is in this one:
``Peer(channels, out_dim, device)`` makes its networks and optimiser, and its
``step(crops, clock)`` takes one whole step on the same features, ``[(global
crops * batch, time, 80), (local crops * batch, time, 80)]``; it may time its
own parts as ``with clock("teacher encoder"): ...``. All take turns, and each
figure is a median: look at the ratios. The peak memory is measured by a process
of its own for each. ``--grow`` repeats ours over sizes, and draws the parts'
times over them with the exponent of the power law that fits best. On a GPU,
the encoders of ours are compiled as trainings do, unless ``--eager`` is given.
"""

import argparse
import contextlib
import pathlib
import statistics
import tempfile
import time

import numpy as np
import soundfile
import torch
from common import (
    RECIPE,
    added_memory,
    in_own_process,
    load_from,
    load_recipe,
)
from tqdm import tqdm

import speechbrain as sb
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.process.memory import keep_freed_memory
from speechbrain_cadino.training.compiled import Compilation

RATE = 16000
SECONDS = 5  # of an utterance
WARM_UP = 3  # rounds: CUDA graphs are recorded in the second
# Parts that a peer, which is given features, does not do
OURS_ONLY = ["data", "augmentation", "features"]
SIZES = ["batch", "out_dim", "local_crops", "channels"]


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--stage", choices=["dino", "dlg_lc"], default="dino")
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--out_dim", type=int, default=65536)
    parser.add_argument("--local_crops", type=int, default=4)
    parser.add_argument("--classes", type=int, default=7500)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--peer", metavar="FILE:CLASS", action="append", default=[]
    )
    parser.add_argument(
        "--grow",
        metavar="SIZE=N,N,...",
        action="append",
        default=[],
        help=f"one of {', '.join(SIZES)}",
    )
    parser.add_argument("--plot", metavar="FILE", default="growth.png")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    flags = parser.parse_args()
    if flags.peer and (flags.stage != "dino" or flags.grow):
        parser.error("--peer goes with --stage dino, without --grow")
    return flags


class Clock:
    """Adds up the seconds of the parts of a step."""

    def __init__(self, device):
        self.device = torch.device(device)
        self.seconds = {}

    @contextlib.contextmanager
    def __call__(self, part):
        start = self._now()
        yield
        self.seconds[part] = self.seconds.get(part, 0) + self._now() - start

    def _now(self):
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class Ours:
    """A Brain of the recipes, and noise to train it on."""

    def __init__(self, flags, folder):
        self.flags = flags
        self.brain, dataset = make_brain(flags, folder)
        self.brain.modules.train()
        if self.brain.device_type == "cuda" and not flags.eager:
            Compilation(self.brain.modules, graphs=True)
        self.dataset = dataset
        self.index = 0

    def draw(self, clock):
        """The wavs of a batch, by length, and its labels if there are any."""
        with clock("data"):
            rows = range(self.index, self.index + self.flags.batch)
            items = [self.dataset[row % len(self.dataset)] for row in rows]
            self.index += self.flags.batch
            batch = torch.utils.data.default_collate(items)
        kinds = ("globals", "locals") if "globals" in batch else ("wav",)
        wavs = [
            batch[kind].to(self.brain.device)
            for kind in kinds
            if batch[kind].numel()
        ]
        if "globals" in batch:
            wavs = [crops.transpose(0, 1).flatten(0, 1) for crops in wavs]
        return wavs, batch.get("label")

    def features(self, wavs, clock):
        brain = self.brain
        features = []
        for crops in wavs:
            with clock("augmentation"), torch.no_grad():
                augmented = brain.hparams.augment(crops)
            with clock("features"):
                features.append(self._network().features(augmented))
        return features

    def step(self, crops, clock):
        """A step of DINOBrain from features on, its parts apart."""
        torch.compiler.cudagraph_mark_step_begin()
        brain, (student, teacher) = self.brain, self._networks()
        with brain.training_ctx:
            with clock("student encoder"):
                embeddings = encode(student, crops)
            with clock("teacher encoder"), torch.no_grad():
                t_embeddings = encode(teacher, crops[:1])
            with clock("heads and loss"):
                sizes = self.flags.batch, len(crops[0]) // self.flags.batch
                views = head(brain, student, embeddings, sizes)
                with torch.no_grad():
                    t_views = head(brain, teacher, t_embeddings, sizes)
                loss = brain.compute_objectives(
                    (views, t_views), None, sb.Stage.TRAIN
                )
        with clock("backward"):
            loss.backward()
        with clock("optimiser"):
            brain.optimizers_step()
        with clock("EMA and centre"):
            brain.on_fit_batch_end(None, None, None, True)

    def label_step(self, wavs, features, labels, clock):
        """A step of PseudoLabelBrain, half of the labels behind the gate."""
        torch.compiler.cudagraph_mark_step_begin()
        brain = self.brain
        (branch,) = brain.branches.values()
        labels = labels.to(brain.device)
        with brain.training_ctx:
            with clock("encoder"):
                embeddings = branch.embedding_model(features[0])
            with clock("classifier"):
                cosines = branch.classifier(embeddings.float()).squeeze(1)
            _, results = brain.hparams.label_loss(cosines, labels)
            gate = results["losses"].median().item()

            def answer(rows):
                with clock("clean pass"):
                    return branch.clean(wavs[0][rows])

            start = clock.seconds.get("clean pass", 0)
            with clock("loss"):
                loss, _ = brain.hparams.label_loss(
                    cosines, labels, gate, answer
                )
            clock.seconds["loss"] -= clock.seconds["clean pass"] - start
        with clock("backward"):
            loss.backward()
        with clock("optimiser"):
            brain.optimizers_step()

    def whole_step(self, clock, peers=()):
        """A step from reading audio on; peers take theirs on the same
        features, each with its own clock."""
        wavs, labels = self.draw(clock)
        features = self.features(wavs, clock)
        if self.flags.stage == "dlg_lc":
            self.label_step(wavs, features, labels, clock)
            return
        self.step(features, clock)
        for peer, peer_clock in peers:
            with peer_clock("step"):
                peer.step(features, peer_clock)

    def _network(self):
        if hasattr(self.brain, "network"):
            return self.brain.network
        (branch,) = self.brain.branches.values()
        return branch.network

    def _networks(self):
        modules = self.brain.modules
        return modules.student, modules.teacher.network


def encode(network, crops):
    return torch.cat([network.encoder(feats) for feats in crops]).squeeze(1)


def head(brain, network, embeddings, sizes):
    said = embeddings, network.head(embeddings)
    return brain.distillation._by_view(said, *sizes)


def make_brain(flags, folder):
    """The Brain and the data set of a recipe."""
    overrides = {
        "channels": flags.channels,
        "batch_size": flags.batch,
        "data_folder": folder,
        "train_manifest": write_speech(folder, flags),
        "output_folder": folder / "run",
        "device": flags.device,
        "precision": flags.precision,
    }
    if flags.stage == "dino":
        overrides |= {
            "out_dim": flags.out_dim,
            "local_crops": flags.local_crops,
        }
    hparams, run_opts = load_recipe(
        [
            str(RECIPE / "hparams" / f"{flags.stage}.yaml"),
            *(f"--{name}={value}" for name, value in overrides.items()),
        ]
    )
    kind = {"dino": DINOBrain, "dlg_lc": PseudoLabelBrain}[flags.stage]
    brain = kind(hparams["modules"], hparams["opt_class"], hparams, run_opts)
    brain.epoch, brain.step = 1, 1
    brain.steps_per_epoch = 1  # prototypes are frozen in one step only
    brain.init_optimizers()
    return brain, hparams["train_data"]()


def write_speech(folder, flags):
    """Noise for a batch, and a manifest with a label for each class."""
    rng = np.random.default_rng(0)
    rows = ["ID,duration,wav,start,stop,spk_id"]
    for i in range(flags.batch):
        wav = 0.1 * rng.standard_normal(RATE * SECONDS)
        soundfile.write(folder / f"{i}.wav", wav, RATE)
    count = max(flags.batch, flags.classes * (flags.stage == "dlg_lc"))
    for i in range(count):
        wav = folder / f"{i % flags.batch}.wav"
        rows.append(f"{i:06},{SECONDS},{wav},0,{RATE * SECONDS},{i:06}")
    path = folder / "train.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def load_peer(source, flags):
    return load_from(source)(flags.channels, flags.out_dim, flags.device)


def measure_time(flags):
    """{system: {part: median milliseconds}}; ``step`` is from features on."""
    times = {name: [] for name in ["ours", *flags.peer]}
    with tempfile.TemporaryDirectory() as folder:
        ours = Ours(flags, pathlib.Path(folder))
        peers = [load_peer(source, flags) for source in flags.peer]
        for index in tqdm(range(flags.rounds + WARM_UP), unit="round"):
            clocks = [Clock(flags.device) for _ in times]
            ours.whole_step(clocks[0], list(zip(peers, clocks[1:])))
            parts = clocks[0].seconds
            parts["step"] = sum(
                parts[part] for part in parts if part not in OURS_ONLY
            )
            if index >= WARM_UP:
                for name, clock in zip(times, clocks):
                    times[name].append(clock.seconds)
    return {
        name: {
            part: 1e3 * statistics.median(row[part] for row in rows)
            for part in rows[0]
        }
        for name, rows in times.items()
    }


def peak_memory(name, flags):
    """MiB that making the networks and two steps add to the process."""
    keep_freed_memory()
    torch.manual_seed(0)
    return added_memory(lambda: take_two_steps(name, flags), flags.device)


def take_two_steps(name, flags):
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock(flags.device)
        if name == "ours":
            ours = Ours(flags, pathlib.Path(folder))
            for _ in range(2):
                ours.whole_step(clock)
        else:
            peer = load_peer(name, flags)
            crops = [
                torch.randn(count * flags.batch, frames, 80).to(flags.device)
                for count, frames in [(2, 301), (flags.local_crops, 201)]
            ]
            for _ in range(2):
                peer.step(crops, clock)


def measure_growth(flags):
    """{size: {"sizes": [...], part: [milliseconds, ...]}}."""
    growth = {}
    for entry in flags.grow:
        name, values = entry.split("=")
        if name not in SIZES:
            raise SystemExit(f"--grow {entry}: give one of {', '.join(SIZES)}")
        sizes = [int(value) for value in values.split(",")]
        rows = []
        for size in sizes:
            sized = argparse.Namespace(
                **{**vars(flags), name: size, "peer": []}
            )
            rows.append(measure_time(sized)["ours"])
        growth[name] = {part: [row[part] for row in rows] for part in rows[0]}
        growth[name]["sizes"] = sizes
    return growth


def exponent(sizes, values):
    """Of the power law through the points, by least squares of logarithms."""
    return float(np.polyfit(np.log(sizes), np.log(values), 1)[0])


def plot_growth(growth, path):
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        1, len(growth), figsize=(5 * len(growth), 5), squeeze=False
    )
    for axis, (name, rows) in zip(axes[0], growth.items()):
        sizes = rows["sizes"]
        for part, values in rows.items():
            if part != "sizes":
                label = f"{part}: {exponent(sizes, values):.2f}"
                axis.loglog(sizes, values, marker="o", label=label)
        axis.set(xlabel=name, ylabel="milliseconds", xticks=sizes)
        axis.set_xticklabels([str(size) for size in sizes])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.legend(
            fontsize=7,
            title="part: exponent",
            title_fontsize=7,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.15),
            ncol=3,
        )
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def print_table(times, memory):
    names = list(times)
    labels = ["ours", *(pathlib.Path(n).stem for n in names[1:])]
    print(f"{'':22}" + "".join(f"{label:>14}" for label in labels))
    parts = dict.fromkeys(part for row in times.values() for part in row)
    for part in [*(p for p in parts if p != "step"), "step"]:
        cells = [times[name].get(part) for name in names]
        print(
            f"{part + ' (ms)':22}"
            + "".join(f"{'-' if c is None else f'{c:.0f}':>14}" for c in cells)
        )
    cells = [f"{memory[name]:.0f}" for name in names]
    print(f"{'peak memory (MiB)':22}" + "".join(f"{c:>14}" for c in cells))
    for name, label in zip(names[1:], labels[1:]):
        time_ratio = times["ours"]["step"] / times[name]["step"]
        memory_ratio = memory["ours"] / memory[name]
        print(f"ours/{label}: step {time_ratio:.2f}, memory {memory_ratio:.2f}")


def main():
    flags = parse_flags()
    keep_freed_memory()
    torch.manual_seed(0)
    figures = {}
    if flags.grow:
        figures["growth"] = measure_growth(flags)
        plot_growth(figures["growth"], flags.plot)
        for name, rows in figures["growth"].items():
            for part, values in rows.items():
                if part != "sizes":
                    power = exponent(rows["sizes"], values)
                    print(f"{part:18} ~ {name}^{power:.2f}")
    else:
        names = ["ours", *flags.peer]
        figures["memory"] = in_own_process(peak_memory, names, flags)
        figures["time"] = measure_time(flags)
        print_table(figures["time"], figures["memory"])
    if flags.json:
        setting = vars(flags) | {"torch": torch.__version__}
        write_json(flags.json, {"setting": setting, "figures": figures})


if __name__ == "__main__":
    main()
