"""Killed at random moments, a run ends as if it was not.

As many as you like of a whole pipeline, with two iterations, a fifth as many
of each single script, and a few of stage I, which take minutes:
pytest tests/faults --kills=100 --fault-seed=1
"""

import random
import re
import shutil
import signal
import sys
import time

import commands
import faults
import pandas as pd
import pytest
import soundfile
from recipe import script

from speechbrain_cadino.prepare.folder import prepare_folder

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


# Single scripts: see commands.scripts
SCRIPTS = [
    "prepare",
    "convert",
    "extract",
    "cluster",
    "export",
    "verify",
    "finetune",
    "report",
    "filter",
]


def pytest_generate_tests(metafunc):
    kills = metafunc.config.getoption("kills")
    if "number" in metafunc.fixturenames:
        metafunc.parametrize("number", range(-(-kills // KILLS)))
    if "single" in metafunc.fixturenames:
        metafunc.parametrize("single", SCRIPTS if kills else [])


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
    speech, tmp_path, request, record_property
):
    """A data worker, then the script at random, then all amid an epoch."""
    if not request.config.getoption("kills"):
        pytest.skip("takes minutes: give --kills=1 or more")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    (outcome,) = faults.harass(
        commands.train(speech, whole), tmp_path / "logs", None, 0
    )
    assert outcome.code == 0, outcome.output
    command, log = commands.train(speech, killed), tmp_path / "log.txt"
    delay = random.Random(0).uniform(3, 6)
    outcomes = [
        faults.strike(
            command,
            faults.Fault("worker", signal.SIGKILL, 0),
            log,
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


@pytest.fixture(scope="module")
def scripts(speech, encoder_folder, tmp_path_factory):
    """From an output folder to a command line, by name."""
    folder = tmp_path_factory.mktemp("scripts")
    foreign = folder / "foreign"
    foreign.mkdir()
    for path in sorted(speech.rglob("*.wav"))[:24]:
        signal, _ = soundfile.read(path)
        name = "_".join(path.parts[-3:])
        soundfile.write(foreign / name, signal, 22050)
    prepare_folder(speech, folder, min_duration=0.1)
    manifest = folder / "train.csv"
    table = pd.read_csv(manifest, dtype=str)
    table["spk_id"] = table["ID"].str.split("/").str[1]
    labels = folder / "labels.csv"
    table.to_csv(labels, index=False)
    gated = folder / "gated"
    flags = {**commands.STAGE_2, "data_folder": speech, "output_folder": gated}
    training = script(
        "train_dlg_lc.py",
        "small_dlg_lc.yaml",
        **{**flags, "train_manifest": labels},
    )
    (outcome,) = faults.harass(training, folder / "logs", None, 0)
    assert outcome.code == 0, outcome.output

    def trained(output):
        if not output.exists():
            shutil.copytree(gated, output)
        return output

    return commands.scripts(
        speech, foreign, encoder_folder, manifest, labels, trained
    )


def test_a_script_killed_at_random(
    scripts, single, request, tmp_path, record_property
):
    """At any moment of as long as it takes, from its first import on."""
    kills = -(-request.config.getoption("kills") // 5)
    seed = f"{request.config.getoption('fault_seed')} {single}"
    # The same name for each run: it may be in their files
    folder, logs, rows = tmp_path / "run", tmp_path / "logs", []
    begin = time.monotonic()
    (outcome,) = faults.harass(scripts[single](folder), logs, None, 0)
    assert outcome.code == 0, outcome.output
    whole = folder.rename(tmp_path / "whole")
    targets = ["command", "all"]
    if single not in ("export", "verify", "report"):
        targets.append("worker")
    draws = faults.draw(seed, targets, time.monotonic() - begin)
    record_property("kills", rows)  # as far as they come
    while len(rows) < kills:
        outcomes = faults.harass(
            scripts[single](folder), logs, draws, min(KILLS, kills - len(rows))
        )
        found, wrong = judge(outcomes, folder, whole)
        rows += [(f"{kind}, {single}", *rest) for kind, *rest in found]
        assert not wrong, "\n".join(wrong)
        shutil.rmtree(folder)
