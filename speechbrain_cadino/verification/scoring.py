"""Scoring trials from embeddings, and the score file."""

import numpy as np

from speechbrain_cadino.files import atomic_path

# So many trials at a time keep the working memory near 100 MB at 192
# dimensions, however long the list is.
CHUNK = 65536


def cosine_scores(embeddings, enrol, test, mean=None):
    """Cosine similarity of pairs of embeddings.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D).
    enrol : numpy.ndarray
        Shape (T,): the row of each trial's one side.
    test : numpy.ndarray
        Shape (T,): the row of its other side.
    mean : numpy.ndarray, optional
        Shape (D,): subtracted from every embedding first.

    Returns
    -------
    numpy.ndarray
        Shape (T,), float32, between -1 and 1; 0 if one side is null.

    Example
    -------
    >>> embeddings = np.array([[1.0, 0.0], [0.0, 2.0], [-3.0, 0.0]])
    >>> cosine_scores(embeddings, np.array([0, 0]), np.array([1, 2]))
    array([ 0., -1.], dtype=float32)
    """
    embeddings = np.asarray(embeddings, np.float32)
    if mean is not None:
        embeddings = embeddings - np.asarray(mean, np.float32)
    norms = np.linalg.norm(embeddings, axis=1, keepdims=True)
    embeddings = embeddings / np.maximum(norms, np.finfo(np.float32).tiny)
    scores = np.empty(len(enrol), np.float32)
    for first in range(0, len(enrol), CHUNK):
        chunk = slice(first, first + CHUNK)
        scores[chunk] = np.einsum(
            "td,td->t", embeddings[enrol[chunk]], embeddings[test[chunk]]
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
    >>> import pandas as pd
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
            sep=" ",
            header=False,
            index=False,
            float_format="%.9g",
            lineterminator="\n",
        )
