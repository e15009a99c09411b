"""Spherical k-means: the pseudo speakers of embedded utterances.

The loop, the start and the mending of empty clusters are here. An engine, see
``engines``, only answers which centroid is the nearest to each utterance, which
is where nearly all of the time goes. Under torchrun, all processes may take
part.
"""

from typing import NamedTuple

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClusterMixin
from sklearn.cluster import AgglomerativeClustering
from tqdm import tqdm

from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.engines import engine_device, find_engine
from speechbrain_cadino.clustering.rows import rows_of, run_shared
from speechbrain_cadino.process.memory import memory_here
from speechbrain_cadino.process.precision import full_precision

logger = get_logger(__name__)

# k-means++ picks the first centroids from so many random rows per cluster. It
# compares each of them with all centroids 2 + ln K times over: as much work as
# so many passes over all rows if the clusters have 8, less if they have more.
SAMPLE_PER_CLUSTER = 8

# The share of the memory that merging may take: there are embeddings, too
MOST_OF_MEMORY = 0.7


class Clusters(NamedTuple):
    """What ``cluster`` finds.

    Arguments
    ---------
    labels : numpy.ndarray
        Shape (N,), int64. Each of 0 ... K - 1 occurs.
    centroids : numpy.ndarray
        Shape (K, D), float32, of unit length.
    """

    labels: np.ndarray
    centroids: np.ndarray


def cluster(
    embeddings,
    num_clusters,
    merge_to=None,
    engine="sklearn",
    iterations=20,
    seed=0,
    device=None,
):
    """Spherical k-means: clusters embeddings by their cosine.

    Every cluster has a member: one that k-means leaves empty gets the
    utterance that fits its own the worst. At 1.1 million utterances of 192
    dimensions it needs about 2 GB of memory on top of the embeddings; under
    torchrun, within ``run_clustering``, each process a part of that.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D), of any length; a ``numpy.memmap`` is read in pieces.
    num_clusters : int or float
        K, the number of clusters, or below 1 its share of the utterances.
    merge_to : int or float, optional
        The number, or the share, of clusters to merge the K into, by
        agglomerative clustering of their centroids (Ward linkage, as Thienpondt
        et al. 2021, "The IDLab VoxCeleb Speaker Recognition Challenge 2020
        System Description").
    engine : str
        "sklearn" (on the CPU), "faiss" (on the CPU, the extra of this name)
        or "torch".
    iterations : int
        The number of iterations, at most. It ends sooner once no utterance
        changes its cluster.
    seed : int
        The seed of the start. The result is the same for the same seed, engine
        and machine; no global random state is touched.
    device : str, optional
        The device of the torch engine, e.g. "cuda:0"; a GPU by default if there
        is one.

    Returns
    -------
    Clusters
        The clusters: every utterance has the label of the nearest centroid, if
        no cluster was left empty and ``merge_to`` is not given.

    Raises
    ------
    ValueError
        If there are fewer utterances than clusters, an argument makes no
        sense, or an embedding is zero or not finite.
    ImportError
        If the engine is not installed.

    Example
    -------
    >>> embeddings = np.array([[1, 0.1], [0.1, 1], [2, 0.1], [0.1, 3]])
    >>> labels, centroids = cluster(embeddings, num_clusters=2)
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
    True
    >>> centroids[labels[0]].round(2)
    array([1.  , 0.07], dtype=float32)
    """
    num_clusters, merge_to = (
        whole_number(number, len(embeddings))
        for number in (num_clusters, merge_to)
    )
    check_options(len(embeddings), num_clusters, merge_to, engine)
    task = {
        "num_clusters": num_clusters,
        "merge_to": merge_to,
        "engine": engine,
        "iterations": iterations,
        "seed": seed,
        # Of several GPUs, each process has its own
        "device": device and torch.device(device).type,
    }
    rows = rows_of(embeddings, task)
    return _cluster(rows, **{**task, "device": device})


