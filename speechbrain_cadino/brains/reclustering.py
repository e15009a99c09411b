"""CA-DINO's clusters: made anew every few epochs, kept in the checkpoint."""

import pathlib
import shutil

import numpy as np
import torch

from speechbrain.utils.checkpoints import (
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.kmeans import check_options, cluster
from speechbrain_cadino.clustering.quality import agreement, quality
from speechbrain_cadino.clustering.whitening import whiten
from speechbrain_cadino.extract import extract
from speechbrain_cadino.files import atomic_path

logger = get_logger(__name__)

# What quality() measures without labels, and training.csv shows.
SHOWN = ["clusters", "singletons", "cosine_to_centroid"]


@register_checkpoint_hooks
class Reclustering:
    """Clusters the training set with the teacher, every few epochs.

    It is a recoverable of SpeechBrain's Checkpointer: a resumed run goes on
    with the same clusters.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where the embeddings of the training set are while they are needed. All
        processes must see it.
    first_epoch : int
        At the start of which epoch, counted from 1, the utterances are
        clustered for the first time.
    every : int
        How many epochs later they are clustered again.
    num_clusters : callable
        The number of clusters as a function of the epoch, e.g. a
        ``LinearSchedule``: rounded. A constant one is CA-DINO's fixed
        strategy, another one its progressive strategy.
    whitening : float
        The power of ``clustering.whitening.whiten``; 0 for none.
    extract_options : dict
        Further arguments of ``extract``.
    cluster_options : dict
        Further arguments of ``cluster``.

    Attributes
    ----------
    labels : numpy.ndarray
        The cluster of each utterance, (N,), -1 for one that could not be
        read; None before the first clustering.
    centroids : numpy.ndarray
        (K, D), of unit length, among whitened embeddings if there is whitening.
    stats : dict
        Of the last clustering: ``clusters``, ``singletons``,
        ``cosine_to_centroid`` and, from the second on, ``agreement`` with the
        one before (adjusted Rand index: 1 if nothing changed).

    Example
    -------
    >>> from speechbrain_cadino.schedules import LinearSchedule
    >>> growing = LinearSchedule(start=100, end=200, epochs=20)
    >>> reclustering = Reclustering(
    ...     "embeddings", first_epoch=10, every=5, num_clusters=growing
    ... )
    >>> [epoch for epoch in range(1, 21) if reclustering.due(epoch)]
    [10, 15, 20]
    """

    def __init__(
        self,
        folder,
        first_epoch,
        every,
        num_clusters,
        whitening=0,
        extract_options=None,
        cluster_options=None,
    ):
        self.folder = pathlib.Path(folder)
        self.first_epoch = first_epoch
        self.every = every
        self.num_clusters = num_clusters
        self.whitening = whitening
        self.extract_options = extract_options or {}
        self.cluster_options = cluster_options or {}
        self.labels = None
        self.centroids = None
        self.epoch = 0  # of the last clustering
        self.stats = {}

    def due(self, epoch):
        """Whether to cluster at the start of an epoch.

        Arguments
        ---------
        epoch : int
            Counted from 1.

        Returns
        -------
        bool
            False also if it is done: an epoch that is resumed in its midst
            goes on with the clusters it began with.
        """
        since = epoch - self.first_epoch
        return since >= 0 and since % self.every == 0 and epoch != self.epoch

    def check(self, count):
        """Raises now what the first clustering would raise, epochs later.

        Arguments
        ---------
        count : int
            The number of utterances.
        """
        number = round(self.num_clusters(self.first_epoch))
        options = {
            name: value
            for name, value in self.cluster_options.items()
            if name in ("merge_to", "engine")
        }
        check_options(count, number, **options)

    def __call__(self, epoch, encode_batch, weights, table, sample_rate):
        """Embeds the training set, on all processes, and clusters it.

        Arguments
        ---------
        epoch : int
            Counted from 1.
        encode_batch : callable
            See ``extract``, as for the following ones.
        weights : torch.nn.Module
            The network behind it.
        table : pandas.DataFrame
            The training set.
        sample_rate : int
            In Hz.
        """
        _, embeddings = extract(
            self.folder,
            encode_batch,
            table,
            weights,
            sample_rate,
            **self.extract_options,
        )
        # By the main process, for all to read
        result = self.folder / "clusters.pt"
        run_on_main(
            self._cluster,
            args=[epoch, embeddings, result],
            post_func=self._load,
            post_args=[result],
        )
        run_on_main(shutil.rmtree, args=[self.folder])

    def _cluster(self, epoch, embeddings, result):
        """Clusters the embeddings and saves the new state."""
        readable = np.isfinite(embeddings).all(1)
        embeddings = embeddings[readable]
        if self.whitening:
            embeddings = whiten(embeddings, self.whitening)
        clusters = cluster(
            embeddings,
            round(self.num_clusters(epoch)),
            **self.cluster_options,
        )
        measures = quality(clusters, embeddings)
        stats = {name: measures[name] for name in SHOWN}
        labels = np.full(len(readable), -1)
        labels[readable] = clusters.labels
        if self.labels is not None:
            stats["agreement"] = agreement(labels, self.labels)
        self.labels, self.centroids = labels, clusters.centroids
        self.epoch, self.stats = epoch, stats
        logger.info(f"Clustered {len(labels)} utterances: {stats}")
        with atomic_path(result) as temporary:
            self._save(temporary)

    @mark_as_saver
    def _save(self, path):
        state = {"epoch": self.epoch, "stats": self.stats}
        if self.labels is not None:
            state["labels"] = torch.from_numpy(self.labels)
            state["centroids"] = torch.from_numpy(self.centroids)
        torch.save(state, path)

    @mark_as_loader
    def _load(self, path, end_of_epoch=None):
        state = torch.load(path, weights_only=True)
        self.epoch, self.stats = state["epoch"], state["stats"]
        if "labels" in state:
            self.labels = state["labels"].numpy()
            self.centroids = state["centroids"].numpy()
