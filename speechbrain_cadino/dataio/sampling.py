"""Sampling: which utterances make the samples of an epoch."""

import os

import numpy as np
import pandas as pd
import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.spread import spread_rows

logger = get_logger(__name__)

# Anchors that tell how good the partners of millions are
MOST_ANCHORS = 10_000

# Of the pairs in clusters, those of one folder: more, and a folder is a speaker
MOST_OF_OWN = 0.5
OF_ONE_FOLDER = (
    "{share:.0%} of the pairs of utterances in a cluster are of one folder, "
    "and are left out. If a folder holds all of a speaker, and not one "
    "recording, what is left is wrong voices: leave other_recordings out."
)


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

    def attach(self, size, wavs=None):
        """Gets to know the training set.

        Arguments
        ---------
        size : int
            N, the number of utterances.
        wavs : sequence of str, optional
            The file of each.

        Returns
        -------
        Sampling
            This sampling.
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
    other_recordings : bool
        Whether partners come from other recordings alone, see
        ``folders_of``: two crops of one share their microphone and their
        room, whatever the voice. Where a cluster is of one recording, the
        anchor is alone. A warning says so if most pairs are of one.

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

    other_recordings = False  # of a class of your own, as of version 0.2.0

    def __init__(self, utterances_per_sample=1, other_recordings=False):
        self.utterances_per_sample = utterances_per_sample
        self.other_recordings = other_recordings

    def attach(self, size, wavs=None):
        """See Sampling; for partners of other recordings it needs the files."""
        recordings = folders_of(wavs) if self.other_recordings else None
        self._clusters = _ClusterMap(size, recordings)
        return super().attach(size, wavs)

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
        if self.other_recordings:
            share = self._clusters.share_of_own()
            if share > MOST_OF_OWN:
                logger.warning(OF_ONE_FOLDER.format(share=share))

    def partners(self, row, rng):
        """See Sampling."""
        return self._clusters.draw(row, self.utterances_per_sample - 1, rng)


class GrowingSampling(Sampling):
    """A growing share of the recordings: a curriculum of data (Heo et al.,
    2022, who let the number of speakers grow).

    Utterances come in whole folders, in an order drawn by the seed, so that no
    speaker is let in through the order of names; where all files lie in one
    folder, in whole files. What is in stays in. Epochs stay as long as they
    are: while a half takes part, each of its utterances makes two samples, give
    or take one, which others get in the next epoch. The order is that of the
    share at an epoch's beginning.

    Arguments
    ---------
    sampling : Sampling
        The sampling that gives the partners, such as ClusterSampling: they may
        be of recordings that do not take part yet.
    share : callable
        The function from the position in training, in epochs, to the share of
        the utterances that take part, at least: such as LinearSchedule.
    seed : int
        The seed of the order of the folders.

    Raises
    ------
    ValueError
        If a share is not above 0 and at most 1.

    Example
    -------
    >>> from speechbrain_cadino.training.schedules import LinearSchedule
    >>> share = LinearSchedule(start=0.5, end=1, epochs=1)
    >>> sampling = GrowingSampling(Sampling(), share, seed=3)
    >>> wavs = ["a/1", "a/2", "b/1", "b/2"]
    >>> sampling = sampling.attach(len(wavs), wavs)
    >>> sampling.order(epoch=1), sampling.order(epoch=2)
    (array([2, 3, 2, 3]), array([0, 1, 2, 3]))
    """

    def __init__(self, sampling, share, seed=0):
        self.sampling = sampling
        self.share = share
        for epoch in (1, 10**6):  # at the beginning, and when it has ended
            self._share_of(epoch)
        self.seed = seed
        self.utterances_per_sample = sampling.utterances_per_sample
        # Where there are clusters, those of the other one
        if hasattr(sampling, "set_clusters"):
            self.set_clusters = sampling.set_clusters

    def attach(self, size, wavs=None):
        """See Sampling; it needs the files."""
        self.sampling.attach(size, wavs)
        codes = folders_of(wavs)
        order = np.random.default_rng(self.seed).permutation(codes.max() + 1)
        self.places = np.argsort(order)[codes]  # of each row's folder
        self.ends = np.bincount(self.places).cumsum()
        return super().attach(size, wavs)

    def active(self, epoch):
        """The utterances that take part.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.

        Returns
        -------
        numpy.ndarray
            Row numbers, rising.
        """
        last = np.searchsorted(self.ends, self._share_of(epoch) * self.size)
        return np.flatnonzero(self.places <= min(last, len(self.ends) - 1))

    def _share_of(self, epoch):
        """The share that takes part; raises if that makes no sense."""
        share = self.share(epoch - 1)
        if not 0 < share <= 1:
            raise ValueError(
                f"A share of {share:g} of the recordings, in epoch {epoch} if "
                "training is so long: give a schedule above 0, up to 1."
            )
        return share

    def order(self, epoch):
        """See Sampling."""
        rows = self.sampling.order(epoch)
        rows = rows[np.isin(rows, self.active(epoch))]
        times, rest = divmod(self.size, len(rows))
        rng = np.random.default_rng((self.seed, epoch))
        more = rng.permutation(rows)[:rest]
        return np.concatenate([np.tile(rows, times), more])

    def partners(self, row, rng):
        """See Sampling."""
        return self.sampling.partners(row, rng)


def folders_of(wavs):
    """The recording that each utterance is of: its folder, as of VoxCeleb's
    videos; where all files lie in one folder, its file.

    Arguments
    ---------
    wavs : sequence of str
        The file of each utterance.

    Returns
    -------
    numpy.ndarray
        Shape (N,), int: utterances of one recording have the same number.

    Example
    -------
    >>> folders_of(["a/1.wav", "b/2.wav", "a/3.wav"])
    array([0, 1, 0])
    >>> folders_of(["1.wav", "1.wav", "2.wav"])
    array([0, 0, 1])
    """
    names = [os.path.dirname(wav) for wav in wavs]
    if len(set(names)) == 1:
        names = list(wavs)
    return pd.factorize(np.asarray(names, object))[0]


def partner_precision(sampling, speakers, seed=0):
    """How often the utterances of a sample are of one speaker.

    Arguments
    ---------
    sampling : Sampling
        The sampling, attached to the training set.
    speakers : array_like
        Shape (N,): the speaker of each utterance, NaN where nobody knows.
    seed : int
        Random seed of the partners, one draw for each of ``MOST_ANCHORS``
        anchors at most, evenly spread.

    Returns
    -------
    dict of str:float
        ``partners``, the share of samples that have any, and
        ``partner_precision``, the share of these whose utterances are all of
        one speaker, of those whose speakers are known; NaN if there are none.

    Example
    -------
    >>> sampling = ClusterSampling(utterances_per_sample=2).attach(4)
    >>> sampling.set_clusters([0, 0, 1, 2])
    >>> partner_precision(sampling, ["anne", "anne", "bob", "bob"])
    {'partners': 0.5, 'partner_precision': 1.0}
    """
    rng = np.random.default_rng(seed)
    speakers = np.asarray(speakers, object)
    some, right = [], []
    for row in spread_rows(sampling.size, MOST_ANCHORS):
        partners = list(sampling.partners(row, rng))
        some.append(bool(partners))
        if partners and not pd.isna(speakers[[row, *partners]]).any():
            right.append((speakers[partners] == speakers[row]).all())
    precision = float(np.mean(right)) if right else float("nan")
    return {
        "partners": float(np.mean(some)),
        "partner_precision": precision,
    }


class _ClusterMap:
    """The cluster of each utterance; at first, each is alone.

    In shared memory of a fixed size: persistent workers see it change, and
    changing it takes no new memory.
    """

    def __init__(self, size, recordings=None):
        self.recordings = np.arange(size) if recordings is None else recordings
        # All rows, cluster by cluster, and within each recording by recording
        self.members = torch.arange(size).share_memory_()
        # For each row: where its cluster begins there, and how big it is; and
        # the same of those in the cluster that are of its recording.
        self.begins = torch.arange(size).share_memory_()
        self.sizes = torch.ones(size, dtype=torch.int64).share_memory_()
        self.own_begins = torch.arange(size).share_memory_()
        self.own_sizes = torch.ones(size, dtype=torch.int64).share_memory_()

    def assign(self, labels):
        labels = np.array(labels, np.int64)
        if labels.shape != (len(self.members),):
            raise ValueError(
                f"{labels.size} cluster labels for {len(self.members)} "
                "utterances: cluster the utterances of this manifest."
            )
        alone = np.flatnonzero(labels < 0)
        labels[alone] = labels.max(initial=0) + 1 + np.arange(len(alone))
        members = np.lexsort((self.recordings, labels))  # stable
        self.members.copy_(torch.from_numpy(members))
        keys = labels[members], self.recordings[members]
        _find_runs(self.begins, self.sizes, members, keys[:1])
        _find_runs(self.own_begins, self.own_sizes, members, keys)

    def share_of_own(self):
        """Of all pairs in clusters, those of one recording; 0 if there are
        none."""
        pairs = (self.sizes - 1).sum()
        return float((self.own_sizes - 1).sum() / pairs) if pairs else 0.0

    def draw(self, row, count, rng):
        """Up to count rows of the row's cluster, all distinct, and of other
        recordings."""
        size, own = int(self.sizes[row]), int(self.own_sizes[row])
        count = min(count, size - own)
        if count < 1:
            return []
        begin = int(self.begins[row])
        members = self.members.numpy()[begin : begin + size]
        picks = rng.choice(size - own, count, replace=False)
        picks[picks >= int(self.own_begins[row]) - begin] += own
        return members[picks].tolist()


def _find_runs(begins, sizes, members, keys):
    """Where the run of equal keys that each row is in begins, and its size."""
    changes = np.any([key[1:] != key[:-1] for key in keys], axis=0)
    first = np.flatnonzero(np.append(True, changes))
    lengths = np.diff(np.append(first, len(members)))
    begins[torch.from_numpy(members)] = torch.from_numpy(
        np.repeat(first, lengths)
    )
    sizes[torch.from_numpy(members)] = torch.from_numpy(
        np.repeat(lengths, lengths)
    )
