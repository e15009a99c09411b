"""Record of a training: means per epoch, kept across restarts."""

import json
import pathlib
import re

import pandas as pd
import torch

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain_cadino.process.files import write_text
from speechbrain_cadino.process.ranks import ddp_mean
from speechbrain_cadino.process.tables import write_csv


@register_checkpoint_hooks
class TrainingRecord:
    """Running means of the current epoch and one row per finished epoch.

    It is a recoverable of SpeechBrain's Checkpointer, so that an epoch that
    was interrupted reports the mean over all its steps, and the table has each
    epoch once. The sums are in double precision, on the device of the values:
    no step waits for them.

    Example
    -------
    >>> record = TrainingRecord()
    >>> record.add({"loss": torch.tensor(3.0)})
    >>> record.add({"loss": torch.tensor(1.0)})
    >>> record.means()
    {'loss': 2.0}
    >>> record.end_epoch({"epoch": 1, "loss": 2.0})
    >>> record.means(), record.rows
    ({}, [{'epoch': 1, 'loss': 2.0}])
    """

    def __init__(self):
        self.rows = []
        self.clear()

    def clear(self):
        """Begins an epoch; the rows of those before stay."""
        self.counts = {"replaced": 0.0, "skipped_steps": 0.0}
        self._sums, self._count = {}, 0
        self.mark()

    def add(self, stats):
        """Adds the values of one step.

        Arguments
        ---------
        stats : dict of str:torch.Tensor
            Detached scalars; the same names in every step of an epoch.
        """
        for name, value in stats.items():
            if value.device.type == "mps":  # has no float64
                value = value.cpu()
            self._sums[name] = self._sums.get(name, 0.0) + value.double()
        self._count += 1

    def mark(self):
        """Remembers where ``rewind`` goes back to."""
        self._marked = dict(self._sums), self._count

    def rewind(self):
        """Forgets the steps added since ``mark``."""
        sums, self._count = self._marked
        self._sums = dict(sums)

    def count(self, name, number):
        """Adds to the counts of the epoch, which ``rewind`` leaves alone.

        Arguments
        ---------
        name : str
            "replaced", the utterances that could not be read, or
            "skipped_steps", those that were not finite.
        number : float
            The number on this process.
        """
        self.counts[name] += number

    def means(self):
        """The means over the steps of the epoch so far.

        Returns
        -------
        dict of str:float
            The means, by the name of the figure.
        """
        return {
            name: float(value) / self._count
            for name, value in self._sums.items()
        }

    def share(self, device):
        """Replaces sums and counts by their means over all processes.

        Arguments
        ---------
        device : torch.device
            The device of the communication.
        """
        if not torch.distributed.is_initialized():
            return
        for name, value in self._sums.items():
            self._sums[name] = ddp_mean(value.to(device))
        for name, number in self.counts.items():
            number = torch.tensor(float(number), device=device)
            self.counts[name] = ddp_mean(number).item()
        self.mark()

    def end_epoch(self, row):
        """Closes the epoch.

        Arguments
        ---------
        row : dict
            The figures of the epoch that are kept.
        """
        self.rows.append(row)
        self.clear()

    def write_csv(self, path):
        """Writes the table of all epochs.

        Arguments
        ---------
        path : str or pathlib.Path
            The CSV file.
        """
        write_csv(path, pd.DataFrame(self.rows))

    @mark_as_saver
    def _save(self, path):
        sums = {name: float(value) for name, value in self._sums.items()}
        state = {"rows": self.rows, "sums": sums, "count": self._count}
        state["counts"] = self.counts
        with open(path, "w", encoding="utf-8") as file:
            json.dump(state, file)

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        with open(path, encoding="utf-8") as file:
            state = json.load(file)
        self.clear()
        self.rows = state["rows"]
        self.counts.update(state["counts"])
        self._count = state["count"]
        self._sums = {
            name: torch.tensor(value, dtype=torch.float64)
            for name, value in state["sums"].items()
        }
        self.mark()


def in_single_precision(means):
    """Means without their last digits: those of sums over processes depend on
    when checkpoints were saved.

    Arguments
    ---------
    means : dict of str:float
        The means of ``TrainingRecord.means``.

    Returns
    -------
    dict of str:float
        The means by name, rounded to float32.

    Example
    -------
    >>> in_single_precision({"loss": 2 + 1e-12})
    {'loss': 2.0}
    """
    return {
        name: torch.tensor(mean, dtype=torch.float32).item()
        for name, mean in means.items()
    }


def trim_log(path, epochs):
    """Keeps the lines of the first epochs in SpeechBrain's train_log.txt.

    It is written before the checkpoint: a run killed in between would log an
    epoch twice.

    Arguments
    ---------
    path : str or pathlib.Path
        The log, a line for each epoch.
    epochs : int
        The number of epochs that the checkpoint has seen.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train_log.txt"
    >>> _ = path.write_text("epoch: 1, lr: 0.1\\nepoch: 2, lr: 0.05\\nepo")
    >>> trim_log(path, epochs=1)
    >>> path.read_text()
    'epoch: 1, lr: 0.1\\n'
    """
    text = pathlib.Path(path).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    kept = [
        line
        for line in lines
        if (epoch := re.match(r"epoch: (\d+),.*\n", line))
        and int(epoch[1]) <= epochs
    ]
    if kept != lines:
        write_text(path, "".join(kept))


def save_steps(logger, path):
    """A save hook for SpeechBrain's TensorboardLogger: where its curves are.

    Arguments
    ---------
    logger : TensorboardLogger
        The logger whose counters are saved.
    path : pathlib.Path
        The path of the file in the checkpoint.
    """
    path.write_text(json.dumps(logger.global_step), encoding="utf-8")


def load_steps(logger, path, end_of_epoch):
    """The load hook to it: a resumed run goes on with the same curves.

    Arguments
    ---------
    logger : TensorboardLogger
        The logger whose counters are set.
    path : pathlib.Path
        The path of the file in the checkpoint.
    end_of_epoch : bool
        Not used.
    """
    logger.global_step = json.loads(path.read_text(encoding="utf-8"))
