"""Linear maps of an encoder's embeddings, learnt without labels and compared.

They are learnt from a part of the recordings and tried on the rest, by two
criteria that need no label.
"""

import functools
from typing import NamedTuple

import numpy as np
import pandas as pd
from sklearn.metrics import adjusted_rand_score
from tqdm import tqdm

from speechbrain_cadino.clustering.speakers import find_speakers
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.linear import LDA, LinearMap
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.whitening import Whitening
from speechbrain_cadino.verification.bootstrap import Bootstrap
from speechbrain_cadino.verification.halves import (
    SEED,
    SHORTEST_HALF,
    embed_halves,
    halves_of,
    leave_out_copies,
    pairs_of,
    rows_with_halves,
    score_halves,
)
from speechbrain_cadino.verification.scoring import cosine, trial_scores
from speechbrain_cadino.verification.threshold import (
    MOST_RECORDINGS,
    check_calibration,
    fit,
)

NONE = "none"

# Maps are tried on each part of the recordings, and learnt from the others.
FOLDS = 3

# Of so many recordings at least, ten of which are held out at a time
FEWEST = 10 * FOLDS

# Recordings of a part that are tried on: more would take the bootstrap long.
MOST_HELD_OUT = 200

# Of the bootstrap: enough for 95% intervals
REPLICATES = 500

# Augmented crops of each half, and crops of others that one is compared with
CROPS = 3
OTHERS = 10

# Recordings of a cluster, on average: one map for each (ours), and the clusters
# whose agreement is measured
CLUSTER_SIZES = [2, 4, 8]

# The power of whitening, as in verify.yaml
WHITENING = 0.75


class Heard(NamedTuple):
    """What an encoder says of N recordings.

    Arguments
    ---------
    halves : numpy.ndarray
        Embeddings of both halves of each recording, (2, N, D).
    crops : numpy.ndarray
        Embeddings of augmented crops, (M, D).
    recordings : numpy.ndarray
        The recording that each crop is of, (M,), int.
    parts : numpy.ndarray
        The half that each crop is from, 0 or 1, (M,), int.

    Example
    -------
    >>> number = np.arange(6)
    >>> heard = Heard(
    ...     np.ones((2, 3, 4)), np.ones((6, 4)), number // 2, number % 2
    ... )
    >>> some = heard.take([1, 2])
    >>> some.halves.shape, some.recordings.tolist(), some.parts.tolist()
    ((2, 2, 4), [0, 0, 1, 1], [0, 1, 0, 1])
    """

    halves: np.ndarray
    crops: np.ndarray
    recordings: np.ndarray
    parts: np.ndarray

    @property
    def count(self):
        """N."""
        return self.halves.shape[1]

    @property
    def flat(self):
        """(2N, D): the first halves, then the others."""
        return self.halves.reshape(-1, self.halves.shape[-1])

    def take(self, rows):
        """The same of some recordings, numbered anew."""
        number = np.full(self.count, -1)
        number[rows] = np.arange(len(rows))
        recordings = number[self.recordings]
        own = recordings >= 0
        return Heard(
            self.halves[:, rows],
            self.crops[own],
            recordings[own],
            self.parts[own],
        )

    def mapped(self, transform):
        """The same after a LinearMap."""
        halves = np.stack([transform.transform(half) for half in self.halves])
        return self._replace(
            halves=halves, crops=transform.transform(self.crops)
        )


def hear(embedder, table):
    """Embeds both halves of recordings, and augmented crops of each half.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    table : pandas.DataFrame
        A manifest.

    Returns
    -------
    Heard
        The embeddings of the recordings that are long enough and can be read.

    Raises
    ------
    ValueError
        If these are too few.
    """
    _check_count(len(rows_with_halves(table, embedder.sample_rate)))
    halves, rows = embed_halves(embedder, table)
    _check_count(len(rows))
    both = halves_of(table.iloc[rows], embedder.sample_rate)
    lda = RecordingLDA(crops=CROPS)
    crops, place = lda.embed_crops(embedder, pd.concat(both))
    parts, recordings = np.divmod(place, len(rows))
    return Heard(halves, crops, recordings, parts)


def _check_count(count):
    """Raises if recordings are too few."""
    if count < FEWEST:
        raise ValueError(
            f"{count} recordings of {2 * SHORTEST_HALF:.0f} s or more are too "
            "few to learn from some and to try on others: give "
            f"{FEWEST} or more, of many voices; hundreds are better."
        )


def learn_nothing(heard):
    """The map that changes nothing."""
    size = heard.halves.shape[-1]
    return LinearMap(np.zeros(size), np.eye(size))


