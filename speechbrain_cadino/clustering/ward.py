"""Clusters of a few thousand files, and how many: Ward linkage."""

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.kmeans import (
    check_options,
    cluster,
    unit_rows,
)
from speechbrain_cadino.clustering.quality import silhouettes
from speechbrain_cadino.clustering.sweep import sweep

logger = get_logger(__name__)

# The memory of a tree grows with the square of its leaves: 100 MB.
MOST_LEAVES = 5000

# Numbers of clusters to compare, at most: they grow by a factor.
CANDIDATES = 60
SWEEP_CANDIDATES = 12


def find_speakers(embeddings, folder, num_clusters=None):
    """Clusters the embeddings of files, so that a cluster is a speaker.

    Up to ``MOST_LEAVES`` files are merged step by step (Ward linkage), which
    needs no random start: k-means of a few files depends on it. The number is
    where the mean silhouette is the highest. It takes two clusters for a
    silhouette: one is never the choice. More files are clustered by k-means,
    and the number is chosen by ``clustering.sweep``.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D).
    folder : str or pathlib.Path
        Where the figures of the sweep go, should there be one.
    num_clusters : int, optional
        K; chosen by default.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int64: 0 ... K - 1, 0 being the largest cluster.

    Raises
    ------
    ValueError
        See ``check_number``; or if an embedding is zero or not finite.

    Example
    -------
    >>> embeddings = np.array([[1, 0], [9, 1], [0, 1], [1, 0.1], [1, 8]])
    >>> find_speakers(embeddings, "sweep")
    array([0, 0, 1, 0, 1])
    """
    count = len(embeddings)
    check_number(count, num_clusters)
    if count > MOST_LEAVES:
        number = num_clusters or sweep(
            folder, embeddings, _candidates(count // 4, SWEEP_CANDIDATES)
        )
        return _largest_first(cluster(embeddings, number).labels)
    if num_clusters == 1:
        return np.zeros(count, np.int64)
    points = unit_rows(embeddings)
    tree = linkage(points, "ward")
    if num_clusters is not None:
        return _cut(tree, num_clusters)
    cuts = [_cut(tree, number) for number in _candidates(count - 1, CANDIDATES)]
    bar = tqdm(cuts, desc="Comparing numbers of clusters", delay=1)
    values = [silhouettes(points, labels).mean() for labels in bar]
    best = int(np.argmax(values))
    logger.info(
        f"{cuts[best].max() + 1} clusters are chosen, their mean silhouette is "
        f"{values[best]:.2f} (1: far apart, 0: there may be just one speaker)."
    )
    return cuts[best]


def check_number(count, num_clusters=None):
    """Raises what ``find_speakers`` would, before there are embeddings.

    Arguments
    ---------
    count : int
        N, the number of files.
    num_clusters : int, optional
        See ``find_speakers``.

    Raises
    ------
    ValueError
        If there are too few files to choose a number, or fewer than clusters.

    Example
    -------
    >>> check_number(2)
    Traceback (most recent call last):
    ...
    ValueError: 2 file(s) are too few to tell the number of speakers: ...
    """
    if num_clusters is not None:
        check_options(count, num_clusters)
    elif count < 3:
        raise ValueError(
            f"{count} file(s) are too few to tell the number of speakers: "
            "give num_clusters, or compare the files by 'verify'."
        )


def _candidates(most, count):
    """Numbers of clusters from 2 on, all of them if they are few."""
    return np.unique(np.geomspace(2, most, count).astype(int)).tolist()


def _cut(tree, number):
    """The clusters of a tree."""
    return _largest_first(fcluster(tree, number, "maxclust"))


def _largest_first(labels):
    """Numbers clusters by their size, those of one size as they come."""
    codes, _ = pd.factorize(labels)
    order = np.argsort(-np.bincount(codes), kind="stable")
    return np.argsort(order)[codes]
