"""Halves of recordings and their pairs: what tells voices apart without any
label."""

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.segments import trimmed_length
from speechbrain_cadino.verification.scoring import cosine, trial_scores

logger = get_logger(__name__)

# Of fewer recordings there is no threshold
FEWEST_RECORDINGS = 20

# Embeddings of copies differ by rounding, by so much of the spread at most.
COPIES = 1e-3

# Pairs of other recordings for each recording
OTHERS = 10

# Half of a recording, at least
SHORTEST_HALF = 1.0  # seconds

# Of all that is drawn: the same recordings have the same threshold
SEED = 0


def number_recordings(table):
    """Numbers of recordings, the same for the pieces of one.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest of N rows; without ``wav``, each is a recording.

    Returns
    -------
    numpy.ndarray
        The number of each row's recording, shape (N,), int.

    Example
    -------
    >>> import pandas as pd
    >>> number_recordings(pd.DataFrame({"wav": ["b.wav", "a.wav", "b.wav"]}))
    array([0, 1, 0])
    """
    if "wav" not in table:
        return np.arange(len(table))
    return pd.factorize(table["wav"])[0]


def embed_halves(embedder, table):
    """Embeds both halves of recordings.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    table : pandas.DataFrame
        A manifest.

    Returns
    -------
    halves : numpy.ndarray
        Shape (2, N, D), of the recordings that are long enough and can be
        read, which are counted in the log.
    rows : numpy.ndarray
        Shape (N,): their rows in the table.

    Raises
    ------
    ValueError
        If there are fewer than ``FEWEST_RECORDINGS``, or only embeddings.
    """
    if not embedder.hears:
        raise ValueError(
            f"{embedder.source} holds embeddings alone, so halves of the "
            "recordings cannot be embedded: calibrate by trials, or by "
            "clusters."
        )
    rate = embedder.sample_rate
    rows = rows_with_halves(table, rate)
    check_enough(table.iloc[rows], f"of {2 * SHORTEST_HALF:.0f} s or more")
    halves = np.stack(
        [
            embedder.embed(half, skip_unreadable=True)
            for half in halves_of(table.iloc[rows], rate)
        ]
    )
    fine = np.isfinite(halves).all((0, 2))
    count = int(fine.sum())
    check_enough(table.iloc[rows[fine]], "that can be read")
    if count < len(table):
        logger.info(
            f"{count} of {len(table)} recordings are used: the others are "
            "too short or cannot be read."
        )
    return halves[:, fine], rows[fine]


def rows_with_halves(table, rate):
    """The recordings whose halves are long enough.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest of recordings.
    rate : int
        The sample rate, in Hz.

    Returns
    -------
    numpy.ndarray
        Shape (n,): their rows.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"start": [0, 0], "stop": [24000, 48000]})
    >>> rows_with_halves(table, 16000)
    array([1])
    """
    lengths = (table["stop"] - table["start"]).to_numpy()
    return np.flatnonzero(lengths >= 2 * SHORTEST_HALF * rate)


def halves_of(table, rate):
    """Both halves of recordings.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest of recordings.
    rate : int
        The sample rate, in Hz.

    Returns
    -------
    list of pandas.DataFrame
        The manifest of the first halves and that of the last ones, of lengths
        of ``trimmed_length``.

    Example
    -------
    >>> import pandas as pd
    >>> table = pd.DataFrame({"start": [0], "stop": [48000]})
    >>> [half.to_numpy().tolist() for half in halves_of(table, 16000)]
    [[[0, 24000]], [[24000, 48000]]]
    """
    lengths = (table["stop"] - table["start"]).to_numpy()
    half = trimmed_length(lengths // 2, rate)
    table = table.drop(columns="duration", errors="ignore")  # of the whole
    return [
        table.assign(stop=table["start"] + half),
        table.assign(start=table["stop"] - half),
    ]


def pairs_of(count):
    """Pairs of recordings: each and itself, and ``OTHERS`` others of each.

    Arguments
    ---------
    count : int
        N, the number of recordings.

    Returns
    -------
    enrol, test : numpy.ndarray
        Shape (T,): rows, the same ones in the first N pairs.

    Example
    -------
    >>> enrol, test = pairs_of(3)
    >>> (enrol == test).sum().item(), len(enrol)
    (3, 33)
    """
    enrol = np.repeat(np.arange(count), OTHERS)
    # Any but itself
    step = np.random.default_rng(SEED).integers(1, count, len(enrol))
    own = np.arange(count)
    return np.append(own, enrol), np.append(own, (enrol + step) % count)


def leave_out_copies(points, enrol, test):
    """Leaves out pairs of one recording under two names, whose embeddings lie
    no further apart than by ``COPIES`` of the spread of all.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D): an embedding of each recording.
    enrol, test : numpy.ndarray
        Shape (T,): rows, of ``pairs_of``.

    Returns
    -------
    enrol, test : numpy.ndarray
        The rows of the other pairs, and of each recording and itself.

    Example
    -------
    >>> points = np.array([[0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    >>> leave_out_copies(points, np.array([0, 0, 0]), np.array([0, 1, 2]))
    (array([0, 0]), array([0, 2]))
    """
    gaps = np.square(points[enrol] - points[test]).sum(1)
    kept = (enrol == test) | (gaps >= COPIES**2 * points.var(0).sum())
    return enrol[kept], test[kept]


def score_halves(halves, enrol, test):
    """Cosines of first halves and last ones.

    Arguments
    ---------
    halves : numpy.ndarray
        Embeddings of both halves of the recordings, shape (2, N, D).
    enrol, test : numpy.ndarray
        Shape (T,): rows, of ``pairs_of``.

    Returns
    -------
    numpy.ndarray
        Cosines, shape (T,).
    """
    sides = cosine(halves.reshape(-1, halves.shape[-1]))
    return trial_scores(sides, enrol, test + halves.shape[1])


def check_enough(table, what):
    """Raises if the recordings of a manifest are too few.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest: see ``number_recordings``.
    what : str
        What they are, for the error.

    Raises
    ------
    ValueError
        If so.

    Example
    -------
    >>> check_enough(pd.DataFrame({"wav": ["a.wav", "a.wav"]}), "in all")
    Traceback (most recent call last):
    ...
    ValueError: 1 recording(s) in all are too few for a threshold: give 20 or...
    """
    count = len(np.unique(number_recordings(table)))
    if count < FEWEST_RECORDINGS:
        raise ValueError(
            f"{count} recording(s) {what} are too few for a threshold: give "
            f"{FEWEST_RECORDINGS} or more."
        )
