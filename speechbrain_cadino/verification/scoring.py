"""From embeddings to scores of trials, and the score file.

A scorer turns embeddings into two sides and a bias, so that the score of any
two is ``left . right + bias + bias``: what belongs to one embedding is worked
out once, however many trials it is in.
"""

import csv
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy import linalg

from speechbrain.processing import PLDA_LDA
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.names import fields_of, match, separator_of
from speechbrain_cadino.process.files import atomic_path, read_text
from speechbrain_cadino.verification.trials import trial_names

logger = get_logger(__name__)

# So many trials at a time keep the working memory near 100 MB at 192
# dimensions, however long the list is.
CHUNK = 65536

# The columns of a trial list that name files
SIDES = ["enrol", "test"]

# What says in a score file whether a trial is a target
LABEL_WORDS = {"1": True, "0": False, "target": True, "nontarget": False}

FORMS = (
    "Its lines are 'enrol test score', or 'enrol test label score' or 'enrol "
    "test score label' with the label of the trial list, and tabs between the "
    "fields if a name has spaces."
)


class Sides(NamedTuple):
    """What a scorer makes of N embeddings: arrays (N, D), (N, D) and (N,)."""

    left: np.ndarray
    right: np.ndarray
    bias: np.ndarray


def unit(embeddings):
    """Divides embeddings by their L2 norm.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).

    Returns
    -------
    numpy.ndarray
        Unit vectors, shape (N, D), float32; null where the embedding is null.

    Example
    -------
    >>> unit(np.array([[0.0, 0.0], [0.0, 2.0]]))
    array([[0., 0.],
           [0., 1.]], dtype=float32)
    """
    embeddings = np.asarray(embeddings, np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    return embeddings / np.maximum(norms, np.finfo(np.float32).tiny)


def cosine(embeddings):
    """The scorer of cosine similarity: between -1 and 1, 0 if one is null.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D).

    Returns
    -------
    Sides
        The two sides, for ``trial_scores``.

    Example
    -------
    >>> sides = cosine(np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]]))
    >>> trial_scores(sides, np.array([0, 0]), np.array([1, 2]))
    array([ 0., -1.], dtype=float32)
    """
    units = unit(embeddings)
    return Sides(units, units, np.zeros(len(units), np.float32))


class PLDA:
    """The scorer of probabilistic linear discriminant analysis.

    SpeechBrain's ``PLDA`` (speakers in a subspace, one full covariance within)
    is trained on embeddings of L2 norm 1. A score is the natural logarithm of
    the likelihood ratio of both sides having one speaker or two, the
    two-covariance form of Brümmer and de Villiers (2010), as SpeechBrain's
    ``fast_PLDA_scoring`` gives it for all pairs.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D): the training set.
    labels : array_like
        Shape (N,): their speakers or pseudo labels.
    rank : int
        Dimensions of the subspace of speakers, at most: fewer, where there
        are not as many dimensions or labels.

    Raises
    ------
    ValueError
        If the training set is too small.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> speakers = rng.standard_normal((30, 4))
    >>> labels = np.repeat(np.arange(30), 5)
    >>> embeddings = speakers[labels] + 0.1 * rng.standard_normal((150, 4))
    >>> sides = PLDA(embeddings, labels)(embeddings[[0, 1, 5]])
    >>> same, other = trial_scores(sides, np.array([0, 0]), np.array([1, 2]))
    >>> bool(same > other)
    True
    """

    def __init__(self, embeddings, labels, rank=100):
        units = unit(embeddings).astype(np.float64)
        names = np.asarray(labels).astype(str).astype(object)
        count, width = units.shape
        rank = min(rank, width, len(set(names)) - 1)
        if count <= width or rank < 1:
            raise ValueError(
                f"PLDA of {width} dimensions cannot be trained on {count} "
                f"utterances of {len(set(names))} clusters: it takes more "
                "utterances than dimensions, and two clusters. Raise "
                "utterances_per_cluster, or leave plda out."
            )
        nothing = np.full(count, None)
        self.plda = PLDA_LDA.PLDA(rank_f=rank)
        self.plda.plda(
            PLDA_LDA.StatObject_SB(
                modelset=names,
                segset=np.arange(count).astype(str).astype(object),
                start=nothing,
                stop=nothing,
                stat0=np.ones((count, 1)),
                stat1=units,
            )
        )
        between = self.plda.F @ self.plda.F.T
        total = between + self.plda.Sigma
        # Of two embeddings of one speaker, given the one: the other's
        # covariance, and how it depends on it.
        gain = linalg.solve(total, between, assume_a="pos").T
        rest = total - gain @ between
        inverse = linalg.inv(rest)
        self.quadratic = linalg.inv(total) - inverse
        self.cross = gain.T @ inverse
        self.constant = 0.5 * (
            np.linalg.slogdet(total)[1] - np.linalg.slogdet(rest)[1]
        )

    def __call__(self, embeddings):
        """Makes both sides.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Embeddings, shape (N, D).

        Returns
        -------
        Sides
            The two sides, for ``trial_scores``.
        """
        right = unit(embeddings) - self.plda.mean
        bias = np.einsum("nd,nd->n", right @ self.quadratic, right)
        sides = right @ self.cross, right, (bias + self.constant) / 2
        return Sides(*(side.astype(np.float32) for side in sides))


def trial_scores(sides, enrol, test):
    """The scores of trials.

    Arguments
    ---------
    sides : Sides
        The sides that a scorer gives.
    enrol : numpy.ndarray
        Shape (T,): the row of each trial's one side.
    test : numpy.ndarray
        Shape (T,): the row of its other side.

    Returns
    -------
    numpy.ndarray
        Scores, shape (T,), float32.
    """
    scores = sides.bias[enrol] + sides.bias[test]
    for first in range(0, len(enrol), CHUNK):
        chunk = slice(first, first + CHUNK)
        scores[chunk] += np.einsum(
            "td,td->t", sides.left[enrol[chunk]], sides.right[test[chunk]]
        )
    return scores


def write_scores(path, trials, scores):
    """Writes a score file: one line ``enrol test score`` for each trial.

    This is the form of Kaldi and of most tools that read scores. The scores
    have nine digits, which is all that float32 holds.

    Arguments
    ---------
    path : str or pathlib.Path
        The text file.
    trials : pandas.DataFrame
        The columns ``enrol`` and ``test``.
    scores : numpy.ndarray
        Shape (T,), in the order of the trials.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> trials = pd.DataFrame({"enrol": ["a.wav"], "test": ["b.wav"]})
    >>> write_scores(path, trials, np.array([0.25]))
    >>> path.read_text()
    'a.wav b.wav 0.25\\n'
    """
    table = trials[["enrol", "test"]].assign(score=scores)
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary,
            sep=separator_of(trials["enrol"], trials["test"]),
            header=False,
            index=False,
            float_format="%.9g",
            lineterminator="\n",
            # Names stand as they are
            quoting=csv.QUOTE_NONE,
            quotechar=None,
        )


