"""SIGTERM, SIGINT, SIGHUP: a run ends where it can go on, and says so.

SLURM, a pre-empted machine and torchrun ask with SIGTERM, Ctrl-C with SIGINT, a
terminal that is closed with SIGHUP.
"""

import contextlib
import signal
import threading
import time

SIGNALS = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]

# Signals within so many seconds are one request: SLURM may tell every process,
# and torchrun tells those that it has started once more.
SAME_SECONDS = 1.0


class Interrupted(SystemExit):
    """A run was asked to end; its exit code is that of a shell.

    Arguments
    ---------
    number : int
        The number of the signal.

    Attributes
    ----------
    signal : signal.Signals
        The signal.
    place : str
        The place of the run, in words, if somebody knew.

    Example
    -------
    >>> end = Interrupted(signal.SIGTERM)
    >>> end.signal.name, end.code
    ('SIGTERM', 143)
    """

    def __init__(self, number):
        super().__init__(128 + number)
        self.signal = signal.Signals(number)
        self.place = ""


class Requests:
    """What SIGTERM, SIGINT and SIGHUP ask for: a handler of all.

    Arguments
    ---------
    postponed : bool
        Whether the first one is only taken note of. Any later one raises
        Interrupted.

    Attributes
    ----------
    number : int
        The signal that came first; 0 if there was none.
    """

    def __init__(self, postponed=False):
        self.postponed = postponed
        self.number = 0
        self._since = 0.0

    def __call__(self, number, frame=None):
        """Handles a signal."""
        now = time.monotonic()
        first = not self.number
        if not first and now - self._since < SAME_SECONDS:
            return
        if first:
            self.number, self._since = number, now
        if not (first and self.postponed):
            raise Interrupted(number)

    @contextlib.contextmanager
    def at_once(self):
        """Postpones nothing within the block, not even what came before."""
        postponed, self.postponed = self.postponed, False
        try:
            if self.number:
                raise Interrupted(self.number)
            yield
        finally:
            self.postponed = postponed


@contextlib.contextmanager
def interruptible(postponed=False):
    """Makes SIGTERM, SIGINT and SIGHUP raise Interrupted within a block.

    After the block, they do what they did before. One that is ignored, as in
    a shell's background or by nohup, stays so; and in another thread than the
    main one, which alone gets signals, nothing changes.

    Arguments
    ---------
    postponed : bool
        Whether to raise at the end of the block, or at the second request, for
        a block that looks at ``number`` itself now and then.

    Yields
    ------
    Requests
        The handler, whose ``number`` is the signal that came first, or 0.

    Raises
    ------
    Interrupted
        If the process was asked to end.

    Example
    -------
    >>> import os
    >>> with interruptible(postponed=True) as requests:
    ...     os.kill(os.getpid(), signal.SIGTERM)
    ...     requests.number == signal.SIGTERM
    Traceback (most recent call last):
    ...
    speechbrain_cadino.process.interrupts.Interrupted: 143
    """
    requests, replaced = Requests(postponed), {}
    if threading.current_thread() is threading.main_thread():
        handlers = {number: signal.getsignal(number) for number in SIGNALS}
        replaced = {
            number: handler
            for number, handler in handlers.items()
            if handler not in (signal.SIG_IGN, None)
        }
    try:
        for number in replaced:
            signal.signal(number, requests)
        yield requests
    finally:
        for number, handler in replaced.items():
            signal.signal(number, handler)
    if requests.number:
        raise Interrupted(requests.number)
