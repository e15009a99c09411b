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
    CALIBRATION,
    DURATIONS,
    RECORD,
    drop_unreadable,
    load_embeddings,
    readable_embeddings,
    save_embeddings,
)
from speechbrain_cadino.process.files import (
    atomic_path,
    read_json,
    write_csv,
    write_json,
)

logger = get_logger(__name__)

# The folder below it of what is embedded now, which goes on if it is killed
MORE = ".more"


def embed_more(embedder, folder, table, shard_size):
    """Embeds whole files into a folder, exactly: those that it does not hold
    yet, or that were replaced since.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    folder : str or pathlib.Path
        The folder of ``embeddings.npy`` and ``ids.txt``. ``durations.csv``
        (ID, duration, state) tells of which files they are. A calibration
        stays with embeddings of one encoder.
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
    record = extraction_record(embedder, table, shard_size) | {"trim": False}
    states = held(folder)
    before = read_json(folder / RECORD) or record
    if len(states) and {**before, "table": None} != {**record, "table": None}:
        raise ValueError(
            f"{folder} holds embeddings of {len(states)} files by another "
            "encoder, or of another version, which would be lost: give another "
            "folder, or remove it."
        )
    kept = (states.reindex(table["ID"]) == table["state"].to_numpy()).to_numpy()
    if kept.any() and not is_extracted(folder, record):
        logger.info(
            f"{kept.sum()} of {len(table)} files are embedded already in "
            f"{folder}."
        )
        _add(embedder, folder, table, kept, record)
    else:
        extract(embedder, folder, table, shard_size, trim=False)
    ids, embeddings = drop_unreadable(folder)
    lengths = (table["stop"] - table["start"]) / embedder.sample_rate
    told = table[["ID"]].assign(duration=lengths, state=table["state"])
    write_csv(folder / DURATIONS, told[told["ID"].isin(ids)])
    shutil.rmtree(folder / MORE, ignore_errors=True)
    return ids, embeddings


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


def _add(embedder, folder, table, kept, record):
    """Embeds the other rows of a table, and makes one folder of all."""
    ids, embeddings = load_embeddings(folder)
    rows = pd.Index(ids).get_indexer(table["ID"][kept])
    ids, points = [ids[row] for row in rows], embeddings[rows]
    if not kept.all():
        rest, size = table[~kept].reset_index(drop=True), record["shard_size"]
        extract(embedder, folder / MORE, rest, size, whole=False, trim=False)
        _, names, new = readable_embeddings(folder / MORE)
        if names:  # else they have no width
            ids, points = ids + names, np.concatenate([points, new])
    places = pd.Index(ids).get_indexer(table["ID"])
    there = places >= 0
    path = folder / CALIBRATION
    calibration = path.read_bytes() if path.is_file() else None
    save_embeddings(folder, table["ID"][there], points[places[there]])
    write_json(folder / RECORD, record)
    if calibration is not None:
        with atomic_path(path) as temporary:
            temporary.write_bytes(calibration)
