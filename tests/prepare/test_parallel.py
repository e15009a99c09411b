import multiprocessing
import os
import pathlib
import sys
import threading
import time

import forked
import pytest

from speechbrain_cadino.prepare import parallel

# A pool whose parent dies once its first worker is there
PARENT = """
import os, signal, sys, time
from speechbrain_cadino.prepare import parallel

def work(number):
    open(f"{sys.argv[1]}/{os.getpid()}", "w").close()
    time.sleep(3600)

parallel.in_parallel(work, range(4), chunk=1, description="", num_workers=4)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_workers_end_with_their_parent(tmp_path):
    process = forked.start("-c", PARENT, tmp_path)
    deadline = time.monotonic() + forked.LONGEST
    while len(list(tmp_path.iterdir())) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    workers = [int(path.name) for path in tmp_path.iterdir()]
    assert len(workers) == 4
    process.kill()
    process.join()
    deadline = time.monotonic() + forked.LONGEST
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(map(is_running, workers))


def is_running(number):
    try:
        os.kill(number, 0)
        state = pathlib.Path(f"/proc/{number}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def test_a_process_that_may_have_no_children_does_it_itself():
    """As that of a data loader, or of a service."""
    with multiprocessing.get_context("fork").Pool(1) as pool:
        options = {"chunk": 1, "description": "Powers"}
        found = pool.apply(parallel.in_parallel, (pow, [2, 3], [3, 2]), options)
    assert found == [8, 9]


def test_a_worker_that_is_killed_is_one_sentence():
    with pytest.raises(ChildProcessError, match=r"Work: .* take fewer CPUs"):
        parallel.in_parallel(os._exit, [3], chunk=1, description="Work")


def test_questions_to_a_disk_are_asked_at_once_and_answered_in_order():
    asked = set()

    def ask(item):
        asked.add(threading.get_ident())
        time.sleep(0.001)
        return -item

    assert parallel.in_threads(ask, range(1000)) == [-i for i in range(1000)]
    assert len(asked) > 2
    with pytest.raises(ZeroDivisionError):
        parallel.in_threads(lambda item: 1 / (item - 700), range(1000))
