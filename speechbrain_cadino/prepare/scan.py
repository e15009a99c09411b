"""Listing the files of a folder, and telling whether they have changed."""

import hashlib
import os
import re
import stat
from typing import NamedTuple

from tqdm import tqdm


class Found(NamedTuple):
    """A file, or a folder that cannot be entered.

    Arguments
    ---------
    name : str
        The path below the scanned folder, with ``/`` between its parts.
    size : int
        The size, in bytes.
    mtime : int
        The time of the last change, in nanoseconds.
    problem : str
        The reason why it cannot be used; empty if nothing is known against it.
    """

    name: str
    size: int = 0
    mtime: int = 0
    problem: str = ""

    @property
    def suffix(self):
        """The suffix in lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


def list_files(folder, glob, suffixes, leave_out=None):
    """Lists the files of a folder and of all folders below it.

    Symbolic links are followed, every folder is visited once: no loop of
    links goes on for ever. Hidden files and folders (``.name``) are passed
    over, as a shell does.

    Arguments
    ---------
    folder : str
        The folder to search.
    glob : str
        The paths below the folder to take: ``*`` and ``?`` stay within one part
        of the path, ``**`` is any number of folders.
    suffixes : set of str
        The suffixes to take, in lower case, with their dots.
    leave_out : str, optional
        A folder not to enter.

    Returns
    -------
    list of Found
        Sorted by name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "a").mkdir()
    >>> for name in ["a/1.wav", "2.WAV", "notes.txt"]:
    ...     _ = (folder / name).write_bytes(b"...")
    >>> [found.name for found in list_files(folder, "**/*", {".wav"})]
    ['2.WAV', 'a/1.wav']
    >>> [found.name for found in list_files(folder, "a/*", {".wav"})]
    ['a/1.wav']
    """
    wanted = re.compile(_glob_to_regex(glob))
    found = []

    def no_entry(error):
        name = os.path.relpath(error.filename, folder)
        found.append(Found(name, problem=_problem(error)))

    seen = {_identity(leave_out)} if leave_out else set()
    walk = os.walk(folder, followlinks=True, onerror=no_entry)
    bar = tqdm(desc="Listing files", unit="file", delay=1)
    for root, folders, names in walk:
        if _identity(root) in seen:
            folders.clear()
            continue
        seen.add(_identity(root))
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = os.path.relpath(root, folder)
        prefix = "" if below == "." else f"{below}/".replace(os.sep, "/")
        for name in names:
            if name[0] == "." or not wanted.fullmatch(prefix + name):
                continue
            if os.path.splitext(name)[1].lower() in suffixes:
                found.append(_examine(f"{root}/{name}", prefix + name))
                bar.update()
    bar.close()
    return sorted(found)


def fingerprint(files):
    """A short text that changes when a file of the list does.

    Arguments
    ---------
    files : iterable of Found
        The files of ``list_files``.

    Returns
    -------
    str
        The SHA-256 of all names, sizes and modification times.

    Example
    -------
    >>> before, after = Found("a.wav", 3, 1), Found("a.wav", 4, 1)
    >>> fingerprint([before]) == fingerprint([after])
    False
    """
    return digest(map(repr, files))


def digest(texts):
    """A short text that changes when one of several texts does.

    Arguments
    ---------
    texts : iterable of str
        The texts, in order.

    Returns
    -------
    str
        Empty if there are none.
    """
    total, some = hashlib.sha256(), False
    for text in texts:
        some = True
        total.update(text.encode("utf-8", "surrogateescape") + b"\n")
    return total.hexdigest() if some else ""


def _glob_to_regex(glob):
    """The regular expression of a glob."""
    regex = re.escape(glob)
    for wildcard, meaning in [
        (r"\*\*/", "(?:[^/]+/)*"),
        (r"\*\*", ".*"),
        (r"\*", "[^/]*"),
        (r"\?", "[^/]"),
    ]:
        regex = regex.replace(wildcard, meaning)
    # A name may hold a newline.
    return f"(?s:{regex})"


def _identity(folder):
    """What two paths have in common if they lead to the same folder."""
    try:
        status = os.stat(folder)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _examine(path, name):
    """The ``Found`` of a file."""
    try:
        status = os.stat(path)
    except OSError as error:
        return Found(name, problem=_problem(error))
    problem = "" if status.st_size else "empty file (zero bytes)"
    if not stat.S_ISREG(status.st_mode):
        problem = "no plain file"
    return Found(name, status.st_size, status.st_mtime_ns, problem)


def _problem(error):
    """The reason in an OSError."""
    return f"not accessible ({error.strerror})"