def learn_mean(heard):
    """The map that subtracts the mean."""
    mean = heard.flat.mean(0, dtype=np.float64)
    return LinearMap(mean, np.eye(len(mean)))


def learn_whitening(heard):
    """The map that evens out the directions."""
    return Whitening(WHITENING).fit(heard.flat)


def learn_recording_lda(heard):
    """LDA with recordings as classes, of augmented crops."""
    return LDA().fit(heard.crops, heard.recordings)


def learn_cluster_lda(heard, size):
    """LDA with clusters as classes, and all dimensions kept: C-LDA (Applied
    Sciences 14(3), 1064, 2024), there of average linkage.

    Arguments
    ---------
    heard : Heard
        The recordings; both halves of each are in its cluster.
    size : int
        The recordings of a cluster, on average.

    Returns
    -------
    LDA
        The map, with all axes.
    """
    centred = learn_mean(heard).transform(heard.halves.mean(0))
    return LDA().fit(heard.flat, np.tile(_clusters(centred, size), 2))


# The candidates, from what was heard to a LinearMap
MAPS = {
    NONE: learn_nothing,
    "mean": learn_mean,
    "whitening": learn_whitening,
    "recording_lda": learn_recording_lda,
    **{
        f"cluster_lda_{size}": functools.partial(learn_cluster_lda, size=size)
        for size in CLUSTER_SIZES
    },
}


def _clusters(embeddings, size):
    """Clusters of so many embeddings on average."""
    number = max(2, round(len(embeddings) / size))
    return find_speakers(embeddings, number)


def try_maps(heard):
    """Learns all maps from two thirds of the recordings, tries them on the
    other third, and so on until each was tried on once.

    Two criteria, both without labels: how well augmented crops of both halves
    of a recording are told from crops of others, and how alike the clusters of
    the recordings' first halves and those of their last halves are. Crops that
    overlapped would be told by what is said.

    Arguments
    ---------
    heard : Heard
        The recordings.

    Returns
    -------
    pandas.DataFrame
        A row of each of ``MAPS``: ``eer`` of the crops in percent and its 95%
        interval over recordings, ``eer_low`` and ``eer_high``; the
        ``difference`` to that of no map and its interval; the ``agreement`` of
        clusters, an adjusted Rand index, and ``agrees_less``, whether it is
        lower than without a map in each third.
    """
    rng = np.random.default_rng(SEED)
    scores = {name: [] for name in MAPS}
    agreement = {name: [] for name in MAPS}
    enrol, test = [], []
    for learnt, rows in tqdm(_folds(heard.count, rng), "Trying maps", FOLDS):
        tried = heard.take(rows[:MOST_HELD_OUT])
        pairs = _pairs_of_crops(tried, rng)
        first = len(enrol) * heard.count  # recordings of other numbers
        enrol.append(first + tried.recordings[pairs[0]])
        test.append(first + tried.recordings[pairs[1]])
        learnt = heard.take(learnt)
        for name, learn in MAPS.items():
            mapped = tried.mapped(learn(learnt))
            scores[name].append(trial_scores(cosine(mapped.crops), *pairs))
            agreement[name].append(_agreement(mapped.halves))
    return _table(
        {name: np.concatenate(parts) for name, parts in scores.items()},
        np.concatenate(enrol),
        np.concatenate(test),
        agreement,
    )


