"""Utterances that could not be read in a training."""

import pathlib
import re

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.process.console import printable

logger = get_logger(__name__)

# More of an epoch's items than this share must not be unreadable.
MOST_REPLACED = 0.1

# So many of them are named in an epoch, by each process
NAMED = 10

# The list of all, in the folder of the run
LIST = "unreadable.txt"

# Where the crop of a file was, another place each time
PLACE = re.compile(r", from \d+ on\.$")


class Unreadable:
    """Tells of files for which others had to stand in, lists them in
    ``unreadable.txt``, and ends a training where they are many.

    Arguments
    ---------
    record : TrainingRecord
        The record that counts them, as "replaced".
    folder : str or pathlib.Path
        The folder of the list, which all processes and starts add to.
    """

    def __init__(self, record, folder):
        self.record = record
        self.path = pathlib.Path(folder, LIST)
        self.first = []  # of the epoch
        self.listed = set()

    def forget(self):
        """Begins an epoch."""
        self.first = []

    def count(self, problems, epoch, items):
        """Takes note of those of a batch.

        Arguments
        ---------
        problems : list of str
            The problem of each item, "" for those that are fine.
        epoch : int
            The epoch, for the error.
        items : float
            The items of an epoch, on this process.

        Raises
        ------
        MediaError
            If they are more than ``MOST_REPLACED`` of these.
        """
        problems = list(filter(None, problems))
        self._list(problems)
        named = int(self.record.counts["replaced"])
        for problem in problems[: max(0, NAMED - named)]:
            logger.warning(
                f"Replaced by another utterance: {problem}",
                main_process_only=False,
            )
        self.first = (self.first + problems)[:3]
        self.record.count("replaced", len(problems))
        replaced = self.record.counts["replaced"]
        if problems and replaced > MOST_REPLACED * items:
            raise MediaError(
                f"{replaced:.0f} times in epoch {epoch}, for more than "
                f"{MOST_REPLACED:.0%} of its {items:.0f} samples, another "
                f"one had to stand in. The first: {' '.join(self.first)} All "
                f"are in {self.path}. Is data_folder complete? Mend the files "
                "and start the same command again, or leave them out and give "
                "another output_folder."
            )

    def _list(self, problems):
        """Adds those to the list that are not in it."""
        found = dict.fromkeys(
            PLACE.sub(".", printable(each)) for each in problems
        )
        if self.listed.issuperset(found):
            return
        if self.path.is_file():  # of another process, or an earlier start
            text = self.path.read_text(encoding="utf-8", errors="replace")
            self.listed.update(text.splitlines())
        new = [each for each in found if each not in self.listed]
        self.listed.update(new)
        with self.path.open("a", encoding="utf-8") as file:
            file.writelines(f"{problem}\n" for problem in new)
