"""Writing files so that nobody ever sees half of one."""

import codecs
import contextlib
import errno
import hashlib
import json
import os
import pathlib
import platform
import re
import resource
import shutil
import stat
import tempfile
import time
import zlib

# In the names of temporary files, as machines may share a folder
HOST = f"{zlib.crc32(platform.node().encode()):08x}"
TEMPORARY = re.compile(r"\.([0-9a-f]{8})-(\d+)\.(tmp|old)(\.\w+)?$")

# So old is what nobody on another machine writes any more.
ABANDONED = 24 * 3600  # seconds

# NumPy, PyTorch and libsndfile do not say that a disk is full: it is, if this
# cannot be written when they fail. In bytes.
LEFT_WHEN_FULL = 2**20

# Bytes: with the rest of the name of a temporary file, below the 255 of a name
LONGEST_STEM = 200

# So long may a network disk take to show a new file.
SIGHT = 10  # seconds

# A disk, a quota, or the largest size of a file is reached.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def wait_for(path):
    """Waits for a file that another process has written, maybe on another
    machine.

    Arguments
    ---------
    path : pathlib.Path
        The file.

    Returns
    -------
    bool
        Whether it is there: after ``SIGHT`` seconds it is given up.

    Example
    -------
    >>> wait_for(getfixture("tmp_path"))
    True
    """
    deadline = time.monotonic() + SIGHT
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


class DiskFullError(OSError):
    """No space left, with a sentence that says where."""


@contextlib.contextmanager
def removed_if_full(temporary, path, needed=None):
    """Makes a full disk one sentence, and leaves nothing behind on it.

    Arguments
    ---------
    temporary : pathlib.Path
        The file or folder that the block writes.
    path : pathlib.Path
        The file or folder that it is to become.
    needed : int, optional
        The number of bytes that it takes; by default, more than there were.

    Raises
    ------
    DiskFullError
        If the block fails because the disk is full.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with removed_if_full(folder / "partial", folder / "whole"):
    ...     _ = (folder / "partial").write_text("half")
    ...     raise OSError(errno.ENOSPC, "No space left on device")
    Traceback (most recent call last):
    ...
    speechbrain_cadino.process.files.DiskFullError: No space left to write ...
    >>> list(folder.iterdir())
    []
    """
    try:
        yield
    # RuntimeError is what PyTorch and libsndfile raise
    except (OSError, RuntimeError) as error:
        full = _is_full(error, path)
        remove(temporary)
        if not full:
            raise
        free = shutil.disk_usage(path.parent).free
        needed = f"about {_megabytes(needed)} are" if needed else "more is"
        raise DiskFullError(
            f"No space left to write {path}: {needed} needed, and "
            f"{_megabytes(free)} are free there, or less by a quota. Nothing "
            "is left half written: make space, and start the same command "
            "again."
        ) from error


def remove(path):
    """Removes a file or a folder, if it is there.

    Arguments
    ---------
    path : pathlib.Path
        The file or folder to remove.
    """
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _is_full(error, path):
    """Whether an error comes from a full disk, or a quota that is used up."""
    if isinstance(error, DiskFullError):
        return True
    if getattr(error, "errno", None) is not None:
        return error.errno in FULL
    # PyTorch does not say that a file came to its limit (ulimit -f) either
    if resource.getrlimit(resource.RLIMIT_FSIZE)[0] != resource.RLIM_INFINITY:
        return True
    # A quota is no matter of what is free: what does a file more say?
    try:
        with tempfile.TemporaryFile(dir=path.parent) as probe:
            probe.write(bytes(LEFT_WHEN_FULL))
            probe.flush()
            os.fsync(probe.fileno())
    except OSError as error:
        return error.errno in FULL
    return False


def _megabytes(size):
    """A size in words."""
    return f"{size / 1e6:.1f} MB"


