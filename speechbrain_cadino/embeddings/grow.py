"""Embeddings of an archive that grows: none is made a second time."""

import contextlib
import pathlib
import shutil

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.extract import (
    extract,
    extraction_record,
    finished_shards,
    hash_table,
    is_extracted,
    is_of,
    remove_extraction,
    what_counts,
)
from speechbrain_cadino.embeddings.store import (
    BESIDE,
    DURATIONS,
    NAMES,
    RECORD,
    chunks,
    load_embeddings,
    readable_rows,
    write_ids,
    write_joined,
)
from speechbrain_cadino.process.files import (
    atomic_folder,
    read_json,
    remove_leftovers,
    sync,
    take_mode,
    write_json,
)
from speechbrain_cadino.process.outputs import check_only
from speechbrain_cadino.process.tables import read_csv, write_csv

logger = get_logger(__name__)

# Folders below it: of what is embedded now, which goes on if it is killed; of
# what had been by then, if the files are others now; and of all that is to be
# moved into it
MORE, DONE, WHOLE = ".more", ".done", ".whole"

# In MORE: the files that are to be embedded
ROWS = "rows.csv"


def embed_more(embedder, folder, table, shard_size):
    """Embeds whole files into a folder, exactly: those that it does not hold
    yet, or that were replaced since.

    Killed and started again, it goes on where it was, also if there are more
    files by then; what the folder holds stays there until all is done.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    folder : str or pathlib.Path
        The folder of ``embeddings.npy`` and ``ids.txt``. ``durations.csv``
        (ID, duration, state) tells of which files they are. A calibration
        stays.
    table : pandas.DataFrame
        All files, with their ``state``: see ``extract``.
    shard_size : int
        See ``extract``, also for the errors.

    Returns
    -------
    list of str
        The N IDs of those that can be read, in the order of the table.
    numpy.memmap
        Shape (N, D), float32.

    Raises
    ------
    ValueError
        If the folder holds embeddings by another encoder.
    """
    folder = pathlib.Path(folder)
    remove_leftovers(folder)
    move_finished(folder)
    # Wherever the copies of converted files were
    named = table.assign(wav=table["ID"])
    record = extraction_record(embedder, named, shard_size, trim=False)
    for part in [folder, folder / MORE, folder / DONE]:
        shards = [*part.glob("shards/[0-9]*.npy")]  # of a run that was killed
        if (shards or len(held(part))) and not _is_by(part, record, record):
            raise ValueError(
                f"{part} holds embeddings by another encoder, or of another "
                "version, which would be lost: give another folder, or remove "
                "it."
            )
    if is_extracted(folder, record):
        logger.info(f"The embeddings in {folder} are up to date.")
    else:
        if not _is_by(folder / DONE, record, {}):
            shutil.rmtree(folder / DONE, ignore_errors=True)
        _put_aside(embedder, folder, table, record)
        sources, origin = _held_now(folder, table)
        kept = origin >= 0
        if kept.any() and not kept.all():
            logger.info(f"{(~kept).sum()} files are to be embedded.")
        if not kept.all():
            rest = table[~kept].reset_index(drop=True)
            write_csv(folder / MORE / ROWS, rest)
            extract(
                embedder,
                folder / MORE,
                rest,
                shard_size,
                whole=not kept.any(),
                trim=False,
            )
            origin[~kept] = len(sources)
            sources.append(folder / MORE)
        with atomic_folder(folder / WHOLE) as whole:
            told = _told(table, embedder.sample_rate)
            _join(whole, told, origin, map(load_embeddings, sources))
            write_json(whole / RECORD, record)
        move_finished(folder)
    for name in [MORE, DONE]:
        # Its record goes last: what is left of it, if killed, is still ours
        remove_extraction(folder / name)
        shutil.rmtree(folder / name, ignore_errors=True)
    return load_embeddings(folder)


def check_working_folders(folder):
    """Raises before the work if the hidden folders that it is done in, and that
    are removed in the end, hold what somebody else has put there.

    Arguments
    ---------
    folder : str or pathlib.Path
        See ``embed_more``.

    Raises
    ------
    ValueError
        Naming it.
    """
    own = {RECORD, ROWS, *NAMES, *BESIDE, "shards"}
    for name in [MORE, DONE, WHOLE]:
        check_only(pathlib.Path(folder, name), lambda found: found in own)


def _is_by(folder, record, unknown):
    """Whether what is in a folder is by the encoder of a record; where it has
    none, what is unknown stands for it."""
    before, record = what_counts(read_json(folder / RECORD) or unknown, record)
    return {**before, "table": None} == {**record, "table": None}


def _held_now(folder, table):
    """The folders that hold embeddings of the files of a table as they are now,
    and for each file which one does, -1 for none."""
    there = {path: held(path) for path in (folder, folder / DONE)}
    there = {path: states for path, states in there.items() if len(states)}
    origin = np.full(len(table), -1)
    for number, states in enumerate(there.values()):
        states = states.reindex(table["ID"]).to_numpy()
        here = states == table["state"].to_numpy()
        origin[here & (origin < 0)] = number
    return list(there), origin


