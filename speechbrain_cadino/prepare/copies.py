"""Copies that are made once and for all: converted audio, frames of videos.

Each says which file it was made of, and takes the place of no other file.
"""

import os

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.prepare.parallel import in_parallel
from speechbrain_cadino.process.files import state_of

logger = get_logger(__name__)

# Files that are many
MANY = 10_000

# How the comment of a copy begins, and the problem of what is no such copy
COPY_OF = "Made by speechbrain_cadino of "
IN_THE_WAY = "In the way: "


def make_copies(make, sources, targets, doing, advice, num_workers=None):
    """Makes a copy of each file, in parallel.

    Arguments
    ---------
    make : callable
        A function of a module, from a source and its target to why it failed,
        an empty text if it did not: of ``in_the_way`` where the target is of
        others.
    sources : list of str
        The N files.
    targets : list of str
        The copy of each.
    doing : str
        The word for it, beside the progress bar.
    advice : str
        The remedy where a target is of others, for the error.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.

    Returns
    -------
    list of str
        The reason why each source failed; an empty text if it did not.

    Raises
    ------
    ValueError
        If something would be replaced that is of others.
    """
    failures = in_parallel(
        make,
        sources,
        targets,
        # Long ones are few; of many, what waits fills the memory
        chunk=8 if len(sources) > MANY else 1,
        description=doing,
        num_workers=num_workers,
    )
    others = [text for text in failures if text.startswith(IN_THE_WAY)]
    if others:
        raise ValueError(
            f"{others[0].removeprefix(IN_THE_WAY)}, and would be replaced"
            + (f", as would {len(others) - 1} more" if others[1:] else "")
            + f": {advice}."
        )
    done = sum(not failure for failure in failures)
    logger.info(f"{doing}: {done} of {len(sources)} files are done.")
    return failures


def comment_of(source):
    """What a copy says of its source.

    Arguments
    ---------
    source : str or pathlib.Path
        The file.

    Returns
    -------
    str
        The path, size and time of the source.
    """
    text = f"{COPY_OF}{os.path.realpath(source)}: {state_of(source)}"
    # A folder above it may have a name that is not in UTF-8
    return text.encode("utf-8", "backslashreplace").decode()


def is_copy(found, made_of):
    """Whether a copy is that of a source, which may lie somewhere else now.

    Arguments
    ---------
    found : str
        The comment of what is there; None if nothing is.
    made_of : str
        The comment that it is to have: see ``comment_of``.

    Returns
    -------
    bool
        Whether it is; of another path only if no other file is there, and the
        file was of the same name, size and time.

    Example
    -------
    >>> old, new = (f"{COPY_OF}/scratch/{n}/a.m4a: 9 7" for n in (1, 2))
    >>> is_copy(old, new), is_copy(old, new.replace("9", "8"))
    (True, False)
    """
    if found == made_of or found is None or not found.startswith(COPY_OF):
        return found == made_of
    (path, state), (own, now) = map(_source_of, (found, made_of))
    same = state == now and os.path.basename(path) == os.path.basename(own)
    return same and not _is_another(path, own)


def _source_of(comment):
    """The path that a comment of ``comment_of`` tells, and the state."""
    return comment.removeprefix(COPY_OF).rpartition(": ")[::2]


def _is_another(path, own):
    """Whether there is a file, and it is not this one: a link may lead there
    from the place where it was before."""
    try:
        return not os.path.samefile(path, own)
    except OSError:  # gone, or of a name that is not in UTF-8
        return path != own and os.path.exists(path)


def in_the_way(target, found, made_of):
    """Why a target must not be replaced.

    Arguments
    ---------
    target : str or pathlib.Path
        The target.
    found : str
        The comment of what is there; None if nothing is.
    made_of : str
        The comment that it is to have: see ``comment_of``.

    Returns
    -------
    str
        The reason, for ``make_copies``; empty if it may be replaced.
    """
    if found is None:
        return ""
    if not found:
        return (
            f"{IN_THE_WAY}{target} does not say what it was made of (a copy of "
            "a version before 0.3 is to be removed)"
        )
    if not found.startswith(COPY_OF):
        return f"{IN_THE_WAY}{target} is no copy that was made here"
    path, own = (_source_of(text)[0] for text in (found, made_of))
    if _is_another(path, own):
        return f"{IN_THE_WAY}{target} was made of {path}"
    return ""


def require_av(why):
    """Makes sure that PyAV is installed.

    Arguments
    ---------
    why : str
        The reason: what has to be done, and to which files.

    Raises
    ------
    ImportError
        If it is not.
    """
    if not has_av():
        raise ImportError(
            f"{why}, and PyAV, which does it, is not installed: "
            'pip install "speechbrain_cadino[convert]"'
        )


def has_av():
    """Whether PyAV is installed.

    Returns
    -------
    bool
        Whether it is; a mere folder of its name does not count.
    """
    try:
        import av
    except ImportError:
        return False
    return hasattr(av, "open")  # which a folder of that name has not


def decodable(packets, source):
    """The frames of a file that can be decoded: all but those of damaged
    packets, up to where it was cut short, which a warning says.

    Arguments
    ---------
    packets : iterator of av.Packet
        The packets of one stream of the file, as ``demux`` of PyAV gives them.
    source : str or pathlib.Path
        The file.

    Yields
    ------
    av.AudioFrame or av.VideoFrame
        The decoded frames, in the order of the packets.

    Raises
    ------
    av.FFmpegError
        If there is none.
    """
    import av

    some, damage = False, None
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError as error:
            packet, damage = None, error
        if packet is None:
            break
        try:
            for frame in packet.decode():
                some = True
                yield frame
        except av.FFmpegError as error:  # of many kinds, even EPERM
            damage = error
    if damage is not None and not some:
        raise damage
    if damage is not None:
        logger.warning(
            f"{source} is damaged or cut short: what can be read of it is "
            "taken.",
            main_process_only=False,
        )