def read_scores(path, trials):
    """Reads a score file, of this package or of any other.

    Its lines are ``enrol test score``, in any order; or, with the label that
    the trial has in the list, ``enrol test label score`` (SpeechBrain) or
    ``enrol test score label`` (WeSpeaker). Names are matched as
    ``dataio.names.match`` does: a suffix may be missing.

    Arguments
    ---------
    path : str or pathlib.Path
        The text file.
    trials : pandas.DataFrame
        The columns ``enrol`` and ``test``, and ``target`` if there are labels.

    Returns
    -------
    numpy.ndarray
        Shape (T,), float64, in the order of the trials.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no score file, lacks a trial, or has two scores for one.

    Example
    -------
    >>> path = getfixture("tmp_path") / "scores.txt"
    >>> trials = pd.DataFrame(
    ...     {"enrol": ["a.wav"], "test": ["b.wav"], "target": [True]}
    ... )
    >>> _ = path.write_text("a c 0 0.5\\na b 1 0.25\\n")
    >>> read_scores(path, trials)
    array([0.25])
    """
    fields = _read_fields(path)
    if "fourth" not in fields:
        # Also of lines that are not wanted: a heading, say
        fields["third"] = _numbers(path, fields["third"])
    wanted, found = _trial_numbers(trials, fields)
    missing = ~np.isin(wanted, found)
    if missing.all() and fields["enrol"].isin(["0", "1"]).all():
        raise ValueError(
            f"The lines of {path} begin with a label, as those of a trial list "
            "do: give 'enrol test score', or 'enrol test label score'."
        )
    if missing.any():
        trial = trials.iloc[missing.argmax()]
        raise ValueError(
            f"{path} has no score for {missing.sum()} of {len(trials)} "
            f"trials; the first is '{trial['enrol']} {trial['test']}'. Is it "
            "of another trial list? Where files could not be used, verify.py "
            "writes what it scored into scored_trials.txt: give that list."
        )
    of_the_list = np.isin(found, wanted)
    fields, found = fields[of_the_list], found[of_the_list]
    numbers, places = np.unique(wanted, return_index=True)
    trial = places[np.searchsorted(numbers, found)]
    scores = _scores_among(path, fields, trials.iloc[trial])
    by_trial = pd.Series(scores, trial)
    first = by_trial[~by_trial.index.duplicated()]
    differ = (by_trial != first.reindex(trial)).to_numpy()
    if differ.any():
        enrol, test = fields.iloc[differ.argmax()][["enrol", "test"]]
        raise ValueError(
            f"{path} has two different scores for '{enrol} {test}': which one "
            "is meant?"
        )
    values = first.unique()
    if len(values) <= 2:
        values = " or ".join(f"{value:g}" for value in sorted(values))
        logger.warning(
            f"All scores in {path} are {values}: are they labels or decisions? "
            "Error rates need scores."
        )
    return first[places[np.searchsorted(numbers, wanted)]].to_numpy()


