"""Precision: where products are computed in the precision of their numbers."""

import contextlib

import torch


@contextlib.contextmanager
def full_precision(device_type):
    """No autocast and no TF32 within a block.

    SpeechBrain allows TF32 on GPUs, which rounds the numbers of a product to
    ten bits: nearest neighbours may be others, and what is left of a difference
    of large sums, such as squared covariances off the diagonal, is wrong. The
    backward pass, which comes after the block, is not in it.

    Arguments
    ---------
    device_type : str
        "cuda" or "cpu".

    Example
    -------
    >>> with torch.autocast("cpu", torch.bfloat16), full_precision("cpu"):
    ...     (torch.ones(2, 2) @ torch.ones(2, 2)).dtype
    torch.float32
    """
    with torch.autocast(device_type, enabled=False):
        if device_type != "cuda":
            yield
            return
        matmul = torch.backends.cuda.matmul
        name, full = "allow_tf32", False
        try:
            before = getattr(matmul, name)
        except RuntimeError:  # somebody has set PyTorch's newer switch
            name, full = "fp32_precision", "ieee"
            before = getattr(matmul, name)
        setattr(matmul, name, full)
        try:
            yield
        finally:
            setattr(matmul, name, before)
