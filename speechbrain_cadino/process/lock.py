"""Locks of output folders: one run at a time in each."""

import contextlib
import fcntl
import os
import pathlib
import time

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.files import remove_leftovers
from speechbrain_cadino.process.outputs import check_folder

logger = get_logger(__name__)

# So long may a run that was killed take to end.
PATIENCE = 10  # seconds

# What waits longer says so, once.
SILENCE = 3  # seconds

# In an output folder as long as nobody has ended well there
UNFINISHED = ".unfinished"

# The folder that a pipeline has locked while its script runs
HELD = "SPEECHBRAIN_CADINO_HELD"

# What this process has claimed, until it releases all of it
_claims = contextlib.ExitStack()
_descriptors = []
_claimed = set()


@contextlib.contextmanager
def locked(folder, patience=PATIENCE):
    """Keeps other runs away from an output folder. What those that were killed
    have left half written in it is removed.

    Processes that inherit the descriptor hold the lock, too: it lasts until
    the last of them has ended.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder. It is made if needed.
    patience : float
        Seconds to wait for another run to end.

    Yields
    ------
    int
        The descriptor of the lock; None if this process has claimed the folder,
        or the pipeline that it is a step of has locked it.

    Raises
    ------
    OSError
        If nothing can be written there.
    ValueError
        If another run is at work there, and stays.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> with locked(folder), locked(folder, patience=0.1):
    ...     pass
    Traceback (most recent call last):
    ...
    ValueError: Another run, or a script that it has started, is at work in ...
    """
    path = pathlib.Path(folder)
    check_folder(path)
    if _is_own(path):
        yield None
        return
    with _open(path) as descriptor:
        begun = time.monotonic()
        said = False
        while not _lock(descriptor, folder):
            waited = time.monotonic() - begun
            if waited > SILENCE and not said:
                logger.warning(f"Another run is at work in {folder}: waiting.")
                said = True
            if waited > patience:
                raise ValueError(
                    "Another run, or a script that it has started, is at work "
                    f"in {folder}: wait for its end, or give another folder."
                )
            time.sleep(0.1)
        remove_leftovers(path)
        yield descriptor


def _is_own(folder):
    """Whether this process, or its pipeline, has the lock of a folder."""
    return os.path.realpath(folder) in {*_claimed, os.environ.get(HELD)}


@contextlib.contextmanager
def _open(folder):
    """What is locked: the folder itself, which nobody deletes by mistake; a
    file in it where a folder cannot be locked, such as on NFS."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError:
        os.close(descriptor)
        descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
        with contextlib.suppress(OSError):  # it is another's, who has done so
            os.fchmod(descriptor, 0o666)
    try:
        yield descriptor
    finally:
        with contextlib.suppress(OSError):  # closed in a child
            os.close(descriptor)


def _lock(descriptor, folder):
    """Whether nobody else has the lock."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        # Such as Lustre without its option flock
        logger.warning(
            f"{folder} cannot be locked ({error.strerror}): start no second "
            "run there while this one is at work."
        )
    return True


def claim(folder):
    """Keeps other runs away from an output folder, to the end of this process
    or to ``release_all``; claimed twice, it stays claimed. What a run that was
    killed has left half written is removed from the folders below it, too, if
    the last run has not ended well, as a large folder takes long to search.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.

    Raises
    ------
    ValueError
        If another run is at work there, and stays.
    """
    folder = os.path.realpath(folder)
    if not _is_own(folder):
        _descriptors.append(_claims.enter_context(locked(folder)))
        _claimed.add(folder)
        unfinished = pathlib.Path(folder, UNFINISHED)
        if unfinished.exists():
            remove_leftovers(folder, below=True)
        unfinished.touch()


def release_all(well=False):
    """Gives up what this process has claimed.

    Arguments
    ---------
    well : bool
        Whether all has gone well: nothing is left half written then.
    """
    for folder in _claimed if well else ():
        pathlib.Path(folder, UNFINISHED).unlink(missing_ok=True)
    _descriptors.clear()
    _claimed.clear()
    _claims.close()


def _drop_in_child():
    # Workers that read audio outlive a killed run by seconds: they have no
    # part in the lock. To close it here leaves it to the parent.
    for descriptor in _descriptors:
        os.close(descriptor)
    _descriptors.clear()


os.register_at_fork(after_in_child=_drop_in_child)
