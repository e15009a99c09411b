"""Draws of two processes from an epoch that has an order of its own, and what
they share.

> torchrun --nproc_per_node=2 order.py FOLDER
"""

import pathlib
import sys
import types
from unittest import mock

import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.brains.ssrl import SSRLBrain


class Passes(torch.utils.data.Dataset):
    """Three passes over 12 utterances."""

    samples_per_epoch = 36

    def __len__(self):
        return 36

    def __getitem__(self, index):
        return {"id": str(index % 12)}

    def set_epoch(self, epoch):
        pass


def check_statistics():
    """Those of a teacher are the main process's, by which all embed; and those
    of a student, which may be exported."""
    own = get_rank() + 3.0
    networks = [torch.nn.BatchNorm1d(2) for _ in range(3)]
    for network in networks:
        network.running_mean.fill_(own)
    dino = DINOBrain.__new__(DINOBrain)
    dino.modules = types.SimpleNamespace(teacher=networks[0])
    dino.student = networks[1]
    dino.hparams = types.SimpleNamespace()
    dino.keep_or_undo = lambda: None
    with mock.patch.object(EncoderBrain, "on_stage_end"):
        dino.on_stage_end(sb.Stage.TRAIN, 0.0, 1)
    ssrl = types.SimpleNamespace(device="cpu", teacher=networks[2])
    SSRLBrain._share_statistics(ssrl)
    for network in networks:
        assert (network.running_mean == 3).all()


def main(folder):
    flags = ["none.yaml", "--device=cpu", "--distributed_backend=gloo"]
    _, run_opts, _ = sb.parse_arguments(flags)
    sb.utils.distributed.ddp_init_group(run_opts)
    brain = EncoderBrain(
        {"encoder": torch.nn.Linear(1, 1)},
        hparams={"seed": 1, "output_folder": folder},
        run_opts=run_opts,
    )
    loader = brain.make_dataloader(
        Passes(), sb.Stage.TRAIN, batch_size=3, num_workers=0
    )
    # The clocks of two machines, and a signal that one of them has got
    assert brain._agree(get_rank() == 0, 15 * get_rank()) == [1, 15]
    check_statistics()
    lines = [" ".join(batch["id"]) for batch in loader]
    pathlib.Path(folder, f"{get_rank()}.txt").write_text("\n".join(lines))
    # Ended in order: torn down amid its threads, a process aborts at times
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
