"""Two runs of the real scripts in one output folder."""

import os
import signal
import time

import forked
import pytest
from recipe import TINY_STAGE_1, script


@pytest.fixture
def training(speech, tmp_path):
    """The flags of a training that is under way, and its process."""
    flags = {
        **TINY_STAGE_1,
        "data_folder": speech,
        "output_folder": tmp_path / "run",
        "number_of_epochs": 2,
        "num_workers": 1,
        "speeds": "[1.0]",
        "final_map": None,
    }
    process = forked.start(
        *script("train_dino.py", "small_dino.yaml", **flags),
        output=tmp_path / "output",
    )
    deadline = time.time() + forked.LONGEST
    while not (tmp_path / "run" / "save").exists():
        assert process.is_alive(), forked.said(process)
        assert time.time() < deadline
        time.sleep(0.01)
    yield flags, process
    process.kill()
    process.join()


def test_the_second_is_refused_and_the_first_goes_on(
    training, speech, run_script, tmp_path
):
    flags, process = training
    folder = flags["output_folder"]
    # For as long as we like
    os.kill(process.pid, signal.SIGSTOP)
    others = {"data_folder": speech, "output_folder": folder}
    nowhere = {**others, "encoder": "nowhere", "manifest": "nowhere.csv"}
    labelled = {**others, "train_manifest": folder / "save" / "train.csv"}
    unknown = {**others, "train_manifest": "no.csv", "speakers": "no.csv"}
    untried = {**others, "encoder": "nowhere", "trials": "no.txt"}
    second = [
        script("train_dino.py", "small_dino.yaml", **flags),
        script("finetune.py", "small_finetune.yaml", **unknown),
        script("extract.py", "extract.yaml", **nowhere),
        script("pseudo_label.py", "pseudo_label.yaml", **nowhere),
        script("verify.py", "verify.yaml", **untried),
    ]
    before = sorted(folder.rglob("*"))
    refused = [
        forked.start(*command, output=tmp_path / str(number))
        for number, command in enumerate(second)
    ]
    on_two = script("train_dlg_lc.py", "small_dlg_lc.yaml", **labelled)
    gloo = ["--device=cpu", "--distributed_backend=gloo"]
    ended = [run_script(*on_two, *gloo, ranks=2)]
    for other in refused:
        other.join()
        ended.append((other.exitcode, forked.said(other)))
    for code, output in ended:
        assert code == 1, output
        assert f"is at work in {folder}: wait for its end" in output
    assert sorted(folder.rglob("*")) == before
    os.kill(process.pid, signal.SIGCONT)
    process.join()
    assert process.exitcode == 0, forked.said(process)


def test_a_run_that_was_killed_does_not_keep_the_next_one_away(
    training, run_script
):
    """Though its workers live on for some seconds."""
    flags, process = training
    log = flags["output_folder"] / "train_log.txt"
    while not log.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    code, output = run_script(
        *script("train_dino.py", "small_dino.yaml", **flags)
    )
    assert code == 0, output
