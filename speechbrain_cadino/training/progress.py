"""The lines that a training shows: how good, where, how long."""

import os
import time

from speechbrain_cadino.process.console import WIDTH, in_minutes

# In the environment of a script that a pipeline starts: the name of the step
# and its number, and the work of the steps after it as a multiple of its own; a
# script of several trainings says itself which one it is at
PLACE = "SPEECHBRAIN_CADINO_PLACE"
LATER = "SPEECHBRAIN_CADINO_LATER"


# After so many seconds, and LEAST_SHARE of an epoch, a training tells how long
# it takes, whether an epoch has ended or not
EARLY = 180

# A smaller share of an epoch tells nothing of the time of one
LEAST_SHARE = 0.05


class Progress:
    """Tells where a training is, some minutes after it began and after each
    epoch.

    The time that is left is that of the epochs of this process so far, and of
    parts of them, times those to come; in a pipeline, with the steps after this
    one.

    Arguments
    ---------
    last_epoch : int
        The number of epochs.
    now : callable
        The clock, in seconds.

    Example
    -------
    >>> clock = iter([0, 0, 90])
    >>> progress = Progress(8, now=lambda: next(clock))
    >>> progress.begin(2)
    >>> progress.line(3, {"loss": 2.1923}, {"EER": 12.194})
    'EER 12.19 %  loss 2.192  epoch 3 of 8, about 8 min left'
    """

    def __init__(self, last_epoch, now=time.monotonic):
        self.last_epoch = last_epoch
        self.now = now
        self.begin(0)

    def begin(self, position):
        """Takes the time from here on.

        Arguments
        ---------
        position : float
            The epochs that are done.
        """
        self._begun, self._start, self._told = position, self.now(), False

    def early(self, position):
        """One line, once, after some minutes in which no epoch has ended.

        Arguments
        ---------
        position : float
            The epochs that are done.

        Returns
        -------
        str or None
            The line; None at other times, or if the time left is not known.
        """
        if self._told or self.now() - self._start < EARLY:
            return None
        left = self._left(position)
        if not left:
            return None
        self._told = True
        return self._where(int(position) + 1, left)

    def line(self, epoch, means, valid, evaluates=True, ends=False):
        """One line of at most 80 characters.

        Arguments
        ---------
        epoch : int
            The epoch that has ended.
        means : dict of str:float
            The means over its steps, ``loss`` among them.
        valid : dict of str:float
            ``EER`` in percent, if the encoder was evaluated.
        evaluates : bool
            Whether it ever is: then an epoch without an EER has a dash.
        ends : bool
            Whether the training ends with this epoch, whatever its number.

        Returns
        -------
        str
            The line: EER, loss, epoch and time left, where they are known.
        """
        left = self._left(epoch, ends)
        self._told = self._told or left > 0
        error = f"{valid['EER']:5.2f} %" if "EER" in valid else f"{'-':>5}  "
        parts = [f"EER {error}"] if evaluates else []
        parts.append(f"loss {means['loss']:.3f}")
        parts.append(self._where(epoch, left))
        line = "  ".join(parts)
        if len(line) > WIDTH:
            line = line.replace(f"loss {means['loss']:.3f}  ", "")
        if len(line) > WIDTH:
            line = line.replace("about ", "").replace("under a", "1")
        return line

    def _where(self, epoch, left):
        """The epoch, the step of a pipeline, and the seconds left, in words."""
        where = [f"epoch {epoch} of {self.last_epoch}", os.environ.get(PLACE)]
        if left:
            here = PLACE in os.environ and LATER not in os.environ
            where.append(in_minutes(left) + (" here" if here else ""))
        return ", ".join(filter(None, where))

    def _left(self, position, ends=False):
        """The seconds that are left, of what comes after this training where it
        ends; 0 also where nobody knows."""
        done = position - self._begun
        if done < LEAST_SHARE:
            return 0
        each = (self.now() - self._start) / done
        later = float(os.environ.get(LATER) or 0) * each * self.last_epoch
        return (0 if ends else each * (self.last_epoch - position)) + later