def _cluster(rows, num_clusters, merge_to, engine, iterations, seed, device):
    """``cluster``, of rows in one or several processes."""
    nearest = find_engine(engine, device)
    start = engine_device(device) if engine == "torch" else device
    if not str(start).startswith("cuda"):  # Apple's has no double precision
        start = "cpu"
    centroids = _start(rows, num_clusters, seed, start)
    with tqdm(
        total=iterations + 1,
        desc="Clustering",
        unit="iteration",
        disable=not if_main_process(),
    ) as bar:
        clusters, fit = _assign(rows, centroids, nearest)
        bar.update()
        for _ in range(iterations):
            previous = clusters
            centroids = directions(
                rows.sums(previous.labels, num_clusters), previous.centroids
            )
            clusters, fit = _assign(rows, centroids, nearest)
            bar.set_postfix(cosine=f"{fit:.4f}")
            bar.update()
            changed = np.sum(clusters.labels != previous.labels, keepdims=True)
            if not rows.total(changed)[0]:
                break
    if merge_to:
        clusters = _merge(rows, clusters, merge_to)
    return Clusters(rows.whole(clusters.labels), clusters.centroids)


def run_clustering(function, **options):
    """As ``run_on_main``; under torchrun, all processes take part in the
    k-means in it, and each holds a part of the embeddings.

    Arguments
    ---------
    function : callable
        A function that calls ``cluster``, once or more often, directly or
        through SphericalKMeans. The main process calls it.
    **options
        Further arguments of ``run_on_main``: ``args``, ``post_func``.

    Returns
    -------
    object
        The result of the function, on all processes.

    Example
    -------
    >>> run_clustering(cluster, args=[np.eye(3), 1]).labels
    array([0, 0, 0])
    """
    return run_shared(function, _cluster, **options)


class SphericalKMeans(ClusterMixin, BaseEstimator):
    """``cluster`` as an estimator of scikit-learn.

    Arguments
    ---------
    n_clusters : int or float
        K; below 1, the share of the utterances that it is.
    merge_to : int or float, optional
        The number of clusters to merge the K into; below 1, the share of the
        utterances that it is; None for no merging. See ``cluster``.
    engine : str
        The engine of k-means: "sklearn", "faiss" or "torch". See ``cluster``.
    iterations : int
        The number of iterations, at most.
    seed : int
        The seed of the start.
    device : str, optional
        The device of the torch engine; a GPU by default if there is one.

    Attributes
    ----------
    labels_ : numpy.ndarray
        The clusters of the utterances, shape (N,), int64.
    cluster_centers_ : numpy.ndarray
        Shape (K, D), float32, of unit length.

    Example
    -------
    >>> embeddings = np.array([[1, 0.1], [0.1, 1], [2, 0.1], [0.1, 3]])
    >>> labels = SphericalKMeans(n_clusters=2).fit_predict(embeddings)
    >>> bool(labels[0] == labels[2] != labels[1] == labels[3])
    True
    """

    def __init__(
        self,
        n_clusters=7500,
        merge_to=None,
        engine="sklearn",
        iterations=20,
        seed=0,
        device=None,
    ):
        self.n_clusters = n_clusters
        self.merge_to = merge_to
        self.engine = engine
        self.iterations = iterations
        self.seed = seed
        self.device = device

    def fit(self, embeddings, y=None):
        """Clusters embeddings.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).
        y : optional
            Not used.

        Returns
        -------
        SphericalKMeans
            This clusterer.
        """
        found = cluster(embeddings, **self.options(len(embeddings)))
        self.labels_, self.cluster_centers_ = found
        return self

    def options(self, count):
        """The arguments of ``cluster``, shares as numbers.

        Arguments
        ---------
        count : int
            N, the number of utterances.

        Returns
        -------
        dict
            The arguments by name, all but ``embeddings``.
        """
        options = self.get_params()
        number = whole_number(options.pop("n_clusters"), count)
        options["merge_to"] = whole_number(options["merge_to"], count)
        return {"num_clusters": number, **options}

    def check(self, count):
        """Raises what ``fit`` would, before there are embeddings.

        Arguments
        ---------
        count : int
            N, the number of utterances.
        """
        options = self.options(count)
        for name in ["iterations", "seed", "device"]:
            del options[name]
        check_options(count, **options)


def whole_number(number, count):
    """A number of clusters that may be a share of the utterances.

    Arguments
    ---------
    number : int or float, optional
        The number, or the share if it is above 0 and below 1; any other is left
        as it is.
    count : int
        The number of utterances.

    Returns
    -------
    int, float or None
        The whole number, of a share at least 1; any other value as it is.

    Example
    -------
    >>> whole_number(0.7, 865), whole_number(600, 865), whole_number(3.0, 865)
    (606, 600, 3)
    """
    if number is not None and 0 < number < 1:
        return max(1, round(number * count))
    # As a calculation in a YAML file gives it: 600 / 2 is 300.0
    is_whole = isinstance(number, float) and number.is_integer()
    return int(number) if is_whole else number


