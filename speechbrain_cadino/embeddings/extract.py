"""Embeddings of millions of utterances: resumable, over several processes."""

import contextlib
import hashlib
import pathlib

import numpy as np
import torch
from tqdm import tqdm

from speechbrain.utils.distributed import (
    ddp_barrier,
    ddp_prevent_block,
    get_rank,
    if_main_process,
    run_on_main,
)
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.rates import check_rate
from speechbrain_cadino.embeddings.store import (
    BESIDE,
    NAMES,
    RECORD,
    SKIPPED,
    check_ids,
    check_our_embeddings,
    load_embeddings,
    write_ids,
    write_joined,
)
from speechbrain_cadino.process.files import (
    atomic_path,
    read_json,
    sync,
    wait_for,
    write_json,
)
from speechbrain_cadino.process.ranks import LONG_PATIENCE, patience
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# Of a manifest, so many are text at a time
ROWS_OF_TEXT = 100_000

# In a record, how many utterances a shard has
SIZE = "shard_size"
# and a hash of what the encoder's YAML file says
SETTINGS = "settings"
# and whether some of its utterances are of one file
PIECES = "pieces"

# What a record tells, in words
KINDS = {
    "weights": "encoder",
    SETTINGS: "hyperparams.yaml of the encoder",
    "scale": "scale of the means of segments",
    "table": "list of files (or data_folder)",
}


def extract(
    embedder,
    folder,
    table,
    shard_size=5_000,
    whole=True,
    trim=True,
    keep=False,
):
    """Embeds a manifest into a folder, as fast as ``embed`` is exact.

    An utterance is cut at its end to a coarse grid of lengths, by at most 2%:
    utterances of one length fill a batch (see ``Embedder.embed``), and an
    embedding still depends on its own utterance alone.

    The table is embedded in shards, each of which gets a file, so a killed
    extraction goes on where it was. Under torchrun the shards are dealt out
    to the processes, all of which must see the folder and call this function.
    ``extraction.json`` tells what the files belong to: another encoder, table
    or segment length throws them away; if nothing has changed, a finished
    extraction is returned as it is, and one that was begun keeps the size of
    its shards. Audio files that were replaced are noticed only by a column
    ``state`` in the table: else delete the folder to embed those again. What
    others have put there stays.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    folder : str or pathlib.Path
        The folder of ``embeddings.npy`` and ``ids.txt``.
    table : pandas.DataFrame
        A manifest: the columns ``ID,wav,start,stop``; and, maybe, ``state``,
        which is another one if a file has been replaced.
    shard_size : int
        The number of utterances in a shard.
    whole : bool
        Whether the table is all there is. In a part of it no utterance has to
        be readable.
    trim : bool
        Whether whole utterances are cut to the grid; else this is as exact as
        ``embed``, and as slow.
    keep : bool
        Whether it is an error, and not a warning, if something would be thrown
        away.

    Returns
    -------
    list of str
        The N IDs; where the embedder keeps segments, the ID of each of them.
    numpy.memmap
        Shape (N, D), float32, in the order of the table. The rows of files
        that cannot be read are NaN; D is 1 where none of a part can be.

    Raises
    ------
    MediaError
        If none of the utterances can be read.
    ValueError
        If an option makes no sense, an embedding is not finite, there is a line
        break in an ID, or the folder holds embeddings of others.

    Example
    -------
    >>> import pandas as pd, soundfile
    >>> from speechbrain_cadino.embeddings.embedder import Embedder
    >>> folder = getfixture("tmp_path")
    >>> wave = np.tile([0.25, 0.75], 8000)
    >>> soundfile.write(folder / "one.wav", wave, 16000)
    >>> table = pd.DataFrame(
    ...     {
    ...         "ID": ["one"],
    ...         "wav": [folder / "one.wav"],
    ...         "start": [0],
    ...         "stop": [8000],
    ...     }
    ... )
    >>> encode = lambda wavs, lens: wavs.mean(1, keepdim=True)
    >>> embedder = Embedder(encode, torch.nn.Identity())
    >>> ids, embeddings = extract(embedder, folder, table)
    >>> ids, embeddings.tolist()
    (['one'], [[0.5]])
    """
    folder = pathlib.Path(folder)
    check_ids(table["ID"])
    check_rate(table, embedder.sample_rate)
    shards = _Shards(folder, table, shard_size, embedder.segments, whole)

    def begin():
        record = extraction_record(embedder, table, shard_size, trim)
        if keep:
            check_kept(folder, record)
        return _begin(folder, record)

    finished, shards.size = run_on_main(begin)
    if finished:
        logger.info(
            f"The embeddings in {folder} are up to date: neither the list of "
            "files nor the encoder has changed."
        )
        if "state" not in table:
            logger.info(
                "Whether files were replaced by others of the same name is not "
                f"looked at: if so, remove {folder}."
            )
    else:
        if shards.size != shard_size:
            logger.info(f"It goes on in shards of {shards.size}, as it began.")
        _embed_shards(shards, embedder, trim)
        logger.info(f"Joining the embeddings of {len(table)} utterances.")
        with patience(LONG_PATIENCE):  # for the slowest one's shard
            ddp_barrier()
            run_on_main(shards.join)
        for name in NAMES:
            wait_for(folder / name)
    return load_embeddings(folder)


