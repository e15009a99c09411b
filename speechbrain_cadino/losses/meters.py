"""Collapse: the ways in which self-distillation learns nothing, and signs."""

import math

import torch
import torch.nn.functional as F


def embedding_spread(embeddings):
    """How far embeddings of different utterances lie apart.

    The standard deviation of each dimension of the L2-normalised embeddings
    over the batch, averaged, times the square root of D: 0 if all are the
    same, 1 if they fill the sphere evenly.

    Arguments
    ---------
    embeddings : torch.Tensor
        (views, batch, D).

    Returns
    -------
    torch.Tensor
        Scalar.

    Example
    -------
    >>> import torch
    >>> embedding_spread(torch.ones(2, 8, 16)).item()
    0.0
    >>> 0.9 < embedding_spread(torch.randn(2, 256, 64)).item() < 1.1
    True
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    deviation = unit.std(1, unbiased=False).mean()
    return deviation * embeddings.shape[-1] ** 0.5


def effective_dimensions(embeddings):
    """Over how many directions embeddings of different utterances spread.

    The participation ratio of the eigenvalues of their covariance, the square
    of the sum over the sum of the squares: 1 if all lie on one line, at most
    the smaller one of D and batch - 1. Embeddings that differ in few
    directions verify and cluster badly, however far apart they are.

    Arguments
    ---------
    embeddings : torch.Tensor
        (views, batch, D).

    Returns
    -------
    torch.Tensor
        Scalar, the mean over the views.

    Example
    -------
    >>> import torch
    >>> line = torch.linspace(-1, 1, 8)[:, None] * torch.ones(16)
    >>> plane = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> round(effective_dimensions(line[None]).item(), 3)
    1.0
    >>> round(effective_dimensions(plane[None]).item(), 3)
    2.0
    """
    unit = F.normalize(embeddings.detach().float(), dim=-1)
    unit = unit - unit.mean(1, keepdim=True)
    # Its eigenvalues are those of the covariance, but for the zeros
    with torch.autocast(unit.device.type, enabled=False):
        gram = unit @ unit.mT
    traces = gram.diagonal(dim1=-2, dim2=-1).sum(-1)
    squares = gram.square().sum((-2, -1)).clamp_min(1e-30)
    return (traces.square() / squares).mean()


def collapse_warnings(stats, out_dim):
    """Looks for the three signs of collapse in the means of an epoch.

    Arguments
    ---------
    stats : dict of str:float
        With ``teacher_entropy`` (nats) and ``spread``.
    out_dim : int
        K, the number of outputs of the head.

    Returns
    -------
    list of str
        A sentence for each sign: which collapse, and what usually helps.

    Example
    -------
    >>> healthy = {"teacher_entropy": 3.0, "spread": 0.7}
    >>> collapse_warnings(healthy, out_dim=1024)
    []
    >>> uniform = {"teacher_entropy": 6.93, "spread": 0.7}
    >>> print(collapse_warnings(uniform, out_dim=1024)[0][:50])
    Collapse to uniform: the teacher's entropy is 6.93
    """
    warnings = []
    entropy, highest = stats["teacher_entropy"], math.log(out_dim)
    if entropy > 0.99 * highest:
        warnings.append(
            f"Collapse to uniform: the teacher's entropy is {entropy:.2f}, "
            f"its maximum ln {out_dim} is {highest:.2f}. Every utterance gets "
            "the same flat answer. What usually helps: a lower teacher_temp, "
            "a lower centre momentum, fewer prototypes (out_dim)."
        )
    if entropy < 0.01 * highest:
        warnings.append(
            f"Collapse to one prototype: the teacher's entropy is "
            f"{entropy:.3f}, near 0. What usually helps: a higher "
            "teacher_temp, a longer freeze of the prototypes, a lower lr."
        )
    if stats["spread"] < 0.05:
        warnings.append(
            f"Collapse of the embeddings: their spread is "
            f"{stats['spread']:.3f} (0: all the same, 1: evenly spread). What "
            "usually helps: a lower lr, a higher momentum of the teacher, a "
            "larger batch."
        )
    return warnings
