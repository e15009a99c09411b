"""Embeddings of parts of a manifest, by jobs that know nothing of each other.

Each part is an embedding folder of its own, ``part_3_of_8``, beside the others:
the job that finishes last joins them. No process waits for another one.
"""

import pathlib

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.extract import (
    check_kept,
    extract,
    extraction_record,
    hash_table,
    is_extracted,
    is_of,
    none_readable,
    remove_extraction,
)
from speechbrain_cadino.embeddings.store import (
    RECORD,
    SKIPPED,
    check_our_embeddings,
    forget,
    load_embeddings,
    write_ids,
    write_joined,
)
from speechbrain_cadino.process.files import (
    atomic_path,
    read_json,
    write_json,
)
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.parts import (
    JOINING,
    OTHER,
    check_parts,
    part_name,
    read_part,
    say_missing,
    stretches,
)
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)


def part_folder(folder, part):
    """Where a part is embedded.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of all embeddings.
    part : str, optional
        See ``read_part``; None for all of them.

    Returns
    -------
    pathlib.Path
        The folder of the part, below that of all; without a part, the latter.

    Example
    -------
    >>> part_folder("embeddings", "3/8").name
    'part_3_of_8'
    """
    if part is None:
        return pathlib.Path(folder)
    return pathlib.Path(folder, part_name(*read_part(part)))


def extract_part(embedder, folder, table, part, shard_size=5_000):
    """Embeds a part of a manifest, and joins all if it was the last.

    Arguments
    ---------
    embedder : Embedder
        See ``extract``, as for the errors.
    folder : str or pathlib.Path
        The folder of all embeddings.
    table : pandas.DataFrame
        The whole manifest: its parts are stretches of equal length.
    part : str
        See ``read_part``.
    shard_size : int
        The number of utterances in a shard.

    Returns
    -------
    bool
        Whether all parts are there now, and joined.
    """
    number, parts = read_part(part)
    check_parts(part, len(table), "utterances")
    check_our_embeddings(folder)
    if not embedder.hears:
        raise ValueError(
            "A folder of embeddings in the place of an encoder is not read in "
            "parts: leave --part out."
        )
    record = extraction_record(embedder, table, shard_size)
    check_kept(folder, record)
    extract(
        embedder,
        part_folder(folder, part),
        _rows_of(table, number, parts),
        shard_size,
        whole=False,
        keep=True,
    )
    records = {
        part_folder(folder, f"{i}/{parts}"): {
            **record,
            "table": hash_table(_rows_of(table, i, parts)),
        }
        for i in range(1, parts + 1)
    }
    missing = [
        path.name + OTHER * _is_other(path, wanted)
        for path, wanted in records.items()
        if not is_extracted(path, wanted)
    ]
    if missing:
        say_missing(part, missing)
        return False
    with locked(folder, patience=JOINING):
        if not is_extracted(folder, record):
            remove_extraction(pathlib.Path(folder))
            forget(folder)
            _report(list(records), pathlib.Path(folder), table)
            _join(list(records), pathlib.Path(folder), record)
    logger.info(f"All {parts} parts are joined in {folder}.")
    return True


def _is_other(folder, record):
    """Whether a part belongs to another record."""
    return read_json(folder / RECORD) is not None and not is_of(folder, record)


def _rows_of(table, number, parts):
    """The utterances of a part."""
    first, last = stretches(len(table), parts)[number - 1]
    return table.iloc[first:last]


def _report(folders, folder, table):
    """Lists utterances without an embedding; raises if none has one."""
    lists = [part / SKIPPED for part in folders if (part / SKIPPED).is_file()]
    if not lists:
        return
    skipped = pd.concat(
        [pd.read_csv(path, dtype=str, keep_default_na=False) for path in lists]
    )
    if len(skipped) == len(table):
        for part in folders:  # so that the next start tries again
            forget(part)
        raise none_readable(table)
    write_csv(folder / SKIPPED, skipped)


def _join(folders, folder, record):
    """Makes one embedding folder of several."""
    ids, shapes = [], []
    for part in folders:
        names, embeddings = load_embeddings(part)
        ids += names
        shapes.append(embeddings.shape)
    shape = sum(rows for rows, _ in shapes), max(width for _, width in shapes)
    parts = (load_embeddings(part)[1] for part in folders)
    final = folder / "embeddings.npy"
    with atomic_path(final) as temporary:
        write_joined(temporary, final, parts, shape)
    write_ids(folder, ids)
    write_json(folder / RECORD, record)
