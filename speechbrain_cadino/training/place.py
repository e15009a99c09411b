"""The place of a step in a training whose Brain does not tell it."""

import json

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


@register_checkpoint_hooks
class Place:
    """How far a training is, in epochs, by the steps that are counted here.

    SpeechBrain counts those of its own ``optimizers_step`` alone. Its
    ``Brain.step`` goes on from the epoch before in a run that is resumed from a
    checkpoint of ``on_stage_end``, and epochs of dynamic batches differ in
    length: so this remembers with which step the epoch began. It is a
    recoverable of SpeechBrain's Checkpointer.

    Example
    -------
    >>> place = Place()
    >>> place.begin(epoch=1, steps=4)
    True
    >>> place.step += 4
    >>> place.begin(epoch=2, steps=4)
    True
    >>> place.step += 1
    >>> place.position
    1.25
    >>> place.begin(epoch=2, steps=4)  # resumed in it
    False
    >>> place.position
    1.25
    """

    def __init__(self):
        self.epoch = self.steps = None
        self.step = self.first = 0

    def begin(self, epoch, steps):
        """Begins an epoch, or goes on with it.

        Arguments
        ---------
        epoch : int
            The epoch. SpeechBrain's EpochCounter counts from 1; where somebody
            counts from 0, both are at position 0.
        steps : float
            The number of optimiser steps in an epoch; None if nobody knows.

        Returns
        -------
        bool
            Whether the epoch is a new one.
        """
        self.steps = steps
        new = epoch != self.epoch
        if new:
            self.epoch, self.first = epoch, self.step
        return new

    @property
    def position(self):
        """The position in epochs: a whole number where nobody knows how long an
        epoch is, 0.0 before the first."""
        if self.epoch is None:
            return 0.0
        done = (self.step - self.first) / self.steps if self.steps else 0.0
        return max(self.epoch - 1, 0) + done

    @mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump([self.epoch, self.first, self.step], file)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            self.epoch, self.first, self.step = json.load(file)