def check_options(count, num_clusters, merge_to=None, engine="sklearn"):
    """Raises what ``cluster`` would, before there are embeddings.

    Arguments
    ---------
    count : int
        N, the number of utterances.
    num_clusters : int
        K, the number of clusters. See ``cluster``, also for the errors.
    merge_to : int, optional
        The number of clusters to merge the K into; None for no merging.
    engine : str
        The engine of k-means: "sklearn", "faiss" or "torch".

    Example
    -------
    >>> check_options(1000, num_clusters=7500)
    Traceback (most recent call last):
    ...
    ValueError: 1000 utterances cannot make 7500 clusters: ...
    """
    for name, number in [
        ("num_clusters", num_clusters),
        ("merge_to", merge_to),
    ]:
        if number is not None and number % 1:
            raise ValueError(
                f"{name} is {number}: give a whole number, or below 1 a share "
                "of the utterances."
            )
    if num_clusters < 1:
        raise ValueError(
            f"num_clusters is {num_clusters}: it must be 1 or more."
        )
    if count < num_clusters:
        raise ValueError(
            f"{count} utterances cannot make {num_clusters} clusters: set "
            f"num_clusters to at most {count}, better to "
            f"{max(count // 4, 1)} or less: a few utterances per cluster."
        )
    if merge_to is not None and not 1 <= merge_to < num_clusters:
        raise ValueError(
            f"merge_to is {merge_to}, which {num_clusters} clusters cannot be "
            "merged into: it must be at least 1 and less than num_clusters."
        )
    # Ward linkage holds the distances of all pairs of centroids twice
    needed = 8 * num_clusters**2 if merge_to else 0
    memory = memory_here()
    if needed > MOST_OF_MEMORY * memory:
        raise ValueError(
            f"merge_to: to merge {num_clusters} clusters takes "
            f"{needed / 1e9:.0f} GB, but may take only {MOST_OF_MEMORY:.0%} of "
            f"the {memory / 1e9:.0f} GB here. With so many utterances, give "
            "numbers, not shares, such as num_clusters: 5000 and merge_to: "
            "2500."
        )
    find_engine(engine, "cpu")


def _start(rows, num_clusters, seed, device=None):
    """K of the rows as the first centroids."""
    rng = np.random.default_rng(seed)
    count = min(rows.count, SAMPLE_PER_CLUSTER * num_clusters)
    # In the order in which memory has them
    sample = rows.pick(np.sort(rng.choice(rows.count, count, replace=False)))
    state = np.random.RandomState(rng.integers(2**32))
    return rows.from_main(
        lambda: sample[plus_plus(sample, num_clusters, state, device)]
    )


def plus_plus(points, num_clusters, state, device=None):
    """Greedy k-means++ (Arthur and Vassilvitskii, 2007): scikit-learn's
    ``kmeans_plusplus``, from the same random numbers, on any device.

    Each centroid is the best of 2 + ln K candidates, drawn by their squared
    distance from the nearest one so far. Without these trials, or with many
    centroids drawn at once, it starts hardly better than random rows where
    clusters are small.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D), of unit length.
    num_clusters : int
        K, the number of clusters.
    state : numpy.random.RandomState
        The source of all that is random.
    device : str, optional
        The device that computes it: the CPU by default.

    Returns
    -------
    numpy.ndarray
        Shape (K,): the rows picked.

    Example
    -------
    >>> points = np.eye(3, dtype=np.float32)[[0, 0, 1, 1, 2]]
    >>> rows = plus_plus(points, 3, np.random.RandomState(0))
    >>> sorted(points[rows].argmax(1).tolist())
    [0, 1, 2]
    """
    count, trials = len(points), 2 + int(np.log(num_clusters))
    row = state.choice(count, p=np.full(count, 1 / count))
    draws = state.uniform(size=(num_clusters - 1, trials))
    draws = torch.from_numpy(draws).to(device)
    points = torch.from_numpy(points).to(device)
    rows = torch.full((num_clusters,), row, device=points.device)
    with full_precision(points.device.type):
        nearest = _squared_distances(points, rows[:1])[:, 0]
        bar = tqdm(draws, "Start of the clustering", delay=1, unit="cluster")
        for turn, draw in enumerate(bar, start=1):
            odds = nearest.cumsum(0, dtype=torch.float64)
            found = torch.searchsorted(odds, draw * odds[-1])
            found.clamp_(max=count - 1)
            distances = _squared_distances(points, found)
            distances = torch.minimum(distances, nearest[:, None])
            best = distances.sum(0, dtype=torch.float64).argmin(0, keepdim=True)
            nearest = distances.index_select(1, best)[:, 0]
            rows[turn] = found.index_select(0, best)[0]
    return rows.cpu().numpy()


