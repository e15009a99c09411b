"""Killed at random moments, a run ends as if it was not.

A few kills of stage I; and of a whole pipeline, with two iterations, as many
as you like: pytest tests/faults --kills=100 --fault-seed=1
"""

import random
import re
import signal
import sys

import commands
import faults
import pytest

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks for processes in /proc"
)

# Kills of one run, before it may come to its end
KILLS = 8

# Seconds from the start in which a command is killed: some of the scripts of
# the pipeline, from their first import on.
SPAN = 12

TARGETS = {
    1: ["command", "script", "worker", "all"],
    2: ["command", "torchrun", "rank", "worker", "all"],
}


def pytest_generate_tests(metafunc):
    if "number" in metafunc.fixturenames:
        runs = -(-metafunc.config.getoption("kills") // KILLS)
        metafunc.parametrize("number", range(runs))


@pytest.fixture(scope="module")
def undisturbed(speech, tmp_path_factory):
    """A function: the folder of a pipeline of so many processes."""
    folders = {}

    def run(processes):
        if processes not in folders:
            folder = tmp_path_factory.mktemp(f"undisturbed{processes}")
            command = commands.pipeline(speech, folder / "run", processes)
            (outcome,) = faults.harass(command, folder / "logs", None, 0)
            assert outcome.code == 0, outcome.output
            folders[processes] = folder / "run"
        return folders[processes]

    return run


def judge(outcomes, folder, expected):
    """A row of the table for each kill, and what is wrong, if anything is."""
    differences = faults.compare(folder, expected)
    end = outcomes[-1]
    wrong = [f"{o.fault}: {o.trouble}" for o in outcomes if o.trouble]
    if end.code:
        wrong.append(f"The last start ended with {end.code}: {end.output}")
    if differences:
        wrong.append(f"{[str(o.fault) for o in outcomes]}: {differences}")
    rows = [
        (
            str(outcome.fault),
            end.code == 0 and not outcome.trouble,
            len(differences),
        )
        for outcome in outcomes
        if outcome.struck
    ]
    return rows, wrong


def test_stage_1_ends_as_if_it_was_not_killed(
    speech, tmp_path, record_property
):
    """A data worker, then the script at random, then all amid an epoch."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (outcome,) = faults.harass(
        commands.train(speech, whole), tmp_path / "logs", None, 0
    )
    assert outcome.code == 0, outcome.output
    command, log = commands.train(speech, killed), tmp_path / "log.txt"
    delay = random.Random(0).uniform(3, 6)
    outcomes = [
        faults.strike(
            *(command, faults.Fault("worker", signal.SIGKILL, 0), log),
            ready=lambda: faults.in_epoch(log, 1),
        ),
        faults.strike(
            command, faults.Fault("command", signal.SIGKILL, delay), log
        ),
        faults.strike(
            # Without checkpoints within an epoch but for the signal's
            commands.train(speech, killed, ckpt_interval_steps=0),
            faults.Fault("all", signal.SIGTERM, 0),
            log,
            ready=lambda: faults.in_epoch(log, 3),
        ),
    ]
    assert "Another process of this run has ended" in outcomes[0].output
    asked = outcomes[2]
    assert asked.code == 128 + signal.SIGTERM, asked.output
    assert asked.output.splitlines()[-1].endswith(
        "Ended by SIGTERM: the same command goes on from there."
    )
    assert "Traceback" not in asked.output
    assert re.search(r"Saved after step \d+ of epoch 3", asked.output)
    outcomes += faults.harass(command, tmp_path / "last", None, 0)
    assert "Resumed from a checkpoint" in outcomes[-1].output
    rows, wrong = judge(outcomes, killed, whole)
    record_property("kills", rows)
    assert not wrong, "\n".join(wrong)
    assert len(rows) == 3


def test_pipeline_killed_at_random(
    speech, undisturbed, number, request, tmp_path, record_property
):
    """Every third run with two processes."""
    processes = 2 if number % 3 == 2 else 1
    expected = undisturbed(processes)
    seed = f"{request.config.getoption('fault_seed')} {number}"
    outcomes = faults.harass(
        commands.pipeline(speech, tmp_path / "run", processes),
        tmp_path / "logs",
        faults.draw(seed, TARGETS[processes], SPAN),
        KILLS,
    )
    rows, wrong = judge(outcomes, tmp_path / "run", expected)
    record_property("kills", rows)
    assert not wrong, "\n".join(wrong)