def check_kept(folder, record):
    """Raises if embeddings would be thrown away, perhaps of hours.

    Arguments
    ---------
    folder : str or pathlib.Path
        The embedding folder.
    record : dict
        The record that is to be in it: see ``extraction_record``.

    Raises
    ------
    ValueError
        Naming what those that are there are of.
    """
    other = _what_differs(pathlib.Path(folder), record)
    if other:
        raise ValueError(
            f"{folder} holds embeddings of {other}, which would be lost: give "
            "another output folder, or remove it."
        )


def _what_differs(folder, record):
    """What the embeddings in a folder are of, whole or in shards, where they
    are not what a record tells of; an empty text if there are none."""
    there = [*folder.glob("embeddings.npy"), *folder.glob("shards/[0-9]*.npy")]
    before = read_json(folder / RECORD)
    if not there or before == {} or not (folder / RECORD).is_file():
        return ""
    before, record = what_counts(before or {}, record)  # maybe a damaged one
    differing = [
        name
        for name in {**before, **record}
        if before.get(name) != record.get(name)
    ]
    names = ", ".join(KINDS.get(name, name) for name in differing)
    return f"another {names}" if names else ""


def extraction_record(embedder, table, shard_size, trim=True):
    """What tells to what the files of an embedding folder belong.

    Arguments
    ---------
    embedder : Embedder
        The encoder.
    table : pandas.DataFrame
        A manifest: the columns ``ID,wav,start,stop``; and, maybe, ``state``.
        See ``extract``.
    shard_size : int
        The number of utterances in a shard.
    trim : bool
        Whether whole utterances are cut to the grid of ``extract``.

    Returns
    -------
    dict
        The content of ``extraction.json``.
    """
    record = {
        **embedder.fingerprint(),
        "table": hash_table(table),
        SIZE: shard_size,
        PIECES: bool(table["wav"].duplicated().any()),
    }
    return record if trim else record | {"trim": False}


def hash_table(table):
    """A hash of what ``extract`` looks at in a manifest.

    Arguments
    ---------
    table : pandas.DataFrame
        See ``extract``.

    Returns
    -------
    str
        The SHA-256 hash, in hexadecimal digits.
    """
    columns = ["ID", "wav", "start", "stop"]
    columns += table.columns.intersection(["state"]).tolist()
    found = hashlib.sha256()
    # In parts, as the text is longer than the table
    for first in range(0, max(len(table), 1), ROWS_OF_TEXT):
        part = table[columns].iloc[first : first + ROWS_OF_TEXT]
        text = part.to_csv(index=False, header=first == 0)
        found.update(text.encode())
    return found.hexdigest()


def finished_shards(folder, table, embedder):
    """What an extraction had embedded before it was ended.

    Arguments
    ---------
    folder : str or pathlib.Path
        The embedding folder.
    table : pandas.DataFrame
        The N files that were to be embedded, a manifest; one embedding each.
        See ``extract``.
    embedder : Embedder
        The encoder that embedded them.

    Returns
    -------
    numpy.ndarray
        Shape (N,), bool: which of them were.
    numpy.ndarray
        Shape (n, D): their embeddings, NaN where a file cannot be read.
    """
    size = read_json(pathlib.Path(folder, RECORD))[SIZE]
    shards = _Shards(
        pathlib.Path(folder), table, size, embedder.segments, False
    )
    finished = [number for number in shards.numbers if shards.is_there(number)]
    there = np.zeros(len(table), bool)
    for number in finished:
        there[shards.rows(number)] = True
    shapes = [np.load(shards.path(n), mmap_mode="r").shape for n in finished]
    width = max((columns for _, columns in shapes), default=1)
    embeddings = np.empty((there.sum(), width), np.float32)
    places = there.cumsum() - there
    for number in finished:
        rows = shards.rows(number)
        embeddings[places[rows]] = np.load(shards.path(number))
    return there, embeddings


