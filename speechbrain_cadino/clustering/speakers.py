"""Clusters of files, and how many: Ward linkage."""

import functools

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from tqdm import tqdm

from speechbrain_cadino.clustering.kmeans import check_options, cluster
from speechbrain_cadino.clustering.quality import silhouettes
from speechbrain_cadino.clustering.rows import sums_of_members, unit_rows

# The memory of a tree grows with the square of its leaves: 100 MB. Where there
# are more files, a leaf is a small cluster.
MOST_LEAVES = 5000

# Numbers of clusters to compare, at most: they grow by a factor.
CANDIDATES = 60

# Of the stability: which share of the files is clustered again, how often, and
# how often where that takes long
SHARE = 0.8
REPLICATES = 50
FEWER_REPLICATES = 10
MANY = 1000


def find_speakers(embeddings, num_clusters=None, calibration=None, device=None):
    """Clusters the embeddings of files, so that a cluster is a speaker.

    Up to ``MOST_LEAVES`` files are merged step by step (Ward linkage), which
    needs no random start: k-means of a few files depends on it. With a
    calibration, the number is that of the most likely partition, one speaker
    being as possible as any other: see ``most_likely_number``. Without, it is
    where the mean silhouette is the highest, which takes two clusters: one is
    never the choice. Of more files, k-means makes ``MOST_LEAVES`` small
    clusters first, and these are merged: more speakers than that are found
    only if so many are asked for, which k-means then makes.

    The result does not depend on the order of the files.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings of the files, shape (N, D).
    num_clusters : int, optional
        K, the number of clusters; chosen by default.
    calibration : ScoreCalibration, optional
        The calibration, which tells what the cosine of two embeddings means.
    device : str, optional
        The device of k-means, such as "cuda:0"; the CPU by default.

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
    >>> find_speakers(embeddings)
    array([0, 0, 1, 0, 1])
    """
    check_number(len(embeddings), num_clusters, calibration)
    points = unit_rows(embeddings)
    # An order of their own: ties, starts and names of clusters follow it
    order = np.lexsort(points.T)
    labels = np.empty(len(points), np.int64)
    labels[order] = _largest_first(
        _partition(points[order], num_clusters, calibration, device)
    )
    return labels


def _partition(points, num_clusters, calibration, device):
    """Cluster numbers of points of unit length."""
    count = len(points)
    if num_clusters == 1 or count == 1:
        return np.zeros(count, np.int64)
    leaves, centres = np.arange(count), points
    if count > MOST_LEAVES:
        number = max(num_clusters or 0, MOST_LEAVES)
        engine = "torch" if str(device).startswith("cuda") else "sklearn"
        leaves, centres = cluster(points, number, engine=engine, device=device)
        if number == num_clusters:
            return leaves
    tree = linkage(centres, "ward")
    # Merges of one height, as of copies of a file, would be undone together
    tree[:, 2] = np.arange(len(tree))
    if num_clusters is None:
        choose = functools.partial(most_likely_number, calibration=calibration)
        if calibration is None:
            choose = best_silhouette
        num_clusters = choose(points, tree, leaves)
    return fcluster(tree, num_clusters, "maxclust")[leaves]


def most_likely_number(points, tree, leaves, calibration):
    """How many clusters the cut of a tree has that is the most likely.

    A partition says of each pair whether it is of one speaker. Its logarithmic
    likelihood, as if pairs were independent, changes by the sum of the pairs'
    log-likelihood ratios between two clusters when these are merged.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length.
    tree : numpy.ndarray
        Shape (K - 1, 4), of ``scipy.cluster.hierarchy.linkage``.
    leaves : numpy.ndarray
        Shape (N,): the leaf of each point, from 0 to K - 1.
    calibration : ScoreCalibration
        The calibration, which tells what the cosine of two points means.

    Returns
    -------
    int
        The number of clusters, from 1 to K.

    Example
    -------
    >>> from speechbrain_cadino.encoders.calibration import ScoreCalibration
    >>> calibration = ScoreCalibration(-5.0, 10.0, "trials", 100, 10)
    >>> points = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8]])
    >>> leaves, tree = np.arange(3), linkage(points, "ward")
    >>> most_likely_number(points, tree, leaves, calibration)
    1
    >>> points = np.array([[1.0, 0.0], [0.96, 0.28], [0.0, 1.0]])
    >>> tree = linkage(points, "ward")
    >>> most_likely_number(points, tree, leaves, calibration)
    2
    """
    count = len(tree) + 1
    sums = np.zeros((2 * count - 1, points.shape[1]))
    sums[:count] = sums_of_members(points, leaves, count)
    sizes = np.zeros(2 * count - 1)
    sizes[:count] = np.bincount(leaves, minlength=count)
    gains = np.empty(count - 1)
    for step, (one, other, *_) in enumerate(tree):
        one, other, both = int(one), int(other), count + step
        pairs = sizes[one] * sizes[other]
        scores = sums[one] @ sums[other]
        gains[step] = pairs * calibration.offset + calibration.slope * scores
        sums[both] = sums[one] + sums[other]
        sizes[both] = sizes[one] + sizes[other]
    likelihoods = np.concatenate([[0.0], gains.cumsum()])
    return count - int(likelihoods.argmax())


