"""Error rates of a verification system, exact, in n log n.

A trial is accepted if its score is at or above the threshold. The scores are
sorted once; everything else is read off the error rates that this gives.
"""

import functools
import numbers

import numpy as np
from scipy.special import rel_entr
from sklearn.isotonic import isotonic_regression


class SortedTrials:
    """Trials sorted by score, ready for figures under many weightings.

    Arguments
    ---------
    scores : array_like
        Shape (N,), none of them NaN. They may be infinite.
    targets : array_like
        Shape (N,), bool: True where both sides are the same speaker.

    Raises
    ------
    ValueError
        If a score is NaN, or there are not as many scores as targets.

    Example
    -------
    >>> trials = SortedTrials([1, 2, 3, 4], [0, 1, 0, 1])
    >>> trials.summary()
    {'eer': 50.0, 'min_dcf_0.01': 0.5, 'min_dcf_0.05': 0.5}
    >>> trials.summary(weights=[1, 0, 1, 1])
    {'eer': 0.0, 'min_dcf_0.01': 0.0, 'min_dcf_0.05': 0.0}
    """

    def __init__(self, scores, targets):
        scores, targets = np.asarray(scores), np.asarray(targets, bool)
        if len(scores) != len(targets):
            raise ValueError(
                f"{len(scores)} scores of {len(targets)} trials: give one each."
            )
        if np.isnan(scores).any():
            raise ValueError(f"{np.isnan(scores).sum()} score(s) are NaN.")
        self.order = np.argsort(scores)
        self.scores, self.targets = scores[self.order], targets[self.order]
        # Equal scores fall on the same side of any threshold: one point for
        # all.
        new = np.append(True, self.scores[1:] != self.scores[:-1])
        self.first = np.append(np.flatnonzero(new), len(scores))
        self.thresholds = np.append(self.scores, np.inf)[self.first]

    def error_rates(self, weights=None):
        """See the function ``error_rates``."""
        misses, rejections = (
            np.append(0, np.cumsum(kind))[self.first]
            for kind in self._by_kind(weights)
        )
        return (
            misses / misses[-1],
            1 - rejections / rejections[-1],
            self.thresholds,
        )

    def cllr(self, weights=None):
        """See the function ``cllr``; weights as for ``error_rates``."""
        cost = 0
        for kind in self._by_kind(weights):
            # No weight, no cost, not even where that is infinite.
            used = kind > 0
            cost += np.average(self._log_losses[used], weights=kind[used])
        return float(cost / 2)

    def summary(
        self,
        weights=None,
        operating_points=(0.01, 0.05),
        convex_hull=False,
        calibrated=False,
    ):
        """See the function ``summary``; weights as for ``error_rates``."""
        p_miss, p_fa, thresholds = self.error_rates(weights)
        equal = _hull_eer if convex_hull else eer
        figures = {"eer": 100 * equal(p_miss, p_fa)}
        for p in operating_points:
            figures[f"min_dcf_{p:g}"] = min_dcf(p_miss, p_fa, p)
        if calibrated:
            for p in operating_points:
                figures[f"act_dcf_{p:g}"] = _act_dcf(
                    p_miss, p_fa, thresholds, p
                )
            figures["cllr"] = self.cllr(weights)
            figures["min_cllr"] = min_cllr(p_miss, p_fa)
        return figures

    def _by_kind(self, weights):
        """The sorted weights, of targets with 0 elsewhere, and of others."""
        if weights is None:
            weights = np.ones(len(self.order))
        weights = np.asarray(weights, np.float64)[self.order]
        kinds = weights * self.targets, weights * ~self.targets
        targets, others = (kind.sum() for kind in kinds)
        if not (targets > 0 and others > 0):
            raise ValueError(
                f"{targets:g} target and {others:g} non-target trials: error "
                "rates need some of both."
            )
        return kinds

    @functools.cached_property
    def _log_losses(self):
        """What each trial costs if its score is taken at its word, in bits."""
        scores = self.scores.astype(np.float64)
        wrong = np.where(self.targets, -scores, scores)
        return np.logaddexp(0, wrong) / np.log(2)


