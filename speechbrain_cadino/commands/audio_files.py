"""Audio files of any rate, channels and format: found, converted, embedded."""

import contextlib
import functools
import hashlib
import os
import pathlib
import re
import shutil
import tempfile
from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioError, read_header
from speechbrain_cadino.dataio.manifest import COLUMNS, DATA_ROOT
from speechbrain_cadino.dataio.names import CONVERTIBLE, READABLE, paths_of
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.segments import SHORTEST
from speechbrain_cadino.encoders.calibration import read_calibration
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.prepare.copies import has_av
from speechbrain_cadino.prepare.parallel import in_threads
from speechbrain_cadino.prepare.recordings import (
    UNLISTED,
    Recording,
    convert_recordings,
    judge_recordings,
    manifest_rows,
    needs_av,
    read_headers,
    warn_of_kinds,
)
from speechbrain_cadino.prepare.scan import EVERYTHING, list_files
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.tables import describe_columns, read_csv
from speechbrain_cadino.runs.maps import calibrate_lda
from speechbrain_cadino.verification.threshold import calibrate

logger = get_logger(__name__)

# What ``prepare`` would convert into a folder is converted here for the moment.
NEEDS_AV = 'PyAV reads it: pip install "speechbrain_cadino[convert]"'

# So many files that cannot be used are named.
NAMED = 10

# Why files of a folder of embeddings are skipped
NO_EMBEDDING = "no embedding"


def find_files(inputs, drop_missing=False):
    """The audio files among some files and below some folders.

    Arguments
    ---------
    inputs : iterable of str or pathlib.Path, or one of these
        Files, which are taken whatever their names; folders, of which
        those are taken that have the suffix of an audio format, see
        ``prepare.scan.list_files``; and CSV files that list some: see
        ``listed_files``.

    drop_missing : bool
        See ``listed_files``.

    Returns
    -------
    list of str
        The paths of the files, in the order of the inputs, each once, however
        it is spelled.

    Raises
    ------
    FileNotFoundError
        If an input is not there.
    ValueError
        If a folder holds no audio file, or a list names none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ["b.wav", "a.flac", "notes.txt"]:
    ...     _ = (folder / name).write_bytes(b"...")
    >>> files = find_files([folder / "b.wav", folder])
    >>> [pathlib.Path(file).name for file in files]
    ['b.wav', 'a.flac']
    """
    files, folder = {}, functools.cache(os.path.realpath)
    for name in names_of(inputs):
        path = pathlib.Path(name)
        if not name or not path.exists():
            raise FileNotFoundError(f"There is no file or folder '{name}'.")
        found = [path]
        if path.suffix.lower() == ".csv" and path.is_file():
            found = listed_files(path, drop_missing)
        if path.is_dir():
            listing = list_files(str(path), EVERYTHING, READABLE | CONVERTIBLE)
            found = [path / file.name for file in listing if not file.target]
        if not found:
            raise ValueError(
                f"There is no audio file in {path}, nor in the folders below: "
                "none has the suffix of an audio format, such as .wav."
            )
        for one in map(_plain, found):
            # Links to files are files, those to folders another spelling
            above, name = os.path.split(one)
            files.setdefault(os.path.join(folder(above), name), one)
    return list(files.values())


def listed_files(path, drop_missing=False):
    """The files that a table names, such as the manifest of a filter: those of
    its column ``file``, each once, or else ``wav``, or where ``ID`` is the same
    file seen from here, that.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    drop_missing : bool
        Whether files that are not there are passed over.

    Returns
    -------
    list of str
        The files that are there, in the order of the table.

    Raises
    ------
    FileNotFoundError
        If one is not there.
    ValueError
        If it has no such column, no row, or names that start with
        ``$data_root``, or it is a manifest of pieces.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a.wav").touch()
    >>> _ = (folder / "some.csv").write_text(f"file,n\\n{folder}/a.wav,1\\n")
    >>> [pathlib.Path(file).name for file in listed_files(folder / "some.csv")]
    ['a.wav']
    """
    table = read_csv(path)
    column = next((name for name in ("file", "wav") if name in table), None)
    if column is None or table.empty:
        raise ValueError(
            f"{path} is no list of files, which is a table with a column file "
            f"or wav. It has {describe_columns(table)}."
        )
    names = list(dict.fromkeys(table[column]))
    if column == "wav" and "ID" in table:
        # A filter's IDs are names of files, and those of its other tables
        whole = dict(zip(table["wav"], table["ID"]))
        names = [
            whole[name] if os.path.abspath(whole[name]) == name else name
            for name in names
        ]
    if column == "wav" and (len(names) < len(table) or _has_pieces(table)):
        raise ValueError(
            f"{path} is a manifest of pieces, but commands take whole files: "
            "embed it with extract.py. Or files have become longer since the "
            "manifest was written: then make it again."
        )
    for name in names:
        if name.startswith(DATA_ROOT):
            raise ValueError(
                f"{path} does not tell the folder of its files, {DATA_ROOT}: "
                "give that folder."
            )
    there = in_threads(os.path.isfile, names)
    gone = [name for name, found in zip(names, there) if not found]
    if gone:
        said = (
            f"{len(gone)} of the {len(names)} files that {path} names are not "
            f"there, such as '{gone[0]}'"
        )
        if not drop_missing or len(gone) == len(names):
            raise FileNotFoundError(f"{said}.")
        logger.warning(f"{said}: they are passed over.")
    return [name for name, found in zip(names, there) if found]


