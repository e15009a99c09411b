"""Sampling: which utterances make the samples of an epoch."""

import numpy as np
import torch


class Sampling:
    """Each utterance once an epoch, and alone; the base of others.

    Another sampling overrides ``order`` or ``partners``. Both depend on their
    arguments and on what was set between two epochs alone, so that samples are
    the same in each worker and after a resume.

    Attributes
    ----------
    size : int
        N, the number of utterances, once it is attached.
    utterances_per_sample : int
        The number of utterances that a sample's crops come from, at most.

    Example
    -------
    >>> class Backwards(Sampling):
    ...     def order(self, epoch):
    ...         return np.arange(self.size)[::-1]
    >>> Backwards().attach(3).order(epoch=1)
    array([2, 1, 0])
    """

    utterances_per_sample = 1

    def attach(self, size):
        """Gets to know the training set.

        Arguments
        ---------
        size : int
            N, the number of utterances.

        Returns
        -------
        Sampling
            Itself.
        """
        self.size = size
        return self

    def order(self, epoch):
        """The utterances of an epoch's samples.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.

        Returns
        -------
        numpy.ndarray
            Row numbers, (N,): one may be there several times, another not at
            all, but epochs are of equal length. The data loader shuffles
            them.
        """
        return np.arange(self.size)

    def partners(self, row, rng):
        """The utterances whose crops are in a sample beside its own.

        Arguments
        ---------
        row : int
            The utterance of the sample, its anchor.
        rng : numpy.random.Generator
            The source of all that is random in it.

        Returns
        -------
        list of int
            Row numbers of others.
        """
        return []


class ClusterSampling(Sampling):
    """Once there are clusters, samples of several utterances of one (CA-DINO,
    Han et al., 2023).

    The crops of a sample come from several distinct utterances of its anchor's
    cluster in turn, the anchor among them. Each utterance is the anchor
    equally often, so big clusters do not take over; in a cluster of one, and
    before there are clusters, the anchor is alone.

    Arguments
    ---------
    utterances_per_sample : int
        The number of utterances, at most.

    Example
    -------
    >>> sampling = ClusterSampling(utterances_per_sample=2).attach(4)
    >>> rng = np.random.default_rng(0)
    >>> sampling.partners(0, rng)
    []
    >>> sampling.set_clusters([7, 8, 8, 7])
    >>> sampling.partners(0, rng)
    [3]
    """

    def __init__(self, utterances_per_sample=1):
        self.utterances_per_sample = utterances_per_sample

    def attach(self, size):
        """See Sampling."""
        self._clusters = _ClusterMap(size)
        return super().attach(size)

    def set_clusters(self, labels):
        """Chooses which utterances belong together, between two epochs.

        Arguments
        ---------
        labels : array_like of int
            The cluster of each utterance, (N,). A negative one stands for an
            utterance that belongs to no cluster.

        Raises
        ------
        ValueError
            If there are more or fewer labels than utterances.
        """
        self._clusters.assign(labels)

    def partners(self, row, rng):
        """See Sampling."""
        return self._clusters.draw(row, self.utterances_per_sample - 1, rng)


class _ClusterMap:
    """The cluster of each utterance; at first, each is alone.

    In shared memory of a fixed size: persistent workers see it change, and
    changing it takes no new memory.
    """

    def __init__(self, size):
        # All rows, cluster by cluster, in ascending order within each.
        self.members = torch.arange(size).share_memory_()
        # For each row: where its cluster begins there, and how big it is.
        self.begins = torch.arange(size).share_memory_()
        self.sizes = torch.ones(size, dtype=torch.int64).share_memory_()

    def assign(self, labels):
        labels = np.array(labels, np.int64)
        if labels.shape != (len(self.members),):
            raise ValueError(
                f"{labels.size} cluster labels for {len(self.members)} "
                "utterances: cluster the utterances of this manifest."
            )
        alone = np.flatnonzero(labels < 0)
        labels[alone] = labels.max(initial=0) + 1 + np.arange(len(alone))
        _, which, sizes = np.unique(
            labels, return_inverse=True, return_counts=True
        )
        members = np.argsort(which, kind="stable")
        begins = np.cumsum(sizes) - sizes
        self.members.copy_(torch.from_numpy(members))
        self.begins.copy_(torch.from_numpy(begins[which]))
        self.sizes.copy_(torch.from_numpy(sizes[which]))

    def draw(self, row, count, rng):
        """Up to count other rows of the row's cluster, all distinct."""
        others = int(self.sizes[row]) - 1
        count = min(count, others)
        if not count:
            return []
        begin = int(self.begins[row])
        members = self.members.numpy()[begin : begin + others + 1]
        picks = rng.choice(others, count, replace=False)
        picks += picks >= np.searchsorted(members, row)  # not itself
        return members[picks].tolist()
