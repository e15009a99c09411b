"""Linear maps of embeddings, and linear discriminant analysis, which makes one.

A map can be applied to embeddings, put behind an encoder, or folded into its
last layer (``encoders.fold``).
"""

import numpy as np
import torch
from numpy.linalg import norm
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf

from speechbrain_cadino.embeddings.store import chunks


class LinearMap:
    """A linear map of embeddings: a mean is subtracted, axes are multiplied.

    Arguments
    ---------
    mean : numpy.ndarray
        Shape (D,), subtracted first.
    axes : numpy.ndarray
        Shape (D, d), multiplied with from the right.

    Example
    -------
    >>> doubled = LinearMap(np.ones(2), 2 * np.eye(2))
    >>> doubled.transform(np.array([[1.0, 3.0]])).tolist()
    [[0.0, 4.0]]
    """

    def __init__(self, mean, axes):
        self.mean = mean
        self.axes = axes

    def transform(self, embeddings):
        """Maps embeddings.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).

        Returns
        -------
        numpy.ndarray
            Mapped embeddings, shape (N, d), float32.
        """
        shape = *embeddings.shape[:-1], self.axes.shape[1]
        result = np.empty(shape, np.float32)
        for rows in chunks(len(embeddings)):
            result[rows] = (embeddings[rows] - self.mean) @ self.axes
        return result

    def linear(self):
        """The map as a layer of a network.

        Returns
        -------
        torch.nn.Linear
            The layer, from D to d dimensions.
        """
        layer = torch.nn.Linear(*self.axes.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.axes.T.copy()))
            layer.bias.copy_(torch.from_numpy(-self.mean @ self.axes))
        return layer.requires_grad_(False)

    def after(self, embedder):
        """An encoder followed by the map.

        Arguments
        ---------
        embedder : Embedder
            The encoder that it has learnt from.

        Returns
        -------
        Embedder
            The encoder with the map: its embeddings have d dimensions, and a
            mean near 0.
        """
        layer, encode = self.linear(), embedder.encode_batch

        def encode_batch(wavs, lens=None):
            return layer(encode(wavs, lens).float().cpu())

        weights = embedder.weights
        if weights is not None:
            weights = torch.nn.ModuleList([weights, layer])
        return embedder.replace(
            encode_batch=encode_batch, weights=weights, mean=None
        )


class LDA(LinearMap):
    """Linear discriminant analysis: a map in which embeddings of a class lie
    together.

    The axes solve ``between a = ratio within a``, where ``within`` is the
    covariance of embeddings around the mean of their class and ``between``
    that of these means. They are scaled such that a class varies equally along
    each (within-class covariance normalisation: Hatch et al. 2006), in
    falling order of the ratio; and, all of them together, such that embeddings
    vary as much as before: cosines do not see it, a training that goes on from
    the encoder does. ``within`` is shrunk towards a multiple of the
    identity (Ledoit and Wolf 2004): hardly at all where there are many
    classes, enough to be of use where there are five.

    Arguments
    ---------
    dimensions : int, optional
        The number of axes to keep; all by default.

    Attributes
    ----------
    mean : numpy.ndarray
        Shape (D,), subtracted first.
    axes : numpy.ndarray
        Shape (D, d), multiplied with from the right.

    Raises
    ------
    ValueError
        If there are no dimensions to keep.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> classes = np.repeat(np.arange(50), 4)
    >>> means = rng.standard_normal((50, 2))
    >>> noise = rng.standard_normal((200, 2)) * [0.1, 10]
    >>> lda = LDA(dimensions=1).fit(means[classes] + noise, classes)
    >>> along, across = np.abs(lda.axes[:, 0])
    >>> bool(along > 50 * across)
    True
    """

    def __init__(self, dimensions=None):
        if dimensions is not None and dimensions < 1:
            raise ValueError(f"dimensions={dimensions}: give 1 or more.")
        self.dimensions = dimensions

    def fit(self, embeddings, classes):
        """Learns from embeddings.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).
        classes : numpy.ndarray
            Shape (N,): the class of each, such as the recording that it is a
            crop of, or its cluster.

        Returns
        -------
        LDA
            This map.

        Raises
        ------
        ValueError
            If there is one class, or all embeddings of each are the same.
        """
        names, index, counts = np.unique(
            classes, return_inverse=True, return_counts=True
        )
        check_classes(len(names))
        embeddings = np.asarray(embeddings, np.float64)
        self.mean = embeddings.mean(0)
        centred = embeddings - self.mean
        sums = np.zeros((len(names), embeddings.shape[1]))
        np.add.at(sums, index, centred)
        means = sums / counts[:, None]
        within, _ = ledoit_wolf(centred - means[index], assume_centered=True)
        if not np.trace(within) > 0:
            raise ValueError(
                "All crops of a recording, or all recordings of a cluster, "
                "have the same embedding: the encoder has collapsed, or there "
                "is one of each."
            )
        # Residuals around a mean of n are too small by a factor of 1 - 1 / n.
        within *= len(embeddings) / max(len(embeddings) - len(names), 1)
        between = (means * counts[:, None]).T @ means / len(embeddings)
        # Directions in which nothing varies at all stay out of the way.
        floor = np.eye(len(within)) * within.trace() / len(within) * 1e-9
        _, axes = eigh(between, within + floor)
        self.axes = axes[:, ::-1][:, : self.dimensions]
        self.axes *= norm(centred) / norm(centred @ self.axes)
        return self


def check_classes(count):
    """Raises if so many classes tell nothing.

    Arguments
    ---------
    count : int
        The number of classes.

    Example
    -------
    >>> check_classes(1)
    Traceback (most recent call last):
    ...
    ValueError: LDA learns from two recordings, or other classes, or more, ...
    """
    if count < 2:
        raise ValueError(
            "LDA learns from two recordings, or other classes, or more, not "
            f"from {count}."
        )
