"""What two processes draw of an epoch that has an order of its own.

> torchrun --nproc_per_node=2 order.py FOLDER
"""

import pathlib
import sys

import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank
from speechbrain_cadino.brains.base import EncoderBrain


class Passes(torch.utils.data.Dataset):
    """Three passes over 12 utterances."""

    samples_per_epoch = 36

    def __len__(self):
        return 36

    def __getitem__(self, index):
        return {"id": str(index % 12)}

    def set_epoch(self, epoch):
        pass


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
    lines = [" ".join(batch["id"]) for batch in loader]
    pathlib.Path(folder, f"{get_rank()}.txt").write_text("\n".join(lines))
    # Ended in order: torn down amid its threads, a process aborts at times
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
