"""A running window of losses: those of the batches just seen."""

import itertools

import numpy as np
import torch

from speechbrain_cadino.process.ranks import ddp_gather


class LossWindow:
    """The losses of the last steps, of all processes.

    Rewindable: see StepGuard. Its state is plain numbers.

    Arguments
    ---------
    steps : int
        The number of optimiser steps whose losses are kept.

    Raises
    ------
    ValueError
        If it is below 1.

    Example
    -------
    >>> window = LossWindow(steps=2)
    >>> for loss in [1.0, 2.0, 3.0]:
    ...     window.mark()
    ...     window.add(torch.tensor([loss, loss + 0.5]))
    ...     window.end_step()
    >>> window.gather()
    >>> window.losses
    array([2. , 2.5, 3. , 3.5], dtype=float32)
    """

    def __init__(self, steps):
        if steps < 1:
            raise ValueError(f"gate_window={steps}: give 1 step or more.")
        self.steps = steps
        self._step = []  # the parts of the step that is being taken
        self._new = []  # steps of this process alone, on its device
        self._old = []  # lists of floats, of all processes

    def add(self, losses):
        """Adds the losses of a batch, one of those of a step.

        Arguments
        ---------
        losses : torch.Tensor
            Losses, (B,), in nats.
        """
        # Left on the device until they are needed: no step waits for them
        self._step.append(losses.detach())

    def end_step(self):
        """Ends a step; one of no loss is none."""
        if not self._step:
            return
        self._new.append(torch.cat(self._step))
        self._step = []

    def mark(self):
        """Begins a step."""
        self._step = []

    def rewind(self):
        """Forgets the step that is being taken."""
        self._step = []

    def gather(self):
        """Brings the losses of all processes together: all have to call it
        after the same step."""
        self._old += [ddp_gather(step).tolist() for step in self._new]
        self._old = self._old[-self.steps :]
        self._new = []

    @property
    def losses(self):
        """The losses that were gathered, (N,)."""
        return np.array([*itertools.chain(*self._old)], np.float32)

    def state_dict(self):
        """What was gathered: a list of floats for each step."""
        return list(self._old)

    def load_state_dict(self, state):
        """Takes over what ``state_dict`` gave."""
        self._step, self._new, self._old = [], [], list(state)
