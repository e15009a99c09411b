"""The dynamic loss gate: which labels of an epoch can be trusted."""

import json
import math

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import ddp_broadcast, if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.gate.mixture import TwoGaussians
from speechbrain_cadino.gate.window import LossWindow
from speechbrain_cadino.losses.label_correction import DECISIONS

logger = get_logger(__name__)

# How often a gate is fitted while its window fills. Ours.
REFITS = 5

# Columns of gate.csv beside those of the mixture
TAKEN = {"epoch", "gate", *DECISIONS}


@register_checkpoint_hooks
class DynamicLossGate:
    """Which losses are those of labels that can be trusted.

    After each epoch a mixture is fitted to its losses; the threshold between
    its components is the gate of the next epoch: dynamic loss gate (DLG, Han
    et al., Interspeech 2022, https://arxiv.org/abs/2208.01928). A constant
    gate makes it loss-gated learning (LGL, Tao et al., 2022,
    https://arxiv.org/abs/2110.03869).

    It is a recoverable of SpeechBrain's Checkpointer.

    Arguments
    ---------
    gate : str or float
        "dynamic", "none", or a constant in nats.
    first_epoch : int
        The first epoch with a gate, counted from 1; before it all labels are
        trusted. With 1, a dynamic gate is that of the losses of a pass
        without updates, before the training: where this goes on from another
        one, which has learnt the labels.
    mixture : object, optional
        The mixture, from losses to a threshold: see TwoGaussians, which is the
        default.
    window : int
        A dynamic gate is that of the losses of so many of the last optimiser
        steps, and moves each time that a fifth of them is new, instead of
        once an epoch (the idea is that of "batch-scale training", Wang et
        al., ICASSP 2025, https://openreview.net/forum?id=GiH45YyUQt; how it
        is done here is ours). 0 for the epoch before.

    Attributes
    ----------
    threshold : float
        The gate of the current epoch, in nats: a label is trusted if its loss
        is below it. inf for none.

    Raises
    ------
    ValueError
        If an argument makes no sense.

    Example
    -------
    >>> import numpy as np
    >>> gate = DynamicLossGate(first_epoch=2)
    >>> gate.start_epoch(1)
    >>> gate.threshold
    inf
    >>> right, wrong = np.geomspace(0.01, 0.5, 500), np.geomspace(4, 20, 300)
    >>> figures = gate.update(np.concatenate([right, wrong]))
    >>> gate.start_epoch(2)
    >>> 0.5 < gate.threshold < 4
    True
    """

    def __init__(self, gate="dynamic", first_epoch=2, mixture=None, window=0):
        if gate not in ("dynamic", "none"):
            gate = _loss(gate)
        if first_epoch < 1:
            raise ValueError(
                f"first_gated_epoch={first_epoch}: epochs count from 1."
            )
        self.gate = gate
        self.first_epoch = first_epoch
        self.mixture = TwoGaussians() if mixture is None else mixture
        self.threshold = math.inf
        self._crossing = math.inf
        self._epoch = 0
        if window and gate != "dynamic":
            raise ValueError(
                f"gate_window={window} and gate={gate}: a dynamic gate alone "
                "has a window. Give gate=dynamic, or gate_window=0."
            )
        taken = TAKEN.intersection(self.mixture.columns)
        if taken:
            raise ValueError(
                f"{type(self.mixture).__name__}: a figure is called "
                f"{min(taken)}, as a column of gate.csv is: give it another "
                "name."
            )
        self.window = LossWindow(window) if window else None
        self._steps = 0  # since the window was fitted to
        self._moved = False  # by a step of this epoch

    @property
    def wants_pass(self):
        """Whether it needs the losses of a pass before the first epoch."""
        return self.gate == "dynamic" and self.first_epoch == 1

    def check(self, epochs):
        """Raises if training ends before there is a gate.

        Arguments
        ---------
        epochs : int
            The number of epochs of the training.
        """
        if self.gate != "none" and self.first_epoch > epochs:
            raise ValueError(
                f"first_gated_epoch={self.first_epoch} of {epochs} epochs: "
                "none would have a gate. Lower it, raise number_of_epochs, or "
                "give gate=none."
            )

    def check_margin(self, margin, epochs):
        """Raises if the margin of the losses changes, and the gate would
        compare those of different margins.

        Arguments
        ---------
        margin : float or callable
            The margin, or the function from the position in training, in
            epochs, to it.
        epochs : int
            The number of epochs of the training.
        """
        if self.gate != "dynamic" or not callable(margin):
            return
        first, last = margin(0), margin(epochs)
        if first != last:
            raise ValueError(
                f"The margin goes from {first:.3g} to {last:.3g}, but a "
                "dynamic gate compares losses of one margin: give gate=none, a "
                "number, or a margin that is one."
            )

    def start_epoch(self, epoch):
        """Sets the threshold of an epoch.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        """
        self._epoch = epoch
        before = self.threshold
        if self.gate == "none" or epoch < self.first_epoch:
            self.threshold = math.inf
        elif self.gate == "dynamic":
            self.threshold = self._crossing
        else:
            self.threshold = self.gate
        if math.isfinite(self.threshold) and not math.isfinite(before):
            logger.info(
                f"The loss gate is {self.threshold:.3g} from epoch {epoch} on: "
                "labels with a loss above it are doubtful."
            )

    def update(self, losses):
        """Takes the losses of an epoch, for the next one.

        Where the mixture finds no threshold, a dynamic gate stays as it is,
        and a warning says why if the next epoch is gated.

        Arguments
        ---------
        losses : array_like
            Losses, (N,), in nats; NaN for a sample that was not drawn.

        Returns
        -------
        dict of str:float
            The figures of the mixture, None each if there is no threshold.
        """
        threshold, figures = self.mixture.fit(losses)
        found = math.isfinite(self._crossing)
        # Steps move the gate that a window has; their epoch has figures alone
        steps = found and self.window is not None and len(self.window.losses)
        moved, self._moved = self._moved, False
        if threshold is None:
            gated = self._epoch + 1 >= self.first_epoch
            if self.gate == "dynamic" and gated and not moved:
                stays = f"The loss gate stays {self._crossing:.3g}"
                none = "No loss gate yet"
                logger.warning(f"{stays if found else none}: {figures}.")
            return dict.fromkeys(self.mixture.columns)
        if not steps:
            self._take(threshold, figures)
        return figures

    def _take(self, threshold, figures):
        """Takes what was fitted."""
        self._crossing = float(threshold)

    def add(self, losses):
        """Takes the losses of a batch.

        Arguments
        ---------
        losses : torch.Tensor
            Losses, (B,), of this process, in nats.
        """
        if self.window is not None:
            self.window.add(losses)

    def after_step(self):
        """Ends an optimiser step, on all processes; a window may move the
        gate. Where it has no threshold, the gate stays."""
        if self.window is None:
            return
        self.window.end_step()
        self._steps += 1
        if REFITS * self._steps < self.window.steps:
            return
        self._steps = 0
        self.window.gather()
        if self._epoch + 1 < self.first_epoch:
            return  # no gate of these losses will be in force
        if if_main_process():
            threshold, figures = self.mixture.fit(self.window.losses)
            if threshold is not None:
                self._take(threshold, figures)
                self._moved = True
        self.load_state_dict(ddp_broadcast(self.state_dict()))
        self.start_epoch(self._epoch)

    def gather(self):
        """Brings together what processes have seen, before it is saved."""
        if self.window is not None:
            self.window.gather()

    def mark(self):
        """Begins a step: see StepGuard."""
        if self.window is not None:
            self.window.mark()

    def rewind(self):
        """Forgets the step that is being taken."""
        if self.window is not None:
            self.window.rewind()

    def state_dict(self):
        """What an epoch and its successors depend on: plain numbers."""
        state = {"threshold": self.threshold, "crossing": self._crossing}
        if self.window is not None:
            state |= {"window": self.window.state_dict(), "steps": self._steps}
            state["moved"] = self._moved
        return state

    def load_state_dict(self, state):
        """Takes over what ``state_dict`` gave, here or on another process."""
        self.threshold = state["threshold"]
        self._crossing = state["crossing"]
        if self.window is not None:
            self.window.load_state_dict(state["window"])
            self._steps = state["steps"]
            self._moved = state.get("moved", False)  # not in earlier versions

    @mark_as_saver
    def _save(self, path):
        with open(path, "w", encoding="utf-8") as file:
            json.dump(self.state_dict(), file)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            self.load_state_dict(json.load(file))


def _loss(gate):
    """A gate that is a loss: on a command line, a text like the other two."""
    try:
        loss = math.nan if isinstance(gate, bool) else float(gate)
    except (TypeError, ValueError):
        loss = math.nan
    if not loss > 0:
        raise ValueError(
            f'gate={gate}: give "dynamic", "none", or a loss above 0.'
        )
    return loss