@contextlib.contextmanager
def atomic_path(path):
    """Gives a temporary path that becomes ``path`` when the block ends.

    If the block raises, the process dies or the power fails, whatever was at
    ``path`` before is still there, whole.

    Arguments
    ---------
    path : str or pathlib.Path
        The final file, or a link to it. Its folder is made if needed.

    Yields
    ------
    pathlib.Path
        The file to write to, with the same suffix as ``path``.

    Raises
    ------
    DiskFullError
        If there is no space left.
    ValueError
        If it is there and no plain file.

    Example
    -------
    >>> path = getfixture("tmp_path") / "numbers.txt"
    >>> with atomic_path(path) as temporary:
    ...     _ = temporary.write_text("1 2 3")
    ...     path.exists()
    False
    >>> path.read_text()
    '1 2 3'
    """
    # Where a link leads to, not the link; and whole, as pandas takes a ~ in
    # front for a home
    path = pathlib.Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no plain file: give the name of one.")
    path.parent.mkdir(parents=True, exist_ok=True)
    stem = path.stem
    if len(os.fsencode(stem)) > LONGEST_STEM:
        stem = hashlib.sha256(os.fsencode(stem)).hexdigest()[:16]
    temporary = path.with_name(f".{stem}.{_mine()}.tmp{path.suffix}")
    temporary.unlink(missing_ok=True)  # of a killed process of this number
    try:
        with removed_if_full(temporary, path):
            # Ours: no link that somebody has put there is followed
            options = os.O_CREAT | os.O_EXCL | os.O_WRONLY
            os.close(os.open(temporary, options, 0o666))
            take_mode(temporary, path)
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def take_mode(temporary, path):
    """Gives what is to replace a file or a folder its permissions: who may not
    read the one may not read the other.

    Arguments
    ---------
    temporary : pathlib.Path
        The file or folder that is to replace it.
    path : pathlib.Path
        The file or folder that may be there.
    """
    with contextlib.suppress(OSError):  # not there, or of a disk without any
        mode = stat.S_IMODE(path.stat().st_mode)
        temporary.chmod(mode | (0o700 if temporary.is_dir() else 0o600))


@contextlib.contextmanager
def atomic_folder(path):
    """Gives a temporary folder that replaces ``path`` when the block ends.

    If the block raises or the process dies in it, whatever was at ``path``
    before is still there. A folder cannot be swapped in one step: killed in
    the instant between two renames, there is none, but never half of one.

    Arguments
    ---------
    path : str or pathlib.Path
        The final folder. All that it held before is removed.

    Yields
    ------
    pathlib.Path
        An empty folder to write into.

    Raises
    ------
    DiskFullError
        If there is no space left.

    Example
    -------
    >>> path = getfixture("tmp_path") / "encoder"
    >>> with atomic_folder(path) as temporary:
    ...     _ = (temporary / "a.txt").write_text("a")
    ...     path.exists()
    False
    >>> [file.name for file in path.iterdir()]
    ['a.txt']
    """
    # Where a link leads to, not the link; and a name for "."
    path = pathlib.Path(os.path.realpath(path))
    temporary = path.with_name(f".{path.name}.{_mine()}.tmp")
    previous = temporary.with_suffix(".old")
    # A killed process of the same number may have left them.
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.rmtree(previous, ignore_errors=True)
    temporary.mkdir(parents=True)
    take_mode(temporary, path)
    try:
        with removed_if_full(temporary, path):
            yield temporary
            for file in [*temporary.iterdir(), temporary]:
                sync(file)
            if path.exists():
                path.rename(previous)
            temporary.rename(path)
            sync(path.parent)
    finally:
        # Ended between the two
        if previous.exists() and not path.exists():
            previous.rename(path)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(previous, ignore_errors=True)


def _mine():
    """What temporary files of this process have in their names."""
    return f"{HOST}-{os.getpid()}"


