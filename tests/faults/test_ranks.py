"""Two processes of torchrun, of which one is lost."""

import os
import pathlib
import re
import signal
import sys
import time

import commands
import faults
import pytest
from recipe import TORCHRUN

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks for processes in /proc"
)

IMPATIENT = [pathlib.Path(__file__).with_name("impatient.py"), 5]


# 72 samples: 36 for each process, 7 batches and a rest
FLAGS = {"batch_size": 5, **commands.RANKS}


def test_a_killed_rank_ends_the_run(speech, tmp_path):
    log = tmp_path / "log.txt"
    command = commands.train(speech, tmp_path / "run", **FLAGS)
    outcome = faults.strike(
        [*TORCHRUN, *command],
        faults.Fault("rank", signal.SIGKILL, 0),
        log,
        ready=lambda: faults.in_epoch(log, 1),
    )
    assert outcome.struck, outcome.output
    assert outcome.code, outcome.output
    assert not outcome.trouble


def test_a_lost_rank_ends_the_run_and_loses_nothing(
    speech, tmp_path, request, record_property
):
    """Killed; stopped; then the run is asked to end. Shards are uneven."""
    if not request.config.getoption("kills"):
        pytest.skip("takes minutes: give --kills=1 or more")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (outcome,) = faults.harass(
        [*TORCHRUN, *commands.train(speech, whole, **FLAGS)],
        tmp_path / "logs",
        faults=None,
        kills=0,
    )
    assert outcome.code == 0, outcome.output
    command = commands.train(speech, killed, **FLAGS)
    command = [*TORCHRUN, *IMPATIENT, *command]
    log = tmp_path / "log.txt"

    outcome = faults.strike(
        command,
        faults.Fault("rank", signal.SIGKILL, 0),
        log,
        ready=lambda: faults.in_epoch(log, 1),
    )
    assert outcome.code, outcome.output
    assert not outcome.trouble

    output, witnesses = _stop_a_rank(command, log)
    assert "has ended, or does not answer" in output
    assert not any(witness.alive() for witness in witnesses)

    outcome = faults.strike(
        command,
        faults.Fault("command", signal.SIGTERM, 0),
        log,
        ready=lambda: faults.in_epoch(log, 3),
    )
    assert outcome.code, outcome.output
    assert not outcome.trouble
    assert re.search(r"Saved after step \d of epoch 3", outcome.output)
    assert "Ended by SIGTERM" in outcome.output

    (outcome,) = faults.harass(command, tmp_path / "last", None, 0)
    assert outcome.code == 0, outcome.output
    assert faults.compare(killed, whole) == []
    kinds = ["SIGKILL to rank", "SIGSTOP to rank", "SIGTERM to torchrun"]
    record_property("kills", [(kind, True, 0) for kind in kinds])


def _stop_a_rank(command, log):
    """Stops one in an epoch until the other one has given up."""
    with open(log, "w") as file:
        process = faults.start(command, file)
        while not faults.in_epoch(log, 2):
            time.sleep(0.05)
        witnesses = faults.family(process.pid)
        stopped, other = faults.roles(process.pid)["rank"]
        os.kill(stopped.pid, signal.SIGSTOP)
        while other.alive():
            time.sleep(0.1)
        # torchrun has asked it to end by now or will, and would kill it at
        # last: that takes it half a minute.
        time.sleep(1)
        os.kill(stopped.pid, signal.SIGCONT)
        assert process.wait(faults.SILENT_SECONDS)
    return log.read_text(), witnesses
