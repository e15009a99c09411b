"""Who speaks in the files of a trial list, as far as names tell, and which of
them are in a training set."""

import itertools

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.names import (
    parts_of,
    paths_of,
    speaker_of,
    spelling,
)
from speechbrain_cadino.verification.trials import either, trial_names

logger = get_logger(__name__)


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
            f"{either(folders)} that tells who speaks."
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
