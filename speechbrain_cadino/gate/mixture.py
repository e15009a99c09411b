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

# The mixture is fitted to so many order statistics at most: enough for three
# digits of its parameters, and a second's work for millions of losses.
MOST_VALUES = 20_000
FEWEST_VALUES = 10


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
        The losses in nats, above 0.

    Returns
    -------
    numpy.ndarray
        The log-odds, of the shape of the losses, float64.

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
        The log-odds, of any shape.

    Returns
    -------
    numpy.ndarray
        The losses in nats, of the shape of the log-odds.

    Example
    -------
    >>> losses_of(log_odds([0.001, 2.0, 20.0])).round(6)
    array([1.e-03, 2.e+00, 2.e+01])
    """
    odds = np.asarray(odds, np.float64)
    # No overflow, and no warning of NaN as np.logaddexp has it
    return np.maximum(odds, 0) + np.log1p(np.exp(-np.abs(odds)))


class Scale(NamedTuple):
    """On which axis losses are like Gaussians.

    Arguments
    ---------
    name : str
        The name of the axis, in words.
    to : callable
        The function from losses in nats to this axis.
    back : callable
        The function from this axis to losses in nats.
    """

    name: str
    to: object
    back: object


SCALES = {
    "log_odds": Scale("log-odds", log_odds, losses_of),
    "log": Scale("logarithms", np.log, np.exp),
}


class LossMixture(NamedTuple):
    """Two Gaussians of log-odds, that with the lower mean first.

    Arguments
    ---------
    means : tuple of float
        The means of the losses as ``log_odds``.
    variances : tuple of float
        The variances of these, too.
    weights : tuple of float
        Shares, whose sum is 1.
    scale : str
        "log_odds", or "log" for the means and variances of logarithms.

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
    scale: str = "log_odds"

    @property
    def gate(self):
        """The loss at the crossing, in nats; None if there is none."""
        crossing = self.crossing
        if crossing is None:
            return None
        return float(SCALES[self.scale].back(crossing))

    @property
    def crossing(self):
        """Where the weighted densities are equal between the means, in
        units of the scale; None if one is above the other all the way."""
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


