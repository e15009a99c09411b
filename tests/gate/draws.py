"""Two processes that draw the same samples, and what is held of it in the end.

> torchrun --nproc_per_node=2 draws.py OUTPUT [resumed]

Resumed, what was saved after each step is loaded by all of them.
"""

import sys

import torch

import speechbrain as sb
from speechbrain.utils.distributed import get_rank, if_main_process
from speechbrain_cadino.gate.label_queue import LabelQueue
from speechbrain_cadino.gate.record import GateRecord
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer

# Of each process, in two steps. 1 and 3 are drawn by both at once, 2 by the
# second process later, 0 by the first one.
DRAWN = [[[2, 1], [0, 3]], [[0, 1], [2, 3]]]


def main(output, *resumed):
    flags = ["none.yaml", "--device=cpu", "--distributed_backend=gloo"]
    _, run_opts, _ = sb.parse_arguments(flags)
    sb.utils.distributed.ddp_init_group(run_opts)
    rank = get_rank()
    held = make()
    for step, samples in enumerate(DRAWN[rank]):
        samples = torch.tensor(samples)
        held["record"].add(
            samples,
            losses=10 * rank + step + samples / 10,
            decisions=torch.ones(2),
            corrected=-torch.ones(2),
        )
        held["queue"].push(samples, torch.full((2,), 1 + rank + 2 * step))
        if resumed:
            held["record"].gather("cpu")
            AtomicCheckpointer(
                f"{output}.save", recoverables=held
            ).save_checkpoint()
            held = make()
            AtomicCheckpointer(
                f"{output}.save", recoverables=held
            ).recover_if_possible()
    held["record"].gather("cpu")
    if if_main_process():
        torch.save(
            {
                "losses": torch.from_numpy(held["record"].losses),
                "answers": held["queue"].answers,
            },
            output,
        )
    # Ended in order: torn down amid its threads, a process aborts at times
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


def make():
    return {
        "record": GateRecord(4),
        "queue": LabelQueue(torch.zeros(4, dtype=torch.int32), 5, 3),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
