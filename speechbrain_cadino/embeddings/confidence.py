"""Confidence in utterances: what their embeddings tell of them.

No speaker and no other label is needed. Nothing is held of a file of embeddings
but a sample: memory does not grow with their number.
"""

import pathlib

import numpy as np
import pandas as pd
from tqdm import tqdm

from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.store import load_embeddings

# Utterances among which neighbours are looked for, and whose mean is
# subtracted. With fewer in all, every other one is looked at.
SAMPLE = 10_000

# The nearest of them count
NEIGHBOURS = 10

# Rows of embeddings that are held at once
ROWS = 2_000


class SegmentRows:
    """Where the embeddings of each utterance are in a folder.

    The folder is one of ``embeddings.store``: of whole utterances, or of
    segments, where ``ids.txt`` has the ID of an utterance once for each of its
    segments, all below each other.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    ids : sequence of str
        The N utterances that are asked for.

    Attributes
    ----------
    counts : numpy.ndarray
        Shape (N,): the number of rows of each; 0 where it has none.

    Raises
    ------
    ValueError
        If the folder has none of the utterances, or the rows of one are not
        below each other.

    Example
    -------
    >>> from speechbrain_cadino.embeddings.store import save_embeddings
    >>> folder = getfixture("tmp_path")
    >>> save_embeddings(folder, ["a", "a", "b"], np.arange(6).reshape(3, 2))
    >>> rows = SegmentRows(folder, ["b", "c", "a"])
    >>> rows.counts
    array([1, 0, 2])
    >>> rows.read(np.array([2]))
    array([[0., 1.],
           [2., 3.]], dtype=float32)
    """

    def __init__(self, folder, ids):
        self.path = pathlib.Path(folder) / "embeddings.npy"
        names = pd.Index(load_embeddings(folder)[0])
        codes, names = pd.factorize(names)
        firsts = np.flatnonzero(np.diff(codes, prepend=-1))
        if len(firsts) > len(names):
            again = pd.Index(codes[firsts]).duplicated().argmax()
            raise ValueError(
                f"{folder}: ids.txt names {names[codes[firsts[again]]]} in two "
                "places: the segments of an utterance have to be below each "
                "other."
            )
        places = names.get_indexer(ids)
        there = places >= 0
        if not there.any():
            raise ValueError(
                f"{folder} has no embedding of {next(iter(ids))}, nor of any "
                f"other of {len(there)} utterances: its ids.txt has to name "
                "them as the manifest does."
            )
        counts = np.diff(firsts, append=len(codes))
        self.firsts = np.where(there, firsts[places], 0)
        self.counts = np.where(there, counts[places], 0)

    def read(self, utterances):
        """The embeddings of some utterances, of all their segments.

        Arguments
        ---------
        utterances : numpy.ndarray
            The places of the utterances among the IDs, (n,), int.

        Returns
        -------
        numpy.ndarray
            (rows, D), float32: those of an utterance below each other.
        """
        counts = self.counts[utterances]
        number = np.arange(counts.sum()) - np.repeat(
            counts.cumsum() - counts, counts
        )
        rows = np.repeat(self.firsts[utterances], counts) + number
        # Opened anew each time: its pages would fill the memory
        return np.asarray(np.load(self.path, mmap_mode="r")[rows], np.float32)

    def chunks(self):
        """Stretches of utterances of about ``ROWS`` rows each.

        Yields
        ------
        numpy.ndarray
            Places of utterances, rising.
        """
        ends = np.maximum(self.counts, 1).cumsum()
        chunk = ends // ROWS
        edges = np.flatnonzero(np.diff(chunk)) + 1
        yield from np.split(np.arange(len(ends)), edges)


def score(folder, ids, labels=None):
    """What embeddings tell of utterances.

    * ``consistency``, of those of two readable segments and more: how alike the
      segments are, a number that is 1 where they are the same, and about 0
      where they are no more alike than segments of any two utterances. With the
      unit embeddings e of n segments and the mean m of the corpus, it is the
      mean of (e_i - m) (e_j - m) over pairs of segments, divided by the mean of
      (e_i - m)^2: an intraclass correlation. Two voices in turn lower it.
    * ``density``: the mean cosine to the ``NEIGHBOURS`` nearest of a sample of
      ``SAMPLE`` others, of mean embeddings with the mean of the corpus
      subtracted. It is low for what is like nothing else.
    * ``agreement``, with labels: the cosine to the centroid of the others of
      the same label, minus that to the nearest other centroid, halved, so that
      it is from -1 to 1 as the others are. Above 0 the label is the nearest. Of
      a label of one utterance there is none.

    Arguments
    ---------
    folder : str or pathlib.Path
        The embeddings: see SegmentRows, also for the errors.
    ids : sequence of str
        The N utterances.
    labels : array_like, optional
        The labels of the utterances, (N,); NaN or None where there is none.

    Returns
    -------
    pandas.DataFrame
        N rows: ``segments``, the number of readable ones, and the scores, which
        are NaN where there is none.

    Raises
    ------
    ValueError
        If none of the utterances has an embedding that is finite.

    Example
    -------
    >>> from speechbrain_cadino.embeddings.store import save_embeddings
    >>> folder = getfixture("tmp_path")
    >>> points = np.eye(4)[[0, 0, 1, 1, 2, 3]]  # the last one: two voices
    >>> save_embeddings(folder, list("aabbcc"), points)
    >>> score(folder, ["a", "b", "c"])["consistency"].round(2).tolist()
    [1.0, 1.0, -0.06]
    """
    rows = SegmentRows(folder, ids)
    some = spread_rows(len(rows.counts), SAMPLE)
    units, counts = _units(rows, some)
    if not counts.any():
        raise ValueError(f"{folder}: none of the embeddings is finite.")
    mean = units.mean(0)
    sample = _Sample(_directions(_sums(units - mean, counts)), some)
    centroids = None
    if labels is not None:
        centroids = _Centroids(rows, labels, mean)
    columns = ["segments", "consistency", "density"]
    columns += ["agreement"] * (labels is not None)
    found = {name: np.full(len(rows.counts), np.nan) for name in columns}
    for chunk in _with_bar(rows, "Scoring"):
        units, counts = _units(rows, chunk)
        centred = units - mean
        sums = _sums(centred, counts)
        points = _directions(sums)
        found["segments"][chunk] = counts
        found["consistency"][chunk] = _consistency(centred, sums, counts)
        found["density"][chunk] = sample.density(points, chunk)
        if centroids is not None:
            found["agreement"][chunk] = centroids.agreement(points, chunk)
    return pd.DataFrame(found).astype({"segments": int})


