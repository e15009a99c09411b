"""The line that a training shows after an epoch: how good, where, how long."""

import os
import time

from speechbrain_cadino.process.console import WIDTH, in_minutes

# In the environment of a script that a pipeline starts: the name of the step
# and its number, and the work of the steps after it as a multiple of its own; a
# script of several trainings says itself which one it is at
PLACE = "SPEECHBRAIN_CADINO_PLACE"
LATER = "SPEECHBRAIN_CADINO_LATER"


class Progress:
    """Tells after each epoch where a training is.

    The time that is left is that of the epochs of this process so far, times
    those to come; in a pipeline, with the steps after this one. The rest of an
    epoch that another process had begun tells nothing of it.

    Arguments
    ---------
    last_epoch : int
        The number of epochs.
    now : callable
        The clock, in seconds.

    Attributes
    ----------
    amid_epoch : bool
        Whether the first epoch was begun before.

    Example
    -------
    >>> clock = iter([0, 90])
    >>> progress = Progress(8, now=lambda: next(clock))
    >>> progress.line(3, {"loss": 2.1923}, {"EER": 12.194})
    'EER 12.19 %  loss 2.192  epoch 3 of 8, about 8 min left'
    """

    def __init__(self, last_epoch, now=time.monotonic):
        self.last_epoch = last_epoch
        self.now = now
        self.amid_epoch = False
        self._start = now()
        self._epochs = 0

    def line(self, epoch, means, valid, evaluates=True):
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

        Returns
        -------
        str
        """
        left = self._left(epoch)
        where = [f"epoch {epoch} of {self.last_epoch}", os.environ.get(PLACE)]
        if left:
            here = PLACE in os.environ and LATER not in os.environ
            where.append(in_minutes(left) + (" here" if here else ""))
        error = f"{valid['EER']:5.2f} %" if "EER" in valid else f"{'-':>5}  "
        parts = [f"EER {error}"] if evaluates else []
        parts.append(f"loss {means['loss']:.3f}")
        parts.append(", ".join(filter(None, where)))
        line = "  ".join(parts)
        if len(line) > WIDTH:
            line = line.replace(f"loss {means['loss']:.3f}  ", "")
        if len(line) > WIDTH:
            line = line.replace("about ", "")
        return line

    def _left(self, epoch):
        """The seconds that are left; 0 also where nobody knows."""
        if self.amid_epoch:
            self.amid_epoch = False
            self._start = self.now()
            return 0
        self._epochs += 1
        each = (self.now() - self._start) / self._epochs
        later = float(os.environ.get(LATER) or 0) * each * self.last_epoch
        return each * (self.last_epoch - epoch) + later
