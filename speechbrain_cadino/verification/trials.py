"""Trial lists and the files they name."""

import contextlib
import itertools
import pathlib

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import (
    AudioError,
    length_at,
    read_header,
)
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.dataio.names import (
    CONVERTIBLE,
    candidates,
    fields_of,
    find_file,
    match,
    parts_of,
    paths_of,
    separator_of,
    speaker_of,
    spelling,
)
from speechbrain_cadino.process.files import read_text, write_text

logger = get_logger(__name__)

# VoxCeleb1's lists, cleaned, under the names that papers call them by.
NAMED = {
    "vox1-o": "veri_test2.txt",
    "vox1-e": "list_test_all2.txt",
    "vox1-h": "list_test_hard2.txt",
}
# Of a test file that is there and cannot be read
COPIES = (
    "speechbrain-cadino prepare FOLDER --output PLACE --convert_folder COPIES "
    "copies what needs converting: then give both as folders of the trials, "
    '--trials_folder="[FOLDER,COPIES]"; in verify.py that is --data_folder, '
    "which speechbrain-cadino calibrate takes several times."
)
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
        f"{trials} is {name}, which is not in {_or(folders)} or its folder "
        f"meta: download it from {VOXCELEB}."
    )


def _or(folders):
    """Folders in a sentence."""
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


def shared_folders(trials, folders=()):
    """The folders that are of no speaker, as two of them are in it.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    folders : iterable of str
        The folders of the data: see ``dataio.names.parts_of``.

    Returns
    -------
    set of str
        The folders on the way to both files of a trial of two speakers; and of
        the first other ones those that trials hold to be of one speaker and of
        two, such as ``enroll`` and ``test``.

    Example
    -------
    >>> columns = ["target", "enrol", "test"]
    >>> trial = (False, "customers/a/1", "customers/b/1")
    >>> shared_folders(pd.DataFrame([trial], columns=columns))
    {'customers'}
    >>> target, other = ("enroll/a1", "test/a2"), ("enroll/a1", "test/b1")
    >>> sides = [(True, *target), (False, *other)]
    >>> sorted(shared_folders(pd.DataFrame(sides, columns=columns)))
    ['enroll', 'test']
    """
    inside = _inside(trials, folders)
    folders_of = {name: set(parts) for name, parts in inside.items()}
    is_target = trials["target"].to_numpy(bool)
    others = [*trials.loc[~is_target, ["enrol", "test"]].to_numpy()]
    shared = set()
    for enrol, test in others:
        shared |= folders_of[enrol] & folders_of[test]
    first = _first_folders(inside, shared)
    one_speaker = _joined(trials[is_target], first)
    for pair in others if one_speaker else ():
        groups = {one_speaker.get(first[name]) for name in pair}
        if len(groups) == 1 and groups != {None}:
            shared.update(first[name] for name in pair)
    return shared


def warn_of_sessions(trials, shared, folders=()):
    """Warns if target trials are of two first folders, which may then be those
    of days or meetings rather than of speakers.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them. See ``shared_folders``.
    shared : set of str
        The folders of ``shared_folders``.
    folders : iterable of str
        The folders of the data.
    """
    first = _first_folders(_inside(trials, folders), shared)
    pairs = _across(trials[trials["target"].to_numpy(bool)], first)
    if len(pairs):
        enrol, test = pairs.iloc[0]
        logger.warning(
            f"{len(pairs)} target trials are of two folders, such as {enrol} "
            f"and {test}. If folders are days or meetings rather than "
            "speakers, the speakers of the test and of the training set cannot "
            "be told: keep recordings of the test voices out of the training "
            "set yourself."
        )


def _inside(trials, folders):
    """The folders that each file of a list is in."""
    return {n: parts_of(n, folders)[:-1] for n in trial_names(trials)}


def _first_folders(inside, shared):
    """The first folder of each file that is not shared, if there is one."""
    return {
        name: next((part for part in parts if part not in shared), None)
        for name, parts in inside.items()
    }


def _across(targets, first):
    """The two folders of each trial whose files are not in one."""
    pairs = targets[["enrol", "test"]].map(first.get).dropna()
    return pairs[pairs["enrol"] != pairs["test"]]


