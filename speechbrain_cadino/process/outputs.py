"""Places of results: what is checked before the work."""

import os
import pathlib
import tempfile

from speechbrain_cadino.process.files import FULL, HOST, is_temporary


def holds_something(path):
    """Whether anything would be lost if a folder took this place.

    Arguments
    ---------
    path : str or pathlib.Path
        The place.

    Returns
    -------
    bool
        Whether anything would; not if there is nothing, or a folder that is
        empty or holds only what killed processes have not finished.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / ".a.00000000-9.tmp").touch()
    >>> holds_something(folder), holds_something(folder / "a")
    (False, False)
    >>> (folder / "a").touch()
    >>> holds_something(folder), holds_something(folder / "a")
    (True, True)
    """
    path = pathlib.Path(path)
    if not path.is_dir():
        return path.exists()
    return not all(is_temporary(inner.name) for inner in path.iterdir())


def check_folder(folder, advice="give another place for the results"):
    """Makes a folder; raises before the work if nothing can be put there.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    advice : str
        The remedy, for the error.

    Raises
    ------
    OSError
        If so. Of a full disk, that of the system.

    Example
    -------
    >>> path = getfixture("tmp_path") / "a.txt"
    >>> path.touch()
    >>> check_folder(path)
    Traceback (most recent call last):
    ...
    OSError: Nothing can be written into ...a.txt (File exists): give another...
    """
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        # Killed right now where disks show it, it is known as one of ours
        end = f".{HOST}-{os.getpid()}.tmp"
        tempfile.TemporaryFile(dir=folder, prefix=".", suffix=end).close()
    except OSError as error:
        if error.errno in FULL:
            raise
        raise OSError(
            f"Nothing can be written into {folder} ({error.strerror}): "
            f"{advice}."
        ) from error


def check_only(folder, is_own):
    """Raises if a folder that is to be removed holds what is not ours.

    Arguments
    ---------
    folder : pathlib.Path
        The folder, which may not be there.
    is_own : callable
        Whether a name in it is one of ours. Hidden ones are: half of a file
        that was being written.

    Raises
    ------
    ValueError
        Naming the first that is not.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> (folder / "mine.wav").touch()
    >>> check_only(folder, lambda name: name.endswith(".npy"))
    Traceback (most recent call last):
    ...
    ValueError: ...mine.wav was not made here, and would be removed: move ...
    """
    for path in sorted(folder.glob("*")):
        if not (path.name.startswith(".") or is_own(path.name)):
            raise ValueError(
                f"{path} was not made here, and would be removed: move it, or "
                "give another output folder."
            )


def check_inputs_stay(inputs, outputs):
    """Raises if a file that is read would be replaced by what is made of it.

    Arguments
    ---------
    inputs : list
        The inputs: paths, and None or tables, which are no files.
    outputs : list of pathlib.Path
        The files to write.

    Raises
    ------
    ValueError
        Naming it.

    Example
    -------
    >>> check_inputs_stay(["a/x.csv", None], [pathlib.Path("b/x.csv")])
    >>> check_inputs_stay(["a/x.csv"], [pathlib.Path("a/../a/x.csv")])
    Traceback (most recent call last):
    ...
    ValueError: a/x.csv is read, and would be replaced by what is made of it...
    """
    written = {os.path.realpath(path) for path in outputs}
    for path in inputs:
        is_path = isinstance(path, (str, os.PathLike))
        if is_path and os.path.realpath(path) in written:
            raise ValueError(
                f"{path} is read, and would be replaced by what is made of it: "
                "give another output."
            )