def _has_pieces(table):
    """Whether a manifest is of parts of files: one begins later, or of the
    first ones one is shorter than its file."""
    numbers = table.reindex(columns=["start", "duration"])
    numbers = numbers.apply(pd.to_numeric, errors="coerce")
    if (numbers["start"] > 0).any():
        return True
    for name, seconds in zip(table["wav"][:10], numbers["duration"]):
        with contextlib.suppress(AudioError):
            header = read_header(name)
            if seconds < 0.99 * header.frames / header.rate - 0.1:
                return True
    return False


def names_of(files):
    """The names of files, of which one may stand alone."""
    return [os.fspath(file) for file in paths_of(files)]


class Embedded(NamedTuple):
    """Files and their embeddings (N, D), float32; how long each is in seconds
    (N,), NaN where that is not known; what their scores mean, or None; and why
    other files have no embedding, by file."""

    files: list
    embeddings: np.ndarray
    seconds: np.ndarray
    calibration: object
    skipped: dict


def embed_files(
    encoder,
    files,
    *,
    recording_lda=False,
    self_calibrate=False,
):
    """Embeds whole audio files, as SpeechBrain's ``encode_batch`` does.

    Arguments
    ---------
    encoder : str, pathlib.Path or Embedder
        An encoder folder or a hub id, or a folder of embeddings; or what
        ``load_encoder`` has made of it.
    files : list of str or pathlib.Path
        Audio files; of a folder of embeddings, IDs. What soundfile cannot read
        (m4a) is converted first, into a temporary folder, by the extra
        ``convert``.
    recording_lda : bool
        Whether to learn RecordingLDA from these files, and to apply it.
    self_calibrate : bool
        Whether to calibrate on these files, where the encoder comes without a
        calibration or recording_lda changes the scores.

    Returns
    -------
    Embedded
        The embeddings of the files that could be read. The log names the first
        of the others, ``skipped`` has all.

    Raises
    ------
    ValueError
        If no file can be read, or an embedding is not finite. See
        ``load_encoder`` for others.
    """
    files = names_of(files)
    if not files:
        raise ValueError("There is no file to embed: give audio files.")
    loaded = encoder
    if not hasattr(encoder, "embed"):
        loaded = load_encoder(encoder)
    calibration = loaded.source and read_calibration(loaded.source)
    if not loaded.hears:
        if recording_lda:
            RecordingLDA().learn(loaded, None)
        return _stored(loaded, files, calibration)
    rate = loaded.sample_rate
    with audio_table(files, rate) as (recordings, table):
        heard = loaded.replace()  # its problems are those of these files
        # What is drawn is drawn by row: one result for any order of the files
        rows = table["ID"].astype(int).tolist()
        order = sorted(range(len(rows)), key=lambda row: files[rows[row]])
        order = np.array(order)
        if recording_lda:
            lda = RecordingLDA().learn(loaded, table.iloc[order])
            heard = lda.after(loaded)
            calibration = None
        embeddings = heard.embed(table, skip_unreadable=True)
        problems = heard.problems  # a calibration embeds once more
        fine = np.isfinite(embeddings).all(1)
        if calibration is None and self_calibrate:
            calibrates = calibrate_lda if recording_lda else calibrate
            learnt = table.iloc[order[fine[order]]]
            try:
                calibration = calibrates(loaded, learnt)
            except ValueError as error:  # too few
                logger.warning(f"No calibration on these files: {error}")
    for row, wav in table.loc[~fine, ["ID", "wav"]].to_numpy():
        problem = problems[row].removeprefix(f"{wav}: ").rstrip(".")
        recordings[int(row)].problem = problem
    skipped = warn_of_files(files, recordings, rate)
    table, embeddings = table[fine], embeddings[fine]
    return Embedded(
        [files[int(row)] for row in table["ID"]],
        embeddings,
        ((table["stop"] - table["start"]) / rate).to_numpy(),
        calibration,
        skipped,
    )


