"""Trial lists: lines of two files and whether they are of one speaker."""

import pathlib

import pandas as pd

from speechbrain_cadino.dataio.names import fields_of, paths_of, separator_of
from speechbrain_cadino.process.files import read_text, write_text

# VoxCeleb1's lists, cleaned, under the names that papers call them by.
NAMED = {
    "vox1-o": "veri_test2.txt",
    "vox1-e": "list_test_all2.txt",
    "vox1-h": "list_test_hard2.txt",
}
VOXCELEB = "https://www.robots.ox.ac.uk/~vgg/data/voxceleb"


def find_trials(trials, data_folder):
    """The file of a trial list that may be given by name.

    Arguments
    ---------
    trials : str or pathlib.Path
        A path, or one of ``vox1-o``, ``vox1-e`` and ``vox1-h`` (VoxCeleb1,
        cleaned), which are looked for in data_folder and in its folder
        ``meta`` under the names that they are published by.
    data_folder : str or pathlib.Path, or a list of these
        The folder with the audio, or the folders.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    FileNotFoundError
        If a list given by name is not there.
    ValueError
        If it is several.

    Example
    -------
    >>> find_trials("my/trials.txt", "wavs").name
    'trials.txt'
    >>> find_trials("vox1-h", getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: vox1-h is list_test_hard2.txt, which is not in ...
    """
    trials, *others = paths_of(trials)
    if others:
        raise ValueError(
            f"trials={[str(path) for path in [trials, *others]]}: give one "
            "list; verify.py takes the others, one by one."
        )
    if str(trials) not in NAMED:
        return pathlib.Path(trials)
    name, folders = NAMED[str(trials)], paths_of(data_folder) or ["."]
    for folder in folders:
        for path in [
            pathlib.Path(folder, name),
            pathlib.Path(folder, "meta", name),
        ]:
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"{trials} is {name}, which is not in {either(folders)} or its folder "
        f"meta: download it from {VOXCELEB}."
    )


def either(folders):
    """Folders in a sentence, any of which will do."""
    return " or ".join(map(str, folders))


def read_trials(path):
    """Reads a trial list.

    One trial a line, fields as of ``dataio.names.fields_of``:
    ``1|0 enrol test`` (VoxCeleb), ``enrol test target|nontarget``, or
    ``enrol test 1|0`` where the first name is neither. A fourth field, if all
    lines have one, names the group that the trial belongs to.

    Arguments
    ---------
    path : str or pathlib.Path
        The text file.

    Returns
    -------
    pandas.DataFrame
        The columns ``target`` (bool), ``enrol`` and ``test`` (file names),
        and ``group`` if the list has it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If a line is no trial, with its number, or there is none at all.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> _ = path.write_text("1 a/1.wav a/2.wav\\n0 a/1.wav b/1.wav\\n")
    >>> read_trials(path)
       target    enrol     test
    0    True  a/1.wav  a/2.wav
    1   False  a/1.wav  b/1.wav
    """
    path = pathlib.Path(path)
    if not path.is_file():
        known = NAMED.get(str(path))
        named = f" Give the path of {known} here." if known else ""
        raise FileNotFoundError(
            f"No trial list at {path}.{named} VoxCeleb's are at {VOXCELEB}."
        )
    # A file that is no text fails on its first line below, with a number.
    lines = read_text(path, errors="replace").split("\n")
    trials, forms = [], {}
    for number, line in enumerate(lines, 1):
        fields = fields_of(line)
        if not fields:
            continue
        form = _form(fields)
        trial = form and _parse(form, fields)
        forms.setdefault(form, number)
        if trial is None or len(trial) != len((trials or [trial])[0]):
            raise ValueError(
                f"{path}, line {number}: '{line.strip()[:80]}' is not a trial. "
                "Write '1 enrol test' or '0 enrol test', or put 1 and 0, or "
                "the words target and nontarget, at the end, with tabs between "
                "the fields if a name has spaces; a fourth field, the group, "
                "is for all lines or none."
            )
        trials.append(trial)
    if not trials:
        raise ValueError(f"{path} is empty: no trials to score.")
    if {"first", "last"} <= forms.keys():
        raise ValueError(
            f"{path} has 0 or 1 first in line {forms['first']}, and last in "
            f"line {forms['last']}: write target and nontarget at the end."
        )
    if any("\ufffd" in line for line in lines):
        read_text(path)  # says that it is not in UTF-8
    columns = ["target", "enrol", "test", "group"]
    return pd.DataFrame(trials, columns=columns[: len(trials[0])])


def trial_names(trials):
    """The files that a trial list names, each once.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.

    Returns
    -------
    list of str
        The names of the files, sorted.
    """
    return sorted(set(trials["enrol"]) | set(trials["test"]))


def read_lists(lists):
    """Reads several trial lists.

    Arguments
    ---------
    lists : str or pathlib.Path, or a list of these, optional
        The trial lists; none is a list without trials.

    Returns
    -------
    pandas.DataFrame
        See ``read_trials``, also for the errors: ``target``, ``enrol`` and
        ``test``.
    """
    columns = ["target", "enrol", "test"]
    tables = [read_trials(path)[columns] for path in paths_of(lists)]
    return pd.concat(tables) if tables else pd.DataFrame(columns=columns)


def write_trials(path, trials):
    """Writes a trial list.

    Arguments
    ---------
    path : str or pathlib.Path
        The text file.
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.

    Example
    -------
    >>> path = getfixture("tmp_path") / "trials.txt"
    >>> lines = "1 a/1.wav a/2.wav easy\\n0 a/1.wav b/1.wav hard\\n"
    >>> _ = path.write_text(lines)
    >>> write_trials(path.with_name("copy.txt"), read_trials(path))
    >>> path.with_name("copy.txt").read_text() == lines
    True
    """
    columns = ["target", "enrol", "test", "group"]
    table = trials[[name for name in columns if name in trials]]
    table = table.astype({"target": int}).astype(str)
    separator = separator_of(*(table[name] for name in table))
    lines = [separator.join(row) for row in table.itertuples(index=False)]
    write_text(path, "\n".join(lines) + "\n")


def _form(fields):
    """Where the fields of a line say whether it is a target trial: in "words",
    "first" or "last"; None if it is no trial."""
    if len(fields) not in (3, 4):
        return None
    # The words first, as an ID may be a number
    if fields[2] in ("target", "nontarget"):
        return "words"
    if fields[0] in ("0", "1"):
        return "first"
    return "last" if fields[2] in ("0", "1") else None


def _parse(form, fields):
    """The fields of a line as (target, enrol, test) and, if there is one,
    the group."""
    if form == "first":
        return fields[0] == "1", *fields[1:]
    return fields[2] in ("target", "1"), *fields[:2], *fields[3:]
