"""Parts of a work, for jobs of any scheduler that know nothing of each other.

Each has a number, and leaves what it has made beside the others: the job that
finishes last joins it. No process waits for another one.
"""

import itertools
import re

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# A part that finishes while another one joins waits for it so long.
JOINING = 24 * 3600  # seconds

# Beside the name of a part that is none of this work
OTHER = " (there is one of other files or settings)"


def read_part(part):
    """Which part of how many.

    Arguments
    ---------
    part : str
        The part, such as "3/8".

    Returns
    -------
    int, int
        The part, counted from 1, and the number of parts.

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


def part_name(number, parts):
    """What the files of a part are called.

    Arguments
    ---------
    number : int
        The part, counted from 1.
    parts : int
        The number of parts.

    Returns
    -------
    str
        The name, such as ``part_3_of_8``.

    Example
    -------
    >>> part_name(3, 8)
    'part_3_of_8'
    """
    return f"part_{number}_of_{parts}"


def stretches(count, parts):
    """Where parts of equal length begin and end.

    Arguments
    ---------
    count : int
        The number of things.
    parts : int
        The number of parts.

    Returns
    -------
    list of tuple
        The first thing of each part, and the one after its last.

    Example
    -------
    >>> stretches(10, 3)
    [(0, 3), (3, 6), (6, 10)]
    """
    edges = [count * i // parts for i in range(parts + 1)]
    return list(itertools.pairwise(edges))


def check_parts(part, count, things):
    """Raises if there are more parts than things.

    Arguments
    ---------
    part : str
        See ``read_part``.
    count : int
        The number of things.
    things : str
        The word for the things, for the message.

    Example
    -------
    >>> check_parts("1/8", 5, "recordings")
    Traceback (most recent call last):
    ...
    ValueError: --part=1/8: 5 recordings do not make 8 parts.
    """
    _, parts = read_part(part)
    if parts > count:
        raise ValueError(
            f"--part={part}: {count} {things} do not make {parts} parts."
        )


def say_missing(part, missing):
    """Says which parts are to come.

    Arguments
    ---------
    part : str
        The part that is done.
    missing : list of str
        The names of the parts that are not.
    """
    logger.info(
        f"Part {part} is done; to come: {', '.join(missing[:8])}"
        f"{' and more' if len(missing) > 8 else ''}. Start those that do not "
        "run."
    )
