"""The place of a step in a training whose Brain does not tell it."""

import json

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)


@register_checkpoint_hooks
class Place:
    """How far a training is, in epochs, by its optimiser steps.

    SpeechBrain's ``Brain.step`` goes on from the epoch before in a run that is
    resumed from a checkpoint of ``on_stage_end``, and epochs of dynamic batches
    differ in length: so this remembers with which optimiser step the epoch
    began. It is a recoverable of SpeechBrain's Checkpointer.

    Example
    -------
    >>> place = Place()
    >>> place.begin(epoch=3, optimizer_step=80, steps=40)
    True
    >>> place.position(optimizer_step=90)
    2.25
    >>> place.begin(epoch=3, optimizer_step=90, steps=40)  # resumed in it
    False
    >>> place.position(optimizer_step=90)
    2.25
    """

    def __init__(self):
        self.epoch = self.first = None
        self.steps = None

    def begin(self, epoch, optimizer_step, steps):
        """Begins an epoch, or goes on with it.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        optimizer_step : int
            The number of optimiser steps so far.
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
            self.epoch, self.first = epoch, optimizer_step
        return new

    def position(self, optimizer_step):
        """The position in epochs.

        Arguments
        ---------
        optimizer_step : int
            The number of optimiser steps so far.

        Returns
        -------
        float
            A whole number where nobody knows how long an epoch is; 0 before
            the first.
        """
        if self.epoch is None:
            return 0.0
        done = (optimizer_step - self.first) / self.steps if self.steps else 0.0
        return self.epoch - 1 + done

    @mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"epoch": self.epoch, "first": self.first}, file)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        self.epoch, self.first = state["epoch"], state["first"]
