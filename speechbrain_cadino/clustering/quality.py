"""Quality of clusters, with the true speakers and without."""

import pathlib

import numpy as np
import pandas as pd
from scipy.special import gammaln
from scipy.stats import entropy
from sklearn.metrics import (
    adjusted_rand_score,
    mutual_info_score,
    normalized_mutual_info_score,
)
from sklearn.metrics.cluster import contingency_matrix

from speechbrain_cadino.clustering.plots import plot_clusters
from speechbrain_cadino.clustering.rows import sums_of_members, unit_rows
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.process.files import write_json

# Utterances whose similarity to all the clusters is looked at. The standard
# error of a mean of so many cosines is below 0.01.
SAMPLE = 20_000

# Similarities that are held at once: 64 MiB.
SIMILARITIES = 2**24


# Of so many of the largest clusters, so many utterances are named.
LARGEST = 5
EXAMPLES = 3


def quality(clusters, embeddings=None, speakers=None):
    """How good clusters are.

    Arguments
    ---------
    clusters : Clusters
        The K clusters of N utterances.
    embeddings : numpy.ndarray, optional
        Embeddings, shape (N, D).
    speakers : array_like, optional
        Shape (N,): the true speaker of each utterance, None or NaN where
        nobody knows. Such utterances are left out of the measures that need
        the speaker.

    Returns
    -------
    dict
        ``utterances``, ``clusters``, ``singletons`` (clusters of one
        utterance), ``sizes`` and ``size_histogram`` (how many clusters have
        1, 2-3, 4-7, ... utterances).

        With embeddings, means over at most ``SAMPLE`` utterances, evenly
        spread over all: ``cosine_to_centroid``,
        ``cosine_to_nearest_other`` (centroid) and ``silhouette`` (see
        ``silhouettes``). The last two are None if there is one cluster.

        With speakers: ``without_speaker`` (utterances left out),
        ``speakers``, ``nmi``, ``ami``, ``ari``, ``purity`` (share of
        utterances of the most frequent speaker of their cluster),
        ``clusters_per_speaker`` and ``speakers_per_cluster`` (means).

    Raises
    ------
    ValueError
        If the speaker of no utterance is known.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import cluster
    >>> clusters = cluster(np.array([[1, 0], [2, 0], [0, 1]]), num_clusters=2)
    >>> figures = quality(clusters, speakers=["anne", "bob", None])
    >>> figures["sizes"]
    {'min': 1, 'median': 1.5, 'mean': 1.5, 'max': 2}
    >>> figures["size_histogram"], figures["singletons"]
    ({'1': 1, '2-3': 1}, 1)
    >>> figures["speakers"], figures["without_speaker"], figures["purity"]
    (2, 1, 0.5)
    """
    return _measured(clusters, embeddings, speakers)[0]


def _measured(clusters, embeddings, speakers):
    """What ``quality`` gives, and what it is made of, each None where it is of
    nothing: the cosines of ``separation``, and how many utterances of each
    speaker are in each cluster."""
    sizes = np.bincount(clusters.labels)
    figures, cosines, table = _sizes(sizes), None, None
    if embeddings is not None:
        points = unit_rows(embeddings)
        own, other = cosines = separation(points, clusters)
        figures |= {
            "cosine_to_centroid": float(own.mean()),
            "cosine_to_nearest_other": None,
            "silhouette": None,
        }
        if len(sizes) > 1:
            silhouette = silhouettes(points, clusters.labels)
            figures |= {
                "cosine_to_nearest_other": float(other.mean()),
                "silhouette": float(silhouette.mean()),
            }
    if speakers is not None:
        truth, labels, table = _speakers_in_clusters(clusters.labels, speakers)
        figures |= {
            "without_speaker": len(clusters.labels) - len(labels),
            "speakers": table.shape[0],
            "nmi": float(normalized_mutual_info_score(truth, labels)),
            "ami": adjusted_mutual_information(truth, labels),
            "ari": float(adjusted_rand_score(truth, labels)),
            "purity": float(table.max(axis=0).sum() / len(labels)),
            "clusters_per_speaker": table.nnz / table.shape[0],
            "speakers_per_cluster": table.nnz / table.shape[1],
        }
    return figures, cosines, table


