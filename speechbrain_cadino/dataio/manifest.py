"""The manifest: the CSV of SpeechBrain's recipes, read and written safely.

An unlabelled manifest has the columns ``ID,duration,wav,start,stop`` (seconds;
sample offsets into the file; ``$data_root`` allowed in ``wav``). A
pseudo-labelled one has ``spk_id`` besides, and where labels of two kinds are
joined ``trusted``: 1 where the label is given, 0 where it was guessed (see
``prepare.join``). True labels live in another file,
``speakers.csv`` (``ID,spk_id``): what trains on true labels opens it, such as
finetune.py and train_speaker_with_dino.py; others for figures alone, or never.
"""

import pathlib

import numpy as np
import pandas as pd

from speechbrain_cadino.dataio.names import CONVERTIBLE, READABLE
from speechbrain_cadino.process.tables import (
    describe_columns,
    read_csv,
    write_csv,
)

COLUMNS = ["ID", "duration", "wav", "start", "stop"]
LABEL = "spk_id"
TRUSTED = "trusted"

# How a manifest of pseudo labels is called
PSEUDO_LABELS = "pseudo_labels.csv"

DATA_ROOT = "$data_root"

SECONDS = " Samples are expected; these look like seconds."

# Seconds that no utterance has: it is a number of samples
NO_SECONDS = 8000

