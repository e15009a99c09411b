"""Sweep over numbers of clusters, by criteria that need no true speaker."""

import numbers
import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.clusterer import find_clusters, sized
from speechbrain_cadino.clustering.engines import find_engine
from speechbrain_cadino.clustering.plots import plot_sweep
from speechbrain_cadino.clustering.quality import (
    adjusted_mutual_information,
    quality,
    silhouettes,
)
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.process.files import write_json

logger = get_logger(__name__)

CRITERIA = ["silhouette", "stability"]
CHECKS = ["ami", "ari"]

# How often the utterances are halved for the stability.
SPLITS = 2


def choose_number(folder, embeddings, candidates, clusterer, speakers=None):
    """Compares numbers of clusters; writes ``sweep.json`` and
    ``plots/sweep.png``.

    Each criterion picks the number where it is the highest. Where speakers
    form groups, such as of a language or a sex, both criteria tend to pick
    too low a number, and one too high does less harm to pseudo labels, so
    the choice is the larger of the two picks. Look at the picture, too: a
    pick at the end of the candidates says that there should be more of them.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write to.
    embeddings : numpy.ndarray
        Embeddings, shape (N, D). See ``compare_numbers``, also for the errors.
    candidates : list of int
        The numbers of clusters to compare, from 2 to N.
    clusterer : SphericalKMeans
        The clusterer that they are for; its ``merge_to`` does not count.
    speakers : array_like, optional
        The true speakers, shape (N,), to check the criteria.

    Returns
    -------
    int
        The number of clusters that is chosen.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import SphericalKMeans
    >>> folder = getfixture("tmp_path")
    >>> voices = np.random.default_rng(0).standard_normal((5, 1, 16))
    >>> utterances = np.random.default_rng(1).standard_normal((5, 12, 16))
    >>> embeddings = (4 * voices + utterances).reshape(-1, 16)
    >>> choose_number(folder, embeddings, [3, 5, 8], SphericalKMeans())
    5
    >>> sorted(path.name for path in folder.iterdir())
    ['plots', 'sweep.json']
    """
    table = compare_numbers(embeddings, candidates, clusterer, speakers)
    picks = {
        name: int(table["num_clusters"][table[name].idxmax()])
        for name in CRITERIA + CHECKS
        if name in table and table[name].notna().any()
    }
    choice = max(picks[name] for name in CRITERIA if name in picks)
    logger.info(f"{choice} clusters are chosen from {candidates}: {picks}")
    folder = pathlib.Path(folder)
    rows = table.astype(object).where(table.notna(), None).to_dict("records")
    content = {"choice": choice, "picks": picks, "rows": rows}
    write_json(folder / "sweep.json", content)
    plot_sweep(folder / "plots" / "sweep.png", table, picks, choice)
    return choice


def compare_numbers(embeddings, candidates, clusterer, speakers=None):
    """Clusters utterances into several numbers of clusters.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).
    candidates : list of int
        Numbers of clusters, from 2 to N.
    clusterer : SphericalKMeans
        The clusterer that the numbers are for; its ``merge_to`` does not
        count.
    speakers : array_like, optional
        Shape (N,), see ``quality``: to check the criteria, which do not look
        at them.

    Returns
    -------
    pandas.DataFrame
        A row for each candidate, in rising order: ``num_clusters``,
        ``singletons``, ``silhouette`` (mean, see ``silhouettes``),
        ``stability`` (see ``stability_of_halves``; NaN for more than N / 2
        clusters) and, with speakers, ``ami`` and ``ari``.

    Raises
    ------
    ValueError
        If there are no candidates or one is less than 2; otherwise, see
        ``cluster``.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import SphericalKMeans
    >>> embeddings = np.repeat(np.eye(3), 4, axis=0)
    >>> table = compare_numbers(embeddings, [3, 2], SphericalKMeans())
    >>> table[["num_clusters", "silhouette"]].round(2)
       num_clusters  silhouette
    0             2        0.62
    1             3        1.00
    """
    check_candidates(candidates)
    points = unit_rows(embeddings)
    rows = []
    candidates = sorted(set(candidates))
    for place, number in enumerate(candidates, 1):
        logger.info(f"Number {place} of {len(candidates)}: {number} clusters")
        plain = sized(clusterer, number).set_params(merge_to=None)
        clusters, _ = find_clusters(plain, points)
        figures = quality(clusters, speakers=speakers)
        row = {
            "num_clusters": number,
            "singletons": figures["singletons"],
            "silhouette": float(silhouettes(points, clusters.labels).mean()),
            "stability": np.nan,
        }
        if number <= len(points) // 2:
            row["stability"] = stability_of_halves(points, plain)
        rows.append(row | {k: figures[k] for k in CHECKS if k in figures})
        logger.info(f"{number} clusters: {rows[-1]}")
    return pd.DataFrame(rows)


def check_candidates(candidates):
    """Raises if there is nothing to compare.

    Arguments
    ---------
    candidates : list of int
        See ``compare_numbers``.

    Example
    -------
    >>> check_candidates([1, 5])
    Traceback (most recent call last):
    ...
    ValueError: sweep=[1, 5]: give a list of whole numbers, each 2 or more.
    """
    is_list = isinstance(candidates, (list, tuple)) and len(candidates)
    if not is_list or not all(
        isinstance(number, numbers.Integral) and number >= 2
        for number in candidates
    ):
        raise ValueError(
            f"sweep={candidates}: give a list of whole numbers, each 2 or more."
        )


def stability_of_halves(points, clusterer):
    """How well clusters of one half of the utterances describe the other.

    Each half is clustered for itself, then labelled by the centroids of the
    other half as well. Whether the two labellings agree tells clusters that
    are there from those that chance has drawn (Tibshirani and Walther, 2005,
    Lange et al., 2004; we use other measures of the agreement than they).

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length.
    clusterer : SphericalKMeans
        The clusterer into K clusters, at most N / 2. Its seed is that of the
        halves, too.

    Returns
    -------
    float
        Adjusted mutual information, the mean over both halves of ``SPLITS``
        random splits: 1 at best, about 0 at chance.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import SphericalKMeans
    >>> points = np.repeat(np.eye(3, dtype=np.float32), 4, axis=0)
    >>> stability_of_halves(points, SphericalKMeans(3))
    1.0
    """
    nearest = find_engine(clusterer.engine, clusterer.device)
    rng = np.random.default_rng(clusterer.seed)
    values = []
    for split in range(SPLITS):
        halves = np.array_split(rng.permutation(len(points)), 2)
        halves = [points[np.sort(rows)] for rows in halves]
        seeded = sized(clusterer).set_params(seed=clusterer.seed + split)
        found = [find_clusters(seeded, half)[0] for half in halves]
        for half, own, other in zip(halves, found, found[::-1]):
            labels, _ = nearest(half, other.centroids)
            values.append(adjusted_mutual_information(own.labels, labels))
    return float(np.mean(values))
