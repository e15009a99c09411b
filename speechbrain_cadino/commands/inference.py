"""What an encoder says about audio files: any rate, channels and format."""

import pathlib
import tempfile

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import COLUMNS
from speechbrain_cadino.dataio.names import CONVERTIBLE, READABLE
from speechbrain_cadino.embeddings.segments import SHORTEST
from speechbrain_cadino.encoders.load import as_embedder, load_classifier
from speechbrain_cadino.prepare.convert import has_av
from speechbrain_cadino.prepare.recordings import (
    Recording,
    convert_recordings,
    judge_recordings,
    manifest_rows,
    read_headers,
)
from speechbrain_cadino.prepare.scan import list_files
from speechbrain_cadino.verification.scoring import cosine, trial_scores, unit

logger = get_logger(__name__)


def find_files(inputs):
    """The audio files among some files and below some folders.

    Arguments
    ---------
    inputs : iterable of str or pathlib.Path
        Files, which are taken whatever their names, and folders, of which
        those are taken that have the suffix of an audio format: see
        ``prepare.scan.list_files``.

    Returns
    -------
    list of str
        Their paths, in the order of the inputs, each once.

    Raises
    ------
    FileNotFoundError
        If an input is not there.
    ValueError
        If a folder holds no audio file.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for name in ["b.wav", "a.flac", "notes.txt"]:
    ...     _ = (folder / name).write_bytes(b"...")
    >>> files = find_files([folder / "b.wav", folder])
    >>> [pathlib.Path(file).name for file in files]
    ['b.wav', 'a.flac']
    """
    files = {}
    for path in map(pathlib.Path, inputs):
        if not path.exists():
            raise FileNotFoundError(f"There is no file or folder {path}.")
        found = [path]
        if path.is_dir():
            listing = list_files(str(path), "**/*", READABLE | CONVERTIBLE)
            found = [path / file.name for file in listing]
        if not found:
            raise ValueError(
                f"There is no audio file in {path}, nor in the folders below: "
                "none has the suffix of an audio format, such as .wav."
            )
        files.update(dict.fromkeys(map(_plain, found)))
    return list(files)


def embed_files(encoder, files, device=None, trusted=True):
    """Embeds whole audio files, as SpeechBrain's ``encode_batch`` does.

    Arguments
    ---------
    encoder : str or pathlib.Path
        An encoder folder or a hub id.
    files : list of str
        Audio files. What soundfile cannot read (m4a) is converted first, into
        a temporary folder, by the extra ``convert``.
    device : str, optional
        See ``load_encoder``, also for the errors.
    trusted : bool
        See ``load_encoder``.

    Returns
    -------
    list of str
        The N files that could be read. The others are named in the log.
    numpy.ndarray
        Shape (N, D), float32.

    Raises
    ------
    ImportError
        If files have to be converted and PyAV is not installed.
    ValueError
        If no file can be read, or an embedding is not finite.
    """
    loaded = as_embedder(load_classifier(encoder, device, trusted))
    rate = loaded.sample_rate
    with tempfile.TemporaryDirectory() as folder:
        recordings = _examine(files, rate, folder)
        rows = [
            manifest_rows(recording, rate)[0]
            for recording in recordings
            if not recording.problem
        ]
        if not rows:
            raise ValueError(
                f"None of {len(files)} files can be embedded; the first is "
                f"{_shown(files[0])}: {recordings[0].problem}."
            )
        table = pd.DataFrame(rows, columns=COLUMNS)
        embeddings = loaded.embed(table, skip_unreadable=True)
    fine = np.isfinite(embeddings).all(1)
    for row in table["ID"][~fine]:
        recordings[int(row)].problem = "damaged"
    _report_skipped(files, recordings)
    return [files[int(row)] for row in table["ID"][fine]], embeddings[fine]


def _examine(files, rate, folder):
    """The recordings in files, their headers read; IDs are row numbers."""
    recordings = [
        Recording(str(row), file, file, _problem_with_name(file))
        for row, file in enumerate(files)
    ]
    named = [recording for recording in recordings if not recording.problem]
    read_headers(named)
    doubtful = [recording for recording in named if recording.is_doubtful]
    if has_av():
        convert_recordings(doubtful, folder, rate)
    judge_recordings(named, SHORTEST)
    return recordings


def _problem_with_name(file):
    """Why a file cannot be listed; empty if it can."""
    # ids.txt has a file on each line, in UTF-8.
    listable = file == _shown(file)
    if listable:
        return ""
    return "a name with control characters, or not in UTF-8"


def _shown(file):
    """A file's name such that it can be printed on one line."""
    return "".join(
        letter
        if letter.isprintable()
        else letter.encode("unicode_escape").decode()
        for letter in file
    )


def _plain(path):
    """A path such that no spreadsheet takes it for a formula."""
    return f"./{path}" if str(path)[0] in "=+-@" else str(path)


def _report_skipped(files, recordings):
    """Names and counts the files that have no embedding."""
    problems = [
        f"{_shown(file)}: {recording.problem}"
        for file, recording in zip(files, recordings)
        if recording.problem
    ]
    for problem in problems:
        logger.warning(f"Skipped {problem}.")
    if problems:
        logger.warning(f"{len(problems)} of {len(files)} files are skipped.")


def verify_files(
    encoder, enrol, tests, threshold=None, device=None, trusted=True
):
    """Compares one speaker with the speakers of audio files.

    Arguments
    ---------
    encoder : str or pathlib.Path
        An encoder folder or a hub id.
    enrol : list of str
        Audio files of one speaker: the mean of their embeddings, each of L2
        norm 1, stands for the speaker.
    tests : list of str
        Audio files to compare with it.
    threshold : float, optional
        The lowest score of the same speaker.
    device : str, optional
        See ``embed_files``, also for the errors.
    trusted : bool
        See ``load_encoder``.

    Returns
    -------
    pandas.DataFrame
        A row for each test file that could be read: ``file``, ``score``, the
        cosine from -1 to 1, and with a threshold ``speaker``, "same" or
        "different".

    Raises
    ------
    ValueError
        If no file of either side can be read.
    """
    files, embeddings = embed_files(
        encoder, list(dict.fromkeys([*enrol, *tests])), device, trusted
    )
    rows = pd.Index(files)
    enrol = embeddings[rows.isin(enrol)]
    is_test = rows.isin(tests)
    for side, name in [(enrol, "enrolment"), (embeddings[is_test], "test")]:
        if not len(side):
            raise ValueError(f"None of the {name} files can be read.")
    speaker = unit(enrol).mean(0, keepdims=True)
    sides = cosine(np.concatenate([speaker, embeddings[is_test]]))
    others = np.arange(1, 1 + is_test.sum())
    scores = trial_scores(sides, np.zeros_like(others), others)
    table = pd.DataFrame({"file": rows[is_test], "score": scores})
    if threshold is not None:
        same = scores >= threshold
        table["speaker"] = np.where(same, "same", "different")
    return table
