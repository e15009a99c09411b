"""Real processes, really signalled."""

import os
import signal
import subprocess
import sys
import time

import forked
import pytest
import torch

from speechbrain_cadino.process.files import _is_alive as is_alive
from speechbrain_cadino.process.ranks import (
    own_rank,
    shield_worker,
    worth_while,
)

linux = pytest.mark.skipif(sys.platform != "linux", reason="Linux's signals")


def test_a_task_of_a_scheduler_is_no_rank(monkeypatch):
    """Runs that know nothing of each other may be tasks of one srun."""
    monkeypatch.setenv("SLURM_PROCID", "3")
    assert own_rank() == 0


# A child that tells its number and sleeps, and its parent, which waits.
PARENT = """
import os, signal, time
from speechbrain_cadino.process.ranks import follow_parent

if os.fork():
    os.wait()
else:
    follow_parent(signal.SIGTERM)
    print(os.getpid(), flush=True)
    time.sleep(60)
"""


@linux
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("method", ["fork", forked.SERVER])
def test_only_its_parent_ends_a_data_worker(number, method):
    loader = torch.utils.data.DataLoader(
        forked.Numbers(),
        num_workers=1,
        worker_init_fn=shield_worker,
        multiprocessing_context=method,
    )
    batches = iter(loader)
    worker = next(batches).item()
    assert worker != os.getpid()
    # Another process than its parent
    kill = f"import os; os.kill({worker}, {number.value})"
    subprocess.run([sys.executable, "-c", kill], check=True)
    assert [batch.item() for batch in batches] == [worker] * 59

    batches = iter(loader)
    worker = next(batches).item()
    os.kill(worker, signal.SIGTERM)  # as multiprocessing does at the end
    # What the loader says of it depends on what it was about to fetch.
    with pytest.raises((RuntimeError, OSError, EOFError)):
        list(batches)


def test_processes_of_torchrun_share_the_processors(monkeypatch):
    monkeypatch.setattr(
        os, "sched_getaffinity", lambda pid: range(16), raising=False
    )
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert worth_while(100) == 16
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "8")
    assert worth_while(100) == 2
    assert worth_while(1) == 1


@linux
def test_a_follower_ends_with_its_parent(tmp_path):
    deadline = time.monotonic() + 60
    output = tmp_path / "output"
    output.touch()
    parent = forked.start("-c", PARENT, output=output)
    while not forked.said(parent).endswith("\n"):
        assert parent.is_alive(), forked.said(parent)
        time.sleep(0.01)
    child = int(forked.said(parent))
    assert is_alive(child)
    parent.kill()
    parent.join()
    while is_alive(child):
        assert time.monotonic() < deadline
        time.sleep(0.01)
