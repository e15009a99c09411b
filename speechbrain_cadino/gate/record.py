"""Records of what became of each sample behind the loss gate."""

import pathlib
import zlib

import numpy as np
import pandas as pd
import torch

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain_cadino.losses.label_correction import DECISIONS
from speechbrain_cadino.process.files import atomic_path
from speechbrain_cadino.process.tables import write_csv

# What each column of the epoch holds for a sample that was not drawn in it,
# and its type
COLUMNS = {
    "losses": (-torch.inf, torch.float32),
    "decisions": (-1, torch.int8),
    "corrected": (-1, torch.int32),
}

# What became of each sample, in the output folder; of a training of voices and
# faces, that of its voices
EPOCHS = ["gate/epoch*.npz", "audio/gate/epoch*.npz"]


def checksum_of(labels):
    """A number that tells classes of utterances, (N,) integers, from others."""
    return zlib.crc32(np.asarray(labels, np.int64).tobytes())


def check_same_classes(folder, classes):
    """Raises if a training had other labels, or other speeds, at each of which
    a label is another class: what its classifier takes for a class is then
    somebody else.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder of the training. Where no record of its classes is in
        there, nothing can be told.
    classes : dict
        Those of now: see ``GateRecord``.

    Raises
    ------
    ValueError
        If so.

    Example
    -------
    >>> classes = {"labels": checksum_of([0, 1]), "speeds": [1.0, 0.9]}
    >>> check_same_classes(getfixture("tmp_path"), classes)
    """
    folder = pathlib.Path(folder)
    paths = [path for epochs in EPOCHS for path in folder.glob(epochs)]
    for path in sorted(paths)[-1:]:
        with np.load(path) as columns:
            for name, now in classes.items():
                if name in columns and not np.array_equal(columns[name], now):
                    raise ValueError(
                        f"The classifier in {folder} was trained on other "
                        f"{name} than there are now: give "
                        "start_classifier=centroids, or those that it was "
                        "trained on."
                    )


