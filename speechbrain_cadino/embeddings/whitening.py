"""Whitening: embeddings that differ in all directions alike."""

import numpy as np

# Rows that are worked on at once, which saves memory.
CHUNK = 2**14


class Whitening:
    """``whiten`` as a transform of embeddings.

    Arguments
    ---------
    power : float
        See ``whiten``, also for the errors; 0 leaves embeddings as they are.

    Example
    -------
    >>> Whitening(power=0).fit_transform(np.eye(2)).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """

    def __init__(self, power):
        check_power(power)
        self.power = power

    def fit_transform(self, embeddings):
        """Whitens embeddings by their own statistics.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Shape (N, D).

        Returns
        -------
        numpy.ndarray
            Shape (N, D).
        """
        return whiten(embeddings, self.power) if self.power else embeddings


def whiten(embeddings, power):
    """Evens out how much embeddings vary in each direction.

    Without labels, an encoder may spread its embeddings over a few directions
    and tell voices apart by small differences in others.
    Here, a direction of standard deviation s is divided by s to the power
    given: 0 leaves it alone, 1 is principal component whitening, which turns
    up the noise in the smallest directions too.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D); left as it is.
    power : float
        The power, from 0 to 1. On an hour of real speech 0.75 gave the best
        clusters, on the demo corpus 0.5, on both better ones than 0 and than 1.

    Returns
    -------
    numpy.ndarray
        Shape (N, D), float32, of mean 0, on principal axes, the largest
        first.

    Raises
    ------
    ValueError
        If the power is not from 0 to 1, or all embeddings are the same.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> embeddings = rng.standard_normal((1000, 3)) * [1, 16, 4] + 5
    >>> whiten(embeddings, power=0.5).std(0).round()
    array([4., 2., 1.], dtype=float32)
    """
    mean, axes = fit_whitening(embeddings, power)
    result = np.empty(embeddings.shape, np.float32)
    for rows in _chunks(len(embeddings)):
        result[rows] = (embeddings[rows] - mean) @ axes
    return result


def fit_whitening(embeddings, power):
    """What ``whiten`` does, for other embeddings of the same encoder.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D).
    power : float
        See ``whiten``, also for the errors.

    Returns
    -------
    mean : numpy.ndarray
        Shape (D,), to be subtracted first.
    axes : numpy.ndarray
        Shape (D, D), to be multiplied with from the right.

    Example
    -------
    >>> mean, axes = fit_whitening(np.array([[1.0, 0.0], [5.0, 0.0]]), power=1)
    >>> mean.tolist(), np.abs((np.array([7.0, 0.0]) - mean) @ axes).tolist()
    ([3.0, 0.0], [2.0, 0.0])
    """
    check_power(power)
    mean = np.mean(embeddings, axis=0, dtype=np.float64)
    covariance = np.zeros((len(mean), len(mean)))
    for rows in _chunks(len(embeddings)):
        centred = embeddings[rows] - mean
        covariance += centred.T @ centred / len(embeddings)
    if not np.isfinite(covariance).all():
        raise ValueError(
            "An embedding is not finite: leave out the files that cannot be "
            "read, see store.readable_rows."
        )
    variances, axes = np.linalg.eigh(covariance)
    variances, axes = variances[::-1], axes[:, ::-1]
    if not variances[0] > 0:
        raise ValueError(
            f"All {len(embeddings)} embeddings are the same: the encoder has "
            "collapsed, or the files are all alike."
        )
    # Directions without variance, up to rounding, stay at zero.
    real = variances > variances[0] * 1e-12
    scales = np.where(real, variances, 1) ** (-power / 2) * real
    return mean, axes * scales


def check_power(power):
    """Raises if a power for ``whiten`` is not from 0 to 1.

    Arguments
    ---------
    power : float
        The power.

    Example
    -------
    >>> check_power(2)
    Traceback (most recent call last):
    ...
    ValueError: whitening=2: give a number from 0 (none) to 1 (full).
    """
    if not 0 <= power <= 1:
        raise ValueError(
            f"whitening={power}: give a number from 0 (none) to 1 (full)."
        )


def _chunks(count):
    return [slice(first, first + CHUNK) for first in range(0, count, CHUNK)]
