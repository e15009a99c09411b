"""Calibration: from scores to log-likelihood ratios."""

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

# Inverse strength of the L2 penalty on the slope of standardised scores. At 400
# trials, 1 makes it 5% too flat, and 100 a twentieth of a percent; none at all
# has no answer where no score is on the wrong side.
C = 100.0

# Logarithms that differ by less are the same
ROUNDING = 1e-5

MEASURES = [
    "shorter log seconds",
    "longer log seconds",
    "smaller log norm",
    "larger log norm",
]


def quality_measures(files, embeddings, enrol, test, sample_rate=16000):
    """What tells how far the score of a trial can be trusted.

    Of both sides, how long the audio is and how large the embedding is before
    its norm is divided out: noise and other things that hide a voice make it
    smaller. Such measures were brought in by Thienpondt et al. (2021), "The
    IDLab VoxCeleb Speaker Recognition Challenge 2020 System Description".

    Arguments
    ---------
    files : pandas.DataFrame
        The columns ``start,stop`` of N files, in samples.
    embeddings : numpy.ndarray
        Embeddings of the files, shape (N, D).
    enrol : numpy.ndarray
        Shape (T,): the row of each trial's one side.
    test : numpy.ndarray
        Shape (T,): the row of its other side.
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    numpy.ndarray
        Shape (T, 4), in the order of ``MEASURES``: the same for a trial and
        its mirror image.

    Example
    -------
    >>> import pandas as pd
    >>> files = pd.DataFrame({"start": [0, 0], "stop": [16000, 32000]})
    >>> rows = np.array([0]), np.array([1])
    >>> quality_measures(files, np.array([[3.0], [1.0]]), *rows).round(2)
    array([[0.  , 0.69, 0.  , 1.1 ]])
    """
    seconds = (files["stop"] - files["start"]).to_numpy() / sample_rate
    norms = np.linalg.norm(embeddings, axis=1)
    columns = []
    for values in (seconds, norms):
        logs = np.log(np.maximum(values, 1e-12))
        if np.ptp(logs) < ROUNDING:  # of embeddings of length 1
            logs[:] = logs[0]
        sides = logs[np.stack([enrol, test])]
        columns += [sides.min(0), sides.max(0)]
    return np.stack(columns, axis=1)


class Calibration:
    """Logistic regression on scores and quality measures.

    Targets and non-targets have the same weight in all, so its output is the
    natural logarithm of a likelihood ratio (Brümmer and du Preez 2006,
    "Application-independent evaluation of speaker detection").

    Arguments
    ---------
    scores : numpy.ndarray
        Scores, shape (T,).
    targets : array_like
        Mask of the target trials, shape (T,), bool.
    quality : numpy.ndarray, optional
        Quality measures, shape (T, Q).

    Example
    -------
    >>> scores = np.array([0.1, 0.2, 0.3, 0.4])
    >>> quality = np.zeros((4, 1))
    >>> calibration = Calibration(scores, [False, True, False, True], quality)
    >>> low, high = calibration(np.array([0.1, 0.4]), quality[:2])
    >>> bool(low < 0 < high)
    True
    """

    def __init__(self, scores, targets, quality=None):
        self.model = logistic(_columns(scores, quality), targets)

    def __call__(self, scores, quality=None):
        """Calibrates scores.

        Arguments
        ---------
        scores : numpy.ndarray
            Scores, shape (T,).
        quality : numpy.ndarray, optional
            Quality measures, shape (T, Q), of the kinds that it has learnt
            from.

        Returns
        -------
        numpy.ndarray
            Natural log-likelihood ratios, shape (T,).
        """
        return self.model.decision_function(_columns(scores, quality))

    def weights(self):
        """What the model has learned.

        Returns
        -------
        dict
            ``offset``, ``score`` and, with these measures, each of
            ``MEASURES``: the log-likelihood ratio is the offset plus the
            weighted sum.
        """
        offset, weights = weights_of(self.model)
        names = ["offset", "score", *MEASURES]
        return dict(zip(names, [offset, *weights]))


def _columns(scores, quality):
    """The features of logistic regression."""
    return np.column_stack([scores] if quality is None else [scores, quality])


def weights_of(model):
    """The log-likelihood ratios of ``logistic``, in terms of its features as
    they come in.

    Arguments
    ---------
    model : sklearn.pipeline.Pipeline
        The model of ``logistic``.

    Returns
    -------
    offset : float
        The log-likelihood ratio where all features are 0.
    weights : list of float
        The weight of each feature.

    Example
    -------
    >>> features = np.array([[0.0], [2.0], [1.0], [3.0]])
    >>> model = logistic(features, [False, False, True, True])
    >>> offset, (weight,) = weights_of(model)
    >>> ratios = model.decision_function(features)
    >>> bool(np.allclose(offset + weight * features[:, 0], ratios))
    True
    """
    scaler, regression = model
    weights = regression.coef_[0] / scaler.scale_
    offset = regression.intercept_[0] - weights @ scaler.mean_
    return float(offset), weights.tolist()


def logistic(features, targets):
    """Logistic regression for log-likelihood ratios.

    Arguments
    ---------
    features : numpy.ndarray
        Features of the trials, shape (T, F).
    targets : array_like
        Mask of the target trials, shape (T,), bool.

    Returns
    -------
    sklearn.pipeline.Pipeline
        A scaler and the regression, with an L2 penalty of 1 / ``C``. Both
        kinds of trials weigh the same.
    """
    # To its end: where both kinds are well apart, scikit-learn's own tolerance
    # leaves the slope a fifth too low
    regression = LogisticRegression(
        class_weight="balanced", C=C, tol=1e-9, max_iter=1000
    )
    return make_pipeline(StandardScaler(), regression).fit(features, targets)