def is_extracted(folder, record):
    """Whether a folder holds all embeddings that a record tells of.

    Arguments
    ---------
    folder : str or pathlib.Path
        The embedding folder.
    record : dict
        See ``extraction_record``.

    Returns
    -------
    bool
        Whether they are all there, and of this record.
    """
    if not is_of(pathlib.Path(folder), record):
        return False
    try:
        load_embeddings(folder)
    except (OSError, ValueError):  # not there, or damaged since
        return False
    return True


def is_of(folder, record):
    """Whether what is in a folder belongs to a record: see ``what_counts``.

    Arguments
    ---------
    folder : pathlib.Path
        The embedding folder.
    record : dict
        The record. See ``extraction_record``.

    Returns
    -------
    bool
        Whether the folder's own record is the same in what counts.
    """
    before, record = what_counts(read_json(folder / RECORD) or {}, record)
    return before == record


def what_counts(before, record):
    """Two records, less what makes no difference: the size of the shards, as an
    embedding depends on its own utterance alone; what the table says, too; and
    what the encoder's YAML file says, unless both tell it: older versions do
    not, nor does a hub id.

    Arguments
    ---------
    before : dict
        The record of a folder.
    record : dict
        See ``extraction_record``.

    Returns
    -------
    tuple of dict
        Both records, without what makes no difference.

    Example
    -------
    >>> old = {"weights": "7f", "shard_size": 5}
    >>> before, now = what_counts(old, {"weights": "7f", "settings": "a0"})
    >>> before == now
    True
    """
    told = SETTINGS in before and SETTINGS in record
    passed_over = {SIZE, PIECES} if told else {SIZE, PIECES, SETTINGS}
    return tuple(
        {name: one[name] for name in one if name not in passed_over}
        for one in (before, record)
    )


def _begin(folder, record):
    """Whether all is done, and the size of the shards there are. Deletes what
    belongs to another record; where there are no shards, this one holds."""
    same, finished = is_of(folder, record), is_extracted(folder, record)
    if not same:
        check_our_embeddings(folder)
        other = _what_differs(folder, record)
        if other:
            logger.warning(
                f"The embeddings in {folder} are of {other}, and are made anew."
            )
        remove_extraction(folder)
    elif finished:
        _remove_shards(folder)
    if not (finished or any(folder.glob("shards/[0-9]*.npy"))):
        write_json(folder / RECORD, record)
    return finished, read_json(folder / RECORD).get(SIZE, record[SIZE])


def remove_extraction(folder):
    """Removes what ``extract`` has written, and nothing else.

    Arguments
    ---------
    folder : pathlib.Path
        The embedding folder, which stays.
    """
    # The record goes last: killed in between, it still tells what is left.
    for name in [*NAMES, *BESIDE]:
        (folder / name).unlink(missing_ok=True)
    _remove_shards(folder)
    (folder / RECORD).unlink(missing_ok=True)


def _remove_shards(folder):
    """Removes the shards, but nothing of others in a folder of that name."""
    for pattern in ["[0-9]*.npy", ".*.tmp.npy", "joined.npy"]:
        for path in folder.glob(f"shards/{pattern}"):
            path.unlink()
    with contextlib.suppress(OSError):  # not there, or not empty
        (folder / "shards").rmdir()