def _with_bar(rows, what):
    """The chunks of all utterances, with a progress bar."""
    with tqdm(total=len(rows.counts), desc=what, unit="utt") as bar:
        for chunk in rows.chunks():
            yield chunk
            bar.update(len(chunk))


def _units(rows, utterances):
    """The readable embeddings of utterances, divided by their L2 norm, and how
    many each has."""
    embeddings = rows.read(utterances)
    owner = np.repeat(np.arange(len(utterances)), rows.counts[utterances])
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    fine = np.isfinite(norms[:, 0]) & (norms[:, 0] > 0)
    units = (embeddings[fine] / norms[fine]).astype(np.float64)
    return units, np.bincount(owner[fine], minlength=len(utterances))


def _sums(points, counts):
    """The sum of the points of each utterance: zeros where it has none."""
    ends = np.concatenate([np.zeros((1, points.shape[1])), points.cumsum(0)])
    last = counts.cumsum()
    return ends[last] - ends[last - counts]


def _directions(sums):
    """Points divided by their L2 norm; NaN where that is 0."""
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return (sums / np.where(norms > 0, norms, np.nan)).astype(np.float32)


def _consistency(centred, sums, counts):
    """The products of pairs of segments add up to the square of the sum minus
    the squares: no pair is looked at."""
    squares = _sums((centred**2).sum(1, keepdims=True), counts)[:, 0]
    products = (sums**2).sum(1) - squares
    pairs = np.where(counts > 1, counts - 1, np.nan)
    with np.errstate(invalid="ignore", divide="ignore"):
        return products / (pairs * squares)


class _Sample:
    """The directions of some utterances, among which neighbours are."""

    def __init__(self, points, places):
        fine = np.isfinite(points[:, 0])
        self.points = points[fine]
        self.places = places[fine]

    def density(self, points, chunk):
        """The mean cosine to the nearest ones, but for itself; NaN if there is
        no other."""
        most = min(NEIGHBOURS, len(self.places) - 1)
        if most < 1:
            return np.full(len(points), np.nan)
        cosines = points @ self.points.T
        place = np.searchsorted(self.places, chunk)
        place = np.minimum(place, len(self.places) - 1)
        itself = self.places[place] == chunk
        cosines[itself, place[itself]] = -np.inf
        # One that is not of the sample has one more to choose from
        nearest = np.partition(cosines, -most, axis=1)[:, -most:]
        return nearest.mean(1)


class _Centroids:
    """The sums of the directions of the utterances of each label."""

    def __init__(self, rows, labels, mean):
        self.labels, names = pd.factorize(np.asarray(labels))
        self.sums = np.zeros((len(names), len(mean)))
        self.sizes = np.zeros(len(names), int)
        for chunk in _with_bar(rows, "Averaging"):
            units, counts = _units(rows, chunk)
            points = _directions(_sums(units - mean, counts))
            fine = np.isfinite(points[:, 0]) & (self.labels[chunk] >= 0)
            np.add.at(self.sums, self.labels[chunk][fine], points[fine])
            np.add.at(self.sizes, self.labels[chunk][fine], 1)
        self.points = _directions(self.sums)

    def agreement(self, points, chunk):
        """See ``score``."""
        labels = self.labels[chunk]
        if not len(self.sizes):
            return np.full(len(points), np.nan)
        own = (points * _directions(self.sums[labels] - points)).sum(1)
        others = np.where(self.sizes > 0, points @ self.points.T, -np.inf)
        others[np.arange(len(points)), labels] = -np.inf
        other = others.max(1)
        known = (self.sizes[labels] > 1) & np.isfinite(other) & (labels >= 0)
        return np.where(known, (own - other) / 2, np.nan)
