"""Any clusterer in scikit-learn's form, SphericalKMeans or another."""

import numpy as np
from sklearn.base import clone

from speechbrain_cadino.clustering.kmeans import (
    Clusters,
    SphericalKMeans,
    directions,
)
from speechbrain_cadino.clustering.rows import sums_of_members, unit_rows
from speechbrain_cadino.embeddings.store import chunks


def sized(clusterer, number=None, device=None):
    """A copy of a clusterer that makes so many clusters, on a device, if it can
    be told.

    Arguments
    ---------
    clusterer : object
        See ``find_clusters``.
    number : int, optional
        The ``n_clusters`` of the copy; by default that stays. So it does where
        it is None and another one than SphericalKMeans finds the number by
        itself.
    device : str, optional
        The ``device`` of the copy, where it has one and nobody has chosen it.

    Returns
    -------
    object
        The copy; the clusterer itself stays as it is.

    Example
    -------
    >>> sized(SphericalKMeans(7), 8).n_clusters
    8
    """
    clusterer = clone(clusterer, safe=False)
    takes = isinstance(clusterer, SphericalKMeans) or (
        getattr(clusterer, "n_clusters", None) is not None
    )
    if number is not None and takes:
        clusterer.n_clusters = number
    if getattr(clusterer, "device", "") is None:
        clusterer.device = device
    return clusterer


class NoClusters(ValueError):
    """A clusterer has left all utterances out."""


def find_clusters(clusterer, embeddings):
    """Clusters embeddings by any clusterer in scikit-learn's form.

    Arguments
    ---------
    clusterer : object
        The clusterer, which has ``fit_predict``, from (N, D) to (N,): a label
        that is negative leaves an utterance out.
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).

    Returns
    -------
    clusters : Clusters
        The clusters of the utterances that are in; their centroids are those
        of SphericalKMeans, of any other clusterer the mean directions.
    within : numpy.ndarray
        Shape (N,), bool: which utterances are in.

    Raises
    ------
    ValueError
        If all are left out.

    Example
    -------
    >>> from sklearn.cluster import DBSCAN
    >>> points = np.array([[1, 0], [1, 0.01], [0, 1], [-1, 0], [-1, 0.01]])
    >>> clusters, within = find_clusters(DBSCAN(0.1, min_samples=2), points)
    >>> clusters.labels, within
    (array([0, 0, 1, 1]), array([ True,  True, False,  True,  True]))
    """
    labels = np.asarray(clusterer.fit_predict(embeddings))
    within = labels >= 0
    if not within.any():
        raise NoClusters(
            f"{type(clusterer).__name__} leaves all {len(labels)} utterances "
            "out: its settings do not suit these embeddings."
        )
    if isinstance(clusterer, SphericalKMeans):
        return Clusters(labels, clusterer.cluster_centers_), within
    _, labels = np.unique(labels[within], return_inverse=True)
    centroids = mean_directions(embeddings[within], labels, labels.max() + 1)
    return Clusters(labels.astype(np.int64), centroids), within


def mean_directions(embeddings, labels, num_clusters):
    """The centroids of clusters that are there already.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).
    labels : numpy.ndarray
        The cluster of each, shape (N,), int64, of 0 ... K - 1; a negative one
        stands for an embedding of no cluster, whatever it is.
    num_clusters : int
        K, the number of clusters.

    Returns
    -------
    numpy.ndarray
        The mean direction of each cluster's embeddings, of unit length, shape
        (K, D), float32; zeros where they cancel each other out.

    Example
    -------
    >>> points = np.array([[1.0, 0.0], [0.0, 9.0], [0.0, -1.0]])
    >>> mean_directions(points, np.array([0, 0, 1]), num_clusters=2).round(3)
    array([[ 0.707,  0.707],
           [ 0.   , -1.   ]], dtype=float32)
    """
    sums = np.zeros((num_clusters, embeddings.shape[1]), np.float32)
    for rows in chunks(len(embeddings)):  # no copy of all
        within = labels[rows] >= 0
        points = unit_rows(embeddings[rows][within])
        sums += sums_of_members(points, labels[rows][within], num_clusters)
    return directions(sums, np.zeros_like(sums))
