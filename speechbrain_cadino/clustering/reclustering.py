"""CA-DINO's clusters: made anew every few epochs, kept in the checkpoint."""

import contextlib
import pathlib

import numpy as np
import torch
from sklearn.metrics import adjusted_rand_score

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.clusterer import (
    NoClusters,
    find_clusters,
    mean_directions,
    sized,
)
from speechbrain_cadino.clustering.kmeans import (
    SphericalKMeans,
    run_clustering,
    whole_number,
)
from speechbrain_cadino.clustering.quality import quality
from speechbrain_cadino.embeddings.extract import remove_extraction
from speechbrain_cadino.embeddings.store import (
    load_embeddings,
    readable_embeddings,
)
from speechbrain_cadino.process.files import atomic_path

logger = get_logger(__name__)

# What quality() measures without labels, and training.csv shows.
SHOWN = ["clusters", "singletons", "silhouette"]


@register_checkpoint_hooks
class Reclustering:
    """Clusters the training set with the teacher, every few epochs.

    It is a recoverable of SpeechBrain's Checkpointer: a resumed run goes on
    with the same clusters. When to cluster and into how many depends on the
    epoch alone.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of the embeddings of the training set while they are needed.
        All processes must see it.
    first_epoch : int
        The epoch, counted from 1, at whose start the utterances are clustered
        for the first time.
    every : int
        The number of epochs after which they are clustered again.
    last_epoch : int
        The number of epochs.
    num_clusters : int or float
        The number of clusters in the last clustering; below 1, a share of the
        utterances.
    start_clusters : int or float
        The number of clusters in the first one. Between the two the number
        grows or shrinks in a straight line, as progressive clustering; with
        both equal it is fixed.
    clusterer : object, optional
        See ``find_clusters``; SphericalKMeans by default. Its ``n_clusters``,
        if it has one, is set at each clustering: see ``sized``.
    transform : object, optional
        The object whose ``fit_transform`` changes the embeddings before they
        are clustered, such as Whitening.

    Attributes
    ----------
    labels : numpy.ndarray
        The cluster of each utterance, (N,), -1 for one that could not be
        read, or that the clusterer left out; None before the first clustering.
    keeps_centroids : bool
        Whether clusterings keep ``centroids``; no by default.
    centroids : numpy.ndarray
        The mean direction of each cluster's embeddings as the teacher gives
        them, whatever ``transform`` is, (K, D), float32; None if none are kept.
    stats : dict
        Figures of the last clustering: ``clusters``, ``singletons``,
        ``silhouette`` if there are two and more, and, from the second on,
        ``agreement`` with the one before (adjusted Rand index: 1 if nothing
        changed); ``ami`` if speakers are known; ``outliers``, how many the
        clusterer left out, if any: alone where it left all out, and ``labels``
        stay as they were.

    Raises
    ------
    ValueError
        If no epoch is due.

    Example
    -------
    >>> reclustering = Reclustering(
    ...     "embeddings",
    ...     first_epoch=10,
    ...     every=5,
    ...     last_epoch=20,
    ...     start_clusters=100,
    ...     num_clusters=300,
    ... )
    >>> due = [epoch for epoch in range(1, 21) if reclustering.due(epoch)]
    >>> {epoch: reclustering.number(epoch, 1000) for epoch in due}
    {10: 100, 15: 200, 20: 300}
    """

    def __init__(
        self,
        folder,
        first_epoch,
        every,
        last_epoch,
        num_clusters,
        start_clusters,
        clusterer=None,
        transform=None,
    ):
        if not 1 <= first_epoch <= last_epoch or every < 1:
            raise ValueError(
                f"Clustering from epoch {first_epoch} on, every {every} epochs,"
                f" never happens in {last_epoch} epochs: set first_clustering "
                "to at most number_of_epochs, and clustering_every to 1 or "
                "more."
            )
        self.folder = pathlib.Path(folder)
        self.first_epoch = first_epoch
        self.every = every
        self.span = (last_epoch - first_epoch) // every * every
        self.start_clusters = start_clusters
        self.num_clusters = num_clusters
        self.clusterer = SphericalKMeans() if clusterer is None else clusterer
        self.transform = transform
        self.labels = None
        self.keeps_centroids = False
        self.centroids = None
        self.epoch = 0  # of the last clustering
        self.stats = {}

    def due(self, epoch):
        """Whether to cluster at the start of an epoch.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.

        Returns
        -------
        bool
            Whether it is due; not so once it is done: an epoch that is resumed
            in its midst goes on with the clusters it began with.
        """
        since = epoch - self.first_epoch
        return since >= 0 and since % self.every == 0 and epoch != self.epoch

    def number(self, epoch, count):
        """The number of clusters at an epoch.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        count : int
            The number of utterances.

        Returns
        -------
        int
            The number, on a straight line from the first one to the last.
        """
        first, last = (
            whole_number(number, count)
            for number in (self.start_clusters, self.num_clusters)
        )
        since = epoch - self.first_epoch
        if since >= self.span:
            return last
        return round(first + (last - first) * since / self.span)

    def check(self, count):
        """Raises now what a clustering would raise, epochs later.

        Arguments
        ---------
        count : int
            The number of utterances.
        """
        if hasattr(self.transform, "learn"):
            raise ValueError(
                f"transform: {type(self.transform).__name__} learns from "
                "recordings, and here are embeddings alone: give Whitening, or "
                "null."
            )
        for number in (self.start_clusters, self.num_clusters):
            clusterer = sized(self.clusterer, number)
            if hasattr(clusterer, "check"):
                clusterer.check(count)

    def __call__(self, epoch, embedder, table, speakers=None):
        """Embeds the training set, on all processes, and clusters it.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        embedder : Embedder
            The teacher's encoder.
        table : pandas.DataFrame
            The training set.
        speakers : array_like, optional
            Shape (N,): the true speakers, NaN where nobody knows, for figures
            alone.
        """
        embedder.extract(self.folder, table)
        # By the main process, with the help of all, for all to read
        result = self.folder / "clusters.pt"
        run_clustering(
            self._cluster,
            args=[epoch, result, speakers, embedder.device],
            post_func=self._load,
            post_args=[result],
        )
        run_on_main(self._remove, args=[result])

    def _remove(self, result):
        """Removes what is not needed any more. What a network disk keeps for a
        while is of no harm."""
        with contextlib.suppress(OSError):
            result.unlink()
            remove_extraction(self.folder)
            self.folder.rmdir()  # if others have nothing in it

    def _cluster(self, epoch, result, speakers, device):
        """Clusters the embeddings and saves the new state."""
        readable, _, embeddings = readable_embeddings(
            self.folder, self.transform
        )
        number = self.number(epoch, len(readable))
        clusterer = sized(self.clusterer, number, device)
        try:
            clusters, within = find_clusters(clusterer, embeddings)
        except NoClusters as error:  # maybe of this epoch alone
            clusters = "Clusters are as they were before"
            if self.labels is None:
                clusters = "There are none until the next clustering"
            logger.warning(f"{error} {clusters}.")
            self.stats = {"outliers": len(embeddings)}
        else:
            self._take(clusters, within, readable, embeddings, speakers)
        self.epoch = epoch
        with atomic_path(result) as temporary:
            self._save(temporary)

    def _take(self, clusters, within, readable, embeddings, speakers):
        """Takes the clusters of readable utterances, of those that are in, and
        measures them."""
        rows = np.flatnonzero(readable)[within]
        truth = None if speakers is None else np.asarray(speakers)[rows]
        # Not one more copy of all, where none is left out
        points = embeddings if within.all() else embeddings[within]
        measures = quality(clusters, points, truth)
        shown = SHOWN if speakers is None else [*SHOWN, "ami"]
        # One cluster has no silhouette
        stats = {n: measures[n] for n in shown if measures[n] is not None}
        if not within.all():
            stats["outliers"] = int((~within).sum())
        labels = np.full(len(readable), -1)
        labels[rows] = clusters.labels
        if self.keeps_centroids:
            _, raw = load_embeddings(self.folder)
            number = len(clusters.centroids)
            self.centroids = mean_directions(raw, labels, number)
        if self.labels is not None:
            both = (labels >= 0) & (self.labels >= 0)
            stats["agreement"] = float(
                adjusted_rand_score(labels[both], self.labels[both])
            )
        self.labels, self.stats = labels, stats
        figures = [f"{name} {value:.4g}" for name, value in stats.items()]
        logger.info(f"Clustered {len(rows)} utterances: {', '.join(figures)}")

    @mark_as_saver
    def _save(self, path):
        state = {"epoch": self.epoch, "stats": self.stats}
        if self.labels is not None:
            state["labels"] = torch.from_numpy(self.labels)
        if self.centroids is not None:
            state["centroids"] = torch.from_numpy(self.centroids)
        torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch=None):
        state = torch.load(path, weights_only=True)
        self.epoch, self.stats = state["epoch"], state["stats"]
        if "labels" in state:
            self.labels = state["labels"].numpy()
        if "centroids" in state:
            self.centroids = state["centroids"].numpy()
