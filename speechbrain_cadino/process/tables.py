"""Tables in CSV files, read whoever wrote them, and written whole."""

import csv
import re
import warnings
from collections import defaultdict

import pandas as pd

from speechbrain_cadino.process.files import atomic_path, read_text

SEPARATORS = {",": "comma", "\t": "tab"}


def read_csv(path, dtypes=(), separator=","):
    """Reads a CSV file that somebody else may have written: blanks around
    commas are no part of a value, but at the end of an ``ID`` or a ``file``,
    whose name may have one; empty rows are passed over, and so is a byte order
    mark.

    Arguments
    ---------
    path : str or pathlib.Path
        The file, with its columns named in the first line.
    dtypes : dict, optional
        The types of some columns. If one does not fit, all are text.
    separator : str
        The separator of the columns, of ``SEPARATORS``.

    Returns
    -------
    pandas.DataFrame
        The table: all other columns are text, and what is empty is an empty
        text.

    Raises
    ------
    ValueError
        If it cannot be read, a line has more fields than the first, or two
        columns have one name.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.csv"
    >>> _ = path.write_text("ID, size\\na, 1\\n,\\n")
    >>> read_csv(path).to_dict("list")
    {'ID': ['a'], 'size': ['1']}
    """
    options = {
        "sep": separator,
        "keep_default_na": False,
        "skipinitialspace": True,
        # Not a column of the rows' numbers: a comma at each line's end
        "index_col": False,
        "encoding": "utf-8-sig",
    }
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)
            try:
                dtype = defaultdict(lambda: str, dtypes)
                table = pd.read_csv(path, dtype=dtype, **options)
            except (pd.errors.ParserError, pd.errors.EmptyDataError):
                raise
            except (ValueError, OverflowError):
                table = pd.read_csv(path, dtype=str, **options)
    except (
        pd.errors.ParserError,
        pd.errors.EmptyDataError,
        pd.errors.ParserWarning,
        UnicodeDecodeError,
    ) as error:
        if isinstance(error, UnicodeDecodeError):
            read_text(path)  # says which encoding it is in
        _check_fields(path, separator)
        raise ValueError(
            f"{path} is not a readable CSV file ({error}). It has to be text "
            f"in UTF-8, with {SEPARATORS[separator]}s."
        ) from error
    table.columns = table.columns.str.strip()
    if table.columns.has_duplicates:
        twice = table.columns[table.columns.duplicated()][0]
        raise ValueError(f"{path} has two columns of the name {twice!r}.")
    texts = table.select_dtypes(exclude="number")
    if len(texts.columns):
        # Rare, and slow on millions of rows where there is nothing to strip
        for name in texts.columns.difference(["ID", "file"]):
            if table[name].str.endswith(" ").any():
                table[name] = table[name].str.rstrip(" ")
        if len(texts.columns) == len(table.columns):
            table = table[(table != "").any(axis=1)]
    return table.reset_index(drop=True)


def _check_fields(path, separator):
    """Raises if a row has more fields than there are columns."""
    with open(path, encoding="utf-8-sig", errors="replace", newline="") as file:
        rows = csv.reader(file, delimiter=separator, skipinitialspace=True)
        columns, number = [], 0
        try:
            columns = next(rows, [])
            other = _other_separator(columns)
            if other:
                raise ValueError(
                    f"{path} has {other} between its columns: save it with "
                    f"{SEPARATORS[separator]}s."
                )
            for number, row in enumerate(rows, 2):
                if len(row) > len(columns):
                    raise ValueError(
                        f"{path}, line {number} has {len(row)} fields, and the "
                        f"first line names {len(columns)} columns: is there a "
                        f"{SEPARATORS[separator]} too many, or a name with one "
                        "and no quotes?"
                    )
        except csv.Error as error:
            raise ValueError(
                f"{path}, after row {max(number, 1)}: {error}. Is there a "
                "quotation mark that is not closed?"
            ) from error


def describe_columns(table):
    """Which columns a table has, in words, for an error.

    Arguments
    ---------
    table : pandas.DataFrame
        The table.

    Returns
    -------
    str
        The names; with them, what separates them if that is no comma.
    """
    names = list(table.columns)
    other = _other_separator(names)
    if other:
        return f"{other} between " + re.sub(r"[;|\t]", " ", names[0])
    return ", ".join(map(str, names)) or "none"


def _other_separator(names):
    """The word for what separates columns that were read as one, if any."""
    words = {";": "semicolons", "\t": "tabs", "|": "bars"}
    text = names[0] if len(names) == 1 else ""
    return next((word for mark, word in words.items() if mark in text), "")


def write_csv(path, table):
    """Writes a table as a CSV file atomically, the same bytes everywhere.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    table : pandas.DataFrame
        The table to write, without its index.
    """
    # pandas quotes no carriage return, and reads it as the end of a line
    texts = table.select_dtypes(exclude="number")
    odd = any("\r" in str(text) for name in texts for text in texts[name])
    quoting = csv.QUOTE_NONNUMERIC if odd else csv.QUOTE_MINIMAL
    with atomic_path(path) as temporary:
        table.to_csv(
            temporary, index=False, lineterminator="\n", quoting=quoting
        )
