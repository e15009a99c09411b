"""A threshold for an encoder, with trials or without any label."""

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.kmeans import cluster
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.encoders.calibration import ScoreCalibration
from speechbrain_cadino.verification.bootstrap import interval, trial_weights
from speechbrain_cadino.verification.calibration import logistic, weights_of
from speechbrain_cadino.verification.halves import (
    OTHERS,
    SEED,
    check_enough,
    embed_halves,
    leave_out_copies,
    number_recordings,
    pairs_of,
    score_halves,
)
from speechbrain_cadino.verification.scoring import cosine, trial_scores

logger = get_logger(__name__)

# Recordings whose pairs are scored
MOST_RECORDINGS = 2000

# And trials of each kind
FEWEST_TRIALS = 10

# Where more of the pairs that are taken for two voices are of one by a
# calibration, there may be few voices.
MOST_ALIKE = 0.2
ALIKE = (
    "By the calibration before, {alike:.0%} of the pairs that are taken for "
    "two voices are of one: the recordings are of few voices. Give others, or "
    "calibrate by trials; or, if they are of many, remove calibration.json "
    "first."
)

# Of a draw, clusters may be of recordings that are merely near
DRAWN = (
    "{} of {} recordings are drawn. If most voices have but a few recordings, "
    "hardly two of one voice are among them, and the threshold gets too low: "
    "give all recordings of some voices, such as those of one folder, or "
    "trials."
)

# What may be wrong where all pairs score alike
MANY_VOICES = (
    "The recordings may be of one voice, or too few. Give some of many voices, "
    "or trials."
)
OF_TRIALS = (
    "The encoder may know little of such voices, or the list mix up targets "
    "and others: its EER, by verify.py, tells."
)

# Clusters for each recording, where these are pairs of one voice: rather more
# than there are voices, as in small.yaml.
CLUSTERS = 0.35


def calibrate(embedder, table, method="crops", before=None):
    """Calibrates an encoder without labels.

    The recordings are to be of many voices: two of them are taken for two.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    table : pandas.DataFrame
        A manifest of recordings, or of their pieces: two of one recording are
        no pair. Of more than ``MOST_RECORDINGS`` as many are taken, evenly
        spread.
    method : str
        The pairs that are taken for one voice. "crops": both halves of a
        recording. They share a microphone and a day too, so that the threshold
        is higher than for other pairs of one voice. "clusters": pairs of
        recordings in a cluster, which the encoder itself has found alike. Pairs
        of other recordings or clusters are taken for two voices.
    before : ScoreCalibration, optional
        An earlier calibration of the encoder, which tells whether there are
        too few voices.

    Returns
    -------
    ScoreCalibration
        The calibration, of this method.

    Raises
    ------
    ValueError
        If there are too few recordings or voices, or the scores do not tell
        the pairs apart.
    """
    pairs = {"crops": _crops, "clusters": _clusters}
    if method not in pairs:
        raise ValueError(
            f"method={method}: give one of {', '.join(pairs)}. For a list of "
            "trials give --trials, or call calibrate_by_trials in Python."
        )
    rows = spread_rows(len(table), MOST_RECORDINGS)
    if method == "clusters" and len(rows) < len(table):
        logger.warning(DRAWN.format(len(rows), len(table)))
    scores, same = pairs[method](embedder, table.iloc[rows])
    found = fit(scores, same, method)
    check_calibration(found)
    if before is not None:
        check_alike(scores[~same], before, ALIKE)
    return found


def check_calibration(found, remedy=MANY_VOICES):
    """Raises if by a calibration no pair is of one voice.

    Arguments
    ---------
    found : ScoreCalibration
        The calibration.
    remedy : str
        The end of the error: what may be wrong.

    Raises
    ------
    ValueError
        If so.
    """
    if found.answers([1.0]) != "same":
        raise ValueError(
            "Pairs of one voice score hardly higher than those of two: not "
            f"even a recording and itself would be called the same. {remedy}"
        )


def check_alike(scores, calibration, sentence):
    """Raises if more than ``MOST_ALIKE`` of the pairs are of one voice.

    Arguments
    ---------
    scores : numpy.ndarray
        Shape (T,), of pairs that are taken for two voices.
    calibration : ScoreCalibration
        The calibration of the scores.
    sentence : str
        The error, with {alike} for the share.
    """
    alike = (calibration.llr(scores) >= 0).mean()
    if alike > MOST_ALIKE:
        raise ValueError(sentence.format(alike=alike))


def calibrate_by_trials(embedder, trials):
    """Calibrates an encoder with a trial list.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    trials : TrialEvaluator
        The list.

    Returns
    -------
    ScoreCalibration
        The calibration, of method "trials".

    Raises
    ------
    ValueError
        If there are fewer than ``FEWEST_TRIALS`` of either kind, a pair counted
        once, a pair is of both kinds, or the scores do not tell the kinds
        apart.
    """
    _distinct(trials.trials)  # raises before the work
    scores = trials.scores(embedder)
    chosen, same = _distinct(trials.trials)  # which may be fewer by now
    found = fit(scores[chosen], same, "trials")
    check_calibration(found, OF_TRIALS)
    return found


