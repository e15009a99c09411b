"""Steps that are not finite: noticed, undone, counted."""

import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.ranks import ddp_mean

logger = get_logger(__name__)

# What helps where the loss is not finite
DIVERGED = (
    "If these files sound fine, training has diverged: lower lr or "
    "max_grad_norm, or train in fp32, in another output_folder."
)
# The scaler of fp16 begins at 65536 and halves at each overflow: after so many
# in a row the gradients are not finite at any scale
MAX_OVERFLOWS = 32


class Diverged(ValueError):
    """The error where too many steps in a row are not finite."""


class Buffers:
    """The running statistics of networks, which a step changes: rewindable.

    A forward pass has put what is not finite into those of BatchNorm long
    before anybody looks at the loss.

    Arguments
    ---------
    modules : torch.nn.Module
        The networks. Their buffers are looked up at the first ``mark``, as
        others may take their place before.

    Example
    -------
    >>> norm = torch.nn.BatchNorm1d(1)
    >>> buffers = Buffers(norm)
    >>> buffers.mark()
    >>> _ = norm(torch.tensor([[torch.inf], [1.0]]))
    >>> buffers.rewind()
    >>> norm.running_mean
    tensor([0.])
    """

    def __init__(self, modules):
        self.modules = modules
        self._buffers = self._saved = None

    def mark(self):
        """Remembers where ``rewind`` goes back to."""
        if self._buffers is None:
            self._buffers = [
                buffer
                for buffer in self.modules.buffers()
                if buffer.is_floating_point()
            ]
            self._saved = [buffer.clone() for buffer in self._buffers]
        elif self._buffers:
            torch._foreach_copy_(self._saved, self._buffers)

    def rewind(self):
        """Undoes what happened since ``mark``."""
        if self._buffers:
            torch._foreach_copy_(self._buffers, self._saved)


class StepGuard:
    """Watches over a step: one that is not finite is undone on all ranks.

    Arguments
    ---------
    rewindable : list
        The objects that a step changes before its end, each with ``mark`` and
        ``rewind``.

    Attributes
    ----------
    skipped : bool
        Whether the last step was undone.

    Example
    -------
    >>> norm = torch.nn.BatchNorm1d(1)
    >>> guard = StepGuard([Buffers(norm)])
    >>> guard.begin(["a", "b"])
    >>> loss = norm(torch.tensor([[torch.inf], [1.0]])).mean()
    >>> guard.note(loss)
    >>> guard.keep_or_undo("step 1", patience=3)
    >>> guard.skipped, norm.running_mean.item()
    (True, 0.0)
    """

    def __init__(self, rewindable):
        self.rewindable = rewindable
        self.skipped = False
        # Steps since the last sound one, by whether their gradients overflowed
        self.in_a_row = {True: 0, False: 0}
        self.forget()

    def forget(self):
        """Begins an epoch: no step goes across two of them."""
        self._finite = []  # of the losses since the last step
        self._ids = []  # of their utterances

    def begin(self, ids):
        """Begins a step, or another micro-batch of it.

        Arguments
        ---------
        ids : list of str
            The IDs of the utterances in it.
        """
        if not self._finite:
            self._ids = []
            for each in self.rewindable:
                each.mark()
        self._ids += ids

    def note(self, loss):
        """Takes note whether a loss is finite: ``keep_or_undo`` asks, so that
        the host waits once in a step.

        Arguments
        ---------
        loss : torch.Tensor
            The loss, a scalar.
        """
        self._finite.append(loss.detach().isfinite().all())

    def keep_or_undo(self, where, patience, *finite, scaled=False):
        """Undoes what was done since the last step if it was not finite on all
        ranks: they skip a step together.

        Arguments
        ---------
        where : str
            The step, in words.
        patience : int
            The number of steps in a row that may be skipped.
        *finite : torch.Tensor
            Booleans to judge by, beside the losses since the last step.
        scaled : bool
            Whether gradients are those of a scaled loss, in fp16. They
            overflow at times, and the scaler then lowers its scale: nobody is
            told, and 32 steps in a row may be skipped.

        Raises
        ------
        ValueError
            If more steps in a row are not finite.
        """
        losses, self._finite = self._finite, []
        self.skipped = False
        if not (losses or finite):
            return
        sound = torch.stack([*losses, *finite]).all()
        # Where the host waits for the device in each step; see too where
        # labels are corrected
        self.skipped = ddp_mean(sound.float()).item() < 1
        if not self.skipped:
            self.in_a_row = {True: 0, False: 0}
            return
        self.undo()
        sound_losses, suspects = self._suspects(losses)
        overflowed = bool(scaled and sound_losses)
        self.in_a_row[overflowed] += 1
        utterances = f"The utterances in it: {suspects}."
        count = self.in_a_row[overflowed]
        if count > (MAX_OVERFLOWS if overflowed else patience):
            raise Diverged(
                f"The loss or its gradient was not finite in {count} steps in "
                f"a row, up to {where}. {utterances} {DIVERGED}"
            )
        if not overflowed:
            logger.warning(
                f"Skipped {where}: the loss or its gradient is not finite. "
                f"{utterances}"
            )

    def undo(self):
        """Goes back to where the step began."""
        self._finite = []
        for each in self.rewindable:
            each.rewind()

    def _suspects(self, losses):
        """Whether the losses of all processes are finite, and the IDs behind
        those that are not; all IDs if only the gradients are not."""
        parts = [(all(losses), self._ids)]
        if torch.distributed.is_initialized():
            parts *= torch.distributed.get_world_size()
            torch.distributed.all_gather_object(parts, parts[0])
        guilty = [part for part in parts if not part[0]]
        ids = [name for _, ids in guilty or parts for name in ids]
        return not guilty, ", ".join(ids)
