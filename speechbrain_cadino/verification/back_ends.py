"""Back-ends: what happens between embeddings and scores.

A back-end is named by its steps, such as ``mean+as_norm``; see ``BackEnd``.
"""

import functools

import pandas as pd

from speechbrain_cadino.embeddings.whitening import fit_whitening
from speechbrain_cadino.verification.normalisation import (
    cohort_means,
    cohort_statistics,
    normalise,
)
from speechbrain_cadino.verification.scoring import PLDA, cosine, trial_scores

# In the order in which they work; of each group one at most.
GROUPS = [
    ("mean", "whiten"),
    ("cosine", "plda"),
    ("s_norm", "as_norm"),
    ("calibrated",),
]


class BackEnd:
    """Which steps a back-end has.

    ``mean`` subtracts the mean embedding of the training set, ``whiten`` does
    so and evens out the directions (see ``clustering.whitening``); scores are
    by ``cosine`` if nothing is said, or by ``plda``; ``s_norm`` and
    ``as_norm`` normalise them by a cohort; ``calibrated`` makes them
    log-likelihood ratios.

    Arguments
    ---------
    name : str
        The steps in this order, joined by ``+``.

    Raises
    ------
    ValueError
        If the name is not of this form.

    Example
    -------
    >>> back_end = BackEnd("whiten+as_norm")
    >>> "whiten" in back_end, "plda" in back_end
    (True, False)
    >>> BackEnd("as_norm+mean")
    Traceback (most recent call last):
    ...
    ValueError: There is no back-end 'as_norm+mean': ...
    """

    def __init__(self, name):
        self.name = name
        self.steps = str(name).split("+")
        places = [
            [step in group for group in GROUPS].index(True)
            for step in self.steps
            if any(step in group for group in GROUPS)
        ]
        known = len(places) == len(self.steps)
        if not known or places != sorted(set(places)):
            form = ", then ".join(" or ".join(group) for group in GROUPS)
            raise ValueError(
                f"There is no back-end '{name}': join steps by '+', at most "
                f"one of {form}."
            )

    def __contains__(self, step):
        return step in self.steps

    @property
    def system(self):
        """What it is called in results."""
        return "+".join(["encoder", *(s for s in self.steps if s != "cosine")])

    @property
    def needs_clusters(self):
        """Whether it takes a training set with pseudo labels."""
        return any(step in self for step in ["plda", "s_norm", "as_norm"])

    @property
    def needs_embeddings(self):
        """Whether it takes the embeddings of a training set."""
        return self.needs_clusters or "whiten" in self


class BackEnds:
    """Scores trials with any back-end.

    Arguments
    ---------
    mean : numpy.ndarray, optional
        Shape (D,): the mean embedding of the training set.
    embeddings : numpy.ndarray, optional
        Shape (N, D), of a training set, for the back-ends that need them.
    labels : array_like, optional
        Shape (N,): its pseudo labels, for the back-ends that need them.
    whitening : float
        Power of the step ``whiten``.
    top_cohort : int
        Impostors of the step ``as_norm``.
    plda_rank : int
        See ``PLDA``.

    Example
    -------
    >>> import numpy as np
    >>> embeddings = np.array([[2.0, 1.0], [2.0, -1.0], [4.0, -1.0]])
    >>> back_ends = BackEnds(mean=np.array([2.0, 0.0]))
    >>> enrol, test = np.array([0, 1]), np.array([1, 2])
    >>> back_ends.scores(BackEnd("mean"), embeddings, enrol, test).round(2)
    array([-1.  ,  0.45], dtype=float32)
    """

    def __init__(
        self,
        mean=None,
        embeddings=None,
        labels=None,
        whitening=0.75,
        top_cohort=300,
        plda_rank=100,
    ):
        self.mean = mean
        self.embeddings = embeddings
        self.labels = labels
        self.whitening = whitening
        self.top_cohort = top_cohort
        self.plda_rank = plda_rank

    def scores(self, back_end, embeddings, enrol, test):
        """Scores of trials; a step ``calibrated`` is left to ``Calibration``.

        Arguments
        ---------
        back_end : BackEnd
            The steps.
        embeddings : numpy.ndarray
            Shape (M, D).
        enrol : numpy.ndarray
            Shape (T,): the row of each trial's one side.
        test : numpy.ndarray
            Shape (T,): the row of its other side.

        Returns
        -------
        numpy.ndarray
            Shape (T,), float32.
        """
        transform = self._transform(back_end)
        scorer = cosine
        if back_end.needs_clusters:
            training = transform(self.embeddings)
        if "plda" in back_end:
            scorer = PLDA(training, self.labels, self.plda_rank)
        sides = scorer(transform(embeddings))
        scores = trial_scores(sides, enrol, test)
        if "s_norm" in back_end or "as_norm" in back_end:
            top = self.top_cohort if "as_norm" in back_end else None
            cohort = scorer(cohort_means(training, self.labels))
            scores = normalise(
                *(scores, enrol, test), *cohort_statistics(sides, cohort, top)
            )
        return scores

    def _transform(self, back_end):
        """The function from embeddings to those that are scored."""
        if "whiten" in back_end:
            mean, axes = self._whitening
            return lambda embeddings: (embeddings - mean) @ axes
        if "mean" in back_end:
            return lambda embeddings: embeddings - self.mean
        return lambda embeddings: embeddings

    @functools.cached_property
    def _whitening(self):
        return fit_whitening(self.embeddings, self.whitening)


def background_rows(labels, most, seed=0):
    """Which utterances of a training set stand for all.

    Arguments
    ---------
    labels : pandas.Series
        The pseudo labels of a manifest.
    most : int
        Utterances of each cluster, at most, drawn at random.
    seed : int
        Of the draw.

    Returns
    -------
    numpy.ndarray
        Row numbers, rising.

    Example
    -------
    >>> len(background_rows(pd.Series(["x", "y", "y", "y"]), most=2))
    3
    """
    labels = pd.Series(labels.to_numpy())
    shuffled = labels.sample(frac=1, random_state=seed)
    return shuffled.groupby(shuffled).head(most).index.sort_values().to_numpy()
