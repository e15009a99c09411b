"""Parallel work: a function over many files, in processes, with a bar."""

import multiprocessing
import os
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.pool import ThreadPool

from tqdm import tqdm

from speechbrain_cadino.process.ranks import follow_parent, own_processors

# Questions to a disk at once; of fewer files, no thread is worth its start
THREADS = 32
FEW = 256

# What each process is handed, of many, one by one
PORTIONS = 32

# Where processes are not forked, each of them runs the script first
UNGUARDED = (
    " Or it is a script of yours that calls this outside of "
    '`if __name__ == "__main__":`, where it belongs.'
)


def in_parallel(function, *arguments, chunk, description, num_workers=None):
    """Calls a function on each item, in order, in several processes.

    Threads were measured too: for reading headers, which is mostly Python,
    they are no faster than one.

    Arguments
    ---------
    function : callable
        A function of a module, so that other processes find it.
    *arguments : list
        One list for each argument of the function, of one length.
    chunk : int
        The most calls to hand to a process at once: of few, which may be long,
        none waits for others.
    description : str
        The text of the progress bar.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default, and never
        more than there are chunks.

    Returns
    -------
    list
        The result of the function for each item.

    Raises
    ------
    ChildProcessError
        If one of the processes was killed.
    ValueError
        If their number is below 0.

    Example
    -------
    >>> in_parallel(pow, [2, 3], [3, 2], chunk=1, description="Powers")
    [8, 9]
    """
    if num_workers is not None and num_workers < 0:
        raise ValueError(f"num_workers={num_workers}: give 0 or more.")
    count = len(arguments[0])
    if multiprocessing.current_process().daemon:  # which may have no children
        return [*map(function, *arguments)]
    workers = num_workers or own_processors(1)
    # Forks follow their parent, others the server that has made them
    method = "fork" if sys.platform == "linux" else None
    if method:  # others import all anew, for seconds: too much for a few calls
        chunk = min(chunk, max(1, count // (PORTIONS * workers)))
    chunks = -(-count // chunk)
    if not method and chunks == 1:
        items = tqdm(zip(*arguments), description, count, unit="file", delay=1)
        return [function(*item) for item in items]
    with (
        ProcessPoolExecutor(
            max(1, min(workers, chunks)),
            multiprocessing.get_context(method),
            initializer=follow_parent,  # else it would wait for ever
            initargs=[signal.SIGKILL, os.getpid()],
        ) as pool,
        tqdm(total=count, desc=description, unit="file", delay=1) as bar,
    ):
        results = []
        try:
            for result in pool.map(function, *arguments, chunksize=chunk):
                results.append(result)
                bar.update()
        except BrokenProcessPool as error:
            raise ChildProcessError(
                f"{description}: a process was killed, most likely because "
                "memory ran out: close other programs, or take fewer CPUs "
                "(on Linux taskset -c 0-3 before the command, or "
                "--num_workers where it has one), and start it again."
                + UNGUARDED
                * (method is None)
            ) from error
        return results


def in_threads(function, items):
    """Calls a function that waits for a disk on each item, in order, with a
    bar: one of a network takes long for each answer, and gives many at once.

    Arguments
    ---------
    function : callable
        The function of an item.
    items : list
        The items.

    Returns
    -------
    list
        The result of the function for each item.

    Example
    -------
    >>> in_threads(os.path.isdir, [".", "nowhere"])
    [True, False]
    """
    bar = {
        "total": len(items),
        "desc": "Looking at files",
        "unit": "file",
        "delay": 1,
    }
    if len(items) < FEW:
        return [function(item) for item in tqdm(items, **bar)]
    with ThreadPool(THREADS) as pool:
        return [*tqdm(pool.imap(function, items, chunksize=64), **bar)]