def _stored(loaded, files, calibration):
    """The embeddings of IDs, but of those that were not readable."""
    table = pd.DataFrame({"ID": files})
    loaded.check_known(files)
    embeddings = loaded.embed(table, skip_unreadable=True)
    fine = np.isfinite(embeddings).all(1)
    if not fine.all():
        logger.warning(
            f"{(~fine).sum()} of {len(files)} have no embedding in "
            f"{loaded.source} and are skipped, the first is "
            f"{printable(files[fine.argmin()])}."
        )
    skipped = dict.fromkeys(map(listed_name, table["ID"][~fine]), NO_EMBEDDING)
    files = table["ID"][fine].tolist()
    seconds = loaded.durations(files)
    if np.isnan(seconds).any():
        logger.info(
            f"How long files are is not known in {loaded.source}: none counts "
            "as too short to tell."
        )
    return Embedded(files, embeddings[fine], seconds, calibration, skipped)


@contextlib.contextmanager
def audio_table(files, rate, folder=None, required=True):
    """A manifest of audio files, while what had to be converted is there.

    Arguments
    ---------
    files : list of str
        Audio files.
    rate : int
        The sample rate, in Hz.
    folder : str or pathlib.Path, optional
        The folder of converted copies, by default a new one. It is deleted in
        the end; where the work does not come to its end, it stays, and the next
        one goes on with what is there.
    required : bool
        Whether it is an error if no file can be embedded.

    Yields
    ------
    recordings : list of Recording
        The recordings of all files: those with a problem are left out.
    table : pandas.DataFrame
        A row of each of the others; its ID is the number of the file.

    Raises
    ------
    ValueError
        If there is none.
    """
    with _folder_for_a_while(folder) as folder:
        recordings = _examine(files, rate, folder)
        rows = [
            (str(row), *manifest_rows(recording, rate)[0][1:])
            for row, recording in enumerate(recordings)
            if not recording.problem
        ]
        if required and not rows:
            raise ValueError(
                f"None of {len(files)} files can be embedded; the first is "
                f"{printable(files[0])}: {recordings[0].problem}."
            )
        yield recordings, pd.DataFrame(rows, columns=COLUMNS)


@contextlib.contextmanager
def _folder_for_a_while(folder):
    """A folder that stays where the work comes to no end, or a new one that
    never does."""
    if folder is None:
        with tempfile.TemporaryDirectory() as folder:
            yield folder
        return
    yield str(folder)
    shutil.rmtree(folder, ignore_errors=True)


def _examine(files, rate, folder):
    """The recordings in files, their headers read."""
    problems = in_threads(_problem, files)
    recordings = [
        Recording("", file, file, problem)
        for file, problem in zip(files, problems)
    ]
    named = [recording for recording in recordings if not recording.problem]
    read_headers(named)
    doubtful = [recording for recording in named if recording.is_doubtful]
    if has_av():
        for recording in doubtful:
            recording.id = _name_of_copy(recording.path, rate)
        if doubtful:
            logger.info(
                f"{len(doubtful)} files are converted into {folder} for a "
                "while, 70 MB for each hour. Copies that last are made by the "
                "command prepare."
            )
        convert_recordings(doubtful, folder, rate)
    else:
        for recording in doubtful:
            if needs_av(recording.path):
                recording.problem = NEEDS_AV
    judge_recordings(named, rate, SHORTEST)
    return recordings


def _name_of_copy(file, rate):
    """The name of a converted copy, the same each time."""
    source = f"{rate} {os.path.realpath(file)}"
    return hashlib.sha256(os.fsencode(source)).hexdigest()[:24]


def _problem(file):
    """Why a file cannot be listed; empty if it can."""
    # ids.txt has a file on each line, in UTF-8.
    if re.search(f"[{UNLISTED}]", file):
        return "a name with control characters, or not in UTF-8"
    if os.path.isdir(file):
        return "a folder that cannot be entered, or is to be given by itself"
    return ""


def listed_name(file):
    """The name of a file in a table: as it is, but for what a line of text or
    UTF-8 cannot hold."""
    return printable(file) if re.search(f"[{UNLISTED}]", file) else file


def _plain(path):
    """A path such that no spreadsheet takes it for a formula, and no reader of
    CSV files drops a blank in front."""
    return f"./{path}" if str(path)[0] in "=+-@ " else str(path)


def warn_of_files(files, recordings, rate):
    """Counts the files that have no embedding, and names the first ones; tells
    which others lack what the encoder listens to, or may hold more than one
    voice.

    Arguments
    ---------
    files : list of str
        All files.
    recordings : list of Recording
        The recordings of ``audio_table``: one with a problem has no embedding.
    rate : int
        The sample rate of the encoder, in Hz.

    Returns
    -------
    dict
        The problem of each of those files, by their names as tables have them.
    """
    problems = {
        listed_name(file): recording.problem
        for file, recording in zip(files, recordings)
        if recording.problem
    }
    for file, problem in list(problems.items())[:NAMED]:
        logger.warning(f"Skipped {printable(file)}: {problem}.")
    if problems:
        more = ", and so on" if len(problems) > NAMED else ""
        logger.warning(
            f"{len(problems)} of {len(files)} files are skipped{more}."
        )
    usable = [one for one in recordings if not one.problem]
    warn_of_kinds(usable, rate)
    return problems