def _put_aside(embedder, folder, table, record):
    """Moves what a killed run had embedded into DONE, if it was to embed other
    files than there are to embed now: an archive that grows each night would
    never be done."""
    more, done = folder / MORE, folder / DONE
    if not (more / ROWS).is_file():
        return
    rows = read_csv(more / ROWS, {"start": "int64", "stop": "int64"})
    rest = table[_held_now(folder, table)[1] < 0]
    # Paths, too, of converted copies: their names are the same each time
    before = {**record, "table": hash_table(rows)}
    if before["table"] == hash_table(rest):
        return
    if is_of(more, before):
        if is_extracted(more, before):
            ids, embeddings = load_embeddings(more)
        else:
            there, embeddings = finished_shards(more, rows, embedder)
            ids = rows["ID"][there].tolist()
        told = _told(rows[rows["ID"].isin(ids)], embedder.sample_rate)
        sources, origin = [(ids, embeddings)], [0] * len(told)
        if len(held(done)):
            sources.append(load_embeddings(done))
            older = read_csv(done / DURATIONS, {"duration": float})
            older = older[~older["ID"].isin(ids)]
            told, origin = pd.concat([told, older]), origin + [1] * len(older)
        with atomic_folder(done) as temporary:
            _join(temporary, told, np.array(origin, int), sources)
            write_json(temporary / RECORD, record)
    remove_extraction(more)
    (more / ROWS).unlink()


def _told(table, sample_rate):
    """What ``durations.csv`` tells of files: ID, state, duration."""
    lengths = (table["stop"] - table["start"]) / sample_rate
    return table[["ID", "state"]].assign(duration=lengths)


def move_finished(folder):
    """Moves what was embedded into its folder, if that is left to do.

    Arguments
    ---------
    folder : str or pathlib.Path
        See ``embed_more``.
    """
    folder = pathlib.Path(folder)
    whole = folder / WHOLE
    if not whole.is_dir():
        return
    there = [n for n in [RECORD, DURATIONS, *NAMES] if (whole / n).exists()]
    for name in there:
        take_mode(whole / name, folder / name)
    # Killed in between, it holds no IDs: nobody takes old ones for new rows
    if (whole / "embeddings.npy").exists():
        (folder / "ids.txt").unlink(missing_ok=True)
    for name in there:
        (whole / name).replace(folder / name)
    shutil.rmtree(whole)


def held(folder):
    """The files that a folder holds embeddings of.

    Arguments
    ---------
    folder : str or pathlib.Path
        See ``embed_more``.

    Returns
    -------
    pandas.Series
        Their states, by ID; empty texts where these are not known. Nothing if
        there are none, or they are damaged.

    Example
    -------
    >>> len(held(getfixture("tmp_path")))
    0
    """
    try:
        ids, _ = load_embeddings(folder)
    except (OSError, ValueError):
        return pd.Series(dtype=object)
    states = pd.Series("", ids, dtype=object)
    # There is none of embeddings of others, nor states of earlier versions
    with contextlib.suppress(OSError, ValueError, KeyError):
        told = read_csv(pathlib.Path(folder, DURATIONS), {"duration": float})
        states.update(told.set_index("ID")["state"])
    return states


def told_before(folder, states, rate):
    """The rows of files that are embedded as they are now.

    Arguments
    ---------
    folder : str or pathlib.Path
        See ``embed_more``.
    states : dict of str:str
        The states of all files, by ID.
    rate : int
        The rate in which ``stop`` counts, in Hz.

    Returns
    -------
    pandas.DataFrame
        As ``embed_more`` takes them, and their place among all.

    Example
    -------
    >>> len(told_before(getfixture("tmp_path"), {"a.wav": "1"}, 16000))
    0
    """
    before = held(folder)
    places = {name: place for place, name in enumerate(states)}
    same = [
        n for n, state in before.items() if state and states.get(n) == state
    ]
    if not same:
        return pd.DataFrame()
    told = read_csv(pathlib.Path(folder, DURATIONS), {"duration": float})
    told = told.set_index("ID").loc[same].reset_index()
    return told.assign(
        wav=told["ID"],
        start=0,
        stop=(told["duration"] * rate).round().astype(int),
        place=told["ID"].map(places),
    )


def _join(folder, told, origin, sources):
    """Writes the rows of a table that can be read, each of its source, IDs and
    embeddings."""
    sources = list(sources)
    names = told["ID"].to_numpy()
    places = np.full(len(names), -1)
    for number, (ids, embeddings) in enumerate(sources):
        rows = np.flatnonzero(origin == number)
        found = pd.Index(ids).get_indexer(names[rows])
        readable = np.append(readable_rows(embeddings), False)  # none, at -1
        places[rows] = np.where(readable[found], found, -1)
    there = places >= 0
    places, origin = places[there], origin[there]
    width = max(embeddings.shape[1] for _, embeddings in sources)

    def parts():
        for piece in chunks(len(places)):
            part = np.empty((len(places[piece]), width), np.float32)
            for number, (_, embeddings) in enumerate(sources):
                own = origin[piece] == number
                if own.any():
                    part[own] = embeddings[places[piece][own]]
            yield part

    path = folder / "embeddings.npy"
    write_joined(path, path, parts(), (len(places), width))
    sync(path)
    write_ids(folder, names[there])
    write_csv(folder / DURATIONS, told.loc[there, ["ID", "duration", "state"]])
