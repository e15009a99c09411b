"""Effort of a training: told before it begins, and checked at its end."""

import hashlib

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# Fewer steps than this are called few. Ours: stage I of the demo, which has the
# fewest in RESULTS.md.
LEAST_STEPS = 176

# A class that is seen less often is hardly learnt. Ours: stage II on two hours
# of real voices had 14 crops of each, which brought nothing sure (RESULTS.md).
LEAST_CROPS = 10


def say_how_much(dataset, epochs, steps_per_epoch, device, wanted=None):
    """Says how long a training is, and whether that was ever enough.

    Arguments
    ---------
    dataset : torch.utils.data.Dataset
        The training set, maybe with ``ids`` and ``hours``.
    epochs : int
        The number of epochs.
    steps_per_epoch : int
        The number of steps of an epoch.
    device : str
        The device of the training: "cpu" for a GPU that PyTorch does not find.
    wanted : int, optional
        The ``steps_per_epoch`` of the YAML file, if it has any.
    """
    steps = epochs * steps_per_epoch
    text = f"{len(getattr(dataset, 'ids', dataset))} utterances"
    hours = getattr(dataset, "hours", None)
    if hours is not None:
        minutes = f", {60 * hours:.2g} min"
        text += minutes if hours < 1 else f", {hours:.1f} h"
    text += (
        f": {steps} steps, {epochs} epochs of {steps_per_epoch} with "
        f"{len(dataset)} samples in each, on {device}."
    )
    more = "Add recordings or epochs, or lower batch_size."
    if wanted is not None and wanted <= steps_per_epoch:
        more = "Raise number_of_epochs or steps_per_epoch."
    if steps < LEAST_STEPS:
        logger.warning(
            f"{text} That is few: the shortest training that was tried, on the "
            f"demo's 720 utterances, has {LEAST_STEPS}. {more}"
        )
    else:
        logger.info(text)


def say_how_often(dataset, epochs):
    """Says if classes that are to be learnt are hardly seen.

    Arguments
    ---------
    dataset : torch.utils.data.Dataset
        The training set, maybe with ``classes``.
    epochs : int
        The number of epochs.
    """
    classes = getattr(dataset, "classes", 0)
    crops = epochs * len(dataset) / max(classes, 1)
    if classes and crops < LEAST_CROPS:
        logger.warning(
            f"Of each of the {classes} classes {crops:.1f} crops are seen in "
            "all, on average: too few to learn it. Raise number_of_epochs or "
            "steps_per_epoch, or, if they are clusters, make fewer."
        )


def hash_parameters(network):
    """A hash of what is trained of a network; running statistics, which move
    by themselves, are no part of it.

    Arguments
    ---------
    network : torch.nn.Module
        The network.

    Returns
    -------
    str
        The SHA-256 hash, in hexadecimal digits.
    """
    digest = hashlib.sha256()
    for value in network.parameters():
        digest.update(value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()


def check_moved(before, network, steps, rates, momentum=None):
    """Raises if a training has changed nothing.

    Arguments
    ---------
    before : str
        The ``hash_parameters`` of the network before the training.
    network : torch.nn.Module
        The network after the training.
    steps : int
        The number of steps of the training.
    rates : list of float
        The learning rates of some steps, for the error.
    momentum : float, optional
        The momentum with which a teacher began to follow, for the error.

    Raises
    ------
    ValueError
        If no parameter has moved.
    """
    if hash_parameters(network) != before:
        return
    teacher = f", teacher_momentum {momentum} to 1" if momentum else ""
    raise ValueError(
        f"The encoder is what it was before the training, which had {steps} "
        f"steps (learning rate {min(rates):g} to {max(rates):g}{teacher}): it "
        "is not exported. Train on more recordings or for more epochs, or "
        "lower batch_size, in another output_folder."
    )