def _squared_distances(points, rows):
    """Of unit points (N, D) to some of them, (N, rows)."""
    return (points @ points[rows].T).mul_(-2).add_(2).clamp_min_(0)


def _assign(rows, centroids, nearest):
    """Clusters without an empty one, and the mean cosine to the centroids."""
    labels, cosines = nearest(rows.points, centroids)
    sizes = rows.total(np.bincount(labels, minlength=len(centroids)))
    if not sizes.all():
        all_labels, all_cosines = rows.whole(labels), rows.whole(cosines)
        empty, worst = fill_empty(all_labels, all_cosines, len(centroids))
        centroids[empty] = rows.pick(worst)
        all_cosines[worst] = 1
        labels, cosines = rows.own(all_labels), rows.own(all_cosines)
    fit = rows.total(cosines.sum(dtype=np.float64, keepdims=True))[0]
    return Clusters(labels, centroids), fit / rows.count


def fill_empty(labels, cosines, num_clusters):
    """Gives each empty cluster one utterance, in place.

    It gets the utterance that fits worst among those that do not have their
    cluster for themselves.

    Arguments
    ---------
    labels : numpy.ndarray
        Shape (N,), int64; changed in place.
    cosines : numpy.ndarray
        Shape (N,): of each utterance to its centroid.
    num_clusters : int
        K, at most N.

    Returns
    -------
    numpy.ndarray
        Shape (E,): the clusters that were empty.
    numpy.ndarray
        Shape (E,): the rows that they got.

    Example
    -------
    >>> labels = np.array([0, 0, 2, 0])
    >>> fill_empty(labels, np.array([0.9, 0.8, 0.1, 0.7]), num_clusters=4)
    (array([1, 3]), array([3, 1]))
    >>> labels
    array([0, 3, 2, 1])
    """
    sizes = np.bincount(labels, minlength=num_clusters)
    empty = np.flatnonzero(sizes == 0)
    rows = []
    for row in np.argsort(cosines, kind="stable") if len(empty) else ():
        if len(rows) == len(empty):
            break
        if sizes[labels[row]] > 1:
            sizes[labels[row]] -= 1
            rows.append(row)
    rows = np.array(rows, np.int64)
    labels[rows] = empty
    return empty, rows


def directions(sums, centroids):
    """The centroids of spherical k-means, from the sums of their members.

    Arguments
    ---------
    sums : numpy.ndarray
        Sums of the members, shape (K, D), float32.
    centroids : numpy.ndarray
        The centroids of before, shape (K, D), float32: one stays where its
        members cancel each other out.

    Returns
    -------
    numpy.ndarray
        Centroids of unit length, shape (K, D), float32.

    Example
    -------
    >>> sums = np.array([[3, 4], [0, 0]], np.float32)
    >>> directions(sums, np.eye(2, dtype=np.float32))
    array([[0.6, 0.8],
           [0. , 1. ]], dtype=float32)
    """
    length = np.linalg.norm(sums, axis=1, keepdims=True)
    return np.where(length > 0, sums / np.maximum(length, 1e-30), centroids)


def _merge(rows, clusters, merge_to):
    """Merges clusters whose centroids are near each other."""
    logger.info(f"Merging {len(clusters.centroids)} clusters into {merge_to}.")
    agglomerative = AgglomerativeClustering(merge_to, linkage="ward")
    merged = rows.from_main(
        lambda: agglomerative.fit_predict(clusters.centroids)
    )
    labels = merged[clusters.labels]
    _, first = np.unique(merged, return_index=True)
    centroids = directions(
        rows.sums(labels, merge_to), clusters.centroids[first]
    )
    return Clusters(labels, centroids)
