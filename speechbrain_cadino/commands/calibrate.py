"""The command ``calibrate``: what the scores of an encoder mean."""

import contextlib
import os
import pathlib

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.commands import audio_files
from speechbrain_cadino.commands.arguments import (
    as_text,
    encoder_of,
    ids_of,
    load,
    some_of,
)
from speechbrain_cadino.dataio.names import recordings_of
from speechbrain_cadino.embeddings.extract import PIECES
from speechbrain_cadino.embeddings.store import RECORD
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.export import WRITTEN
from speechbrain_cadino.encoders.trust import check_no_links
from speechbrain_cadino.process.files import read_json
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.outputs import check_folder
from speechbrain_cadino.verification import threshold
from speechbrain_cadino.verification.evaluate import TrialEvaluator

logger = get_logger(__name__)


def calibrate(arguments):
    """Writes a calibration into an encoder folder, or one of embeddings.

    Arguments
    ---------
    arguments : argparse.Namespace
        The parsed arguments of the command.

    Returns
    -------
    str
        A table of the calibration's figures.
    """
    folder = _checked_folder(arguments)
    # Neither another calibration nor other embeddings in between
    with locked(folder):
        place = os.stat(folder).st_ino
        loaded = load(folder, arguments)
        if not (loaded.hears or arguments.embeddings):
            raise ValueError(
                f"{folder} holds embeddings alone: give them by "
                f"--embeddings={folder}, and IDs in place of audio files."
            )
        before = None
        with contextlib.suppress(ValueError):  # a damaged file is no loss
            before = read_calibration(folder)
        found = _find(arguments, loaded, before)
        if os.stat(folder).st_ino != place:
            raise ValueError(
                f"{folder} has been replaced meanwhile, such as by adapt: this "
                "calibration belongs to the encoder before it. Start again."
            )
        write_calibration(folder, found)
    replaced = (
        f", in the place of that of {before.n_pairs} pairs ({before.method})"
        if before
        else ""
    )
    logger.info(f"The calibration is in {folder}{replaced}.")
    different, same = found.bounds
    content = {
        "threshold": [found.threshold],
        "different_below": [different],
        "same_above": [same],
        "method": [found.method],
        "n_pairs": [found.n_pairs],
        "n_same": [found.n_same],
    }
    return as_text(pd.DataFrame(content))


def _checked_folder(arguments):
    """The folder to write to; raises if it cannot be, or flags do not fit."""
    if arguments.trials and arguments.inputs:
        raise ValueError(
            "--trials names the files to calibrate on: give no others, and "
            "--data_folder if they are not beside the list."
        )
    if arguments.method and arguments.trials:
        raise ValueError(
            "--method is for recordings without labels: leave it out, or "
            "--trials."
        )
    if arguments.data_folder and not arguments.trials:
        raise ValueError("--data_folder is for the files of --trials.")
    folder = encoder_of(arguments)
    if not pathlib.Path(folder).is_dir():
        raise ValueError(
            f"{folder} is no folder: a calibration is kept in the encoder's, "
            "so copy that first."
        )
    check_folder(folder, "copy the encoder, and calibrate the copy")
    if not arguments.trusted:
        check_no_links(folder, WRITTEN)
    return folder


def _find(arguments, loaded, before):
    """The calibration, by trials or by recordings without labels."""
    if arguments.trials:
        trials = TrialEvaluator(
            arguments.trials,
            arguments.data_folder or pathlib.Path(arguments.trials).parent,
            loaded.sample_rate,
            embeddings=arguments.embeddings,
        )
        return threshold.calibrate_by_trials(loaded, trials)
    options = arguments.method or "crops", before
    if arguments.embeddings:
        names = sorted(ids_of(loaded, arguments.inputs))
        table = pd.DataFrame({"ID": names})
        path = pathlib.Path(arguments.embeddings, RECORD)
        # Of a manifest of ours; records of older versions do not tell
        if path.is_file() and (read_json(path) or {}).get(PIECES, True):
            table["wav"] = _recordings(names)
        return threshold.calibrate(loaded, table, *options)
    if not arguments.inputs:
        raise ValueError("Give audio files or folders, or --trials=LIST.")
    # One result for any order of the inputs: pairs are drawn by row
    files = sorted(audio_files.find_files(arguments.inputs))
    files = some_of(files, threshold.MOST_RECORDINGS)
    with audio_files.audio_table(files, loaded.sample_rate) as found:
        recordings, table = found
        audio_files.warn_of_files(files, recordings, loaded.sample_rate)
        return threshold.calibrate(loaded, table, *options)


def _recordings(names):
    """The recordings of utterances, by their IDs alone: the first piece of one
    has the number 1."""
    known = set(names)
    found = [
        whole if f"{whole}_0001" in known else name
        for name, whole in zip(names, recordings_of(names))
    ]
    pieces = sum(one != name for one, name in zip(found, names))
    if pieces:
        logger.info(
            f"{pieces} of {len(names)} are taken for pieces of "
            f"{len(set(found) - known)} recordings: two pieces of the same "
            "recording are never compared."
        )
    return found