def _read_fields(path):
    """The lines of a score file as text: ``enrol``, ``test``, ``third`` and,
    if they have it, ``fourth``."""
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"No score file at {path}.")
    rows = []
    for number, line in enumerate(read_text(path).split("\n"), 1):
        fields = fields_of(line)
        if not fields:
            continue
        expected = len(rows[0]) if rows else len(fields)
        if len(fields) not in (3, 4) or len(fields) != expected:
            raise ValueError(
                f"{path} is not a score file: line {number} is "
                f"'{line.strip()[:80]}'. {FORMS}"
            )
        rows.append(fields)
    if not rows:
        raise ValueError(f"{path} is empty: no scores.")
    columns = ["enrol", "test", "third", "fourth"]
    return pd.DataFrame(rows, columns=columns[: len(rows[0])])


def _trial_numbers(trials, fields):
    """A number for each trial of a list, and for each line of a score file the
    same; -1 for a line of another list."""
    known = pd.Index(trial_names(trials))
    names = pd.unique(fields[["enrol", "test"]].to_numpy().ravel())
    rows = pd.Series(match(names, known), names)

    def number(enrol, test):
        both = (enrol >= 0) & (test >= 0)
        return np.where(both, enrol * len(known) + test, -1)

    return (
        number(*(known.get_indexer(trials[side]) for side in SIDES)),
        number(*(rows[fields[side]].to_numpy() for side in SIDES)),
    )


def _scores_among(path, fields, trials):
    """The scores among the fields of a file, as numbers."""
    if "fourth" not in fields:
        return fields["third"].to_numpy()
    if "target" in trials:
        targets = trials["target"].to_numpy(bool)
        for label, score in [("third", "fourth"), ("fourth", "third")]:
            if np.array_equal(fields[label].map(LABEL_WORDS), targets):
                return _numbers(path, fields[score])
    raise ValueError(
        f"{path} has lines such as '{' '.join(fields.iloc[0])}', in which "
        "neither the third nor the fourth field is the label that each trial "
        f"has in the list. {FORMS}"
    )


def _numbers(path, texts):
    """Texts as numbers; raises naming the first that is none."""
    numbers = pd.to_numeric(texts, errors="coerce").to_numpy(np.float64)
    bad = np.isnan(numbers)
    if bad.any():
        raise ValueError(
            f"{path} is not a score file: '{texts.iloc[bad.argmax()]}' is no "
            f"score. {FORMS}"
        )
    return numbers