def error_rates(scores, targets, weights=None):
    """Miss and false-alarm rates at every threshold that matters.

    Arguments
    ---------
    scores : array_like
        Shape (N,). They may be infinite.
    targets : array_like
        Shape (N,), bool: True where both sides are the same speaker.
    weights : array_like, optional
        Shape (N,), not negative: how often each trial counts. Once each, by
        default.

    Returns
    -------
    p_miss : numpy.ndarray
        Shape (K + 1,) for K distinct scores, rising from 0 to 1: the share
        of targets that score below the threshold.
    p_fa : numpy.ndarray
        Shape (K + 1,), falling from 1 to 0: the share of non-targets that
        score at or above it.
    thresholds : numpy.ndarray
        Shape (K + 1,): the distinct scores in rising order, then infinity,
        which here rejects all.

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
    return SortedTrials(scores, targets).error_rates(weights)


def convex_hull(p_miss, p_fa):
    """The ROC's convex hull: the best that any recalibration can do.

    Its points are reached by thresholds, and those between them by tossing a
    coin between two thresholds. Given to ``eer``, it yields the ROCCH-EER,
    which is the largest error, over all priors, of the best decisions
    (Brümmer 2010, "Measuring, refining and calibrating speaker and language
    information extracted from speech").

    The slopes of the hull rise where those of the ROC may go to and fro: it
    is the ROC after isotonic regression of its slopes (Fawcett and
    Niculescu-Mizil 2007, "PAV and the ROC convex hull").

    Arguments
    ---------
    p_miss : numpy.ndarray
        The miss rates of ``error_rates``.
    p_fa : numpy.ndarray
        The false alarm rates of ``error_rates``.

    Returns
    -------
    p_miss : numpy.ndarray
        Shape (H,): of the vertices, rising from 0 to 1.
    p_fa : numpy.ndarray
        Shape (H,): of the vertices, falling from 1 to 0.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> p_miss, p_fa = convex_hull(p_miss, p_fa)
    >>> p_miss.tolist(), p_fa.tolist()
    ([0.0, 0.0, 0.5, 1.0], [1.0, 0.5, 0.0, 0.0])
    >>> round(eer(p_miss, p_fa), 4)
    0.25
    """
    misses, fas = np.diff(p_miss), -np.diff(p_fa)
    lengths = misses + fas
    moves = np.flatnonzero(lengths)  # trials without weight do not
    misses, lengths = misses[moves], lengths[moves]
    # The share of misses in a step rises with its slope, and is finite.
    shares = isotonic_regression(misses / lengths, sample_weight=lengths)
    starts = moves[np.flatnonzero(np.diff(shares)) + 1]
    vertices = np.concatenate([[0], starts, [len(p_miss) - 1]])
    return p_miss[vertices], p_fa[vertices]


def eer(p_miss, p_fa):
    """Equal error rate: where the ROC crosses the line of equal rates.

    Neighbouring ROC points are joined by straight lines, which is what
    breaking ties at random gives on average. The EER of the ROC's convex
    hull, ``eer(*convex_hull(p_miss, p_fa))``, is never larger.

    Arguments
    ---------
    p_miss : numpy.ndarray
        The miss rates of ``error_rates`` or ``convex_hull``.
    p_fa : numpy.ndarray
        The false alarm rates of ``error_rates`` or ``convex_hull``.

    Returns
    -------
    float
        The rate, between 0 and 1.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> eer(p_miss, p_fa)
    0.5
    """
    difference = p_miss - p_fa  # rising from -1 to 1
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
        The miss rates of ``error_rates``.
    p_fa : numpy.ndarray
        The false alarm rates of ``error_rates``.
    p_target : float
        Prior probability of a target.
    c_miss : float
        Cost of a miss.
    c_fa : float
        Cost of a false alarm.

    Returns
    -------
    float
        The cost, between 0 and 1.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> min_dcf(p_miss, p_fa, p_target=0.01)
    0.5
    """
    miss, fa = _prices(p_target, c_miss, c_fa)
    return float((miss * p_miss + fa * p_fa).min() / min(miss, fa))


def act_dcf(scores, targets, p_target, c_miss=1, c_fa=1):
    """Actual detection cost, at the threshold that calibrated scores call for.

    That is the Bayes threshold ``log(c_fa (1 - p_target) / (c_miss
    p_target))``. The cost is normalised as by ``min_dcf``, and never lower; a
    badly calibrated system may have more than 1.

    Arguments
    ---------
    scores : array_like
        Shape (N,): natural log-likelihood ratios. They may be infinite.
    targets : array_like
        Mask of the target trials, shape (N,), bool.
    p_target : float
        Prior probability of a target.
    c_miss : float
        Cost of a miss.
    c_fa : float
        Cost of a false alarm.

    Returns
    -------
    float
        The cost, 0 or more.

    Raises
    ------
    ValueError
        As ``error_rates``.

    Example
    -------
    >>> act_dcf([-2.0, 0.5, 3.0, 3.5], [0, 1, 0, 1], p_target=0.5)
    0.5
    """
    rates = error_rates(scores, targets)
    return _act_dcf(*rates, p_target, c_miss, c_fa)


def _act_dcf(p_miss, p_fa, thresholds, p_target, c_miss=1, c_fa=1):
    miss, fa = _prices(p_target, c_miss, c_fa)
    at = np.searchsorted(thresholds, np.log(fa / miss))
    return float((miss * p_miss[at] + fa * p_fa[at]) / min(miss, fa))


def check_prior(p_target):
    """Raises if an operating point is none, before anything is scored.

    Arguments
    ---------
    p_target : float
        Prior probability of a target.

    Raises
    ------
    ValueError
        If it is no number between 0 and 1.

    Example
    -------
    >>> check_prior(0.05)
    >>> check_prior(5)
    Traceback (most recent call last):
    ...
    ValueError: operating_points: 5 is no prior probability: give numbers ...
    """
    if not isinstance(p_target, numbers.Real) or not 0 < p_target < 1:
        raise ValueError(
            f"operating_points: {p_target} is no prior probability: give "
            "numbers between 0 and 1."
        )


def _prices(p_target, c_miss, c_fa):
    """What all misses and what all false alarms cost."""
    miss, fa = c_miss * p_target, c_fa * (1 - p_target)
    if not (miss > 0 and fa > 0):
        raise ValueError(
            f"p_target={p_target}, c_miss={c_miss}, c_fa={c_fa}: a prior lies "
            "between 0 and 1, a cost above 0."
        )
    return miss, fa


def _hull_eer(p_miss, p_fa):
    return eer(*convex_hull(p_miss, p_fa))


def cllr(scores, targets):
    """Cost of log-likelihood ratios, over all operating points.

    The mean of ``log2(1 + exp(-s))`` over targets and that of
    ``log2(1 + exp(s))`` over non-targets, halved (Brümmer and du Preez 2006,
    "Application-independent evaluation of speaker detection"). A system that
    gives 0 for every trial has 1.

    Arguments
    ---------
    scores : array_like
        Shape (N,): natural log-likelihood ratios. They may be infinite: one
        that is so on the wrong side costs infinitely much.
    targets : array_like
        Mask of the target trials, shape (N,), bool.

    Returns
    -------
    float
        The cost in bits, 0 or more.

    Raises
    ------
    ValueError
        As ``error_rates``.

    Example
    -------
    >>> cllr([0.0, 0.0, 0.0], [0, 1, 1])
    1.0
    >>> cllr([-np.inf, 0.0, np.inf], [0, 1, 1])
    0.25
    >>> cllr([-np.inf, -np.inf, np.inf], [0, 1, 1])
    inf
    """
    return SortedTrials(scores, targets).cllr()


def min_cllr(p_miss, p_fa):
    """The least ``cllr`` that rising functions of the scores can have.

    The best of them gives each segment of the ROC's convex hull the logarithm
    of its slope, ``log(dp_miss / dp_fa)`` (Brümmer and du Preez 2006).

    Arguments
    ---------
    p_miss : numpy.ndarray
        The miss rates of ``error_rates`` or ``convex_hull``.
    p_fa : numpy.ndarray
        The false alarm rates of ``error_rates`` or ``convex_hull``.

    Returns
    -------
    float
        The cost in bits, between 0 and 1.

    Example
    -------
    >>> p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    >>> min_cllr(p_miss, p_fa)
    0.5
    """
    p_miss, p_fa = convex_hull(p_miss, p_fa)
    misses, fas = np.diff(p_miss), -np.diff(p_fa)
    # rel_entr(x, y) is x log(x / y), and 0 for x = 0: a segment of one kind
    # of trial has an infinite ratio, on the right side.
    gain = rel_entr(misses, misses + fas) + rel_entr(fas, misses + fas)
    return float(abs(gain.sum()) / np.log(4))


def summary(
    scores,
    targets,
    operating_points=(0.01, 0.05),
    convex_hull=False,
    calibrated=False,
):
    """The figures that every report of this package shows.

    Operating points are priors only, with costs of 1: a normalised cost with
    other costs is that of the effective prior ``c_miss p_target / (c_miss
    p_target + c_fa (1 - p_target))``.

    Arguments
    ---------
    scores : array_like
        Scores, shape (N,).
    targets : array_like
        Mask of the target trials, shape (N,), bool.
    operating_points : sequence
        Effective priors of a target.
    convex_hull : bool
        Whether to give the EER of the ROC's convex hull, see ``eer``.
    calibrated : bool
        The scores are natural log-likelihood ratios: say how good they are as
        such.

    Returns
    -------
    dict
        ``eer`` in percent, and for each operating point, such as 0.01,
        ``min_dcf_0.01``. If calibrated, also ``act_dcf_0.01`` for each, then
        ``cllr`` and ``min_cllr`` in bits.

    Raises
    ------
    ValueError
        As ``error_rates``.

    Example
    -------
    >>> summary([1, 2, 3, 4], [0, 1, 0, 1])
    {'eer': 50.0, 'min_dcf_0.01': 0.5, 'min_dcf_0.05': 0.5}
    >>> summary(
    ...     *([-9, 0, 0, 9], [0, 1, 0, 1]),
    ...     operating_points=[0.5],
    ...     convex_hull=True,
    ...     calibrated=True,
    ... ).keys()
    dict_keys(['eer', 'min_dcf_0.5', 'act_dcf_0.5', 'cllr', 'min_cllr'])
    """
    return SortedTrials(scores, targets).summary(
        operating_points=operating_points,
        convex_hull=convex_hull,
        calibrated=calibrated,
    )
