"""The command ``embed``: an archive that grows, embedded file by file."""

import contextlib
import os
import pathlib
import re

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.commands import audio_files
from speechbrain_cadino.commands.arguments import check_output, load
from speechbrain_cadino.embeddings.grow import (
    check_working_folders,
    embed_more,
    held,
    move_finished,
    told_before,
)
from speechbrain_cadino.embeddings.store import SKIPPED, check_our_embeddings
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.prepare.parallel import in_threads
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.files import state_of
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.outputs import check_only
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# What helps where files that were embedded have gone
DROP = "give --drop_missing if they have been deleted"
# and where these are dropped, and others are not given either
ANEW = "remove that folder, to have all embedded again"
# and where a list leaves some out that were embedded
LISTED = (
    " A list that changes, such as that of filter, is for cluster: embed all "
    "files, and give it beside --embeddings."
)

# The columns of the list of what is not used
PROBLEMS = ["file", "problem"]
SILENT = "silent, or not readable to its end"


def shard_size(files):
    """The number of files of a shard: killed, a command embeds at most so many
    again. Of many more, as reading processes start anew for each shard.

    Arguments
    ---------
    files : list of str
        All files.

    Returns
    -------
    int
        The number, 100 to 5000.

    Example
    -------
    >>> shard_size([]), shard_size(["a.wav"] * 300_000)
    (100, 300)
    """
    return min(max(100, len(files) // 1000), 5000)


def embed(arguments):
    """Writes embeddings.npy and ids.txt."""
    files = audio_files.find_files(arguments.inputs, arguments.drop_missing)
    check_output(arguments.output)
    check_our_embeddings(arguments.output)
    gone = _check_held(arguments, files)
    if gone:
        logger.info(
            f"{len(gone)} files are there no longer, such as "
            f"{printable(gone[0])}: their embeddings are dropped."
        )
    loaded = load(arguments.encoder, arguments)
    check_hears(loaded)
    calibration = read_calibration(arguments.encoder)
    rate = loaded.sample_rate
    with archive(arguments.output, files, rate, grows=True) as found:
        audio, _, skipped = found
        # Again, as another run may have ended since
        _check_held(arguments, files)
        _check_readable(arguments, skipped)
        ids, embeddings = embed_more(
            loaded, arguments.output, audio, shard_size(files)
        )
        heard = audio["ID"].isin(ids)
        silent = dict.fromkeys(audio["ID"][~heard], SILENT)
        path = pathlib.Path(arguments.output, SKIPPED)
        write_skipped(path, {**skipped, **silent})
        there = read_calibration(arguments.output)
        if calibration and not there:
            write_calibration(arguments.output, calibration)
        elif calibration and there != calibration:
            logger.warning(
                f"{arguments.output} keeps its own calibration, which is not "
                "that of the encoder: to take the encoder's, remove "
                "calibration.json from that folder, and embed again."
            )
    logger.info(
        f"{len(ids)} embeddings of {embeddings.shape[1]} dimensions are in "
        f"{arguments.output}."
    )


def check_hears(embedder):
    """Raises if there are embeddings in the place of an encoder.

    Arguments
    ---------
    embedder : Embedder or StoredEmbeddings
        What was loaded.

    Raises
    ------
    ValueError
        If so.
    """
    if not embedder.hears:
        raise ValueError(
            f"{embedder.source} holds embeddings alone, by which no file can "
            "be embedded: give an encoder."
        )


def check_given(
    folder, before, files, what="embeddings", otherwise=DROP, hint=""
):
    """Raises if what a folder holds of other files would be lost, perhaps of
    hours.

    Arguments
    ---------
    folder : str
        The folder of results.
    before : pandas.Index
        The files whose results it holds.
    files : list of str
        The files that are given now.
    what : str
        The word for the results.
    otherwise : str
        Another remedy than to give these files, or another folder.
    hint : str
        A sentence that follows, with a blank before it.

    Raises
    ------
    ValueError
        If so.
    """
    lost = before.difference(files)
    if len(lost):
        raise ValueError(
            f"{folder} holds {what} of {len(before)} files, {len(lost)} of "
            f"which are not given now, such as {printable(lost[0])}: their "
            f"{what} would be lost. Give these files under the names they had "
            f"then, or another --output, or {otherwise}.{hint}"
        )


def _check_held(arguments, files):
    """As ``check_given``, of embeddings; those of files that have gone may be
    dropped. Returns these."""
    before = held(arguments.output).index
    gone = []
    if arguments.drop_missing:
        gone = [*filter(_has_gone, before.difference(files))]
        if len(gone) == len(before) > 0:
            raise ValueError(
                f"None of the {len(before)} files of {arguments.output} is "
                f"there, such as {printable(gone[0])}: start from the folder "
                "that they were named from; or remove it, if all are deleted."
            )
    listed = any(name.lower().endswith(".csv") for name in arguments.inputs)
    check_given(
        arguments.output,
        before.difference(gone),
        files,
        otherwise=ANEW if arguments.drop_missing else DROP,
        hint=LISTED if listed else "",
    )
    return gone


def _has_gone(file):
    """Whether a file is there no longer: not where it cannot be looked at."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _check_readable(arguments, problems):
    """Raises if embeddings of files would be lost that are as they were, and
    cannot be read here and now; those of links to files that have gone may be
    dropped."""
    before = held(arguments.output).reindex(problems).dropna()
    if arguments.drop_missing:
        before = before[[not _has_gone(name) for name in before.index]]
    lost = [
        name
        for name, state in before.items()
        # Where it was replaced, what it said is gone
        if _state(name) is None or state in ("", _state(name))
    ]
    if lost:
        gone = "" if arguments.drop_missing else f", or {DROP}"
        raise ValueError(
            f"{arguments.output} holds embeddings of {len(lost)} files that "
            f"cannot be read now, such as {lost[0]}: {problems[lost[0]]}. They "
            f"would be lost: give another --output, or remove it{gone}."
        )


def _state(file):
    """The state of a file; None if it has gone."""
    try:
        return state_of(file)
    except OSError:
        return None


def write_skipped(path, problems):
    """Lists what is not used and why; where all is, no list stays.

    Arguments
    ---------
    path : pathlib.Path
        The list, a CSV file.
    problems : dict of str:str
        The problem of each file.
    """
    if problems:
        write_csv(path, pd.DataFrame(problems.items(), columns=PROBLEMS))
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def archive(output, files, rate, grows=False):
    """The readable ones of many files as a table, whose IDs are their paths,
    which of them had to be converted, and the problems of the others, while the
    folder of the results is locked.

    Killed and started again, the work goes on, as copies have the same names;
    they are in a hidden folder of ours, as they are deleted in the end. Where
    the archive grows, nothing is opened or converted that is embedded already.

    Arguments
    ---------
    output : str
        The folder of the results.
    files : list of str
        The files.
    rate : int
        The sample rate, in Hz.
    grows : bool
        Whether the results are embeddings that may be there already.

    Yields
    ------
    table : pandas.DataFrame
        A manifest of the readable files, with their ``state``.
    converted : list of str
        Those that had to be.
    skipped : dict of str:str
        The problem of each of the others.

    Raises
    ------
    ValueError
        If another command is at work in the folder, its hidden one holds what
        is not ours, or no file can be embedded.
    """
    # Absolute, as a record of a filter tells their names
    copies = pathlib.Path(output, ".converted").absolute()
    check_only(copies, re.compile(r"[0-9a-f]{24}\.flac").fullmatch)
    if grows:
        check_working_folders(output)
    with locked(output):
        # Before they are read: what is replaced meanwhile is embedded again
        states = in_threads(_state, files)
        known = pd.DataFrame()
        if grows:
            move_finished(output)
            known = told_before(output, dict(zip(files, states)), rate)
        there = {} if known.empty else set(known["ID"])
        new = [row for row, file in enumerate(files) if file not in there]
        if new and not known.empty:
            logger.info(
                f"{len(known)} of {len(files)} files are embedded already, "
                f"{len(new)} are looked at."
            )
        files = [files[row] for row in new]
        with audio_files.audio_table(
            files, rate, copies, required=known.empty
        ) as (recordings, table):
            skipped = audio_files.warn_of_files(files, recordings, rate)
            converted = [
                file
                for file, recording in zip(files, recordings)
                if recording.path != file
            ]
            rows = table["ID"].astype(int)
            table = table.assign(
                ID=[files[row] for row in rows],
                state=[states[new[row]] for row in rows],
                place=[new[row] for row in rows],
            )
            parts = [part for part in (known, table) if len(part)]
            table = pd.concat(parts).sort_values("place", ignore_index=True)
            yield table.drop(columns="place"), converted, skipped