def _sizes(sizes):
    doubling = np.bincount(np.log2(sizes).astype(int)).tolist()
    names = [f"{2**i}-{2 ** (i + 1) - 1}" for i in range(len(doubling))]
    return {
        "utterances": int(sizes.sum()),
        "clusters": len(sizes),
        "singletons": int((sizes == 1).sum()),
        "sizes": {
            "min": int(sizes.min()),
            "median": float(np.median(sizes)),
            "mean": float(sizes.mean()),
            "max": int(sizes.max()),
        },
        "size_histogram": dict(zip(["1", *names[1:]], doubling)),
    }


def _speakers_in_clusters(labels, speakers):
    """Speaker and label of the utterances whose speaker is known, and how
    many utterances of each speaker (row) are in each cluster (column)."""
    speakers = np.asarray(speakers, object)
    known = ~pd.isna(speakers)
    if not known.any():
        raise ValueError(
            f"None of the {len(known)} utterances has a known speaker: leave "
            "the speakers away."
        )
    truth, labels = pd.factorize(speakers[known])[0], labels[known]
    table = contingency_matrix(truth, labels, sparse=True).tocsc()
    return truth, labels, table


def separation(points, clusters):
    """How near the own centroid is, and how near the next.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length. Of more than ``SAMPLE``, as many are
        looked at, evenly spread over all.
    clusters : Clusters
        The clusters of these points.

    Returns
    -------
    own : numpy.ndarray
        Shape (n,): cosine of each point looked at to its own centroid.
    other : numpy.ndarray
        Shape (n,): cosine to the nearest other one, -inf if there is none.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import Clusters
    >>> points = np.eye(2, dtype=np.float32)
    >>> separation(points, Clusters(np.array([0, 1]), points))
    (array([1., 1.], dtype=float32), array([0., 0.], dtype=float32))
    """
    own, other = [], []
    for rows, cosines in _products(points, clusters.centroids):
        mine = np.arange(len(rows)), clusters.labels[rows]
        own.append(cosines[mine])
        cosines[mine] = -np.inf
        other.append(cosines.max(1))
    return np.concatenate(own), np.concatenate(other)


def silhouettes(points, labels):
    """Silhouettes by cosine distance, exact.

    With a the mean distance to the other members of the own cluster, and b
    the lowest mean distance to the members of another one, it is
    (b - a) / max(a, b), and 0 in a cluster of one (Rousseeuw, 1987). The
    mean cosine to a cluster is the product with its members' mean, so no
    distance between two utterances is needed.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length. Of more than ``SAMPLE``, as many are
        looked at, evenly spread over all.
    labels : numpy.ndarray
        Shape (N,), int64. Each of 0 ... K - 1 occurs, and K is 2 or more.

    Returns
    -------
    numpy.ndarray
        Shape (n,), between -1 and 1.

    Example
    -------
    >>> points = np.array([[1, 0], [1, 0], [0.6, 0.8]])
    >>> silhouettes(points, np.array([0, 0, 1]))
    array([1., 1., 0.])
    """
    sizes = np.bincount(labels)
    sums = sums_of_members(points, labels, len(sizes))
    result = []
    for rows, products in _products(points, sums):
        mine, size = (np.arange(len(rows)), labels[rows]), sizes[labels[rows]]
        within = 1 - (products[mine] - 1) / np.maximum(size - 1, 1)
        distances = 1 - products / sizes
        distances[mine] = np.inf
        between = distances.min(1)
        # Rounding, where all these utterances are the same.
        scale = np.maximum(np.maximum(within, between), 1e-6)
        result.append(np.where(size > 1, (between - within) / scale, 0))
    return np.concatenate(result)


