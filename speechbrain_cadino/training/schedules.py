"""Schedules: plain functions of the position in training, in epochs.

They hold no state, so a resumed run cannot disagree with an uninterrupted one.
"""

import math

from speechbrain_cadino.process.ranks import launched_processes


class CosineSchedule:
    """Linear warm-up to a peak, then half a cosine to the final value.

    Arguments
    ---------
    peak : float
        The value after the warm-up, or at the start if there is none.
    final : float
        The value at the end.
    epochs : float
        The position of the end, in epochs.
    warmup_epochs : float
        The number of epochs in which the value grows from 0 to ``peak``.

    Raises
    ------
    ValueError
        If the warm-up does not fit into the training.

    Example
    -------
    >>> lr = CosineSchedule(peak=1.0, final=0.0, epochs=30, warmup_epochs=10)
    >>> [round(lr(epoch), 3) for epoch in (0, 5, 10, 20, 30)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """

    def __init__(self, peak, final, epochs, warmup_epochs=0):
        if not 0 <= warmup_epochs < epochs:
            raise ValueError(
                f"A warm-up of {warmup_epochs} epochs does not fit into "
                f"{epochs}: lower warmup_epochs or raise number_of_epochs."
            )
        self.peak = peak
        self.final = final
        self.epochs = epochs
        self.warmup_epochs = warmup_epochs

    def __call__(self, position):
        """The value at a position in training, in epochs."""
        if position < self.warmup_epochs:
            return self.peak * position / self.warmup_epochs
        done = (position - self.warmup_epochs) / (
            self.epochs - self.warmup_epochs
        )
        half_cosine = (1 + math.cos(math.pi * min(done, 1.0))) / 2
        return self.final + (self.peak - self.final) * half_cosine


class LinearSchedule:
    """A straight line from one value to another, constant before and after.

    Arguments
    ---------
    start : float
        The value at the beginning.
    end : float
        The value at the end.
    epochs : float
        The number of epochs that it takes; 0 gives ``end`` at once.
    begin : float
        The position, in epochs, up to which the value is ``start``.

    Example
    -------
    >>> temperature = LinearSchedule(start=0.04, end=0.07, epochs=30)
    >>> [round(temperature(epoch), 3) for epoch in (0, 15, 30, 150)]
    [0.04, 0.055, 0.07, 0.07]
    >>> margin = LinearSchedule(start=0, end=0.2, epochs=20, begin=20)
    >>> [round(margin(epoch), 3) for epoch in (0, 20, 30, 40, 50)]
    [0, 0.0, 0.1, 0.2, 0.2]
    """

    def __init__(self, start, end, epochs, begin=0):
        self.start = start
        self.end = end
        self.epochs = epochs
        self.begin = begin

    def __call__(self, position):
        """The value at a position in training, in epochs."""
        done = position - self.begin
        if done < 0:
            return self.start
        if done >= self.epochs:
            return self.end
        return self.start + (self.end - self.start) * done / self.epochs


class ExponentialSchedule:
    """``end - (end - start) exp(-position / epochs)``, which comes ever closer
    to its end.

    With an end of 1 it is the teacher's momentum of SpidR (2025,
    https://arxiv.org/abs/2512.20308), whose ``epochs`` are 20,000 steps.

    Arguments
    ---------
    start : float
        The value at the beginning.
    end : float
        The value that is never quite reached.
    epochs : float
        The number of epochs after which 63% of the way is done.

    Example
    -------
    >>> momentum = ExponentialSchedule(start=0.999, end=1, epochs=27)
    >>> [round(momentum(epoch), 6) for epoch in (0, 27, 270)]
    [0.999, 0.999632, 1.0]
    """

    def __init__(self, start, end, epochs):
        self.start = start
        self.end = end
        self.epochs = epochs

    def __call__(self, position):
        """The value at a position in training, in epochs."""
        left = math.exp(-position / self.epochs)
        return self.end - (self.end - self.start) * left


class TriStageSchedule:
    """Linear warm-up, a plateau, exponential decay: fairseq's tri-stage.

    Arguments
    ---------
    peak : float
        The value on the plateau.
    final : float
        The value at the end.
    epochs : float
        The position of the end, in epochs.
    shares : list of float
        The shares of warm-up and plateau; the decay takes the rest. 0.03 and
        0.47 in DinoSR.

    Raises
    ------
    ValueError
        If they are no such shares, or a value is not above 0, to which nothing
        decays.

    Example
    -------
    >>> lr = TriStageSchedule(1.0, 0.01, epochs=100, shares=[0.03, 0.47])
    >>> [round(lr(epoch), 3) for epoch in (0, 1.5, 3, 50, 75, 100)]
    [0.0, 0.5, 1.0, 1.0, 0.1, 0.01]
    """

    def __init__(self, peak, final, epochs, shares=(0.03, 0.47)):
        self.peak = peak
        self.final = final
        self.epochs = epochs
        self.warmup, self.plateau = shares
        if min(shares) < 0 or sum(shares) >= 1:
            raise ValueError(
                f"lr_shares={list(shares)}: give the shares of warm-up and "
                "plateau, 0 or more, below 1 in all."
            )
        if not (peak > 0 and final > 0):
            raise ValueError(
                f"lr={peak}, final_lr={final}: the rate decays exponentially, "
                "give numbers above 0."
            )

    def __call__(self, position):
        """The value at a position in training, in epochs."""
        done = position / self.epochs
        if done < self.warmup:
            return self.peak * done / self.warmup
        start = self.warmup + self.plateau
        fallen = min(max((done - start) / (1 - start), 0), 1)
        return self.peak * (self.final / self.peak) ** fallen


def scale_lr(lr, batch_size, reference=256):
    """The linear scaling rule: the rate grows with the batch over all ranks.

    Arguments
    ---------
    lr : float
        The learning rate for a batch of ``reference`` utterances.
    batch_size : int
        Utterances per process, gradient accumulation counted in.
    reference : int
        The batch that the rate belongs to. 256 in DINO (Caron et al., 2021).

    Returns
    -------
    float
        The rate for ``batch_size`` times the number of processes that
        torchrun started (its WORLD_SIZE; 1 without it).

    Example
    -------
    >>> scale_lr(0.2, batch_size=64)
    0.05
    """
    return lr * batch_size * launched_processes() / reference


def scale_momentum(momentum, batch_size, reference=512):
    """The scaling rule of the teacher (Busbridge et al., 2023,
    https://arxiv.org/abs/2307.13813): it forgets as fast per utterance,
    whatever the batch over all ranks.

    Arguments
    ---------
    momentum : float
        The momentum of a step of ``reference`` utterances.
    batch_size : int
        Utterances per process, gradient accumulation counted in.
    reference : int
        The batch that the momentum belongs to. WeSpeaker has 0.996 for 8 GPUs
        of 64.

    Returns
    -------
    float
        The momentum to the power of the batch over all processes, in
        multiples of the reference.

    Example
    -------
    >>> round(scale_momentum(0.996, batch_size=256), 4)
    0.998
    """
    return momentum ** (batch_size * launched_processes() / reference)
