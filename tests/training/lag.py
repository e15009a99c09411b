"""Two processes, of which the second sees a new checkpoint later.

> torchrun --nproc_per_node=2 lag.py FOLDER
"""

import pathlib
import sys

import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer


def main(folder):
    flags = ["none.yaml", "--device=cpu", "--distributed_backend=gloo"]
    _, run_opts, _ = sb.parse_arguments(flags)
    sb.utils.distributed.ddp_init_group(run_opts)
    folder, rank = pathlib.Path(folder), get_rank()
    model = torch.nn.Linear(1, 1, bias=False)
    checkpointer = AtomicCheckpointer(
        folder / "save", recoverables={"m": model}
    )
    for weight in (1.0, 2.0, 3.0):
        torch.nn.init.constant_(model.weight, weight)
        torch.distributed.barrier()
        if weight == 3.0 and rank:
            seen = checkpointer._list_checkpoint_dirs()
            checkpointer._list_checkpoint_dirs = seen.copy
        checkpointer.save_and_keep_only()
    torch.nn.init.zeros_(model.weight)
    checkpointer.recover_if_possible()
    (folder / f"{rank}.txt").write_text(str(model.weight.item()))
    # Ended in order: torn down amid its threads, a process aborts at times
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(*sys.argv[1:])
