"""Embeddings of an archive that grows: none is made a second time."""

import contextlib
import pathlib
import shutil

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import read_csv
from speechbrain_cadino.embeddings.extract import (
    extract,
    extraction_record,
    is_extracted,
)
from speechbrain_cadino.embeddings.store import (
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
    sync,
    write_csv,
    write_json,
)

logger = get_logger(__name__)

# Folders below it: of what is embedded now, which goes on if it is killed; and
# of all that is to be moved into it
MORE, WHOLE = ".more", ".whole"


def embed_more(embedder, folder, table, shard_size):
    """Embeds whole files into a folder, exactly: those that it does not hold
    yet, or that were replaced since.

    Killed and started again with the same files, it goes on where it was; what
    the folder holds stays there until all is done.

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
    settle(folder)
    record = extraction_record(embedder, table, shard_size, trim=False)
    states = held(folder)
    before = read_json(folder / RECORD) or record
    if len(states) and {**before, "table": None} != {**record, "table": None}:
        raise ValueError(
            f"{folder} holds embeddings of {len(states)} files by another "
            "encoder, or of another version, which would be lost: give another "
            "folder, or remove it."
        )
    if is_extracted(folder, record):
        logger.info(f"The embeddings in {folder} are up to date.")
    else:
        kept = states.reindex(table["ID"]) == table["state"].to_numpy()
        if kept.any():
            logger.info(f"{kept.sum()} of {len(table)} files are embedded.")
        sources = [load_embeddings(folder)] if kept.any() else []
        if not kept.all():
            rest = table[~kept.to_numpy()].reset_index(drop=True)
            extract(
                *(embedder, folder / MORE, rest, shard_size),
                whole=not kept.any(),
                trim=False,
            )
            sources.append(load_embeddings(folder / MORE))
        lengths = (table["stop"] - table["start"]) / embedder.sample_rate
        told = table[["ID", "state"]].assign(duration=lengths)
        with atomic_folder(folder / WHOLE) as whole:
            _join(whole, told, kept.to_numpy(), sources)
            write_json(whole / RECORD, record)
        settle(folder)
    shutil.rmtree(folder / MORE, ignore_errors=True)
    return load_embeddings(folder)


def settle(folder):
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
    # Killed in between, it holds no IDs: nobody takes old ones for new rows
    if (whole / "embeddings.npy").exists():
        (folder / "ids.txt").unlink(missing_ok=True)
    for name in [RECORD, DURATIONS, *NAMES]:
        if (whole / name).exists():
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


def _join(folder, told, kept, sources):
    """Writes the rows of a table that can be read, of the sources, IDs and
    embeddings: those that are kept of the first, the others of the last."""
    names = told["ID"].to_numpy()
    places = np.full(len(names), -1)
    origin = np.where(kept, 0, len(sources) - 1)
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
