"""The manifest: the CSV of SpeechBrain's recipes, read and written safely.

An unlabelled manifest has the columns ``ID,duration,wav,start,stop`` (seconds;
sample offsets into the file; ``$data_root`` allowed in ``wav``). A
pseudo-labelled one has ``spk_id`` besides. True labels live in another file,
``speakers.csv`` (``ID,spk_id``), which no training but finetune.py opens.
"""

import pathlib
from collections import defaultdict

import pandas as pd

from speechbrain_cadino.process.files import write_csv

COLUMNS = ["ID", "duration", "wav", "start", "stop"]
LABEL = "spk_id"
DATA_ROOT = "$data_root"

DTYPES = {
    "ID": str,
    "duration": float,
    "wav": str,
    "start": "int64",
    "stop": "int64",
    LABEL: str,
}


def write_manifest(path, table):
    """Writes a manifest: sorted by ID, atomically, byte for byte the same for
    the same rows.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    table : pandas.DataFrame
        The columns ``ID,duration,wav,start,stop`` and, if it is labelled,
        ``spk_id``; in any order of rows.

    Raises
    ------
    ValueError
        If the table is empty, lacks a column or has an ID twice.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.csv"
    >>> write_manifest(
    ...     path,
    ...     pd.DataFrame(
    ...         {
    ...             "ID": ["b", "a"],
    ...             "duration": [2.0, 1.5],
    ...             "wav": ["$data_root/b.wav", "$data_root/a.wav"],
    ...             "start": [0, 0],
    ...             "stop": [32000, 24000],
    ...         }
    ...     ),
    ... )
    >>> print(path.read_text().strip())
    ID,duration,wav,start,stop
    a,1.5,$data_root/a.wav,0,24000
    b,2.0,$data_root/b.wav,0,32000
    """
    _check(table, path)
    columns = COLUMNS + [LABEL] * (LABEL in table)
    table = table[columns].sort_values("ID", kind="stable")
    table["duration"] = table["duration"].astype(float).round(6)
    write_csv(path, table)


def read_manifest(path, data_root=None):
    """Reads a manifest and checks it.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    data_root : str or pathlib.Path, optional
        What ``$data_root`` in the ``wav`` column stands for.

    Returns
    -------
    pandas.DataFrame
        The rows in the file's order, with the types of ``DTYPES``.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it has no rows, lacks a column, has an ID twice, holds something
        that is no number where one belongs, or names ``$data_root`` when none
        is given. The message names the file and the row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No manifest at {path}. Run the prepare step, or give the path "
            "of a CSV with the columns " + ",".join(COLUMNS) + "."
        )
    try:
        table = _read_csv(path)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        UnicodeDecodeError,
    ) as error:
        raise ValueError(
            f"{path} is not a readable CSV file ({error}). Prepare it again."
        ) from error
    _check(table, path)
    for column, dtype in DTYPES.items():
        if column in table and dtype is not str:
            table[column] = _to_number(table, column, path).astype(dtype)
    if table["wav"].str.contains(DATA_ROOT, regex=False).any():
        if data_root is None:
            raise ValueError(
                f"{path} uses {DATA_ROOT} in its wav column: give data_folder, "
                "the folder it stands for."
            )
        table["wav"] = table["wav"].str.replace(
            DATA_ROOT, str(data_root), regex=False
        )
    return table


def pseudo_labels(table, path):
    """The pseudo labels of a manifest.

    Arguments
    ---------
    table : pandas.DataFrame
        Of ``read_manifest``.
    path : str or pathlib.Path
        Its file, for the message.

    Returns
    -------
    pandas.Series
        ``spk_id`` of each row, as text.

    Raises
    ------
    ValueError
        If it is no labelled manifest.
    """
    if LABEL not in table:
        raise ValueError(
            f"{path} has no column {LABEL}: it holds no pseudo labels. Make "
            "them with pseudo_label.py, and give its pseudo_labels.csv."
        )
    return table[LABEL]


def _read_csv(path):
    """The table; all of it text, to name the value, if a number is none."""
    dtypes = defaultdict(lambda: str, DTYPES)
    try:
        return pd.read_csv(path, dtype=dtypes, keep_default_na=False)
    except (ValueError, OverflowError):
        return pd.read_csv(path, dtype=str, keep_default_na=False)


def _check(table, path):
    """Raises if the table cannot be a manifest."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(
            f"{path}: missing column(s) {', '.join(missing)}. A manifest has "
            f"{','.join(COLUMNS)} and, if it is labelled, {LABEL}."
        )
    if not len(table):
        raise ValueError(
            f"{path}: no utterances. Check the folder and the duration limits "
            "given to the prepare step; skipped.csv lists what was left out."
        )
    twice = table["ID"][table["ID"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} ID(s) occur more than once, the first is "
            f"'{twice.iloc[0]}'. IDs must be unique: prepare it again."
        )


def _to_number(table, column, path):
    """The column as numbers; raises naming the first row that is none."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    bad = numbers.isna()
    if bad.any():
        row = table[bad].iloc[0]
        raise ValueError(
            f"{path}: '{row[column]}' in column {column} of utterance "
            f"'{row['ID']}' is not a number."
        )
    return numbers
