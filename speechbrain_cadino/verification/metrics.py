"""Error rates of a verification system, exact, in n log n.

A trial is accepted if its score is at or above the threshold. ``error_rates``
sorts the scores once; everything else is read off its result.
"""

import numpy as np


def error_rates(scores, targets):
    """Miss and false-alarm rates at every threshold that matters.

    Arguments
    ---------
    scores : array_like
        Shape (N,).
    targets : array_like
        Shape (N,), bool: True where both sides are the same speaker.

    Returns
    -------
    p_miss : numpy.ndarray
        Shape (K + 1,) for K distinct scores, rising from 0 to 1: the share
        of targets that score below the threshold.
    p_fa : numpy.ndarray
        Shape (K + 1,), falling from 1 to 0: the share of non-targets that
        score at or above it.
    thresholds : numpy.ndarray
        Shape (K + 1,): the distinct scores in rising order, then infinity.

    Raises
    ------
    ValueError
        If a score is NaN, or all trials are of one kind.

    Example
    -------
    >>> p_miss, p_fa, thresholds = error_rates(
    ...     [0.1, 0.4, 0.4, 0.9], [False, False, True, True]
    ... )
    >>> p_miss.tolist(), p_fa.tolist(), thresholds.tolist()
    ([0.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0], [0.1, 0.4, 0.9, inf])
    """
    scores, targets = np.asarray(scores), np.asarray(targets, bool)
    if np.isnan(scores).any():
        raise ValueError(f"{np.isnan(scores).sum()} score(s) are NaN.")
    total = targets.sum()
    if total in (0, len(targets)):
        raise ValueError(
            f"{total} target and {len(targets) - total} non-target trials: "
            "error rates need some of both."
        )
    order = np.argsort(scores)
    scores, targets = scores[order], targets[order]
    # Equal scores fall on the same side of any threshold: one point for all.
    first = np.flatnonzero(np.append(True, scores[1:] != scores[:-1]))
    targets_below = np.append(0, np.cumsum(targets))
    first = np.append(first, len(scores))
    p_miss = targets_below[first] / total
    p_fa = 1 - (first - targets_below[first]) / (len(scores) - total)
    return p_miss, p_fa, np.append(scores, np.inf)[first]


def eer(p_miss, p_fa):
    """Equal error rate: where the ROC crosses the line of equal rates.

    Neighbouring ROC points are joined by straight lines, which is what
    breaking ties at random gives on average. It is not the EER of the ROC's
    convex hull, which is never larger.

    Arguments
    ---------
    p_miss : numpy.ndarray
        Of ``error_rates``.
    p_fa : numpy.ndarray
        Of ``error_rates``.

    Returns
    -------
    float
        Between 0 and 1.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> eer(p_miss, p_fa)
    0.5
    """
    difference = p_miss - p_fa  # strictly rising from -1 to 1
    after = np.searchsorted(difference, 0)
    before = after - 1
    weight = difference[before] / (difference[before] - difference[after])
    return float(p_miss[before] + weight * (p_miss[after] - p_miss[before]))


def min_dcf(p_miss, p_fa, p_target, c_miss=1, c_fa=1):
    """Minimum detection cost over all thresholds, normalised as NIST does.

    The cost ``c_miss p_target p_miss + c_fa (1 - p_target) p_fa`` is divided
    by that of the better of accepting all and rejecting all, so a useless
    system has 1 (NIST 2016 Speaker Recognition Evaluation Plan, section 3.1).

    Arguments
    ---------
    p_miss : numpy.ndarray
        Of ``error_rates``.
    p_fa : numpy.ndarray
        Of ``error_rates``.
    p_target : float
        Prior probability of a target.
    c_miss : float
        Cost of a miss.
    c_fa : float
        Cost of a false alarm.

    Returns
    -------
    float
        Between 0 and 1.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> min_dcf(p_miss, p_fa, p_target=0.01)
    0.5
    """
    miss, fa = c_miss * p_target, c_fa * (1 - p_target)
    return float((miss * p_miss + fa * p_fa).min() / min(miss, fa))


def summary(scores, targets):
    """The figures that every report of this package shows.

    Arguments
    ---------
    scores : array_like
        Shape (N,).
    targets : array_like
        Shape (N,), bool.

    Returns
    -------
    dict
        ``eer`` in percent, ``min_dcf_0.01`` and ``min_dcf_0.05`` (by
        ``p_target``, costs 1).

    Example
    -------
    >>> summary([1, 2, 3, 4], [0, 1, 0, 1])
    {'eer': 50.0, 'min_dcf_0.01': 0.5, 'min_dcf_0.05': 0.5}
    """
    p_miss, p_fa, _ = error_rates(scores, targets)
    return {
        "eer": 100 * eer(p_miss, p_fa),
        "min_dcf_0.01": min_dcf(p_miss, p_fa, 0.01),
        "min_dcf_0.05": min_dcf(p_miss, p_fa, 0.05),
    }
