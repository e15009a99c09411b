"""Memory settings that make CPU training fast, and how much memory there is."""

import contextlib
import ctypes
import os
import pathlib
import platform

# What a job may take at most, where it runs in a control group
LIMIT_FILE = pathlib.Path("/sys/fs/cgroup/memory.max")

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
        Bytes: those of the machine, or fewer where it runs in a control group
        with a limit.

    Example
    -------
    >>> memory_here() > 2**20
    True
    """
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # none, or "max"
        memory = min(memory, int(LIMIT_FILE.read_text()))
    return memory