@register_checkpoint_hooks
class GateRecord:
    """Losses and decisions of an epoch, and one row per finished epoch.

    A recoverable of SpeechBrain's Checkpointer: a resumed epoch knows the
    samples that were drawn before.

    Arguments
    ---------
    samples : int
        S, the number of samples.
    trusted : numpy.ndarray, optional
        Shape (S,), bool: whose labels are given, so that the gate has nothing
        to judge. None is by default.
    classes : dict, optional
        What tells the classes from those of other trainings, written beside
        what becomes of the samples: ``labels``, the checksum of those of the
        utterances, and ``speeds``, at each of which a label is a class.

    Example
    -------
    >>> record = GateRecord(3)
    >>> kinds = [DECISIONS[name] for name in ("reliable", "corrected")]
    >>> record.add(
    ...     torch.tensor([2, 0]),
    ...     losses=torch.tensor([0.5, 8.0]),
    ...     decisions=torch.tensor(kinds),
    ...     corrected=torch.tensor([-1, 7]),
    ... )
    >>> record.losses
    array([8. , nan, 0.5], dtype=float32)
    >>> record.counts()
    {'reliable': 1, 'corrected': 1, 'dropped': 0}
    """

    def __init__(self, samples, trusted=None, classes=None):
        self.samples = samples
        self.classes = classes or {}
        self.trusted = np.zeros(samples, bool) if trusted is None else trusted
        self.rows = []
        self._clear()

    def _clear(self):
        self._steps, self._count = [], 0
        # The place of the last draw of each: its step, then its rank
        self._drawn = torch.full((self.samples,), -1)
        self._columns = {
            name: torch.full((self.samples,), missing, dtype=dtype)
            for name, (missing, dtype) in COLUMNS.items()
        }

    def add(self, samples, **results):
        """Adds a step.

        Arguments
        ---------
        samples : torch.Tensor
            The numbers of the samples, (B,).
        **results : torch.Tensor
            ``losses``, ``decisions``, ``corrected``: see LabelCorrectionLoss.
        """
        # Left on the device until they are needed: no step waits for them
        step = {"samples": samples, "place": self._count, **results}
        self._steps.append(step)
        self._count += 1

    def mark(self):
        """Remembers where ``rewind`` goes back to."""
        self._marked = len(self._steps)

    def rewind(self):
        """Forgets the steps added since ``mark``."""
        del self._steps[self._marked :]

    def gather(self, device):
        """Brings the samples of all processes together.

        Of a sample that two of them drew, the last draw is taken, that of the
        highest rank in one step: however often they are brought together, the
        same.

        Arguments
        ---------
        device : torch.device
            The device of the communication.
        """
        self._collect()
        if not torch.distributed.is_initialized():
            return
        most = torch.distributed.ReduceOp.MAX
        drawn = self._drawn.to(device)
        last = drawn.clone()
        torch.distributed.all_reduce(last, most)
        own = drawn == last
        for name, column in self._columns.items():
            # Drawn beats not drawn
            missing, _ = COLUMNS[name]
            column = column.to(device).where(own, missing)
            torch.distributed.all_reduce(column, most)
            self._columns[name] = column.cpu()
        self._drawn = last.cpu()

    @property
    def losses(self):
        """The loss of each sample in this epoch, (S,), NaN if not drawn."""
        self._collect()
        losses = self._columns["losses"].numpy()
        return np.where(np.isneginf(losses), np.float32(np.nan), losses)

    @property
    def judged(self):
        """As ``losses``, NaN also where the label is given."""
        return np.where(self.trusted, np.float32(np.nan), self.losses)

    def counts(self):
        """How many samples were ``reliable``, ``corrected``, ``dropped``."""
        self._collect()
        decisions = self._columns["decisions"]
        return {
            name: int((decisions == kind).sum())
            for name, kind in DECISIONS.items()
        }

    def write(self, folder, row):
        """Writes ``gate.csv`` and ``gate/epoch<number>.npz``.

        Arguments
        ---------
        folder : str or pathlib.Path
            The output folder.
        row : dict
            The row of this epoch in ``gate.csv``; with ``epoch``.
        """
        # A mixture of one's own may give figures of NumPy, which a checkpoint
        # does not load
        self.rows.append(
            {
                name: value.item() if isinstance(value, np.generic) else value
                for name, value in row.items()
            }
        )
        folder = pathlib.Path(folder)
        write_csv(folder / "gate.csv", pd.DataFrame(self.rows))
        path = folder / "gate" / f"epoch{row['epoch']:03}.npz"
        columns = {
            name: column.numpy() for name, column in self._columns.items()
        }
        if self.trusted.any():
            columns["trusted"] = self.trusted
        columns |= {**self.classes, "losses": self.losses}
        with atomic_path(path) as temporary:
            np.savez_compressed(temporary, **columns)

    def end_epoch(self):
        """Forgets the samples of the epoch."""
        self._clear()

    def _collect(self):
        processes, rank = 1, 0
        if torch.distributed.is_initialized():
            processes = torch.distributed.get_world_size()
            rank = torch.distributed.get_rank()
        for step in self._steps:
            samples = step["samples"].cpu()
            self._drawn[samples] = step["place"] * processes + rank
            for name, column in self._columns.items():
                column[samples] = step[name].cpu().to(column.dtype)
        self._steps = []

    @mark_as_saver
    def _save(self, path):
        self._collect()
        state = {
            "rows": self.rows,
            "columns": self._columns,
            "drawn": self._drawn,
            "count": self._count,
        }
        torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        state = torch.load(path, weights_only=True)
        self.rows, self._steps = state["rows"], []
        self._columns = state["columns"]
        self._drawn, self._count = state["drawn"], state["count"]
        saved = len(self._columns["losses"])
        if saved != self.samples:
            raise ValueError(
                f"{path} is of {saved} samples, the manifest makes "
                f"{self.samples}. Give another output_folder, or remove that "
                "one."
            )
