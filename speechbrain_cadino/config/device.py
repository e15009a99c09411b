"""Names of devices."""

import os

import torch


def check_device(name):
    """Raises if there is no such device.

    Arguments
    ---------
    name : str, optional
        The device, as PyTorch calls it.

    Raises
    ------
    ValueError
        With why, and what to give.

    Example
    -------
    >>> check_device("cpu")
    >>> check_device("warp:9")
    Traceback (most recent call last):
    ...
    ValueError: No device warp:9: ... Give --device=cpu, or leave it out.
    """
    if name is None:
        return
    try:
        device = torch.device(name)
        # Nothing is put there: it would take memory of a GPU for as long as
        # this process lives, and a pipeline only starts others
        on_gpu = device.type == "cuda" and torch.cuda.is_available()
        if on_gpu and (device.index or 0) < torch.cuda.device_count():
            return
        torch.zeros(1, device=name).item()  # "meta" holds nothing
    # AssertionError: PyTorch was built without CUDA
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ValueError(
            f"No device {name}: {reason}. Give --device=cpu, or leave it out."
        ) from error


def number_gpu(device=None):
    """Names the GPU of this process.

    Arguments
    ---------
    device : str or torch.device, optional
        A device; a GPU, where there is one, if it is not given.

    Returns
    -------
    str
        The device: of "cuda", that with the number of the process on its
        machine, which SpeechBrain takes without a warning and torchrun's
        processes need; None if nobody has named one and there is no GPU.

    Example
    -------
    >>> number_gpu("cuda"), number_gpu("cuda:1"), number_gpu("cpu")
    ('cuda:0', 'cuda:1', 'cpu')
    """
    device = device and str(device)
    if device is None and torch.cuda.is_available():
        device = "cuda"
    if device == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device
