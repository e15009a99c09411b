"""Times stage I on several processes against one, and counts what they send.

> python tests/benchmarks/processes.py --processes 2 --channels 512 --batch 8

Starts the real recipe under torchrun, on generated noise: the same batch per
process, so that N processes should do N times the utterances per second. Both
take turns; look at the ratio of the medians. On CPUs the processes talk by
gloo and each has one thread; on a machine with fewer cores than processes the
figure tells nothing. So many runs that have nothing to do with each other show
what the machine's cores give, and the ratio to them what communication costs.

The bytes of a step are counted in this process, by a DistributedDataParallel
of one rank, and compared with what the model needs: a gradient for each
trained parameter, and the centre. SyncBatchNorm, on GPUs only, sends two
numbers and a count per channel and layer more, forward and backward.
"""

import argparse
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
from multiprocessing.pool import ThreadPool

import numpy as np
import pandas as pd
import soundfile
import torch
from common import RECIPE, load_recipe
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

import speechbrain as sb
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.process.files import write_json

UTTERANCES_PER_STEP = 2  # in the step that is counted: it does not matter
SECONDS = 4


def parse_flags():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--batch", type=int, default=8, help="per process")
    parser.add_argument("--channels", type=int, default=512)
    parser.add_argument("--out_dim", type=int, default=65536)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["fp32", "bf16"], default="fp32")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    return parser.parse_args()


def write_speech(folder, flags):
    """Noise of a few seconds for each utterance of an epoch."""
    rng = np.random.default_rng(0)
    folder = folder / "speech" / "speaker" / "video"
    folder.mkdir(parents=True)
    for i in range(flags.batch * flags.steps * flags.processes):
        wav = 0.1 * rng.standard_normal(16000 * SECONDS)
        soundfile.write(folder / f"{i:05}.wav", wav, 16000)


def recipe_flags(folder, flags):
    """The flags of train_dino.py."""
    return [
        str(RECIPE / "hparams" / "dino.yaml"),
        f"--data_folder={folder / 'speech'}",
        f"--channels={flags.channels}",
        f"--out_dim={flags.out_dim}",
        f"--batch_size={flags.batch}",
        f"--precision={flags.precision}",
        "--num_workers=1",
        "--ckpt_interval_minutes=0",
    ]


def utterances_per_second(processes, folder, flags, output="run"):
    """Of the second epoch: the first one warms up."""
    output = folder / f"{output}_{processes}"
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc_per_node={processes}",
        str(RECIPE / "train_dino.py"),
        *recipe_flags(folder, flags),
        f"--output_folder={output}",
        "--number_of_epochs=2",
        "--warmup_epochs=1",
    ]
    environment = dict(os.environ)
    if flags.device == "cpu":
        command += ["--device=cpu", "--distributed_backend=gloo"]
        # torchrun gives a single process all cores
        environment["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        command,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stdout)
    return pd.read_csv(output / "training.csv")["utts_per_second"].iloc[-1]


def apart(folder, flags):
    """As many processes, each a run of its own: what the machine gives."""
    outputs = [f"apart_{number}" for number in range(flags.processes)]
    with ThreadPool(flags.processes) as pool:
        speeds = pool.map(
            lambda output: utterances_per_second(1, folder, flags, output),
            outputs,
        )
    return sum(speeds)


def count_bytes(flags):
    """What a step sends, and what the model needs to send."""
    with tempfile.TemporaryDirectory() as folder:
        hparams, run_opts = load_recipe(
            [
                *recipe_flags(pathlib.Path(folder), flags),
                f"--output_folder={folder}",
                "--device=cpu",
            ]
        )
    del hparams["augment"]
    brain = DINOBrain(
        hparams["modules"], hparams["opt_class"], hparams, run_opts
    )
    sent = 0
    all_reduce = torch.distributed.all_reduce

    def counted(tensor, *args, **kwargs):
        nonlocal sent
        sent += tensor.nbytes
        return all_reduce(tensor, *args, **kwargs)

    with tempfile.NamedTemporaryFile() as file:
        torch.distributed.init_process_group(
            "gloo", f"file://{file.name}", rank=0, world_size=1
        )
        student = DistributedDataParallel(brain.modules.student)
        # The gradients go through torch.distributed.all_reduce as well then
        student.register_comm_hook(None, default_hooks.allreduce_hook)
        brain.modules["student"] = student
        brain.distillation.bind(brain.modules)
        torch.distributed.all_reduce = counted
        brain.steps_per_epoch = 1
        rng = torch.Generator().manual_seed(0)
        batch = {
            "id": list(range(UTTERANCES_PER_STEP)),
            "globals": torch.randn(2, 2, 48000, generator=rng),
            "locals": torch.randn(2, 4, 32000, generator=rng),
        }
        outputs = brain.compute_forward(batch, sb.Stage.TRAIN)
        brain.compute_objectives(outputs, batch, sb.Stage.TRAIN).backward()
        brain.on_fit_batch_end(batch, outputs, None, True)
        torch.distributed.destroy_process_group()
        torch.distributed.all_reduce = all_reduce
    parameters = sum(p.nbytes for p in student.parameters() if p.requires_grad)
    return sent, parameters + 4 * flags.out_dim


def main():
    flags = parse_flags()
    counts = [1, flags.processes]
    speeds = {count: [] for count in [*counts, "apart"]}
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        write_speech(folder, flags)
        for _ in tqdm(range(flags.rounds), unit="round"):
            for count in counts:
                speeds[count].append(
                    utterances_per_second(count, folder, flags)
                )
            speeds["apart"].append(apart(folder, flags))
    medians = {count: statistics.median(speeds[count]) for count in speeds}
    together = medians[flags.processes]
    efficiency = {
        "to one": together / flags.processes / medians[1],
        "to as many apart": together / medians["apart"],
    }
    sent, needed = count_bytes(flags)
    for count in counts:
        print(f"{count} process(es): {medians[count]:8.2f} utterances/s")
    print(f"as many apart: {medians['apart']:8.2f} utterances/s")
    for reference, ratio in efficiency.items():
        print(f"efficiency {reference}: {ratio:.2f}")
    print(f"a step sends {sent:,} bytes, the model needs {needed:,}")
    if flags.json:
        write_json(
            flags.json,
            {
                "setting": vars(flags) | {"torch": torch.__version__},
                "utterances_per_second": medians,
                "efficiency": efficiency,
                "bytes_per_step": {"sent": sent, "needed": needed},
            },
        )


if __name__ == "__main__":
    main()
