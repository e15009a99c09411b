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
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.embeddings.extract import extract
from speechbrain_cadino.embeddings.store import load_embeddings
from speechbrain_cadino.embeddings.whitening import check_power, whiten
from speechbrain_cadino.process.files import atomic_path
from speechbrain_cadino.training.schedules import LinearSchedule

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
        Where the embeddings of the training set are while they are needed. All
        processes must see it.
    first_epoch : int
        At the start of which epoch, counted from 1, the utterances are
        clustered for the first time.
    every : int
        How many epochs later they are clustered again.
    last_epoch : int
        The number of epochs.
    num_clusters : int
        Of the last clustering.
    start_clusters : int
        Of the first one. Between the two the number grows or shrinks in a
        straight line, which is CA-DINO's progressive strategy; with both equal
        it is its fixed one.
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
        Of the last clustering: ``clusters``, ``singletons``, ``silhouette``
        and, from the second on, ``agreement`` with the one before (adjusted
        Rand index: 1 if nothing changed).

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
    >>> {epoch: reclustering.number(epoch) for epoch in due}
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
        whitening=0,
        extract_options=None,
        cluster_options=None,
    ):
        if not 1 <= first_epoch <= last_epoch or every < 1:
            raise ValueError(
                f"Clustering from epoch {first_epoch} on, every {every} epochs,"
                f" never happens in {last_epoch} epochs: set first_clustering "
                "to at most number_of_epochs, and clustering_every to 1 or "
                "more."
            )
        check_power(whitening)
        self.folder = pathlib.Path(folder)
        self.first_epoch = first_epoch
        self.every = every
        span = (last_epoch - first_epoch) // every * every
        self.numbers = LinearSchedule(start_clusters, num_clusters, span)
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

    def number(self, epoch):
        """The number of clusters at an epoch.

        Arguments
        ---------
        epoch : int
            Counted from 1.

        Returns
        -------
        int
        """
        return round(self.numbers(epoch - self.first_epoch))

    def check(self, count):
        """Raises now what a clustering would raise, epochs later.

        Arguments
        ---------
        count : int
            The number of utterances.
        """
        options = {
            name: value
            for name, value in self.cluster_options.items()
            if name in ("merge_to", "engine")
        }
        for number in (self.numbers.start, self.numbers.end):
            check_options(count, number, **options)

    def __call__(
        self,
        epoch,
        encode_batch,
        weights,
        table,
        sample_rate,
        reader=AudioReader,
    ):
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
        reader : callable
            See ``extract``.
        """
        extract(
            self.folder,
            encode_batch,
            table,
            weights,
            sample_rate,
            reader=reader,
            **self.extract_options,
        )
        # By the main process, for all to read
        result = self.folder / "clusters.pt"
        run_on_main(
            self._cluster,
            args=[epoch, result],
            post_func=self._load,
            post_args=[result],
        )
        # What a network disk keeps for a while is of no harm.
        run_on_main(
            shutil.rmtree, args=[self.folder], kwargs={"ignore_errors": True}
        )

    def _cluster(self, epoch, result):
        """Clusters the embeddings and saves the new state."""
        _, embeddings = load_embeddings(self.folder)
        readable = np.isfinite(embeddings).all(1)
        embeddings = embeddings[readable]
        if self.whitening:
            embeddings = whiten(embeddings, self.whitening)
        clusters = cluster(
            embeddings, self.number(epoch), **self.cluster_options
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
