"""Embeddings of parts of a manifest, by jobs that know nothing of each other.

Each part is an embedding folder of its own, ``part_3_of_8``, beside the others:
the job that finishes last joins them. No process waits for another one.
"""

import pathlib
import re

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.extract import (
    extract,
    extraction_record,
    hash_table,
    is_extracted,
)
from speechbrain_cadino.embeddings.store import (
    load_embeddings,
    write_ids,
    write_joined,
)
from speechbrain_cadino.process.files import atomic_path, write_json
from speechbrain_cadino.process.lock import locked

logger = get_logger(__name__)

# A part that finishes while another one joins waits for it so long.
JOINING = 600  # seconds


def read_part(part):
    """Which part of how many.

    Arguments
    ---------
    part : str
        The part, such as "3/8".

    Returns
    -------
    int, int

    Raises
    ------
    ValueError
        If it is none.

    Example
    -------
    >>> read_part("3/8")
    (3, 8)
    >>> read_part("0/8")
    Traceback (most recent call last):
    ...
    ValueError: --part=0/8: give 1/8 to 8/8, one to each job.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", str(part).strip())
    number, parts = map(int, match.groups()) if match else (0, 0)
    if not 1 <= number <= parts:
        parts = parts or 8
        raise ValueError(
            f"--part={part}: give 1/{parts} to {parts}/{parts}, one to each "
            "job."
        )
    return number, parts


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

    Example
    -------
    >>> part_folder("embeddings", "3/8").name
    'part_3_of_8'
    """
    if part is None:
        return pathlib.Path(folder)
    number, parts = read_part(part)
    return pathlib.Path(folder, f"part_{number}_of_{parts}")


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

    Returns
    -------
    bool
        Whether all parts are there now, and joined.
    """
    number, parts = read_part(part)
    if parts > len(table):
        raise ValueError(
            f"--part={part}: {len(table)} utterances do not make {parts} parts."
        )
    extract(
        embedder,
        part_folder(folder, part),
        _rows_of(table, number, parts),
        shard_size,
    )
    record = extraction_record(embedder, table, shard_size)
    records = {
        part_folder(folder, f"{i}/{parts}"): {
            **record,
            "table": hash_table(_rows_of(table, i, parts)),
        }
        for i in range(1, parts + 1)
    }
    missing = [
        path.name for path in records if not is_extracted(path, records[path])
    ]
    if missing:
        logger.info(
            f"Part {part} is done; to come: {', '.join(missing[:8])}"
            f"{' and more' if len(missing) > 8 else ''}."
        )
        return False
    with locked(folder, patience=JOINING):
        if not is_extracted(folder, record):
            _join(list(records), pathlib.Path(folder), record)
    logger.info(f"All {parts} parts are joined in {folder}.")
    return True


def _rows_of(table, number, parts):
    """The utterances of a part."""
    first, last = (len(table) * i // parts for i in (number - 1, number))
    return table.iloc[first:last]


def _join(folders, folder, record):
    """Makes one embedding folder of several."""
    (folder / "extraction.json").unlink(missing_ok=True)
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
    write_json(folder / "extraction.json", record)