def score_held_out(heard, learn):
    """Scores of recordings that a map was not learnt from, as those to come
    are: it tells the ones that it was learnt from apart too well.

    Arguments
    ---------
    heard : Heard
        The recordings. Of more than ``MOST_RECORDINGS``, as many are scored.
    learn : callable
        The function that learns the map, one of ``MAPS``.

    Returns
    -------
    scores : numpy.ndarray
        Shape (T,), of ``score_halves``.
    enrol, test : numpy.ndarray
        Shape (T,): the recordings, each and itself or others of its third.
    """
    found = []
    # The thirds of ``try_maps``
    for learnt, rows in _folds(heard.count, np.random.default_rng(SEED)):
        rows = rows[: MOST_RECORDINGS // FOLDS]
        mapped = heard.take(rows).mapped(learn(heard.take(learnt)))
        pairs = leave_out_copies(heard.halves[0, rows], *pairs_of(len(rows)))
        found.append((score_halves(mapped.halves, *pairs), *rows[[*pairs]]))
    return tuple(np.concatenate(parts) for parts in zip(*found))


def calibrate_lda(embedder, table):
    """Calibrates an encoder after recording LDA of the same recordings.

    Arguments
    ---------
    embedder : Embedder
        The encoder, without the map.
    table : pandas.DataFrame
        A manifest of recordings, of many voices. Of more than
        ``MOST_RECORDINGS``, as many are taken, evenly spread.

    Returns
    -------
    ScoreCalibration
        The calibration of the scores after the map, of method "crops".

    Raises
    ------
    ValueError
        See ``hear`` and ``verification.threshold.calibrate``.
    """
    table = table.iloc[spread_rows(len(table), MOST_RECORDINGS)]
    scores, *pairs = score_held_out(hear(embedder, table), learn_recording_lda)
    found = fit(scores, np.equal(*pairs), "crops")
    check_calibration(found)
    return found


def _folds(count, rng):
    """The recordings to learn from and those held out, ``FOLDS`` times."""
    order = rng.permutation(count)
    for number in range(FOLDS):
        held_out = np.arange(count) % FOLDS == number
        yield order[~held_out], order[held_out]


def _agreement(halves):
    """How alike clusters of first and of last halves are."""
    return np.mean(
        [
            adjusted_rand_score(*(_clusters(half, size) for half in halves))
            for size in CLUSTER_SIZES
        ]
    )


def _table(scores, enrol, test, agreement):
    """The figures of each map."""
    drawn = Bootstrap(scores, enrol == test, enrol, test, REPLICATES)
    intervals = drawn.intervals()
    rows = {}
    for name, values in agreement.items():
        low, high = intervals[name]["eer"]
        gain = drawn.compare(name, NONE)["eer"]
        rows[name] = {
            "eer": drawn.figures[name]["eer"],
            "eer_low": low,
            "eer_high": high,
            "difference": gain["difference"],
            "difference_low": gain["interval"][0],
            "difference_high": gain["interval"][1],
            "agreement": np.mean(values),
            "agrees_less": bool(np.less(values, agreement[NONE]).all()),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def _pairs_of_crops(heard, rng):
    """All pairs of crops of both halves of a recording, and each crop of a
    first half with some of others' last halves."""
    first, last = (np.flatnonzero(heard.parts == part) for part in (0, 1))
    enrol, test = (side.ravel() for side in np.meshgrid(first, last))
    same = heard.recordings[enrol] == heard.recordings[test]
    others = np.flatnonzero(~same)
    most = min(OTHERS * len(first), len(others))
    chosen = np.append(
        np.flatnonzero(same), rng.choice(others, most, replace=False)
    )
    return enrol[chosen], test[chosen]


def choose(figures):
    """The best map that is surely better than none by its EER, and no worse by
    the agreement of clusters.

    Arguments
    ---------
    figures : pandas.DataFrame
        See ``try_maps``.

    Returns
    -------
    str
        The name of a map: of those whose EER is surely lower, its interval
        without 0, and whose clusters do not agree less in every third, that of
        the lowest EER; "none" if there is no such map.

    Example
    -------
    >>> figures = pd.DataFrame(
    ...     {
    ...         "eer": [9.0, 7.0, 5.0],
    ...         "difference_high": [0.0, -1.0, -2.0],
    ...         "agrees_less": [False, False, True],
    ...     },
    ...     index=["none", "mean", "whitening"],
    ... )
    >>> choose(figures)
    'mean'
    """
    better = figures[(figures["difference_high"] < 0) & ~figures["agrees_less"]]
    return NONE if better.empty else better["eer"].idxmin()


def in_words(figures, choice):
    """What a choice rests on.

    Arguments
    ---------
    figures : pandas.DataFrame
        See ``try_maps``.
    choice : str
        The map.

    Returns
    -------
    str
        The sentences.
    """
    none, others = figures.loc[NONE], figures.drop(NONE)
    if choice != NONE:
        row = figures.loc[choice]
        best = ""
        if choice == others["eer"].idxmin():
            best = f", the best of {len(others)} maps"
        return (
            "On recordings that it was not learnt from, crops of one are told "
            f"from crops of others with an EER of {row['eer']:.2f} % in the "
            f"place of {none['eer']:.2f} % (difference "
            f"{row['difference']:+.2f}, 95% interval "
            f"{row['difference_low']:+.2f} to {row['difference_high']:+.2f}"
            f"{best}), and clusters of first and of last halves agree by "
            f"{row['agreement']:.2f} in the place of {none['agreement']:.2f}."
        )
    surely = others[others["difference_high"] < 0]
    if surely.empty:
        return "No map tells crops of recordings apart with surely less errors."
    name = surely["eer"].idxmin()
    return (
        f"{name} tells crops of recordings apart with less errors, and makes "
        f"clusters that agree less: {surely['agreement'][name]:.2f} in the "
        f"place of {none['agreement']:.2f}."
    )