def _joined(targets, first):
    """The groups of first folders that target trials hold to be of one
    speaker: a number for each."""
    pairs = _across(targets, first).drop_duplicates()
    codes, names = pd.factorize(pairs.to_numpy().ravel())
    size = len(names)
    ones = np.ones(len(pairs), bool)
    edges = coo_array((ones, (codes[::2], codes[1::2])), (size, size))
    return dict(zip(names, connected_components(edges)[1])) if size else {}


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


def training_overlap(trials, data_folder, table):
    """What a training set has in common with a trial list.

    An error rate on speakers that an encoder was trained on says little of
    others.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    data_folder : str or pathlib.Path, or a list of these
        The folders that the list's names may start from.
    table : pandas.DataFrame
        The training manifest.

    Returns
    -------
    dict of str:int
        ``test_speakers``, and how many of them are ``trained_on``;
        ``unknown_speakers``, the files whose name does not tell who speaks. A
        speaker of the list is the first folder of a name, see
        ``dataio.names.speaker_of``, or where trials contradict that, any
        further one that is in the training set; one of the training set is
        any folder on the way to a file, or in its ID.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     {"target": [False], "enrol": ["a/1.wav"], "test": ["./b/1.wav"]}
    ... )
    >>> table = pd.DataFrame({"ID": ["wav/b/2", "wav/c/1"]})
    >>> training_overlap(trials, "data", table)
    {'test_speakers': 2, 'trained_on': 1, 'unknown_speakers': 0}
    """
    names = trial_names(trials)
    folders = paths_of(data_folder)
    trained = _folders_on_the_way(table)
    tested = _tested(trials, names, folders, trained)
    speakers = set(tested) - {""}
    overlap = {
        "test_speakers": len(speakers),
        "trained_on": len(speakers & trained),
        "unknown_speakers": tested.count(""),
    }
    if overlap["trained_on"]:
        logger.warning(
            f"{overlap['trained_on']} of the {len(speakers)} speakers of the "
            f"trial list are in the training set, such as "
            f"{min(speakers & trained)}: the figures say little about others."
        )
    if overlap["unknown_speakers"]:
        logger.warning(
            f"Whether the speakers of {overlap['unknown_speakers']} of the "
            f"{len(names)} files of the trial list were trained on cannot be "
            f"told: {names[tested.index('')]} names no folder below "
            f"{_or(folders)} that tells who speaks."
        )
    return overlap


def _tested(trials, names, folders, trained):
    """Who speaks in each of the files of a list, "" where its name does not
    tell."""
    first = [speaker_of(name, folders) for name in names]
    shared = shared_folders(trials, folders)
    warn_of_sessions(trials, shared, folders)
    if shared.isdisjoint(first):
        return first
    found = trained - shared
    inside = [set(parts_of(name, folders)[:-1]) for name in names]
    return [min(found & folders_of, default="") for folders_of in inside]


def _folders_on_the_way(table):
    """All folders in the IDs of a manifest, and in its paths below what they
    have in common: the data may lie in somebody's home."""
    ids, paths = (
        {tuple(spelling(n).split("/")[:-1]) for n in table.get(column, [])}
        for column in ("ID", "wav")
    )
    shared = itertools.takewhile(lambda n: len(set(n)) == 1, zip(*paths))
    above = len([*shared])
    return set().union(*ids, *(path[above:] for path in paths))


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


