"""Utterances of an epoch that could not be read."""

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import MediaError

logger = get_logger(__name__)

# More of an epoch's items than this share must not be unreadable.
MOST_REPLACED = 0.1

# So many of them are named in an epoch, by each process
NAMED = 10


class Unreadable:
    """Tells of files for which others had to stand in, and ends a training
    where they are many.

    Arguments
    ---------
    record : TrainingRecord
        The record that counts them, as "replaced".
    """

    def __init__(self, record):
        self.record = record
        self.first = []  # of the epoch

    def forget(self):
        """Begins an epoch."""
        self.first = []

    def count(self, problems, epoch, items):
        """Takes note of those of a batch.

        Arguments
        ---------
        problems : list of str
            What is wrong with each item, "" with those that are fine.
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
                f"one had to stand in. The first: {' '.join(self.first)} Is "
                "data_folder complete? Mend the files and start the same "
                "command again, or leave them out and give another "
                "output_folder."
            )
