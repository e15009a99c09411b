"""Embeddings in files: embeddings.npy and ids.txt."""

import os
import pathlib

import numpy as np

from speechbrain_cadino.process.files import (
    atomic_path,
    read_text,
    removed_if_full,
    write_json,
    write_text,
)

# Rows that are worked on at once, which saves memory
CHUNK = 2**14

# Rounding of float32
SAME = 1e-6

# The files of an embedding folder
NAMES = ["embeddings.npy", "ids.txt"]

# What they are embeddings of, if we have made them
RECORD = "extraction.json"

# What may be beside them: what their scores mean; how long files are; and the
# utterances without one, and their files
CALIBRATION = "calibration.json"
DURATIONS = "durations.csv"
SKIPPED = "skipped.csv"
BESIDE = [CALIBRATION, DURATIONS, SKIPPED]


def save_embeddings(folder, ids, embeddings):
    """Writes ``embeddings.npy`` and ``ids.txt``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write to. Killed in between, it holds no ids.txt, and
        ``load_embeddings`` says so.
    ids : list of str
        The N IDs.
    embeddings : numpy.ndarray
        Shape (N, D), in the order of the IDs.

    Raises
    ------
    ValueError
        If they are not as many; see also ``check_ids``.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> save_embeddings(folder, ["a", "b"], np.eye(2))
    >>> ids, embeddings = load_embeddings(folder)
    >>> ids, embeddings[1].tolist(), str(embeddings.dtype)
    (['a', 'b'], [0.0, 1.0], 'float32')
    """
    folder, ids = pathlib.Path(folder), list(ids)
    check_ids(ids)
    embeddings = np.asarray(embeddings, np.float32)
    if embeddings.ndim != 2 or len(embeddings) != len(ids):
        raise ValueError(
            f"Embeddings of shape {embeddings.shape} for {len(ids)} IDs: give "
            "a row for each."
        )
    with (
        atomic_path(folder / "ids.txt") as names,
        atomic_path(folder / "embeddings.npy") as array,
    ):
        names.write_text(_lines(ids), encoding="utf-8")
        write_joined(
            array, folder / "embeddings.npy", [embeddings], embeddings.shape
        )
        pathlib.Path(os.path.realpath(folder / "ids.txt")).unlink(
            missing_ok=True
        )
        # An extraction would take these for its own, and what is beside them
        # is of others
        if (folder / RECORD).is_file():
            forget(folder)
            (folder / SKIPPED).unlink(missing_ok=True)
        for name in [CALIBRATION, DURATIONS]:
            (folder / name).unlink(missing_ok=True)


def check_our_embeddings(folder):
    """Raises if embeddings in a folder, or what belongs to them, are of others:
    if there is no record of what they are embeddings of.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        If so.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_our_embeddings(folder)
    >>> save_embeddings(folder, ["a", "b"], np.eye(2))
    >>> check_our_embeddings(folder)
    Traceback (most recent call last):
    ...
    ValueError: ...embeddings.npy would be replaced, and has no extraction.j...
    >>> forget(folder)
    >>> check_our_embeddings(folder)
    """
    folder = pathlib.Path(folder)
    if (folder / RECORD).is_file():
        return
    for name in [*NAMES, *BESIDE]:
        if (folder / name).exists():
            raise ValueError(
                f"{folder / name} would be replaced, and has no {RECORD} "
                "beside it: it is of prepare, of another tool, or of a version "
                "before 0.3. Give another folder for the embeddings."
            )


def forget(folder):
    """Leaves a record by which the embeddings of a folder are ours, but those
    of no table: the next extraction there begins anew.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    """
    write_json(pathlib.Path(folder, RECORD), {})


def check_ids(ids):
    """Raises if IDs cannot be the lines of ``ids.txt``.

    Arguments
    ---------
    ids : iterable of str
        The IDs.

    Raises
    ------
    ValueError
        If one is no text or empty, or there is a line break in it.

    Example
    -------
    >>> check_ids(["a", "b b"])
    >>> check_ids(["a\\nb"])
    Traceback (most recent call last):
    ...
    ValueError: The ID 'a\\nb' has a line break in it, and ids.txt has an ID ...
    """
    for name in ids:
        if not isinstance(name, str):
            raise ValueError(
                f"The ID {name!r} is no text: read a manifest by "
                'read_manifest, or by pandas.read_csv(..., dtype={"ID": str}).'
            )
        if not name:
            raise ValueError(
                "An ID is empty, and ids.txt has an ID a line: give it a name."
            )
        if "\n" in name or "\r" in name:
            raise ValueError(
                f"The ID {name!r} has a line break in it, and ids.txt has an "
                "ID a line: give it another."
            )


def write_ids(folder, ids):
    """Writes ``ids.txt``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    ids : iterable of str
        The N IDs.
    """
    write_text(pathlib.Path(folder, "ids.txt"), _lines(ids))


def _lines(ids):
    """The text of ``ids.txt``."""
    return "".join(f"{name}\n" for name in ids)


