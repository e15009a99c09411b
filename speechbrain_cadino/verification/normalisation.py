"""Score normalisation by a cohort of impostors."""

import numpy as np
import pandas as pd

from speechbrain_cadino.verification.scoring import unit

# Scores against the cohort that are worked on at once: about 100 MB.
CHUNK_SCORES = 2**24


def cohort_means(embeddings, labels):
    """A cohort: the mean embedding of each cluster.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).
    labels : array_like
        Shape (N,): speakers or pseudo labels.

    Returns
    -------
    numpy.ndarray
        Shape (C, D), float32, sorted by label: means of embeddings of L2 norm
        1.

    Raises
    ------
    ValueError
        If there are less than two clusters.

    Example
    -------
    >>> embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 3.0]])
    >>> cohort_means(embeddings, ["b", "b", "a"])
    array([[0. , 1. ],
           [0.5, 0.5]], dtype=float32)
    """
    means = pd.DataFrame(unit(embeddings)).groupby(np.asarray(labels)).mean()
    if len(means) < 2:
        raise ValueError(
            f"A cohort of {len(means)} cluster(s) cannot normalise scores: "
            "give a manifest of many pseudo speakers."
        )
    return means.to_numpy(np.float32)


def cohort_statistics(sides, cohort, top=None):
    """Mean and spread of each embedding's scores against a cohort.

    Arguments
    ---------
    sides : Sides
        The sides of N embeddings, see ``scoring``.
    cohort : Sides
        The sides of C impostors, from the same scorer.
    top : int, optional
        The number of the highest scores to take: those of the impostors that
        sound like it. All, by default or if there are no more.

    Returns
    -------
    mean : numpy.ndarray
        Means of the scores, shape (N,), float32.
    std : numpy.ndarray
        Standard deviations, shape (N,), float32, above 0.

    Raises
    ------
    ValueError
        If top is below 2.

    Example
    -------
    >>> from speechbrain_cadino.verification.scoring import cosine
    >>> cohort = cosine(np.array([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]]))
    >>> mean, std = cohort_statistics(cosine(np.array([[2.0, 0.0]])), cohort, 2)
    >>> mean.tolist(), std.tolist()
    ([0.5], [0.5])
    """
    count, size = len(sides.bias), len(cohort.bias)
    if top is not None and top < 2:
        raise ValueError(f"top_cohort={top}: give 2 or more.")
    mean, std = np.empty((2, count), np.float32)
    step = max(1, CHUNK_SCORES // size)
    for first in range(0, count, step):
        rows = slice(first, first + step)
        scores = sides.left[rows] @ cohort.right.T
        scores += sides.bias[rows, None] + cohort.bias
        if top is not None and top < size:
            scores.partition(size - top, axis=1)
            scores = scores[:, -top:]
        mean[rows], std[rows] = scores.mean(1), scores.std(1)
    return mean, np.maximum(std, np.finfo(np.float32).eps)


def normalise(scores, enrol, test, mean, std):
    """S-norm: how far a score lies above those of impostors, from both sides.

    ``((s - mean_e) / std_e + (s - mean_t) / std_t) / 2`` (Kenny 2010,
    "Bayesian Speaker Verification with Heavy-Tailed Priors"). With statistics
    over the top scores of each side it is the adaptive S-norm 1 of Matejka et
    al. (2017), "Analysis of Score Normalization in Multilingual Speaker
    Recognition".

    Arguments
    ---------
    scores : numpy.ndarray
        Scores, shape (T,).
    enrol : numpy.ndarray
        Shape (T,): the row of each trial's one side.
    test : numpy.ndarray
        Shape (T,): the row of its other side.
    mean : numpy.ndarray
        Means, shape (N,), of ``cohort_statistics``.
    std : numpy.ndarray
        Standard deviations, shape (N,), of ``cohort_statistics``.

    Returns
    -------
    numpy.ndarray
        Normalised scores, shape (T,).

    Example
    -------
    >>> rows = np.array([0]), np.array([1])
    >>> normalise(np.array([0.5]), *rows, np.zeros(2), np.array([0.5, 0.25]))
    array([1.5])
    """
    from_enrol = (scores - mean[enrol]) / std[enrol]
    from_test = (scores - mean[test]) / std[test]
    return (from_enrol + from_test) / 2
