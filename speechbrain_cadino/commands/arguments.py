"""Arguments of several commands: what they mean, and what is checked before
the work that takes long."""

import pathlib

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.commands.audio_files import find_files
from speechbrain_cadino.dataio import labels
from speechbrain_cadino.dataio.names import check_writable_name
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.store import (
    BESIDE,
    NAMES,
    RECORD,
)
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.encoders.export import check_no_encoder
from speechbrain_cadino.encoders.load import check_kind, load_encoder
from speechbrain_cadino.process.outputs import check_folder
from speechbrain_cadino.process.tables import describe_columns, read_csv
from speechbrain_cadino.runs.open_run import check_no_training

logger = get_logger(__name__)

# Processes that read files for a GPU; a CPU has no time for more
GPU_WORKERS = 4


def load(source, arguments, **options):
    """An encoder of voices, on the device and trusted as the flags say; or a
    folder of embeddings.

    Arguments
    ---------
    source : str
        The encoder folder or hub id, or a folder of embeddings. See
        ``load_encoder``.
    arguments : argparse.Namespace
        The parsed arguments, with ``device`` and ``trusted``.
    **options
        Further arguments of Embedder, such as ``batch_size``.

    Returns
    -------
    Embedder or StoredEmbeddings
        The encoder, or the embeddings in its place.

    Raises
    ------
    ValueError
        If it is one of faces. See ``load_encoder`` for others.
    """
    loaded = load_encoder(
        source,
        arguments.device,
        trusted=arguments.trusted,
        embeddings=getattr(arguments, "embeddings", None),
        **options,
    )
    check_kind(loaded, "voices")
    if not loaded.hears:
        return loaded
    on_gpu = str(loaded.device).startswith("cuda")
    return loaded.replace(num_workers=GPU_WORKERS) if on_gpu else loaded


def encoder_of(arguments):
    """The encoder, or the folder of embeddings in its place.

    Arguments
    ---------
    arguments : argparse.Namespace
        The parsed arguments, with ``encoder`` and ``embeddings``.

    Returns
    -------
    str
        The folder of embeddings if one is given, else the encoder.
    """
    if arguments.embeddings is None:
        return arguments.encoder
    return arguments.embeddings


def files_of(arguments, inputs):
    """Audio files; or IDs, of which none are all.

    Arguments
    ---------
    arguments : argparse.Namespace
        The parsed arguments, with ``embeddings``.
    inputs : list of str
        Files and folders, or IDs.

    Returns
    -------
    list of str
        The audio files, or the IDs of stored embeddings.

    Raises
    ------
    ValueError
        If there is no embedding of an ID.
    """
    if arguments.embeddings is None:
        return find_files(inputs)
    return ids_of(StoredEmbeddings(arguments.embeddings), inputs)


def ids_of(stored, inputs):
    """The IDs of stored embeddings that inputs name.

    Arguments
    ---------
    stored : StoredEmbeddings
        The embeddings.
    inputs : list of str
        IDs, and CSV files that list some in a column ``ID``, or else ``file``;
        none are all.

    Returns
    -------
    list of str
        The IDs, each once, in the order in which they are named.

    Raises
    ------
    ValueError
        If there is no embedding of an ID, or a list has no such column or no
        row.
    """
    if not inputs:
        return stored.ids
    names = []
    for name in inputs:
        path = pathlib.Path(name)
        listed = path.suffix.lower() == ".csv" and path.is_file()
        if name in stored.rows or not listed:
            names.append(name)
            continue
        table = read_csv(path)
        column = next((c for c in labels.NAMES if c in table), None)
        if column is None or table.empty:
            raise ValueError(
                f"{path} is no list of embeddings: a table with the column "
                f"{', or '.join(labels.NAMES)}. It has "
                f"{describe_columns(table)}."
            )
        names += table[column].tolist()
    stored.check_known(names)
    return list(dict.fromkeys(names))


def some_of(files, wanted):
    """Files spread over all, twice as many as are wanted: some may not be
    readable. The others need not be converted.

    Arguments
    ---------
    files : list of str
        All files.
    wanted : int
        The number that is wanted.

    Returns
    -------
    list of str
        The files, in their order; all if there are not so many.
    """
    rows = spread_rows(len(files), 2 * wanted)
    if len(rows) < len(files):
        logger.info(f"{len(rows)} of {len(files)} files are looked at.")
    return [files[row] for row in rows]


def check_file(path):
    """Raises before the work if a file could not be written, would lie among
    those of an encoder, or would replace one of embeddings.

    Arguments
    ---------
    path : str
        The file; its folder is made.
    """
    check_writable_name(path)
    check_folder(pathlib.Path(path).parent)
    check_no_encoder(pathlib.Path(path).parent)
    stored = [*NAMES, RECORD, *BESIDE]
    beside = pathlib.Path(path).with_name("ids.txt")
    if beside.is_file() and pathlib.Path(path).name in stored:
        raise ValueError(
            f"{path} belongs to embeddings, and would be replaced: give "
            "another name."
        )


def check_named(values):
    """Raises if a value is empty, which would be the current folder or nothing.

    Arguments
    ---------
    values : iterable
        The values of all options and inputs; some are lists.

    Example
    -------
    >>> check_named([3, None, ["a", ""]])
    Traceback (most recent call last):
    ...
    ValueError: The name of a file or folder is empty: is a variable unset?
    """
    for value in values:
        if "" in (value if isinstance(value, list) else [value]):
            raise ValueError(
                "The name of a file or folder is empty: is a variable unset?"
            )


def check_output(folder):
    """Raises before the work if results must not be put into a folder, as it
    cannot be written or is that of an encoder or of a training.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder, which is made.
    """
    check_folder(folder)
    check_no_encoder(folder)
    check_no_training(folder)


def as_text(table):
    """A table as lines with tabs between the columns.

    Arguments
    ---------
    table : pandas.DataFrame
        The table.

    Returns
    -------
    str
        The lines, the names of the columns first; floats have 4 decimals.

    Example
    -------
    >>> import pandas as pd
    >>> as_text(pd.DataFrame({"file": ["a.wav"], "score": [0.5]}))
    'file\\tscore\\na.wav\\t0.5000\\n'
    """
    return table.to_csv(
        sep="\t", index=False, float_format="%.4f", lineterminator="\n"
    )
