"""Training a part of an encoder."""

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)


def train_only(encoder, parts):
    """Keeps all parameters of an encoder as they are but some.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, before there is an optimiser. Running statistics of
        BatchNorm move all the same.
    parts : list of str or str
        The parameters to train: those whose name has one of these in it, such
        as ``norm`` and ``se_block``. None or none of them for all.

    Raises
    ------
    ValueError
        If a part is in no name.

    Example
    -------
    >>> import torch
    >>> model = torch.nn.ModuleDict(
    ...     {"norm": torch.nn.BatchNorm1d(2), "fc": torch.nn.Linear(2, 2)}
    ... )
    >>> train_only(model, ["norm"])
    >>> [name for name, p in model.named_parameters() if p.requires_grad]
    ['norm.weight', 'norm.bias']
    """
    if not parts:
        return
    if isinstance(parts, str):
        parts = [parts]
    named = dict(encoder.named_parameters())
    for part in parts:
        if not any(part in name for name in named):
            raise ValueError(
                f"train_only: no parameter of the encoder has '{part}' in its "
                f"name. There are such as {', '.join(list(named)[:4])}."
            )
    trained = 0
    for name, parameter in named.items():
        wanted = any(part in name for part in parts)
        parameter.requires_grad_(wanted)
        trained += wanted * parameter.numel()
    total = sum(parameter.numel() for parameter in named.values())
    logger.info(
        f"train_only: {trained:,} of the encoder's {total:,} parameters "
        f"({trained / total:.1%}) are trained."
    )
