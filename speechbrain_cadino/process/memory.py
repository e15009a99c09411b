"""Memory settings that make CPU training fast, and how much memory there is."""

import contextlib
import ctypes
import os
import pathlib
import platform

# The control groups of this process, where they are mounted, and which file has
# the limit of one: of version 2, which names no controller, and of version 1
GROUPS = pathlib.Path("/proc/self/cgroup")
MOUNTED = pathlib.Path("/sys/fs/cgroup")
LIMITS = {"": "memory.max", "memory": "memory.limit_in_bytes"}

# Parameters of mallopt(3), from glibc's malloc.h.
M_TRIM_THRESHOLD = -1
M_MMAP_MAX = -4


def keep_freed_memory():
    """Tells glibc's malloc to keep freed memory for the next allocation.

    By default it gives every large activation back to the kernel when it is
    freed, and the next step pays for fresh, zeroed pages: a tenth of a training
    step of this package's ECAPA-TDNN on a CPU, more of one that makes more
    temporaries. The settings hold for this process, and do nothing where
    malloc is not glibc's.

    Example
    -------
    >>> keep_freed_memory()
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, -1)


def memory_here():
    """How much memory this process may take.

    Returns
    -------
    int
        Bytes: those of the machine, or fewer where it, such as a job of SLURM,
        runs in a control group of Linux with a limit.

    Example
    -------
    >>> memory_here() > 2**20
    True
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _limit_files():
        with contextlib.suppress(OSError, ValueError):  # none, or "max"
            memory = min(memory, int(path.read_text()))
    return memory


def _limit_files():
    """Where limits of this process may be: of its groups, and those above."""
    try:
        lines = GROUPS.read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, group = line.split(":", 2)
        name = LIMITS.get(controllers)
        if name is not None:
            root = MOUNTED / controllers
            folder = root / group.lstrip("/")
            for above in [folder, *folder.parents]:
                if above == MOUNTED.parent:
                    break
                yield above / name
