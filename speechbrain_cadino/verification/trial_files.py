"""The files that a trial list names."""

import contextlib
import itertools
import pathlib

import pandas as pd
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import (
    AudioError,
    length_at,
    read_header,
)
from speechbrain_cadino.dataio.names import (
    CONVERTIBLE,
    candidates,
    find_file,
    paths_of,
)
from speechbrain_cadino.verification.trials import either, trial_names

logger = get_logger(__name__)

# Of a test file that is there and cannot be read
COPIES = (
    "speechbrain-cadino prepare FOLDER --output PLACE --convert_folder COPIES "
    "copies what needs converting: then give both as folders of the trials, "
    '--trials_folder="[FOLDER,COPIES]"; in verify.py that is --data_folder, '
    "which speechbrain-cadino calibrate takes several times."
)


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
            f"not below {either(folders)} or its folder wav; the first is "
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
