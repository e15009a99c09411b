"""Randomness of one's own, beside that of everybody else."""

import contextlib
import random

import numpy as np
import torch


def seed_of(where):
    """The seed of a place in a training.

    Arguments
    ---------
    where : tuple
        The place, such as (seed, rank, step).

    Returns
    -------
    int
        The seed, below 2^63.

    Example
    -------
    >>> seed_of((1, 2)) == seed_of((1, 2)), seed_of((1, 2)) == seed_of((2, 1))
    (True, False)
    """
    return random.Random(repr(where)).getrandbits(63)


@contextlib.contextmanager
def fork_rng(device=None, seed=0):
    """A block after which PyTorch draws what it would have drawn without it.

    Arguments
    ---------
    device : torch.device or str, optional
        The device that numbers are drawn on, beside the CPU. PyTorch's own
        default is all GPUs of the machine.
    seed : int
        The seed of what is drawn within the block.

    Example
    -------
    >>> state = torch.get_rng_state()
    >>> with fork_rng(seed=1):
    ...     _ = torch.rand(2)
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """
    on_gpu = device is not None and torch.device(device).type == "cuda"
    with torch.random.fork_rng([device] if on_gpu else []):
        # Not torch.manual_seed, which is for all GPUs
        torch.default_generator.manual_seed(seed)
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


@contextlib.contextmanager
def own_random(where, device="cpu"):
    """A block that draws numbers of its own: those that are drawn before and
    after it are what they would have been without it. So it is on CPUs and on
    CUDA's GPUs.

    Arguments
    ---------
    where : tuple
        The place in a training, such as (seed, rank, step): the same one gives
        the same numbers.
    device : torch.device or str
        The device that numbers are drawn on, beside the CPU.

    Example
    -------
    >>> state = torch.get_rng_state()
    >>> with own_random((1, "noise")):
    ...     first = torch.rand(2)
    >>> with own_random((1, "noise")):
    ...     torch.equal(torch.rand(2), first)
    True
    >>> torch.equal(torch.get_rng_state(), state)
    True
    """
    device = torch.device(device)
    seed = seed_of(where)
    before, numpys = random.getstate(), np.random.get_state()
    with fork_rng(device, seed):
        random.seed(seed)
        np.random.seed(seed % 2**32)
        try:
            yield
        finally:
            np.random.set_state(numpys)
            random.setstate(before)
