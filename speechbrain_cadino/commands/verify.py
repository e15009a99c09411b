"""The command ``verify``: whether recordings are of one speaker."""

import os

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.commands.arguments import (
    as_text,
    check_file,
    encoder_of,
    files_of,
    load,
)
from speechbrain_cadino.commands.audio_files import (
    NO_EMBEDDING,
    embed_files,
    listed_name,
    names_of,
)
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.outputs import check_inputs_stay
from speechbrain_cadino.process.tables import write_csv
from speechbrain_cadino.verification.scoring import unit

logger = get_logger(__name__)

# Scores that are held at once
SCORES = 2**22

# Shorter clips are too little to tell a voice by.
SHORTEST_CLIP = 1.0  # seconds


def verify(arguments):
    """Gives a table: test file, score, and where it is known the answer."""
    enrol = files_of(arguments, [arguments.enrol])
    tests = files_of(arguments, arguments.tests)
    if not arguments.tests:  # all, but the speaker's own
        own = set(enrol)
        tests = [name for name in tests if name not in own]
        if not tests:
            raise ValueError(
                f"{arguments.enrol} names all that there are embeddings of, so "
                "none is left to compare with: name fewer."
            )
    if arguments.threshold is not None and not -1 <= arguments.threshold <= 1:
        raise ValueError(
            f"--threshold={arguments.threshold}: scores are from -1 to 1."
        )
    if arguments.csv is not None:
        check_file(arguments.csv)
        check_inputs_stay([arguments.enrol, *arguments.tests], [arguments.csv])
    loaded = load(encoder_of(arguments), arguments)
    table = verify_files(loaded, enrol, tests, arguments.threshold)
    if not arguments.tests:  # what the folder has none of, either
        others = sorted(loaded.skipped() - {*tests, *enrol})
        notes = dict.fromkeys(others, NO_EMBEDDING)
        rows = pd.DataFrame(notes.items(), columns=["file", "note"])
        table = pd.concat([table, rows]) if others else table
    if arguments.csv is not None:
        write_csv(arguments.csv, table)
    return as_text(table)


def verify_files(encoder, enrol, tests, threshold=None):
    """Compares one speaker with the speakers of audio files.

    Arguments
    ---------
    encoder : str, pathlib.Path or Embedder
        See ``embed_files``.
    enrol : list of str or pathlib.Path
        Audio files of one speaker. The score is the mean of those with each,
        for which the calibration holds; the cosine to the mean embedding is
        higher the more there are, of other speakers too. Of a folder of
        embeddings, IDs.
    tests : list of str or pathlib.Path
        Audio files to compare with it. One of those of the speaker is compared
        with the others alone.
    threshold : float, optional
        The lowest score of the same speaker, in the place of the encoder's
        calibration; however short a file is.

    Returns
    -------
    pandas.DataFrame
        A row for each test file, last those that cannot be used, whose
        ``note`` says why: ``file``, ``score``, the mean cosine from -1 to 1;
        with a calibration ``llr``, the log-likelihood ratio; and with either
        ``speaker``, "same", "different" or, with a calibration, "unsure".
        Files of less than ``SHORTEST_CLIP`` are unsure.

    Raises
    ------
    ValueError
        If no file of either side can be read; or see ``embed_files``.
    """
    enrol, tests = names_of(enrol), names_of(tests)
    files = list(dict.fromkeys([*enrol, *tests]))
    found = embed_files(encoder, files)
    rows = pd.Index(found.files)
    is_enrol, is_test = rows.isin(enrol), rows.isin(tests)
    for side, name in [(is_enrol, "enrolment"), (is_test, "test")]:
        if not side.any():
            raise ValueError(f"None of the {name} files can be read.")
    points = unit(found.embeddings)
    # Numbers, as one long path would make room for it in all
    places, _ = pd.factorize(rows.map(os.path.realpath))
    short = found.seconds < SHORTEST_CLIP
    enrolled = [each[is_enrol] for each in (points, places, short)]
    tested = [each[is_test] for each in (points, places)]
    step = max(1, SCORES // is_enrol.sum())
    found_in = [
        _compare(*(each[row : row + step] for each in tested), *enrolled)
        for row in range(0, is_test.sum(), step)
    ]
    scores, itself, too_short = map(np.concatenate, zip(*found_in))
    if itself.any():
        logger.warning(
            f"{printable(rows[is_test][itself.argmax()])} is the recording of "
            "the speaker itself: its score tells nothing."
        )
    table = pd.DataFrame({"file": rows[is_test], "score": scores})
    if threshold is not None:
        same = scores >= threshold
        table["speaker"] = np.where(same, "same", "different")
    elif found.calibration is not None:
        table["llr"] = found.calibration.llr(scores)
        answers = found.calibration.answers(scores)
        short = short[is_test] | too_short
        if short.any():
            logger.warning(
                f"{short.sum()} of {len(short)} are unsure whatever the score: "
                f"files of less than {SHORTEST_CLIP:g} s are too short to tell "
                "a voice by."
            )
        table["speaker"] = np.where(short, "unsure", answers)
    else:
        logger.info(
            "No answer, only scores: the encoder has no calibration. The "
            "command calibrate makes one of recordings without labels."
        )
    skipped = [n for n in map(listed_name, tests) if n in found.skipped]
    if skipped:
        notes = [found.skipped[name] for name in skipped]
        skipped = pd.DataFrame({"file": skipped, "note": notes})
        table = pd.concat([table, skipped], ignore_index=True)
    return table


def _compare(points, places, enrolled, their_places, short):
    """Of some test files the mean score, whether a file is all that there is of
    the speaker, and whether all that it is compared with are short."""
    own = places[:, None] == their_places
    itself = own.all(1)
    heard = ~own | itself[:, None]
    scores = np.where(heard, points @ enrolled.T, np.nan)
    return np.nanmean(scores, axis=1), itself, (short | ~heard).all(1)