def remove_leftovers(folder, below=False):
    """Removes what processes that were killed have left half written in a
    folder: those of this machine, and a day later of others.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    below : bool
        Whether to look into all folders below it, too.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> mine = f".a.{HOST}-{os.getpid()}.tmp.csv"
    >>> dead = f".a.{HOST}-{2**22 + 1}.tmp.csv"  # above Linux's highest number
    >>> other, old = ".a.00000000-9.tmp.csv", ".a.00000000-8.tmp.csv"
    >>> for name in ("a.csv", mine, other, dead, old):
    ...     (folder / name).touch()
    >>> os.utime(folder / old, (0, 0))
    >>> remove_leftovers(folder)
    >>> sorted(path.name for path in folder.iterdir()) == sorted(
    ...     ["a.csv", mine, other]
    ... )
    True
    """
    for inner, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            found = is_temporary(name)
            path = pathlib.Path(inner, name)
            if found and not _is_written(path, found[1], int(found[2])):
                remove(path)
        if not below:
            break


def is_temporary(name):
    """Whether a name is that of what ``atomic_path`` or ``atomic_folder`` has
    not finished.

    Arguments
    ---------
    name : str
        The name of a file or folder.

    Returns
    -------
    re.Match
        The match, with the host and the process; None if it is not.

    Example
    -------
    >>> bool(is_temporary(".a.00000000-9.tmp.csv")), is_temporary("a.csv")
    (True, None)
    """
    return TEMPORARY.search(name) if name[0] == "." else None


def _is_written(path, host, number):
    """Whether a process of this number may still write a file."""
    if host == HOST:
        return _is_alive(number)
    with contextlib.suppress(FileNotFoundError):
        return time.time() - path.stat().st_mtime < ABANDONED
    return True


def _is_alive(number):
    """Whether there is a process of this number."""
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    try:
        # Dead, but nobody has asked how it ended, as in many containers
        status = pathlib.Path(f"/proc/{number}/stat").read_text()
        return status.rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):  # not Linux
        return True


def sync(path):
    """Makes sure that a file, or the entries of a folder, are on the disk.

    Arguments
    ---------
    path : str or pathlib.Path
        The file or folder.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no such thing for folders
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EACCES):
            raise
    finally:
        os.close(descriptor)


def state_of(path):
    """What changes if a file is replaced by another of its name.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    str
        The size of the file, and when it was modified.
    """
    info = os.stat(path)
    return f"{info.st_size} bytes, {info.st_mtime_ns} ns"


def read_json(path):
    """Reads a JSON file of ours that a power cut may have damaged.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    dict or list
        The content; None if there is no such file, or it is damaged.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.json"
    >>> write_json(path, {"a": 1})
    >>> read_json(path)
    {'a': 1}
    >>> _ = path.write_bytes(bytes(9))
    >>> read_json(path)
    """
    try:
        return json.loads(pathlib.Path(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def write_text(path, text):
    """Writes a text file atomically, in UTF-8.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    text : str
        The text to write.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_text(path, errors="strict"):
    """Reads a text file that somebody else may have written.

    Arguments
    ---------
    path : str or pathlib.Path
        The file, in UTF-8 with or without a byte order mark. A line may end
        in the manner of Unix, Windows or old Macs.
    errors : str
        The treatment of errors, as for ``open``.

    Returns
    -------
    str
        The text, whose lines end in ``\\n``.

    Raises
    ------
    ValueError
        If it is in UTF-16, as spreadsheets write "Unicode text", or in
        another encoding.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> _ = path.write_bytes(b"\\xef\\xbb\\xbfone\\rtwo\\r\\n")
    >>> read_text(path)
    'one\\ntwo\\n'
    """
    content = pathlib.Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise ValueError(
            f"{path} is in UTF-16: save it as UTF-8, such as with "
            f"iconv -f UTF-16 -t UTF-8."
        )
    try:
        text = content.decode("utf-8-sig", errors)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not in UTF-8 ({error.reason} at byte {error.start}): "
            "save it as UTF-8."
        ) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def write_json(path, content):
    """Writes a JSON file atomically, indented, with a final newline.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    content : dict or list
        The content to write.
    """
    write_text(path, json.dumps(content, indent=2) + "\n")