class TwoGaussians:
    """From the losses of an epoch to a gate: where two Gaussians cross.

    A mixture in general has ``fit``, from losses to a threshold and figures,
    or to None and a reason; and ``columns``, the names of the figures.

    The fit depends neither on the order of the losses nor on a few outliers.
    One mode that is skewed can pass for two: two Gaussians fit it better than
    one. Hence, where the rule is "checked", the reasons to refuse a fit. Where
    it is "papers", only losses that are too few or all alike, and Gaussians
    that do not cross, are refused: the rule of Han et al. (2022 and 2023) is
    two Gaussians of the *logarithms* of the losses, whatever they look like.

    Arguments
    ---------
    rule : str
        "checked" (ours): Gaussians of ``log_odds``, and refusals; or
        "papers".
    outliers : float
        This share at either end is drawn in to its inner edge, so that a few
        far outliers do not make a component.
    least_variance : float
        The least variance of a component: none is narrower, such as one of
        equal losses would be; 0.001 is a standard deviation of 0.03.
    least_weight : float
        A higher component of fewer of the losses that are fitted, which are
        those above ``LOWEST``, is refused as the lower one's tail.
    least_wrong : float
        The least mean of the higher component, in log-odds: a fit with a lower
        one is refused. Below 0 a label has more than half of the probability,
        it is what the model answers: there is no component of wrong labels
        around it, but one mode with a long tail.
    least_trusted : float
        The least share of right labels. With a lower one, the lower component
        is the few that are learnt first: a gate that trusted only them never
        let the others be learnt.
    least_separation : float
        Ashman's D. Two equal Gaussians have two modes from D = 2 on (Ashman,
        Bird and Zepf, 1994); those of right and wrong labels overlap more at
        first. What a fit to one Gaussian finds has a D of 1.35 or less, to
        one skewed mode, such as Gumbel's, hardly ever more than 1.6.
    seed : int
        Random seed of the start of the fit.

    Raises
    ------
    ValueError
        If there is no such rule, or a share is none.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> right = losses_of(rng.normal(-1, 2, size=7000))
    >>> wrong = losses_of(rng.normal(9, 3, size=3000))
    >>> losses = np.concatenate([right, wrong])
    >>> threshold, figures = TwoGaussians().fit(losses)
    >>> 3 < threshold < 4, round(figures["mean_low"]), round(
    ...     figures["mean_high"]
    ... )
    (True, -1, 9)
    >>> TwoGaussians().fit(right)
    (None, 'the losses have one mode')
    """

    columns = (
        "mean_low",
        "mean_high",
        "variance_low",
        "variance_high",
        "weight_low",
        "weight_high",
        "crossing",
    )

    def __init__(
        self,
        rule="checked",
        outliers=0.005,
        least_variance=1e-3,
        least_weight=0.02,
        least_wrong=0.0,
        least_trusted=0.3,
        least_separation=1.6,
        seed=0,
    ):
        if rule not in ("checked", "papers"):
            raise ValueError(f'gate_rule={rule}: give "checked" or "papers".')
        if not 0 <= least_trusted <= 1:
            raise ValueError(
                f"least_trusted={least_trusted}: give a number from 0 to 1."
            )
        self.rule = rule
        self.outliers = outliers
        self.least_variance = least_variance
        self.least_weight = least_weight
        self.least_wrong = least_wrong
        self.least_trusted = least_trusted
        self.least_separation = least_separation
        self.seed = seed

    def fit(self, losses):
        """Fits two Gaussians.

        Arguments
        ---------
        losses : array_like
            Losses, (N,), in nats. What is not finite or below ``LOWEST`` does
            not count.

        Returns
        -------
        threshold : float
            The loss at the crossing, in nats; None if there is none.
        figures : dict of str:float
            ``columns``: mean, variance and weight of the lower and the higher
            component, in units of the scale, and ``crossing``, in nats. A
            sentence that says why not if there is no threshold.
        """
        try:
            mixture = self.mixture(losses)
        except ValueError as reason:
            return None, str(reason)
        values = [*mixture.means, *mixture.variances, *mixture.weights]
        figures = dict(zip(self.columns, [*values, mixture.gate]))
        if mixture.scale != "log_odds":
            figures["scale"] = mixture.scale
        return mixture.gate, figures

    def mixture(self, losses):
        """As ``fit``.

        Arguments
        ---------
        losses : array_like
            See ``fit``.

        Returns
        -------
        LossMixture
            The mixture, which has a crossing.

        Raises
        ------
        ValueError
            If there is no gate: why not.
        """
        values = np.asarray(losses, np.float64)
        finite = np.isfinite(values).sum()
        scale = "log_odds" if self.rule == "checked" else "log"
        values = values[np.isfinite(values) & (values >= LOWEST)]
        values = SCALES[scale].to(values)
        if len(values) < FEWEST_VALUES:
            raise ValueError(
                f"only {len(values)} of the losses can be fitted, and "
                f"{FEWEST_VALUES} are needed"
            )
        fitted = len(values) / finite
        count = min(len(values), MOST_VALUES)
        places = (np.arange(count) + 0.5) / count
        edges = self.outliers, 1 - self.outliers
        values = np.quantile(values, places.clip(*edges))
        if np.ptp(values) < 1e-6:
            raise ValueError("all losses are the same")
        mixture = self._fit(values[:, None])._replace(scale=scale)
        if self.rule == "checked":
            self._check(mixture, fitted)
        if mixture.crossing is None:
            raise ValueError("the losses overlap like one mode")
        return mixture

    def _fit(self, values):
        """Two Gaussians of values, (n, 1)."""
        one, two = (
            GaussianMixture(
                components,
                tol=1e-6,
                reg_covar=self.least_variance,
                max_iter=1000,
                random_state=self.seed,
            )
            for components in (1, 2)
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            two.fit(values)
            if self.rule == "checked" and (
                two.bic(values) >= one.fit(values).bic(values)
            ):
                raise ValueError("the losses have one mode")
        order = np.argsort(two.means_[:, 0])
        means, variances, weights = (
            tuple(column[order].tolist())
            for column in (
                two.means_[:, 0],
                two.covariances_[:, 0, 0],
                two.weights_,
            )
        )
        return LossMixture(means, variances, weights)

    def _check(self, mixture, fitted):
        """Raises if the components are not of right and of wrong labels."""
        if mixture.weights[1] < self.least_weight:
            raise ValueError("the losses have one mode and a tail")
        if mixture.means[1] < self.least_wrong:
            raise ValueError("both components are of learnt labels")
        separated = mixture.separation >= self.least_separation
        if not separated or mixture.crossing is None:
            raise ValueError("the losses overlap like one mode")
        # Those below LOWEST are learnt, too
        if 1 - fitted * mixture.weights[1] < self.least_trusted:
            raise ValueError("most labels are not learnt yet")