def write_joined(path, final, parts, shape):
    """Writes embeddings below each other, without holding all of them.

    Not by a memmap: its pages would fill the memory.

    Arguments
    ---------
    path : pathlib.Path
        The file to write, which becomes ``final``.
    final : pathlib.Path
        The file in the end, for the error if the disk is full.
    parts : iterable of numpy.ndarray
        The parts, each (n, D) or, without any embedding, (n, 1) of NaN.
    shape : tuple of int
        (N, D) of all.
    """
    with removed_if_full(path, final), open(path, "wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            rows = np.broadcast_to(part, (len(part), shape[1]))
            # tofile and np.save do not say that the last 4 KB found no room
            file.write(np.ascontiguousarray(rows, "<f4"))


def load_embeddings(folder):
    """Opens what ``save_embeddings`` wrote.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.

    Returns
    -------
    list of str
        The N IDs.
    numpy.memmap
        Shape (N, D), float32 if it is ours, read from disk when used.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If they do not belong together, or are no embeddings.
    """
    folder = pathlib.Path(folder)
    for name in NAMES:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: embed the utterances (again)."
            )
    # One ID a line, and no other letter ends a line
    ids = read_text(folder / "ids.txt").split("\n")
    while ids and not ids[-1]:
        ids.pop()
    try:
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{folder / 'embeddings.npy'} is damaged or no array ({error}). "
            "Embed the utterances again."
        ) from error
    if not isinstance(embeddings, np.ndarray):
        raise ValueError(
            f"{folder / 'embeddings.npy'} is an archive of arrays (.npz): save "
            "the one of the embeddings by numpy.save."
        )
    if embeddings.ndim != 2 or embeddings.dtype.kind != "f":
        raise ValueError(
            f"{folder / 'embeddings.npy'} is an array of {embeddings.dtype} of "
            f"shape {embeddings.shape}: embeddings are float, a row of each "
            "utterance, (N, D)."
        )
    if len(ids) != len(embeddings):
        raise ValueError(
            f"{folder}: {len(ids)} lines in ids.txt, {len(embeddings)} rows in "
            "embeddings.npy. Embed the utterances again."
        )
    return ids, embeddings


def chunks(count):
    """Rows that are worked on at once.

    Arguments
    ---------
    count : int
        The number of all rows.

    Returns
    -------
    list of slice
        The slices, in order, of at most ``CHUNK`` rows each.

    Example
    -------
    >>> [rows.start for rows in chunks(40000)]
    [0, 16384, 32768]
    """
    return [slice(first, first + CHUNK) for first in range(0, count, CHUNK)]


def readable_rows(embeddings):
    """Which rows are embeddings: those of files that cannot be read are NaN.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D); a ``numpy.memmap`` is read in pieces.

    Returns
    -------
    numpy.ndarray
        Mask of the rows that are embeddings, shape (N,), bool.

    Example
    -------
    >>> readable_rows(np.array([[1.0, 2.0], [np.nan, np.nan]]))
    array([ True, False])
    """
    readable = np.empty(len(embeddings), bool)
    for rows in chunks(len(embeddings)):
        readable[rows] = np.isfinite(embeddings[rows]).all(1)
    return readable


def sameness(embeddings):
    """What is to be said of embeddings that are all the same, but for rounding.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Embeddings, shape (N, D); a ``numpy.memmap`` is read in pieces, up to
        one that differs.

    Returns
    -------
    str
        A sentence; an empty text if one differs, or there are not two.

    Example
    -------
    >>> sameness(np.array([[1.0, 2.0], [1.0, 2.1]]))
    ''
    >>> sameness(np.array([[1.0, 2.0], [1.0, 2.0]]))
    'All 2 embeddings are the same: did the training of the encoder collapse...
    """
    rounding = SAME * np.abs(embeddings[:1]).max(initial=0)
    if len(embeddings) > 1 and all(
        (np.abs(embeddings[rows] - embeddings[0]) <= rounding).all()
        for rows in chunks(len(embeddings))
    ):
        return (
            f"All {len(embeddings)} embeddings are the same: did the training "
            "of the encoder collapse, or are the files all alike?"
        )
    return ""


def readable_embeddings(folder, transform=None):
    """The embeddings of a folder, without the rows of unreadable files.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of ``extract``.
    transform : object, optional
        The object whose ``fit_transform`` changes them, such as Whitening.

    Returns
    -------
    readable : numpy.ndarray
        Shape (N,), bool: which rows are there.
    ids : list of str
        The IDs of these n rows.
    points : numpy.ndarray
        The embeddings of these rows, shape (n, D), transformed.

    Raises
    ------
    ValueError
        If all are the same. See ``load_embeddings`` for others.
    """
    ids, embeddings = load_embeddings(folder)
    readable = readable_rows(embeddings)
    # No copy of what may fill the memory
    points = embeddings if readable.all() else embeddings[readable]
    if same := sameness(points):
        raise ValueError(f"{folder}: {same}")
    if transform is not None:
        points = transform.fit_transform(points)
    return readable, [n for n, fine in zip(ids, readable) if fine], points
