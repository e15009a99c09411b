"""Names of devices."""

import os

import torch


def device_problem(name):
    """Why there is no such device.

    Arguments
    ---------
    name : str
        The device, as PyTorch calls it.

    Returns
    -------
    str
        Empty if there is.

    Example
    -------
    >>> device_problem("cpu"), bool(device_problem("warp:9"))
    ('', True)
    """
    try:
        torch.empty(0, device=name)
    # AssertionError: PyTorch was built without CUDA
    except (RuntimeError, AssertionError) as error:
        return str(error).partition("\n")[0]
    return ""


def number_gpu(device=None):
    """Names the GPU of this process.

    Arguments
    ---------
    device : str, optional
        A device; a GPU, where there is one, if it is not given.

    Returns
    -------
    str
        Of "cuda", that with the number of the process on its machine, which
        SpeechBrain takes without a warning and torchrun's processes need; None
        if nobody has named one and there is no GPU.

    Example
    -------
    >>> number_gpu("cuda"), number_gpu("cuda:1"), number_gpu("cpu")
    ('cuda:0', 'cuda:1', 'cpu')
    """
    if device is None and torch.cuda.is_available():
        device = "cuda"
    if device == "cuda":
        return f"cuda:{os.environ.get('LOCAL_RANK', 0)}"
    return device
