"""Clock of a training: the time that data, host and device take."""

import contextlib
import sys
import time

from speechbrain_cadino.process.ranks import worth_while

# Below this share of an epoch, the wait of a GPU for data is not worth a
# sentence; without a GPU, reading takes the same cores as the rest.
WORTH_TELLING = {"gpu": 0.1, "cpu": 0.5}


class StepClock:
    """Adds up what training waits for.

    A step begins when its batch is there: what lies between two steps is the
    wait for data. Within a step, a GPU works while the host goes ahead, until
    the host needs a figure of it.

    Example
    -------
    >>> clock = StepClock()
    >>> clock.start()
    >>> clock.begin_step()
    >>> with clock.device():
    ...     pass
    >>> clock.end_step()
    >>> sorted(clock.figures(on_gpu=True))
    ['data_seconds', 'device_seconds']
    """

    def __init__(self):
        self.start()

    def start(self):
        """Begins an epoch."""
        self._seconds = {"data": 0.0, "device": 0.0}
        self._since = time.perf_counter()

    def begin_step(self):
        """The batch of a step is there."""
        self._seconds["data"] += time.perf_counter() - self._since

    def end_step(self):
        """The step is taken."""
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def device(self):
        """Within it, the host waits for the device."""
        since = time.perf_counter()
        yield
        self._seconds["device"] += time.perf_counter() - since

    def figures(self, on_gpu):
        """The seconds of the epoch so far.

        Arguments
        ---------
        on_gpu : bool
            Whether a GPU computes; without one there is no wait for it.

        Returns
        -------
        dict of str:float
            ``data_seconds``, and ``device_seconds`` of a GPU.
        """
        kinds = ("data", "device") if on_gpu else ("data",)
        return {
            f"{kind}_seconds": round(self._seconds[kind], 2) for kind in kinds
        }


def bottleneck(figures):
    """What an epoch mostly waited for, in a sentence.

    Arguments
    ---------
    figures : dict
        ``seconds`` of the epoch, and the figures of its StepClock.

    Returns
    -------
    str
        The sentence; empty if there is nothing to be done about it.

    Example
    -------
    >>> bottleneck({"seconds": 100, "data_seconds": 4, "device_seconds": 90})
    ''
    >>> bottleneck({"seconds": 100, "data_seconds": 40})
    ''
    >>> bottleneck({"seconds": 100, "data_seconds": 60})[:33]
    '60% of the epoch waited for data:'
    >>> on_gpu = {"seconds": 9, "data_seconds": 0, "device_seconds": 3}
    >>> bottleneck(on_gpu)[:49]
    '67% of the epoch the GPU waited for this process:'
    """
    seconds = max(figures["seconds"], 1e-9)
    data = figures["data_seconds"] / seconds
    kind = "gpu" if "device_seconds" in figures else "cpu"
    if data > WORTH_TELLING[kind]:
        return (
            f"{data:.0%} of the epoch waited for data: raise num_workers, of "
            f"which {worth_while(sys.maxsize)} are worth while here, or use a "
            "faster disk, FLAC of the right rate, or more processors."
        )
    host = 1 - data - figures.get("device_seconds", seconds) / seconds
    if host > 0.5:
        return (
            f"{host:.0%} of the epoch the GPU waited for this process: a "
            "larger batch_size makes better use of it."
        )
    return ""
