"""Meters of a training: do embeddings spread, how often is a class right."""

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
        Embeddings, (views, batch, D).

    Returns
    -------
    torch.Tensor
        The spread, a scalar.

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
        Embeddings, (views, batch, D).

    Returns
    -------
    torch.Tensor
        The number of dimensions, a scalar, the mean over the views.

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


def spread_warnings(means):
    """Looks for embeddings that have collapsed to one, or to a line.

    Arguments
    ---------
    means : dict of str:float
        The means of an epoch, with ``spread`` and ``dimensions``.

    Returns
    -------
    list of str
        A sentence, with what usually helps, or none.

    Example
    -------
    >>> spread_warnings({"spread": 0.7, "dimensions": 8.0})
    []
    >>> print(spread_warnings({"spread": 0.01, "dimensions": 8.0})[0][:49])
    Collapse of the embeddings: their spread is 0.010
    """
    if means["spread"] < 0.05:
        return [
            f"Collapse of the embeddings: their spread is "
            f"{means['spread']:.3f} (0: all the same, 1: evenly spread). What "
            "usually helps: a lower lr, a higher momentum of the teacher, a "
            "larger batch."
        ]
    if means["dimensions"] < 2:
        return [
            "Collapse of the embeddings to a line: they have "
            f"{means['dimensions']:.1f} effective dimensions, where 5 and more "
            "are usual. What usually helps: cosine_weight: 0 where it is "
            "not, koleo of sdpn.yaml or frobenius and off_diagonal of "
            "sdpn_dr.yaml, a batch of more than a few utterances."
        ]
    return []


# What is measured of the teacher's embeddings in each step
METERS = {"spread": embedding_spread, "dimensions": effective_dimensions}


def measured(embeddings):
    """METERS of embeddings.

    Arguments
    ---------
    embeddings : torch.Tensor
        The teacher's embeddings, (views, batch, D).

    Returns
    -------
    dict of str:torch.Tensor
        The value of each meter by its name, a detached scalar.

    Example
    -------
    >>> list(measured(torch.randn(2, 8, 4)))
    ['spread', 'dimensions']
    """
    return {name: measure(embeddings) for name, measure in METERS.items()}


def accuracy(cosines, labels):
    """The share of samples whose label has the largest cosine.

    Arguments
    ---------
    cosines : torch.Tensor
        Cosines, (batch, C).
    labels : torch.Tensor
        Labels, (batch,).

    Returns
    -------
    torch.Tensor
        The share, a detached scalar.

    Example
    -------
    >>> accuracy(torch.tensor([[0.9, 0.1], [0.2, 0.1]]), torch.tensor([0, 1]))
    tensor(0.5000)
    """
    return (cosines.detach().argmax(1) == labels).float().mean()