def _distinct(trials):
    """The rows of pairs of two files, each once whatever its order, and which
    are targets; raises if one is of both kinds, or there are too few."""
    pairs = pd.DataFrame(np.sort(trials[["enrol", "test"]].to_numpy(str)))
    two = (pairs[0] != pairs[1]).to_numpy()
    kinds = trials["target"].reset_index(drop=True)[two]
    both = kinds.groupby([pairs[0][two], pairs[1][two]]).nunique() > 1
    if both.any():
        one, other = both.idxmax()
        raise ValueError(
            f"The pair of {one} and {other} is a target trial and a non-target "
            "trial: correct the one or the other."
        )
    chosen = np.flatnonzero(two & ~pairs.duplicated().to_numpy())
    same = trials["target"].to_numpy()[chosen]
    if min(same.sum(), (~same).sum()) < FEWEST_TRIALS:
        raise ValueError(
            f"{same.sum()} trials of one voice and {(~same).sum()} of two are "
            f"too few for a threshold: give {FEWEST_TRIALS} or more of each."
        )
    return chosen, same


def fit(scores, same, method):
    """The calibration of scores.

    Arguments
    ---------
    scores : numpy.ndarray
        Scores, shape (T,).
    same : numpy.ndarray
        The pairs that are taken for those of one voice, shape (T,), bool.
    method : str
        The origin of the pairs.

    Returns
    -------
    ScoreCalibration
        The calibration, with the method and the numbers of pairs.

    Raises
    ------
    ValueError
        If pairs of one voice do not have the higher scores.

    Example
    -------
    >>> scores = np.array([0.1, 0.2, 0.3, 0.4])
    >>> same = np.array([False, True, False, True])
    >>> round(fit(scores, same, "trials").threshold, 2)
    0.25
    """
    offset, (slope,) = weights_of(logistic(scores[:, None], same))
    if not slope > 0:
        raise ValueError(
            "Scores of one voice are not higher than those of two: the encoder "
            "has learnt nothing about voices, so that there is no threshold."
        )
    return ScoreCalibration(offset, slope, method, len(same), int(same.sum()))


def _crops(embedder, table):
    """Scores of halves of recordings, and which are of the same one."""
    halves, rows = embed_halves(embedder, table)
    enrol, test = _without_copies(halves[0], *pairs_of(len(halves[0])))
    recordings = number_recordings(table.iloc[rows])
    same = enrol == test
    told = same | (recordings[enrol] != recordings[test])
    enrol, test = enrol[told], test[told]
    return score_halves(halves, enrol, test), same[told]


def _without_copies(points, enrol, test):
    """As ``leave_out_copies``; says how many there are."""
    kept = leave_out_copies(points, enrol, test)
    copies = len(enrol) - len(kept[0])
    if copies:
        logger.warning(
            f"{copies} pairs of recordings are left out: they are copies, not "
            "two voices."
        )
    return kept


def threshold_interval(scores, enrol, test, replicates=100):
    """A 95% interval of the threshold, over recordings drawn again.

    Arguments
    ---------
    scores : numpy.ndarray
        Shape (T,), of ``score_halves``.
    enrol, test : numpy.ndarray
        Shape (T,), of ``pairs_of``.
    replicates : int
        The number of draws.

    Returns
    -------
    low, high : float
        The ends of the interval, which may be inf.

    Example
    -------
    >>> enrol, test = pairs_of(30)
    >>> noise = np.random.default_rng(0).standard_normal(len(enrol)) / 20
    >>> scores = 0.2 + 0.5 * (enrol == test) + noise
    >>> low, high = threshold_interval(scores, enrol, test, replicates=20)
    >>> low < fit(scores, enrol == test, "crops").threshold < high
    True
    """
    same = enrol == test
    rng = np.random.default_rng(SEED)
    found = []
    draws = trial_weights(same, enrol, test, rng)
    for _, times in zip(range(replicates), draws):
        rows = np.repeat(np.arange(len(scores)), times.astype(int))
        try:
            found.append(fit(scores[rows], same[rows], "crops").threshold)
        except ValueError:  # no threshold in this one: as far off as can be
            found.append(np.inf)
    whole = fit(scores, same, "crops").threshold
    return interval(found, whole, same.sum())


def _clusters(embedder, table):
    """Scores of recordings, and which are in one cluster."""
    embeddings = embedder.embed(table, skip_unreadable=True)
    fine = np.isfinite(embeddings).all(1)
    embeddings, recordings = embeddings[fine], number_recordings(table[fine])
    count = len(embeddings)
    check_enough(table[fine], "that can be read")
    # Of pieces too: more clusters than recordings would have them apart
    number = max(2, round(CLUSTERS * len(np.unique(recordings))))
    labels, _ = cluster(embeddings, number, seed=SEED)
    enrol, test = np.triu_indices(count, 1)
    apart = recordings[enrol] != recordings[test]
    enrol, test = enrol[apart], test[apart]
    same = labels[enrol] == labels[test]
    rng = np.random.default_rng(SEED)
    others = rng.permutation(np.flatnonzero(~same))
    chosen = np.concatenate([np.flatnonzero(same), others[: OTHERS * count]])
    enrol, test = _without_copies(embeddings, enrol[chosen], test[chosen])
    same = labels[enrol] == labels[test]
    if not same.any():
        raise ValueError(
            "No two recordings are in one cluster, apart from copies: give "
            "more recordings of each voice, or trials."
        )
    return trial_scores(cosine(embeddings), enrol, test), same