def trial_files(trials, data_folder, sample_rate=16000):
    """Finds the files of a trial list, each once.

    They are looked for as ``dataio.names.find_file`` says, in one folder after
    the other; where one is not there or not readable, the same in another
    format or folder serves.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    data_folder : str or pathlib.Path, or a list of these
        The folders that the list's names may start from.
    sample_rate : int
        The rate in which ``stop`` counts, in Hz.

    Returns
    -------
    pandas.DataFrame
        A manifest of whole files, ``ID,wav,start,stop``, sorted by ID, which
        is the name in the list.

    Raises
    ------
    FileNotFoundError
        If files are missing: how many, and the first.
    AudioError
        If one is not readable.
    """
    folders = paths_of(data_folder)
    names = trial_names(trials)
    paths = {
        name: next(filter(None, (find_file(name, f) for f in folders)), None)
        for name in tqdm(names, "Looking for files", unit="file", delay=1)
    }
    missing = [name for name in names if paths[name] is None]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of the {len(names)} files of the trial list are "
            f"not below {_or(folders)} or its folder wav; the first is "
            f"{missing[0]}. {_hint(missing[0], folders)}"
        )
    stops, problems = [], []
    for name in tqdm(names, desc="Reading headers", unit="file"):
        try:
            paths[name], header = _readable(name, paths[name], folders)
        except AudioError as error:
            problems.append(error)
        else:
            stops.append(length_at(sample_rate, header.frames, header.rate))
    if problems:
        raise AudioError(
            f"{len(problems)} of the {len(names)} files of the trial list "
            f"cannot be read; the first: {problems[0]}"
        ) from problems[0]
    renamed = [n for n in names if paths[n].suffix != pathlib.Path(n).suffix]
    if renamed:
        logger.info(
            f"{len(renamed)} of {len(names)} files have another suffix than in "
            f"the trial list; the first: {renamed[0]} is {paths[renamed[0]]}."
        )
    return pd.DataFrame(
        {
            "ID": names,
            "wav": [str(path) for path in paths.values()],
            "start": 0,
            "stop": stops,
        }
    )


def _readable(name, path, folders):
    """A file of a name that can be read, the one that was found if it can, and
    what it holds."""
    try:
        return path, read_header(path)
    except AudioError as error:
        for other in itertools.chain(*(candidates(name, f) for f in folders)):
            with contextlib.suppress(AudioError):
                if other != path and other.is_file():
                    return other, read_header(other)
        if path.suffix.lower() not in CONVERTIBLE:
            raise
        raise AudioError(f"{error} {COPIES}") from error


def trial_table(trials):
    """The files of a trial list, each once, where there is no audio.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.

    Returns
    -------
    pandas.DataFrame
        The manifest, as of ``trial_files``, without ``wav``, all of the same
        length.
    """
    return pd.DataFrame({"ID": trial_names(trials), "start": 0, "stop": 1})


def trial_tracks(trials, manifest, data_folder):
    """Finds the face tracks of a trial list in a manifest, each once.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    manifest : str or pathlib.Path
        A face manifest, whose IDs are the names in the list without suffix:
        see ``audio_visual.prepare``.
    data_folder : str or pathlib.Path
        The folder that ``$data_root`` in the manifest stands for.

    Returns
    -------
    pandas.DataFrame
        The manifest, as of ``trial_files``, less the files whose face was not
        seen.

    Raises
    ------
    ValueError
        If no face of the list is there, or there are several folders.
    """
    folders = paths_of(data_folder)
    if len(folders) > 1:
        raise ValueError(
            f"The faces of {manifest} are below one folder, not {_or(folders)}."
        )
    table = read_manifest(manifest, data_folder).set_index("ID")
    names = trial_names(trials)
    rows = match(names, table.index)
    seen = [name for name, row in zip(names, rows) if row >= 0]
    if not seen:
        raise ValueError(
            f"{manifest} has the face of none of the {len(names)} files of the "
            f"trial list: it has no ID {spelling(names[0])}, of {names[0]}."
        )
    if len(seen) < len(names):
        logger.info(
            f"{len(names) - len(seen)} of {len(names)} files of the trial list "
            f"have no face in {manifest}."
        )
    found = table.iloc[rows[rows >= 0]]
    return pd.DataFrame(
        {
            "ID": seen,
            **{
                name: found[name].to_numpy()
                for name in ["wav", "start", "stop"]
            },
        }
    )


def _hint(name, folders):
    """What to do about a missing file."""
    for folder in folders:
        paths = [path for path in candidates(name, folder) if path.name]
        if any(path.with_suffix(".m4a").is_file() for path in paths):
            return f"It is there as .m4a. {COPIES}"
    return (
        "Check that folder (trials_folder of a training, data_folder of "
        "verify.py): a file's path is that and its name in the list."
    )
