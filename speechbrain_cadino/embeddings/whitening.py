"""Whitening: embeddings that differ in all directions alike."""

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.linear import LinearMap
from speechbrain_cadino.embeddings.store import chunks

logger = get_logger(__name__)


class Whitening(LinearMap):
    """A map that evens out how much embeddings vary in each direction.

    Without labels, an encoder may spread its embeddings over a few directions
    and tell voices apart by small differences in others.
    Here, a direction of standard deviation s is divided by s to the power
    given: 0 leaves it alone, 1 is principal component whitening, which turns
    up the noise in the smallest directions too. What is mapped has a mean of 0
    and lies on principal axes, the largest first.

    Arguments
    ---------
    power : float
        The power, from 0 to 1. On an hour of real speech 0.75 gave the best
        clusters, on the demo corpus 0.5, on both better ones than 0 and than 1.

    Raises
    ------
    ValueError
        If the power is not from 0 to 1.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.standard_normal((1000, 3)) * [1, 16, 4] + 5
    >>> Whitening(power=0.5).fit_transform(embeddings).std(0).round()
    array([4., 2., 1.], dtype=float32)
    """

    def __init__(self, power):
        if not 0 <= power <= 1:
            raise ValueError(
                f"whitening={power}: give a number from 0 (none) to 1 (full)."
            )
        self.power = power

    def fit(self, embeddings):
        """Learns from embeddings.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).

        Returns
        -------
        Whitening
            This map.

        Raises
        ------
        ValueError
            If all embeddings are the same, or one is not finite.
        """
        self.mean = np.mean(embeddings, axis=0, dtype=np.float64)
        covariance = np.zeros((len(self.mean), len(self.mean)))
        for rows in chunks(len(embeddings)):
            centred = embeddings[rows] - self.mean
            covariance += centred.T @ centred / len(embeddings)
        if not np.isfinite(covariance).all():
            raise ValueError(
                "An embedding is not finite: leave out the files that cannot "
                "be read, see store.readable_rows."
            )
        variances, axes = np.linalg.eigh(covariance)
        variances, axes = variances[::-1], axes[:, ::-1]
        if not variances[0] > 0:
            raise ValueError(
                f"All {len(embeddings)} embeddings are the same: the encoder "
                "has collapsed, or the files are all alike."
            )
        # Directions without variance, up to rounding, stay at zero.
        real = variances > variances[0] * 1e-12
        scales = np.where(real, variances, 1) ** (-self.power / 2) * real
        self.axes = axes * scales
        return self

    def fit_transform(self, embeddings):
        """Whitens embeddings by their own statistics.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).

        Returns
        -------
        numpy.ndarray
            Whitened embeddings, shape (N, D), float32; with power 0 the
            embeddings as they are, of which nothing is learnt.
        """
        if not self.power:
            return embeddings
        self.warn_of_few(embeddings)
        return self.fit(embeddings).transform(embeddings)

    def warn_of_few(self, embeddings):
        """Warns if a strong power is of few embeddings.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).
        """
        if self.power > 0.5 and len(embeddings) <= embeddings.shape[1]:
            logger.warning(
                f"whitening={self.power:g} of {len(embeddings)} utterances in "
                f"{embeddings.shape[1]} dimensions: it makes so few utterances "
                "vary alike in each direction, and all are far apart. "
                "Give 0.5 or less, or more utterances."
            )
