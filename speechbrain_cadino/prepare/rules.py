"""Rules of the filter: from scores of utterances to the least that is kept."""

import numpy as np

from speechbrain_cadino.gate.mixture import TwoGaussians


class Least:
    """Keeps what has a score, or more.

    Arguments
    ---------
    score : float
        The least score.

    Example
    -------
    >>> Least(0.5).threshold(np.array([0.1, 0.9]))
    (0.5, {})
    """

    def __init__(self, score):
        self.score = float(score)

    def threshold(self, scores):
        """The least score, and figures: none."""
        return self.score, {}


class Share:
    """Keeps the best.

    Arguments
    ---------
    share : float
        The share of those that come to this rule: above 0, up to 1.

    Raises
    ------
    ValueError
        If it is no share.

    Example
    -------
    >>> Share(0.5).threshold(np.array([0.1, 0.2, 0.3, 0.4]))
    (0.3, {})
    """

    def __init__(self, share):
        if not 0 < share <= 1:
            raise ValueError(
                f"{100 * share:g}% of the utterances are to be kept: give more "
                "than 0% and at most 100%."
            )
        self.share = share

    def threshold(self, scores):
        """The least score of the best, and figures: none."""
        kept = max(1, round(self.share * len(scores)))
        return float(np.sort(scores)[-kept]), {}


class Mixture:
    """Keeps the higher of two hills, if there are two.

    A score s from -1 to 1 is a probability (1 + s) / 2, and its log-odds are
    2 artanh(s): Fisher's z, which makes correlations like Gaussians. They are
    the axis of the loss gate's mixture, whose refusals are these: one mode, a
    tail, an overlap like one mode, too few.

    Arguments
    ---------
    least_kept : float
        A threshold that keeps less than this share is refused, too.

    Raises
    ------
    ValueError
        If that is no share.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> good, bad = rng.normal(0.6, 0.08, 700), rng.normal(-0.1, 0.15, 300)
    >>> threshold, figures = Mixture().threshold(np.append(good, bad))
    >>> 0.2 < threshold < 0.5
    True
    >>> Mixture().threshold(good)
    (None, 'the scores have one mode')
    """

    def __init__(self, least_kept=0.3):
        if not 0 <= least_kept <= 1:
            raise ValueError(
                f"least_kept={least_kept}: give a number from 0 to 1."
            )
        # Its rules that speak of learnt labels are not asked
        self.mixture = TwoGaussians(least_wrong=-np.inf, least_trusted=0.0)
        self.least_kept = least_kept

    def threshold(self, scores):
        """Where the two cross, and figures; None, and why, if nowhere."""
        probabilities = np.clip((1 + scores) / 2, 1e-9, 1 - 1e-9)
        loss, figures = self.mixture.fit(-np.log(probabilities))
        if loss is None:
            return None, figures.replace("losses", "scores")
        found = float(2 * np.exp(-loss) - 1)
        kept = float((scores >= found).mean())
        if kept < self.least_kept:
            return None, (
                f"the higher hill has {kept:.0%} of the utterances, and less "
                f"than {self.least_kept:.0%} are not kept"
            )
        return found, figures


def rule_of(name, value, mixture=None, detector=None):
    """A rule as it stands in YAML.

    Arguments
    ---------
    name : str
        The name of the score.
    value : str or float
        "mixture"; a share such as "80%"; a number, the least score; "auto",
        the ``least`` of the detector of speech; None or "null", as a command
        line has it, for no rule; or any object with ``threshold``.
    mixture : Mixture, optional
        The rule that "mixture" stands for.
    detector : torch.nn.Module, optional
        See ``dataio.speech``.

    Returns
    -------
    object
        The rule, whose ``threshold`` goes from scores (n,) to the least that
        is kept and figures, or to None and a reason. None for no rule.

    Raises
    ------
    ValueError
        If it is none.

    Example
    -------
    >>> rule_of("density", "80%").share, rule_of("density", "0.3").score
    (0.8, 0.3)
    >>> rule_of("density", "most")
    Traceback (most recent call last):
    ...
    ValueError: density=most: give mixture, a share such as 80%, the least ...
    """
    if hasattr(value, "threshold"):
        return value
    if value in (None, "null"):
        return None
    if value == "mixture":
        return mixture or Mixture()
    if value == "auto" and name == "speech":
        return None if detector is None else Least(detector.least)
    text = str(value)
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(
            f"{name}={value}: give mixture, a share such as 80%, the least "
            "score, or null."
        )
    if text.endswith("%"):
        return Share(number / 100)
    if number > 1:
        raise ValueError(
            f"{name}={value}: scores are 1 at most; {number:g}% keeps that "
            "share of the best."
        )
    return Least(number)