def _products(points, others):
    """Goes over a sample of the points: rows, and products with the others."""
    sample = spread_rows(len(points), SAMPLE)
    size = max(1, SIMILARITIES // len(others))
    for first in range(0, len(sample), size):
        rows = sample[first : first + size]
        yield rows, points[rows] @ others.T


def adjusted_mutual_information(labels, other):
    """Mutual information, adjusted for chance.

    What ``sklearn.metrics.adjusted_mutual_info_score`` gives (the mean of
    the entropies counts as 1). That takes minutes for a million utterances
    in thousands of clusters; this takes seconds, as it works out chance once
    for all clusters of the same size.

    Arguments
    ---------
    labels : array_like
        Labels of the utterances, shape (N,).
    other : array_like
        Other labels of the same utterances, shape (N,).

    Returns
    -------
    float
        The figure: 1 if they are the same, about 0 if they are no more alike
        than by chance.

    Example
    -------
    >>> adjusted_mutual_information([0, 0, 1, 1], [5, 5, 3, 3])
    1.0
    >>> round(adjusted_mutual_information([0, 0, 1, 1], [0, 1, 0, 1]), 6)
    -0.5
    """
    table = contingency_matrix(labels, other, sparse=True)
    if table.shape == (table.nnz, table.nnz):
        return 1.0
    left, right = (np.asarray(table.sum(axis)).ravel() for axis in (1, 0))
    chance = _mutual_information_by_chance(left, right)
    highest = (entropy(left) + entropy(right)) / 2
    found = mutual_info_score(None, None, contingency=table)
    return float((found - chance) / (highest - chance))


def _mutual_information_by_chance(left, right):
    """Expected for random clusters of these sizes (Vinh, Epps and Bailey,
    Journal of Machine Learning Research 11, 2010): the overlap n of clusters
    of a and b utterances then has a hypergeometric distribution."""
    total = left.sum()
    log_factorial = gammaln(np.arange(total + 1) + 1)
    expected = 0
    for a, times_a in zip(*np.unique(left, return_counts=True)):
        for b, times_b in zip(*np.unique(right, return_counts=True)):
            n = np.arange(max(1, a + b - total), min(a, b) + 1)
            ways = log_factorial[[a, b, total - a, total - b]].sum()
            cells = [n, a - n, b - n, total - a - b + n]
            log_p = ways - log_factorial[total] - log_factorial[cells].sum(0)
            information = n / total * np.log(n / a * (total / b))
            expected += times_a * times_b * (np.exp(log_p) @ information)
    return expected


def write_clusters(
    folder, ids, clusters, embeddings=None, speakers=None, more=None
):
    """Writes ``clusters.json`` and ``plots/clusters.png``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write to.
    ids : list of str
        The N utterances.
    clusters : Clusters
        The K clusters of the utterances. See ``quality``, also for the errors.
    embeddings : numpy.ndarray, optional
        Embeddings, shape (N, D), for the figures of cosines.
    speakers : array_like, optional
        The true speakers, shape (N,); None or NaN where nobody knows.
    more : dict, optional
        The entries that ``clusters.json`` gets besides.

    Returns
    -------
    dict
        The content of ``clusters.json``: the result of ``quality``, and
        ``largest``, a few utterances of the largest clusters to listen to.

    Raises
    ------
    ValueError
        If the arguments are of different lengths.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import Clusters
    >>> folder = getfixture("tmp_path")
    >>> clusters = Clusters(np.array([0, 1, 1]), np.eye(2))
    >>> report = write_clusters(folder, ["a", "b", "c"], clusters)
    >>> report["largest"][0]
    {'cluster': 1, 'utterances': 2, 'examples': ['b', 'c']}
    >>> sorted(path.name for path in folder.iterdir())
    ['clusters.json', 'plots']
    """
    for other in [ids, embeddings, speakers]:
        if other is not None and len(other) != len(clusters.labels):
            raise ValueError(
                f"{len(clusters.labels)} labels, but {len(other)} IDs, "
                "embeddings or speakers: they must be of the same utterances."
            )
    figures, cosines, table = _measured(clusters, embeddings, speakers)
    report = figures | (more or {})
    report["largest"] = _largest(ids, clusters.labels)
    write_json(pathlib.Path(folder) / "clusters.json", report)
    path = pathlib.Path(folder) / "plots" / "clusters.png"
    plot_clusters(path, np.bincount(clusters.labels), cosines, table)
    return report


def _largest(ids, labels):
    sizes = np.bincount(labels)
    return [
        {
            "cluster": int(label),
            "utterances": int(sizes[label]),
            "examples": [
                ids[row] for row in np.flatnonzero(labels == label)[:EXAMPLES]
            ],
        }
        for label in np.argsort(-sizes, kind="stable")[:LARGEST]
    ]
