"""Several segments of an utterance, in place of the whole."""

import numpy as np

# Below it, the padding of an encoder's convolutions exceeds the utterance.
SHORTEST = 0.1  # seconds


class Segments:
    """What is embedded of each utterance, and the mean over it, or each alone.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.
    seconds : float, optional
        Length of a segment: as many as fit without overlap, evenly spread. A
        shorter utterance is one segment. By default each utterance is one.
    most : int
        Segments of an utterance, at most.
    keep : bool
        Whether each segment keeps an embedding of its own.

    Raises
    ------
    ValueError
        If a number makes no sense.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"ID": ["one"], "start": [0], "stop": [36000]})
    >>> segments = Segments(16000, seconds=1)
    >>> counts = segments.counts(table)
    >>> segments.cut(table, counts)[["start", "stop"]].to_numpy().tolist()
    [[1000, 17000], [19000, 35000]]
    >>> segments.mean(np.array([[3.0, 0.0], [0.0, 5.0]]), counts)
    array([[2., 2.]])
    """

    def __init__(self, sample_rate=16000, seconds=None, most=10, keep=False):
        if seconds is not None and not seconds >= SHORTEST:
            raise ValueError(
                f"segment_seconds={seconds}: give {SHORTEST} s or more, or "
                "null for whole utterances."
            )
        if most < 1:
            raise ValueError(f"max_segments={most}: give 1 or more.")
        self.sample_rate = sample_rate
        self.length = seconds and round(seconds * sample_rate)
        self.most = most
        self.keep = keep

    def rows(self, table):
        """The number of embeddings of each utterance.

        Arguments
        ---------
        table : pandas.DataFrame
            A manifest with the columns ``start,stop``, in samples.

        Returns
        -------
        numpy.ndarray
            Shape (N,): the counts if each segment keeps its own, else 1.
        """
        counts = self.counts(table)
        return counts if self.keep else np.ones_like(counts)

    def counts(self, table):
        """The number of segments of each utterance.

        Arguments
        ---------
        table : pandas.DataFrame
            A manifest with the columns ``start,stop``, in samples.

        Returns
        -------
        numpy.ndarray
            Shape (N,), each at least 1.
        """
        lengths = (table["stop"] - table["start"]).to_numpy()
        if self.length is None:
            return np.ones_like(lengths)
        return np.clip(lengths // self.length, 1, self.most)

    def cut(self, table, counts):
        """A table of all segments, those of an utterance together.

        Arguments
        ---------
        table : pandas.DataFrame
            The table, as for ``counts``.
        counts : numpy.ndarray
            The numbers of segments, of ``counts``.

        Returns
        -------
        pandas.DataFrame
            A copy with a row for each segment. What is not cut to a segment's
            length has a ``trimmed_length``.
        """
        rows = np.repeat(np.arange(len(table)), counts)
        pieces = table.iloc[rows].copy()
        lengths = (pieces["stop"] - pieces["start"]).to_numpy()
        wanted = trimmed_length(lengths, self.sample_rate)
        if self.length is not None:
            wanted = np.where(lengths < self.length, wanted, self.length)
            # Each in the middle of its share of the utterance.
            number = np.arange(len(rows)) - (counts.cumsum() - counts)[rows]
            middle = (2 * number + 1) * lengths / (2 * counts[rows])
            spare = lengths >= self.length
            pieces["start"] += ((middle - wanted / 2) * spare).astype(int)
        pieces["stop"] = pieces["start"] + wanted
        return pieces

    def mean(self, embeddings, counts):
        """Averages the segments of each utterance.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Shape (segments, D); the rows of unreadable ones are NaN.
        counts : numpy.ndarray
            The numbers of segments, of ``counts``.

        Returns
        -------
        numpy.ndarray
            Shape (N, D): the mean of the embeddings, each divided by its L2
            norm, times the mean of these norms, so that it compares with
            those of whole utterances; NaN where no segment is readable. With
            whole utterances, and where each segment keeps its own, the
            embeddings as they are.
        """
        if self.length is None or self.keep:
            return embeddings
        norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
        readable = np.isfinite(norms)
        units = np.where(readable, embeddings / np.maximum(norms, 1e-12), 0)
        parts = [units, np.where(readable, norms, 0), readable]
        first = counts.cumsum() - counts
        units, norms, number = (
            np.add.reduceat(part.astype(embeddings.dtype), first)
            for part in parts
        )
        with np.errstate(invalid="ignore"):  # none readable: 0 / 0
            return units / number * (norms / number)


def trimmed_length(lengths, sample_rate=16000):
    """Lengths on a grid, of which there are 50 to 100 from 1 to 2 seconds,
    just as many from 2 to 4 seconds, and so on.

    Arguments
    ---------
    lengths : numpy.ndarray
        The lengths, in samples.
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    numpy.ndarray
        The next lengths below, at most 2% shorter, but none below ``SHORTEST``
        of those that are not. Below 10 s, multiples of 0.1 s are on the grid at
        16 and 48 kHz.

    Example
    -------
    >>> trimmed_length(np.array([1600, 48000, 48700, 160000, 162000]))
    array([  1600,  48000,  48000, 160000, 160000])
    """
    octave = np.floor(np.log2(np.maximum(lengths, 1) / (5 * sample_rate)))
    step = np.maximum(sample_rate // 10 * 2**octave, 1).astype(int)
    trimmed = lengths // step * step
    return np.where(trimmed < SHORTEST * sample_rate, lengths, trimmed)