class _Shards:
    """The stretches of a table that are embedded at a time, and their files."""

    def __init__(self, folder, table, size, segments, whole):
        if size < 1:
            raise ValueError(f"shard_size={size}: give 1 or more.")
        self.folder = folder
        self.table = table
        self.size = size
        self.whole = whole
        self.counts = segments.rows(table)  # of embeddings

    @property
    def numbers(self):
        return range(-(-len(self.table) // self.size))

    def path(self, number):
        return self.folder / "shards" / f"{number:05}.npy"

    def rows(self, number):
        return slice(number * self.size, (number + 1) * self.size)

    def unfinished(self):
        """The numbers of those that this process has to embed."""
        mine = self.numbers
        if not ddp_prevent_block():
            mine = mine[get_rank() :: torch.distributed.get_world_size()]
        return [number for number in mine if not self.is_there(number)]

    def is_there(self, number):
        """Whether a shard is there, whole."""
        try:
            part = np.load(self.path(number), mmap_mode="r")
        except (FileNotFoundError, ValueError, EOFError):
            return False
        return len(part) == self.counts[self.rows(number)].sum()

    def join(self):
        """Makes one file of all shards, and the list of IDs."""
        width = max(
            self._load(number, mmap_mode="r").shape[1]
            for number in self.numbers
        )
        missing = np.zeros(len(self.table), bool)

        def parts():
            for number in self.numbers:
                part, rows = self._load(number), self.rows(number)
                counts = self.counts[rows]
                missing[rows] = np.logical_and.reduceat(
                    np.isnan(part[:, 0]), counts.cumsum() - counts
                )
                yield part

        shape = int(self.counts.sum()), width
        # Among the shards: if it is never finished, it goes with them
        path = self.folder / "shards" / "joined.npy"
        final = self.folder / "embeddings.npy"
        write_joined(path, final, parts(), shape)
        if missing.any():
            self._report(missing)
        sync(path)
        path.replace(final)
        write_ids(self.folder, self.table["ID"].repeat(self.counts))
        _remove_shards(self.folder)

    def _load(self, number, **options):
        path = self.path(number)
        if not wait_for(path):
            raise ValueError(
                f"There is no {path}, which another process has written: all "
                "processes need the same output folder, on a shared disk."
            )
        return np.load(path, **options)

    def _report(self, missing):
        """Lists utterances without an embedding; raises if none has one, of
        the whole."""
        skipped = self.table.loc[missing, ["ID", "wav"]]
        first = skipped["wav"].iloc[0]
        if missing.all() and self.whole:
            # So that the next start tries again.
            _remove_shards(self.folder)
            raise none_readable(skipped)
        write_csv(self.folder / SKIPPED, skipped)
        # Those of a part are listed with the others, in the end
        where = f" All are listed in {SKIPPED}." if self.whole else ""
        logger.warning(
            f"{missing.sum()} of all {len(missing)} utterances cannot be read "
            f"and have no embedding, the first is {first}.{where}"
        )


def none_readable(table):
    """The error where no utterance can be read.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest.

    Returns
    -------
    MediaError
        The error, to be raised.
    """
    return MediaError(
        f"None of the {len(table)} utterances can be read and has sound in "
        f"it, the first is {table['wav'].iloc[0]}. Is data_folder right?"
    )


def _embed_shards(shards, embedder, trim):
    """Embeds all shards of this process that are not there yet."""
    todo, segments = shards.unfinished(), embedder.segments
    done = sum(map(shards.is_there, shards.numbers))
    if done:
        logger.info(
            f"{done} of {len(shards.numbers)} shards in {shards.folder} are "
            "there already."
        )
    tables = {number: shards.table.iloc[shards.rows(number)] for number in todo}
    if segments.length is None:
        embedder.say_what_is_left_out(shards.table)
    processes = 1 if ddp_prevent_block() else torch.distributed.get_world_size()
    share = f" (1 of {processes} processes)" if processes > 1 else ""
    unreadable = 0
    bar = tqdm(
        total=sum(segments.counts(table).sum() for table in tables.values()),
        desc=f"Embedding{share}",
        unit="utt" if segments.length is None else "segment",
        disable=not if_main_process(),
    )
    with bar:
        for number, table in tables.items():
            counts = segments.counts(table)
            cut = trim or segments.length
            pieces = segments.cut(table, counts) if cut else table
            try:
                embeddings = embedder.embed_pieces(
                    pieces, bar, skip_unreadable=True
                )
            except MediaError:  # all are told of in the end
                embeddings = np.full((len(pieces), 1), np.nan, np.float32)
            unreadable += len(embedder.problems)
            if unreadable:
                bar.set_postfix(unreadable=unreadable)
            embeddings = segments.mean(embeddings, counts)
            path = shards.path(number)
            with atomic_path(path) as temporary:
                write_joined(temporary, path, [embeddings], embeddings.shape)