def best_silhouette(points, tree, leaves):
    """How many clusters the cut of a tree has whose mean silhouette is the
    highest.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length.
    tree, leaves : numpy.ndarray
        See ``most_likely_number``.

    Returns
    -------
    int
        The number of clusters, from 2 to K, or N - 1.
    """
    numbers = _candidates(min(len(tree) + 1, len(points) - 1))
    values = [
        silhouettes(
            points, pd.factorize(fcluster(tree, number, "maxclust")[leaves])[0]
        ).mean()
        for number in tqdm(
            numbers, desc="Comparing numbers of clusters", delay=1
        )
    ]
    return numbers[int(np.argmax(values))]


def stability(embeddings, labels, choose):
    """How surely files belong together, were there a few others less.

    A share of the files is clustered again, many times. For each file, its
    cluster there is compared with its cluster here: how many files are in
    both, of those in either (the Jaccard index of Hennig 2007, "Cluster-wise
    assessment of cluster stability").

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings of the files, shape (N, D).
    labels : numpy.ndarray
        Shape (N,): the clusters.
    choose : callable
        The function that made them: from embeddings to labels.

    Returns
    -------
    stability : numpy.ndarray
        Shape (N,), from 0 to 1: the mean over all times; NaN for a file that
        was never in.
    numbers : numpy.ndarray
        The number of clusters each time.

    Example
    -------
    >>> embeddings = np.repeat(np.eye(3), 4, axis=0)
    >>> labels = np.repeat(np.arange(3), 4)
    >>> choose = lambda points: find_speakers(points)
    >>> values, numbers = stability(embeddings, labels, choose)
    >>> values.min().item(), set(numbers.tolist())
    (1.0, {3})
    """
    count = len(labels)
    size = max(2, round(SHARE * count))
    # In an order of their own, for the same reason as above
    order = np.lexsort(np.asarray(embeddings).T)
    rng = np.random.default_rng(0)
    totals, times, numbers = np.zeros(count), np.zeros(count), []
    replicates = REPLICATES if count <= MANY else FEWER_REPLICATES
    for _ in tqdm(range(replicates), desc="Clustering again", delay=1):
        rows = order[rng.permutation(count)[:size]]
        again = choose(embeddings[rows])
        table = pd.crosstab(labels[rows], again).to_numpy()
        _, here = np.unique(labels[rows], return_inverse=True)
        both = table[here, again]
        either = table.sum(1)[here] + table.sum(0)[again] - both
        totals[rows] += both / either
        times[rows] += 1
        numbers.append(again.max() + 1)
    with np.errstate(invalid="ignore"):
        return totals / times, np.array(numbers)


def check_number(count, num_clusters=None, calibration=None):
    """Raises what ``find_speakers`` would, before there are embeddings.

    Arguments
    ---------
    count : int
        N, the number of files.
    num_clusters : int, optional
        See ``find_speakers``.
    calibration : ScoreCalibration, optional
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
    elif count < (3 if calibration is None else 1):
        raise ValueError(
            f"{count} file(s) are too few to tell the number of speakers: "
            "give num_clusters, or an encoder with a calibration."
        )


def _candidates(most):
    """Numbers of clusters from 2 on, all of them if they are few."""
    if most <= CANDIDATES:
        return list(range(2, most + 1))
    return np.unique(np.geomspace(2, most, CANDIDATES).astype(int)).tolist()


def _largest_first(labels):
    """Numbers clusters by their size, those of one size as they come."""
    codes, _ = pd.factorize(labels)
    order = np.argsort(-np.bincount(codes), kind="stable")
    return np.argsort(order)[codes]
