"""Phones and their times: the table that frame encoders are judged by."""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import LABEL
from speechbrain_cadino.process.tables import describe_columns, read_csv

logger = get_logger(__name__)

COLUMNS = ["wav", LABEL, "phone", "start", "stop"]
# What forced aligners call a pause, in small letters and without brackets
PAUSES = {"", "sil", "sp", "spn", "silence", "pau", "eps"}
# Neighbours are no further apart than this, in seconds: the rounding of times
TOUCH = 0.0015


def read_phones(path):
    """Reads a table of phones.

    Arguments
    ---------
    path : str or pathlib.Path
        A CSV file, a row for each phone: ``wav`` (a file, below the data
        folder), ``spk_id``, ``phone``, ``start`` and ``stop`` (seconds), and
        ``language``, if there are several. Pauses are no phones: rows of
        ``PAUSES``, in brackets or not, are left out, and the log counts them.

    Returns
    -------
    pandas.DataFrame
        These columns, in the order of files, of voices in each and of time,
        and the phones of the same voice ``before`` and ``after`` each, None
        where there is a gap.

    Raises
    ------
    ValueError
        If there is no such file, or it lacks a column, or a row is of no
        length or has a time that is none.

    Example
    -------
    >>> path = getfixture("tmp_path") / "phones.csv"
    >>> _ = path.write_text(
    ...     "wav,spk_id,phone,start,stop\\n"
    ...     "a.wav,v,t,0.0,0.1\\na.wav,v,o,0.1,0.2\\na.wav,v,m,0.3,0.4\\n"
    ... )
    >>> read_phones(path)[["before", "phone", "after"]].values.tolist()
    [[None, 't', 'o'], ['t', 'o', None], [None, 'm', None]]
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise ValueError(
            f"There is no table of phones {path}: a CSV file with the columns "
            f"{', '.join(COLUMNS)} (seconds), and language, if there are "
            "several."
        )
    table = read_csv(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing or not len(table):
        what = "no row"
        if missing:
            what = f"no column {', '.join(missing)}; it has "
            what += describe_columns(table)
        raise ValueError(f"{path}, a table of phones, has {what}.")
    for name in ("start", "stop"):
        seconds = pd.to_numeric(table[name], errors="coerce")
        bad = ~(seconds >= 0) | np.isinf(seconds)
        if bad.any():
            raise ValueError(
                f"{path}: '{table[name][bad.idxmax()]}' is no {name} in "
                "seconds, a number of 0 or more."
            )
        table[name] = seconds
    bad = ~(table["stop"] > table["start"])
    if bad.any():
        row = table.loc[bad.idxmax()]
        raise ValueError(
            f"{path}: a phone of {row['wav']} starts at {row['start']:g} and "
            f"stops at {row['stop']:g}: a phone's stop must come after its "
            "start, both in seconds."
        )
    if "language" not in table:
        table["language"] = ""
    names = table["phone"].astype(str).str.strip("[]<>() ").str.casefold()
    pauses = names.isin(PAUSES)
    if pauses.all():
        raise ValueError(f"{path}, a table of phones, has pauses alone.")
    if pauses.any():
        logger.info(f"{path}: {pauses.sum()} pauses are left out.")
    table = table[~pauses].sort_values(["wav", LABEL, "start"], kind="stable")
    return _with_neighbours(table.reset_index(drop=True))


def _with_neighbours(table):
    """And the phone before and after each in its file; None where it begins or
    ends."""
    both = ["wav", LABEL]
    follows = (table[both] == table[both].shift()).all(axis=1) & (
        (table["start"] - table["stop"].shift()).abs() < TOUCH
    )
    before = table["phone"].shift().where(follows)
    after = table["phone"].shift(-1).where(follows.shift(-1, fill_value=False))
    table["before"] = before.astype(object).where(before.notna(), None)
    table["after"] = after.astype(object).where(after.notna(), None)
    return table


def frames_of(table, features, hop, offset):
    """Cuts the frames of phones out of those of whole files.

    A frame belongs to a phone if its middle does; a phone between two of them
    gets the nearest one.

    Arguments
    ---------
    table : pandas.DataFrame
        The rows of phones, with ``wav``, ``start`` and ``stop``.
    features : dict of str:numpy.ndarray
        The frames of each file, (frames, features).
    hop : float
        The seconds from one frame to the next.
    offset : float
        The middle of the first frame, in seconds.

    Returns
    -------
    list of numpy.ndarray
        The frames of each row, (frames, features).

    Example
    -------
    >>> table = pd.DataFrame(
    ...     {"wav": "a", "start": [0.0, 0.05], "stop": [0.02, 0.052]}
    ... )
    >>> frames = np.arange(10)[:, None]
    >>> [f.ravel().tolist() for f in frames_of(table, {"a": frames}, 0.01, 0)]
    [[0, 1], [5]]
    """
    cut = []
    for wav, start, stop in table[["wav", "start", "stop"]].itertuples(False):
        frames = features[wav]
        first, last = (
            int(np.ceil(round((time - offset) / hop, 6)))
            for time in (start, stop)
        )
        if first >= last:
            first = round(((start + stop) / 2 - offset) / hop)
            last = first + 1
        first = min(max(first, 0), len(frames) - 1)
        cut.append(frames[first : max(last, first + 1)])
    return cut
