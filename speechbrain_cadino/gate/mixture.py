"""The dynamic loss gate: from the losses of an epoch to a threshold."""

import math
import warnings
from typing import NamedTuple

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

# Lower losses do not count: the label is right by any gate. In fp32 many are
# exactly 0; at one value they would make a component of their own, whose
# crossing with all the others is no gate.
LOWEST = 1e-4

# In log-odds: a label below it has more than half of the probability, it is
# what the model answers. Around such losses there is no component of wrong
# labels; there is one mode with a long tail, or one that LOWEST cut.
LEAST_WRONG = 0

# The mixture is fitted to so many order statistics at most: enough for three
# digits of its parameters, and a second's work for millions of losses.
MOST_VALUES = 20_000
FEWEST_VALUES = 10

# This share at either end is drawn in to its inner edge, so that a few far
# outliers do not make a component.
OUTLIERS = 0.005

# Of the log-odds: no component is narrower than a standard deviation of 0.03,
# such as one of equal losses would be.
LEAST_VARIANCE = 1e-3

# A component of fewer wrong labels is a tail of the other one.
LEAST_WEIGHT = 0.02

# With fewer right labels, the lower component is the few that are learnt first:
# a gate that trusted only them never let the others be learnt.
LEAST_TRUSTED = 0.3

# Ashman's D. Two equal Gaussians have two modes from D = 2 on (Ashman, Bird
# and Zepf, 1994); those of right and wrong labels overlap more at first. What a
# fit to one Gaussian finds has a D of 1.35 or less, to one skewed mode, such as
# Gumbel's, hardly ever more than this.
LEAST_SEPARATION = 1.6


def log_odds(losses):
    """Losses as log-odds against the label: ``log(exp(loss) - 1)``.

    A loss l is a probability ``p = exp(-l)`` of the label, and its log-odds are
    ``log((1 - p) / p)``. They are log(l) for small losses, as in the papers of
    DLG, and l for large ones: with AAM-softmax, a difference of scaled cosines,
    which is far more like a Gaussian than its logarithm is. On the logarithmic
    scale large losses have a long lower tail, which the fit takes for a
    component of its own.

    Arguments
    ---------
    losses : array_like
        In nats, above 0.

    Returns
    -------
    numpy.ndarray
        Of the same shape.

    Example
    -------
    >>> log_odds([1e-4, 1.0, 20.0]).round(2)
    array([-9.21,  0.54, 20.  ])
    """
    losses = np.asarray(losses, np.float64)
    return losses + np.log(-np.expm1(-losses))


def losses_of(odds):
    """The losses of log-odds: the inverse of ``log_odds``.

    Arguments
    ---------
    odds : array_like
        Log-odds.

    Returns
    -------
    numpy.ndarray
        Of the same shape, in nats.

    Example
    -------
    >>> losses_of(log_odds([0.001, 2.0, 20.0])).round(6)
    array([1.e-03, 2.e+00, 2.e+01])
    """
    odds = np.asarray(odds, np.float64)
    # No overflow, and no warning of NaN as np.logaddexp has it
    return np.maximum(odds, 0) + np.log1p(np.exp(-np.abs(odds)))


class LossMixture(NamedTuple):
    """Two Gaussians of log-odds, that with the lower mean first.

    Arguments
    ---------
    means : tuple of float
        Of the losses as ``log_odds``.
    variances : tuple of float
        Of these, too.
    weights : tuple of float
        Shares, whose sum is 1.

    Example
    -------
    >>> mixture = LossMixture((-1.0, 3.0), (1.0, 1.0), (0.5, 0.5))
    >>> mixture.crossing
    1.0
    >>> round(mixture.gate, 3)
    1.313
    """

    means: tuple
    variances: tuple
    weights: tuple

    @property
    def gate(self):
        """The loss at the crossing, in nats; None if there is none."""
        crossing = self.crossing
        return None if crossing is None else float(losses_of(crossing))

    @property
    def crossing(self):
        """Where the weighted densities are equal between the means, in
        log-odds; None if one is above the other all the way."""
        (low, high), (low_var, high_var) = self.means, self.variances
        # The logarithm of the ratio of the densities, of the lower to the
        # higher component, is a x^2 + b x + c at a distance x from the lower
        # mean.
        gap = high - low
        a = (1 / high_var - 1 / low_var) / 2
        b = -gap / high_var
        c = gap**2 / high_var + math.log(high_var / low_var)
        c = c / 2 + math.log(self.weights[0] / self.weights[1])
        if not c > 0 > (a * gap + b) * gap + c:
            return None
        # As b < 0 < c, of the two roots this is the smaller positive one, and
        # it is exact also where a is 0.
        return low + 2 * c / (-b + math.sqrt(b * b - 4 * a * c))

    @property
    def separation(self):
        """Ashman's D: the distance of the means in units of the root mean
        square deviation of both."""
        variance = sum(self.variances) / 2
        return (self.means[1] - self.means[0]) / math.sqrt(variance)


def fit_mixture(losses, seed=0):
    """Fits two Gaussians to the log-odds of losses.

    It depends neither on the order of the losses nor on a few outliers: see
    the constants of this file. One mode that is skewed can pass for two: two
    Gaussians fit it better than one.

    Arguments
    ---------
    losses : array_like
        (N,), in nats. What is not finite or below ``LOWEST`` does not count.
    seed : int
        Of the start of the fit.

    Returns
    -------
    LossMixture
        It has a crossing.

    Raises
    ------
    ValueError
        If the losses do not have two components: why not.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> right = losses_of(rng.normal(-1, 2, size=7000))
    >>> wrong = losses_of(rng.normal(9, 3, size=3000))
    >>> mixture = fit_mixture(np.concatenate([right, wrong]))
    >>> [round(mean) for mean in mixture.means]
    [-1, 9]
    >>> 3 < mixture.gate < 4
    True
    """
    values = np.asarray(losses, np.float64)
    finite = np.isfinite(values).sum()
    values = log_odds(values[np.isfinite(values) & (values >= LOWEST)])
    if len(values) < FEWEST_VALUES:
        raise ValueError(
            f"only {len(values)} of the losses are finite and not below "
            f"{LOWEST}"
        )
    fitted = len(values) / finite
    count = min(len(values), MOST_VALUES)
    places = (np.arange(count) + 0.5) / count
    values = np.quantile(values, places.clip(OUTLIERS, 1 - OUTLIERS))
    if np.ptp(values) < 1e-6:
        raise ValueError("all losses are the same")
    values = values[:, None]
    one, two = (
        GaussianMixture(
            components,
            tol=1e-6,
            reg_covar=LEAST_VARIANCE,
            max_iter=1000,
            random_state=seed,
        )
        for components in (1, 2)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        if two.fit(values).bic(values) >= one.fit(values).bic(values):
            raise ValueError("they have one mode")
    order = np.argsort(two.means_[:, 0])
    mixture = LossMixture(
        *(
            tuple(column[order].tolist())
            for column in (
                two.means_[:, 0],
                two.covariances_[:, 0, 0],
                two.weights_,
            )
        )
    )
    if mixture.weights[1] < LEAST_WEIGHT:
        raise ValueError("they have one mode and a tail")
    if mixture.means[1] < LEAST_WRONG:
        raise ValueError("both of their components are of learnt labels")
    if mixture.separation < LEAST_SEPARATION or mixture.crossing is None:
        raise ValueError("their two components overlap like one mode")
    # Those below LOWEST are learnt, too
    if 1 - fitted * mixture.weights[1] < LEAST_TRUSTED:
        raise ValueError("most labels are not learnt yet")
    return mixture
