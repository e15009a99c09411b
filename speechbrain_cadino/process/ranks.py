"""Processes that depend on each other: parents, data workers, ranks."""

import contextlib
import ctypes
import datetime
import multiprocessing
import os
import signal
import sys
import threading

import torch
from torch.distributed.distributed_c10d import _set_pg_timeout

from speechbrain.utils.distributed import ddp_all_reduce

# prctl: which signal a process gets when its parent dies (Linux)
PR_SET_PDEATHSIG = 1

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None

# How long the processes of torchrun wait for each other: in a training step
# for the slowest one's data; else for the main process, which evaluates, as
# long as SpeechBrain's ddp_init_group says.
STEP_PATIENCE = datetime.timedelta(minutes=10)
WORK_PATIENCE = datetime.timedelta(hours=2)

# And where a work may take hours: before a training, for what is prepared, at
# its end, for a long trial list, and in clustering and filtering.
LONG_PATIENCE = datetime.timedelta(days=7)

_patience = WORK_PATIENCE


def follow_parent(number, parent=None):
    """This process gets a signal when its parent dies, on Linux.

    Arguments
    ---------
    number : int
        The signal.
    parent : int, optional
        The number of the parent, as that knows it: if it has died already,
        this process ends at once.

    Example
    -------
    >>> follow_parent(signal.SIGTERM)
    """
    if _libc is not None:
        _libc.prctl(PR_SET_PDEATHSIG, int(number))
        if parent not in (None, os.getppid()):
            os._exit(1)


def launched_processes():
    """How many processes torchrun has started, before they know each other.

    Returns
    -------
    int
        The WORLD_SIZE of torchrun; 1 without it, also where a job script
        exports one.

    Example
    -------
    >>> launched_processes()
    1
    """
    if "LOCAL_RANK" not in os.environ:  # by which SpeechBrain knows torchrun
        return 1
    return int(os.environ.get("WORLD_SIZE", 1))


def own_rank():
    """The rank of this process among those that train together.

    Returns
    -------
    int
        The rank; 0 if there are no others, also where a scheduler numbers its
        tasks.

    Example
    -------
    >>> own_rank()
    0
    """
    there = torch.distributed.is_initialized()
    return torch.distributed.get_rank() if there else 0


def refuse_data_parallel(brain):
    """Raises where SpeechBrain is to share batches out by DataParallel: that
    puts the views of one utterance on several GPUs, and mixes them up.

    Arguments
    ---------
    brain : speechbrain.Brain
        The Brain.

    Raises
    ------
    ValueError
    """
    if brain.data_parallel_backend:
        raise ValueError(
            "--data_parallel_backend mixes up the views of utterances: on N "
            "GPUs, start the script by torchrun --nproc_per_node=N."
        )


def share_buffers(module):
    """Gives all processes the buffers that the main one has, such as those of
    BatchNorm.

    Arguments
    ---------
    module : torch.nn.Module
        The module of the buffers.

    Example
    -------
    >>> share_buffers(torch.nn.BatchNorm1d(2))
    """
    if torch.distributed.is_initialized():
        for buffer in module.buffers():
            torch.distributed.broadcast(buffer, src=0)


def worth_while(num_workers):
    """How many data workers are worth their memory.

    Arguments
    ---------
    num_workers : int
        The number of workers that is asked for.

    Returns
    -------
    int
        The number, no more than there are processors for this process, which
        shares them with the others of torchrun on its machine.

    Example
    -------
    >>> worth_while(0), 1 <= worth_while(10**6) < 10**6
    (0, True)
    """
    return min(num_workers, own_processors())


def own_processors(processes=None):
    """How many processors there are for each of some processes.

    Arguments
    ---------
    processes : int, optional
        The number of processes on this machine; those of torchrun by default.

    Returns
    -------
    int
        The number of processors, 1 or more.

    Example
    -------
    >>> own_processors(10**6)
    1
    """
    count = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):  # Linux
        count = len(os.sched_getaffinity(0))
    processes = processes or int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    return max(1, count // processes)


def shield_worker(worker_id):
    """A ``worker_init_fn`` for DataLoader: only its parent ends a worker.

    Ctrl-C, torchrun and a terminal that is closed signal whole process
    groups. The parent saves a checkpoint first, and needs its workers until
    then.

    Arguments
    ---------
    worker_id : int
        Not used.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_obey_parent, daemon=True).start()


def _obey_parent():
    # Not os.getppid(): that of a forkserver's worker is the server
    parent = multiprocessing.parent_process()
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent.pid:
        pass
    os._exit(0)


@contextlib.contextmanager
def patience(limit):
    """How long processes of torchrun wait for each other within a block.

    One that waits longer, because another one hangs, ends with an error.

    Arguments
    ---------
    limit : datetime.timedelta
        The longest wait, e.g. ``STEP_PATIENCE``.

    Example
    -------
    >>> with patience(STEP_PATIENCE):
    ...     pass
    """
    global _patience
    before = _patience
    try:
        _set_patience(limit)
        yield
    finally:
        _set_patience(before)


def _set_patience(limit):
    global _patience
    _patience = limit
    if torch.distributed.is_initialized():
        _set_pg_timeout(limit)


def ddp_mean(tensor):
    """The mean of a tensor over all ranks, the tensor itself without DDP.

    Arguments
    ---------
    tensor : torch.Tensor
        The tensor, which is changed in place.

    Returns
    -------
    torch.Tensor
        The mean, the same on all ranks.

    Example
    -------
    >>> ddp_mean(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if not torch.distributed.is_initialized():
        return tensor
    # gloo knows no mean
    tensor = ddp_all_reduce(tensor, torch.distributed.ReduceOp.SUM)
    return tensor.div_(torch.distributed.get_world_size())


def ddp_gather(tensor, dim=0):
    """What all ranks have, side by side, with its gradient.

    The gradient of a value that each rank computes of it is the sum over
    ranks: after the mean of DistributedDataParallel it is that of one process.

    Arguments
    ---------
    tensor : torch.Tensor
        The tensor, of the same shape on all ranks.
    dim : int
        The dimension in which they are put side by side.

    Returns
    -------
    torch.Tensor
        The tensors side by side, the same on all ranks; the tensor itself
        without DDP.

    Example
    -------
    >>> ddp_gather(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if not torch.distributed.is_initialized():
        return tensor
    return torch.cat(tuple(_Gather.apply(tensor)), dim)


class _Gather(torch.autograd.Function):
    """What all ranks have, (ranks, ...). PyTorch's own function sends gradients
    that are not contiguous wrongly over gloo (torch 2.11)."""

    @staticmethod
    def forward(ctx, tensor):
        found = tensor.new_empty(
            torch.distributed.get_world_size(), *tensor.shape
        )
        torch.distributed.all_gather(list(found), tensor.contiguous())
        return found

    @staticmethod
    def backward(ctx, gradient):
        gradient = ddp_all_reduce(
            gradient.clone(memory_format=torch.contiguous_format),
            torch.distributed.ReduceOp.SUM,
        )
        return gradient[torch.distributed.get_rank()]
