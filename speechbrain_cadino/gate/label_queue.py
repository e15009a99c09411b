"""Label queues: the last answers to each sample, and what most of them say."""

import torch

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain_cadino.process.ranks import ddp_gather

EMPTY = -1

# Rows of a queue that are looked at together: some 100 MB of comparisons
ROWS = 2**20


@register_checkpoint_hooks
class LabelQueue:
    """The last answers of a teacher to each sample; its label is their mode.

    One strange answer changes no label (Cai et al., 2024, "Self-supervised
    reflective learning", https://arxiv.org/abs/2401.01473, whose queue holds
    5). Ours: the label of the clusters counts as the first answer, and of
    answers that are equally frequent the oldest wins. A class that is the
    label of no sample at the end of an epoch has died: it gets no votes any
    longer.

    A recoverable of SpeechBrain's Checkpointer, and rewindable: see StepGuard.

    Arguments
    ---------
    labels : torch.Tensor
        The labels of the S samples by the clusters, (S,).
    classes : int
        C, the number of classes.
    length : int
        The number of answers that are kept of each sample.

    Attributes
    ----------
    alive : torch.Tensor
        Mask of the classes that still label a sample, (C,), bool.

    Raises
    ------
    ValueError
        If the length is below 1.

    Example
    -------
    >>> queue = LabelQueue(torch.tensor([0, 1]), classes=3, length=3)
    >>> samples = torch.tensor([1])
    >>> [queue.push(samples, torch.tensor([2])).item() for _ in range(3)]
    [1, 2, 2]
    >>> queue.end_epoch()
    >>> queue.alive.tolist()
    [True, False, True]
    """

    def __init__(self, labels, classes, length=5):
        if length < 1:
            raise ValueError(f"queue_length={length}: give 1 answer or more.")
        self.answers = torch.full(
            (len(labels), length), EMPTY, dtype=torch.int32
        )
        self.answers[:, -1] = labels
        self.alive = torch.ones(classes, dtype=torch.bool)
        self._undo = []

    def to(self, device):
        """Keeps the answers on a device.

        Arguments
        ---------
        device : torch.device
            The device of the samples and answers of ``push``.
        """
        for name in ["answers", "alive"]:
            setattr(self, name, getattr(self, name).to(device))

    def push(self, samples, answers):
        """Takes answers to samples, those of all processes in the order of
        their ranks: each then has the same queues.

        Arguments
        ---------
        samples : torch.Tensor
            The numbers of the samples, (B,), as many on all processes.
        answers : torch.Tensor
            The classes of the answers, which are alive, (B,).

        Returns
        -------
        torch.Tensor
            The labels of these samples, (B,), int64.
        """
        own = torch.stack([samples, answers.to(samples)])
        places = torch.arange(len(samples), device=samples.device)
        for others, given in ddp_gather(own[None]):
            # Of a sample that is there twice the last answer, on any device
            same = others[:, None] == others
            given = given[torch.where(same, places, -1).argmax(1)]
            before = self.answers[others]
            self._undo.append((others, before))
            now = torch.cat([before[:, 1:], given[:, None].to(before)], 1)
            self.answers[others] = now
        return self._modes(self.answers[samples])

    def labels(self):
        """The label of each sample, (S,), int64."""
        parts = self.answers.split(ROWS)
        return torch.cat([self._modes(rows) for rows in parts])

    def _modes(self, rows):
        """The most frequent answer of each row, (n,)."""
        votes = (rows[:, :, None] == rows[:, None, :]).sum(2)
        votes = votes.where((rows != EMPTY) & self.alive[rows.long()], 0)
        # Of equals the first: as large a vote, with more places after it
        places = torch.arange(rows.shape[1], 0, -1, device=rows.device)
        best = (votes * (rows.shape[1] + 1) + places).argmax(1, keepdim=True)
        return rows.gather(1, best).squeeze(1).long()

    def end_epoch(self):
        """Ends an epoch: looks which classes are alive."""
        labels = self.labels()
        self.alive = torch.zeros_like(self.alive)
        self.alive[labels] = True

    def mark(self):
        """Begins a step."""
        self._undo = []

    def rewind(self):
        """Takes back the answers of the step."""
        for samples, before in reversed(self._undo):
            self.answers[samples] = before
        self._undo = []

    @mark_as_saver
    def _save(self, path):
        state = {"answers": self.answers.cpu(), "alive": self.alive.cpu()}
        torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        state = torch.load(path, weights_only=True)
        if state["answers"].shape != self.answers.shape:
            raise ValueError(
                f"{path} is of {len(state['answers'])} samples, the manifest "
                f"makes {len(self.answers)}. Give another output_folder, or "
                "remove that one."
            )
        device = self.answers.device
        self.answers = state["answers"].to(device)
        self.alive = state["alive"].to(device)
