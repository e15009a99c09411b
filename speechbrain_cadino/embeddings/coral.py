"""CORAL: embeddings of one domain that vary more as those of another do."""

import numpy as np
from scipy.linalg import eigh

from speechbrain_cadino.embeddings.linear import LinearMap


class Coral(LinearMap):
    """A map that brings the covariance of a target nearer to that of a source
    (Sun, Feng and Saenko, 2016, "Return of frustratingly easy domain
    adaptation").

    There the source's points get the target's covariance before a classifier
    learns from them. Here the target's get the source's, as an encoder, or a
    PLDA, has learnt from the source already: ``(x - m_t) C_t^(-1/2)
    C_s^(1/2)``, m_t the mean of the target.

    Arguments
    ---------
    ridge : float
        What is added to the diagonal of both covariances, as a multiple of
        their mean variance. 1 there, of features whose variances are 1. What
        varies far less than that keeps, but for a factor, the target's.

    Raises
    ------
    ValueError
        If it is not positive.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> target = rng.standard_normal((1000, 2)) * [1, 8] + 5
    >>> source = rng.standard_normal((1000, 2)) * [8, 1]
    >>> coral = Coral(ridge=1e-6).fit(target, source)
    >>> coral.transform(target).std(0).round()
    array([8., 1.], dtype=float32)
    """

    def __init__(self, ridge=1.0):
        if not ridge > 0:
            raise ValueError(f"ridge={ridge}: give a number above 0.")
        self.ridge = ridge

    def fit(self, target, source):
        """Learns from embeddings.

        Arguments
        ---------
        target : numpy.ndarray
            Embeddings of the target, shape (N, D).
        source : numpy.ndarray
            Embeddings of the source, shape (M, D).

        Returns
        -------
        Coral
            This map.

        Raises
        ------
        ValueError
            If all embeddings of a side are the same.
        """
        self.mean = np.mean(target, axis=0, dtype=np.float64)
        self.axes = self._power(target, "target", -0.5) @ self._power(
            source, "source", 0.5
        )
        return self

    def _power(self, embeddings, side, power):
        """A power of a covariance, ridge included."""
        points = np.asarray(embeddings, np.float64)
        covariance = np.atleast_2d(np.cov(points, rowvar=False, ddof=0))
        mean_variance = np.trace(covariance) / len(covariance)
        if not mean_variance > 0:
            raise ValueError(
                f"All {len(embeddings)} embeddings of the {side} are the same: "
                "the encoder has collapsed, or the files are all alike."
            )
        ridge = self.ridge * mean_variance * np.eye(len(covariance))
        variances, axes = eigh(covariance + ridge)
        return axes * variances**power @ axes.T
