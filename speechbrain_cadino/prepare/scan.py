"""Listing the files of a folder, and telling whether they have changed."""

import functools
import hashlib
import os
import pathlib
import re
import stat
from typing import NamedTuple

from tqdm import tqdm

from speechbrain_cadino.prepare.parallel import in_threads

EVERYTHING = "**/*"


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
    target : str
        The name of the other listed file that it is a link to, if any.
    """

    name: str
    size: int = 0
    mtime: int = 0
    problem: str = ""
    target: str = ""

    @property
    def suffix(self):
        """The suffix in lower case, with its dot."""
        return os.path.splitext(self.name)[1].lower()


def list_files(folder, glob, suffixes, leave_out=None):
    """Lists the files of a folder and of all folders below it.

    Symbolic links are followed, and a folder is visited once, unless a glob
    takes nothing in it: no loop of links goes on for ever. What a link to a
    file that is listed, too, leads to is its ``target``. Hidden files and
    folders (``.name``) are passed over, as a shell does.

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
        The files, sorted by name.

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
    found, links, files = [], set(), []

    def no_entry(error):
        name = os.path.relpath(error.filename, folder)
        found.append(Found(name, problem=_problem(error)))

    seen = {_identity(leave_out)} if leave_out else set()
    bar = tqdm(desc="Listing files", unit="file", delay=1)
    for place, root, folders, names in _walk(folder, no_entry):
        before = len(files)
        if place in seen:
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if name[0] != ".")
        below = os.path.relpath(root, folder)
        prefix = "" if below == "." else f"{below}/".replace(os.sep, "/")
        for name in names:
            if name[0] == "." or not wanted.fullmatch(prefix + name):
                continue
            if os.path.splitext(name)[1].lower() in suffixes:
                files.append((f"{root}/{name}", prefix + name))
                bar.update()
        taken = len(files) > before
        if taken:
            links |= {prefix + name for name in _links_in(root)}
        # A glob may take it by the name of a link alone
        if taken or glob == EVERYTHING:
            seen.add(place)
    bar.close()
    found += in_threads(_examine, files)
    return sorted(_with_targets(folder, found, links))


def _links_in(folder):
    """The names of links in a folder, which its list tells of: files are not
    looked at one by one."""
    try:
        with os.scandir(folder) as entries:
            return [entry.name for entry in entries if entry.is_symlink()]
    except OSError:  # said by the walk
        return []


def _with_targets(folder, found, links):
    """The files, with the ``target`` of those that are links to others."""
    links = links & {file.name for file in found}
    if not links:
        return found
    real = functools.cache(os.path.realpath)

    def place(name):
        path = f"{folder}/{name}"
        if name in links:
            return real(path)
        return f"{real(os.path.dirname(path))}/{os.path.basename(path)}"

    taken = {}
    # Of two links to one file, the first is as good as a file
    order = sorted(
        (file.name in links, file, i) for i, file in enumerate(found)
    )
    for _, file, row in order:
        if not file.problem:
            other = taken.setdefault(place(file.name), file.name)
            found[row] = file._replace(target=other * (other != file.name))
    return found


def _walk(folder, onerror):
    """As ``os.walk``, each folder after its identity; what is behind links to
    folders comes last, so that a folder has its own name if that is below the
    first one, too. Links behind links are followed to where nobody has been.
    """
    later, walked = [folder], set()
    for number, start in enumerate(later):
        if number and _loops(start):
            continue
        links = []
        for root, folders, names in os.walk(start, onerror=onerror):
            place = _identity(root)
            walked.add(place)
            yield place, root, folders, names
            paths = (f"{root}/{name}" for name in folders)
            links += filter(os.path.islink, paths)
        if number:
            links = [path for path in links if _identity(path) not in walked]
        later += links


def _loops(path):
    """Whether a link leads to a folder that it lies in."""
    around = pathlib.Path(path).parents
    return _identity(path) in {_identity(folder) for folder in around}


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
    return digest(
        f"Found(name={file.name!r}, size={file.size!r}, mtime={file.mtime!r}, "
        f"problem={file.problem!r})" + f"-> {file.target!r}" * bool(file.target)
        for file in files
    )


def digest(texts):
    """A short text that changes when one of several texts does.

    Arguments
    ---------
    texts : iterable of str
        The texts, in order.

    Returns
    -------
    str
        The digest; empty if there are none.
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


def _examine(file):
    """The ``Found`` of a file, its path and its name."""
    path, name = file
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