DTYPES = {
    "ID": str,
    "duration": float,
    "wav": str,
    "start": "int64",
    "stop": "int64",
    LABEL: str,
    TRUSTED: "int64",
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
        ``spk_id`` and maybe ``trusted``; in any order of rows.

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
    columns = COLUMNS + [name for name in (LABEL, TRUSTED) if name in table]
    table = table[columns].sort_values("ID", kind="stable")
    table["duration"] = table["duration"].astype(float).round(6)
    write_csv(path, table)


def read_manifest(path, data_root=None, root_key="data_folder"):
    """Reads a manifest and checks it.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    data_root : str or pathlib.Path, optional
        The folder that ``$data_root`` in the ``wav`` column stands for.
    root_key : str
        The key of the YAML file that gives that folder, for the error.

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
        that is no number where one belongs, has a start and a stop that are no
        samples or do not agree with the duration, or names ``$data_root`` when
        none is given. The message names the file and the row.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No manifest at {path}. Run the prepare step, or give the path "
            "of a CSV with the columns " + ",".join(COLUMNS) + "."
        )
    table = read_csv(path, DTYPES)
    _check(table, path)
    for column, dtype in DTYPES.items():
        if column in table and dtype is not str:
            table[column] = _to_number(table, column, path, dtype)
    _check_samples(table, path)
    # SpeechBrain takes both forms
    table["wav"] = table["wav"].str.replace("${data_root}", DATA_ROOT)
    if table["wav"].str.contains(DATA_ROOT, regex=False).any():
        if isinstance(data_root, (list, tuple)):
            raise ValueError(
                f"{path} names files below {DATA_ROOT}, which is one folder, "
                f"and data_folder names {len(data_root)}: write absolute "
                "paths, or give the folder above all of them."
            )
        if data_root is None:
            raise ValueError(
                f"{path} uses {DATA_ROOT} in its wav column: give {root_key}, "
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
        The manifest, as ``read_manifest`` gives it.
    path : str or pathlib.Path
        The file of the manifest, for the message.

    Returns
    -------
    pandas.Series
        ``spk_id`` of each row, as text.

    Raises
    ------
    ValueError
        If it is no labelled manifest, or some have no label.
    """
    if LABEL not in table:
        raise ValueError(
            f"{path} has no column {LABEL}: it holds no labels. Pseudo labels "
            "are in the pseudo_labels.csv of pseudo_label.py; of a labelled "
            f"source, {LABEL} is the true speaker."
        )
    without = table["ID"][table[LABEL] == ""]
    if len(without):
        raise ValueError(
            f"{path}: {len(without)} utterances have no {LABEL}, the first is "
            f"{without.iloc[0]}. Leave out what has no label."
        )
    return table[LABEL]


def trusted_rows(table):
    """Which labels of a manifest are given, not guessed.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest, as ``read_manifest`` gives it.

    Returns
    -------
    numpy.ndarray
        Shape (N,), bool: none where there is no column ``trusted``.

    Example
    -------
    >>> trusted_rows(pd.DataFrame({"ID": ["a", "b"]})).tolist()
    [False, False]
    """
    if TRUSTED not in table:
        return np.zeros(len(table), bool)
    return table[TRUSTED].to_numpy() == 1


def without_labels(table):
    """A manifest without its labels, where nothing learns from them.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest.

    Returns
    -------
    pandas.DataFrame
        The manifest without the columns ``spk_id`` and ``trusted``.

    Example
    -------
    >>> without_labels(pd.DataFrame({"ID": ["a"], "spk_id": "anne"}))
      ID
    0  a
    """
    return table.drop(columns=[LABEL, TRUSTED], errors="ignore")


def _check(table, path):
    """Raises if the table cannot be a manifest."""
    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(
            f"{path}: missing column(s) {', '.join(missing)}; it has "
            f"{describe_columns(table)}. A manifest has {','.join(COLUMNS)} "
            f"and, if it is labelled, {LABEL}, with commas between."
        )
    if not len(table):
        raise ValueError(
            f"{path}: no utterances. Check the folder and the duration limits "
            "given to the prepare step; skipped.csv lists what was left out."
        )
    for name in ["ID", "wav"]:
        empty = table[name] == ""
        if empty.any():
            raise ValueError(
                f"{path}: row {empty.argmax() + 1} has no {name}: prepare it "
                "again, or drop the row."
            )
        broken = table[name].str.contains("\n", regex=False)
        if broken.any():
            raise ValueError(
                f"{path}: the {name} of row {broken.argmax() + 1} goes over "
                "several lines: is there a quotation mark that is not closed?"
            )
    twice = table["ID"][table["ID"].duplicated()]
    if len(twice):
        raise ValueError(
            f"{path}: {len(twice)} ID(s) occur more than once, the first is "
            f"'{twice.iloc[0]}'. IDs must be unique: prepare it again."
        )


def _to_number(table, column, path, dtype):
    """The column as numbers; raises naming the first row that is none."""
    numbers = pd.to_numeric(table[column], errors="coerce")
    bad, what = ~np.isfinite(numbers), "a number"
    if column == TRUSTED:
        bad = ~numbers.isin([0, 1])
        what = "1 (the label is given) or 0 (it was guessed)"
    elif dtype is not float and not bad.any():
        bad = (numbers % 1 != 0) | (numbers.abs() >= 2**53)
        what = "a whole number of samples"
    if bad.any():
        row = table[bad].iloc[0]
        raise ValueError(
            f"{path}: '{row[column]}' in column {column} of utterance "
            f"'{row['ID']}' is not {what}."
            + SECONDS
            * (what != "a number" and column == "stop")
        )
    return numbers.astype(dtype)


def _check_samples(table, path):
    """Raises unless 0 <= start < stop, in samples that the durations, which
    are above 0, agree with."""
    start, stop = table["start"].to_numpy(), table["stop"].to_numpy()
    bad = (start < 0) | (stop <= start)
    if bad.any():
        row = table.iloc[bad.argmax()]
        raise ValueError(
            f"{path}: start {row['start']} and stop {row['stop']} of utterance "
            f"'{row['ID']}', but samples with 0 <= start < stop are expected, "
            "and stop is the end (no -1)."
        )
    bad = ~(table["duration"].to_numpy() > 0)
    if bad.any():
        row = table.iloc[bad.argmax()]
        raise ValueError(
            f"{path}: the duration of utterance '{row['ID']}' is "
            f"{row['duration']}: seconds above 0 are expected."
        )
    # Of a piece, SpeechBrain's own recipe gives the duration of the whole file
    bad = stop - start <= table["duration"].to_numpy()
    if bad.any():
        row = table.iloc[bad.argmax()]
        # Faces count frames, of which a second may have but one
        if pathlib.Path(row["wav"]).suffix.lower() in READABLE | CONVERTIBLE:
            what = SECONDS
            if row["duration"] >= NO_SECONDS:
                what = " Of the duration, seconds are; this looks like samples."
            raise ValueError(
                f"{path}: start {row['start']} and stop {row['stop']} of "
                f"utterance '{row['ID']}' do not fit its duration of "
                f"{row['duration']} s.{what}"
            )
