"""Tables of labels: CSV files with the speaker or cluster of utterances.

Reports, fine-tuning, verification and what trains on labels read them; to a
self-supervised training they are figures at most.
"""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import LABEL
from speechbrain_cadino.dataio.names import match, recordings_of
from speechbrain_cadino.process.tables import describe_columns, read_csv

logger = get_logger(__name__)

# What the two columns may be called
NAMES = ["ID", "file"]
LABELS = [LABEL, "cluster"]


def read_labels(path):
    """All labels of a file.

    Arguments
    ---------
    path : str or pathlib.Path
        A CSV file with a column ``ID`` or ``file``, and a column ``spk_id`` or
        ``cluster``: ``speakers.csv``, a labelled manifest, or what the command
        ``cluster`` writes.

    Returns
    -------
    pandas.Series
        The label of each name, as str; NaN where it is empty.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no CSV file, lacks a column or has a name twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "speakers.csv"
    >>> _ = path.write_text("ID,spk_id\\na.wav,anne\\nb.wav,bob\\n")
    >>> read_labels(path).to_dict()
    {'a.wav': 'anne', 'b.wav': 'bob'}
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(
            f"There is no file {path} with labels: give a CSV file with the "
            f"columns ID,{LABEL}."
        )
    table = read_csv(path).replace("", np.nan)
    name, label = (
        next((column for column in columns if column in table), None)
        for columns in (NAMES, LABELS)
    )
    if not name or not label:
        raise ValueError(
            f"{path}: its first line has to name a column "
            f"{' or '.join(NAMES)}, and a column {' or '.join(LABELS)}; it has "
            f"{describe_columns(table)}."
        )
    table = table[table[name].notna()]
    twice = table[name].duplicated()
    if twice.any():
        raise ValueError(
            f"{path} has '{table[name][twice.idxmax()]}' more than once."
        )
    return table.set_index(name)[label]


def labels_of(path, ids):
    """The labels of some utterances.

    Arguments
    ---------
    path : str or pathlib.Path
        See ``read_labels``.
    ids : list of str
        The N utterances.

    Returns
    -------
    numpy.ndarray
        Shape (N,), object: str, or NaN where the file says it neither of an
        utterance nor of the recording that it is a piece of, which a warning
        counts.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it knows none of the utterances, or see ``read_labels``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "clusters.csv"
    >>> _ = path.write_text("file,cluster\\na.wav,0\\nb.wav,1\\n")
    >>> labels_of(path, ["b.wav", "c.wav"])
    array(['1', nan], dtype=object)
    """
    known = read_labels(path)
    rows = match(ids, known.index)
    left = np.flatnonzero(rows < 0)
    if len(left):  # a piece is of whom its recording is
        recordings = pd.Index(recordings_of(ids))[left]
        rows[left] = match(recordings, known.index)
    labels = np.append(known.to_numpy(object), np.nan)[rows]
    unknown = pd.isna(labels)
    if unknown.all():
        raise ValueError(
            f"{path} knows none of the {len(labels)} utterances (the first: "
            f"'{next(iter(ids), '')}'): is it that of another corpus?"
        )
    if unknown.any():
        logger.warning(
            f"{path} has no label for {unknown.sum()} of {len(labels)} "
            "utterances."
        )
    return labels


def check_speakers(labels, source):
    """Raises if labels are those of one speaker.

    Arguments
    ---------
    labels : array_like
        The labels.
    source : str or pathlib.Path
        The source of the labels, for the error.

    Example
    -------
    >>> check_speakers(["anne", "anne"], "source.csv")
    Traceback (most recent call last):
    ...
    ValueError: source.csv is of one speaker, who can be told from nobody: ...
    """
    if len(set(labels)) < 2:
        raise ValueError(
            f"{source} is of one speaker, who can be told from nobody: give "
            "two speakers, or clusters, or more; hundreds are better."
        )
