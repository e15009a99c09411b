"""Two runs of the real scripts in one output folder."""

import signal
import subprocess
import sys
import time

import pytest
from recipe import TINY_STAGE_1, TORCHRUN, script


def command(name, yaml, *launcher, **flags):
    return [sys.executable, *launcher, *script(name, yaml, **flags)]


@pytest.fixture
def training(speech, tmp_path):
    """The flags of a training that is under way, and its process."""
    flags = {
        **TINY_STAGE_1,
        "data_folder": speech,
        "output_folder": tmp_path / "run",
        "number_of_epochs": 2,
        "num_workers": 1,
    }
    process = subprocess.Popen(
        command("train_dino.py", "small_dino.yaml", **flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.time() + 120
    while not (tmp_path / "run" / "save").exists():
        assert process.poll() is None, process.communicate()[0]
        assert time.time() < deadline
        time.sleep(0.01)
    yield flags, process
    process.kill()
    process.wait()


def test_the_second_is_refused_and_the_first_goes_on(training, speech):
    flags, process = training
    folder = flags["output_folder"]
    # For as long as we like
    process.send_signal(signal.SIGSTOP)
    others = {"data_folder": speech, "output_folder": folder}
    nowhere = {**others, "encoder": "nowhere", "manifest": "nowhere.csv"}
    second = [
        command("train_dino.py", "small_dino.yaml", **flags),
        command(
            *("train_dlg_lc.py", "small_dlg_lc.yaml", *TORCHRUN),
            **{**others, "train_manifest": folder / "save" / "train.csv"},
            **{"device": "cpu", "distributed_backend": "gloo"},
        ),
        command(
            *("finetune.py", "small_finetune.yaml"),
            **{**others, "train_manifest": "no.csv", "speakers": "no.csv"},
        ),
        command("extract.py", "extract.yaml", **nowhere),
        command("pseudo_label.py", "pseudo_label.yaml", **nowhere),
        command(
            *("verify.py", "verify.yaml"),
            **{**others, "encoder": "nowhere", "trials": "no.txt"},
        ),
    ]
    before = sorted(folder.rglob("*"))
    processes = [
        subprocess.Popen(
            args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for args in second
    ]
    for refused in processes:
        output, _ = refused.communicate()
        assert refused.returncode == 1, output
        assert f"is at work in {folder}: wait for its end" in output
    assert sorted(folder.rglob("*")) == before
    process.send_signal(signal.SIGCONT)
    output, _ = process.communicate()
    assert process.returncode == 0, output


def test_a_run_that_was_killed_does_not_keep_the_next_one_away(
    training, run_script
):
    """Though its workers live on for some seconds."""
    flags, process = training
    log = flags["output_folder"] / "train_log.txt"
    while not log.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.wait()
    code, output = run_script(
        *command("train_dino.py", "small_dino.yaml", **flags)[1:]
    )
    assert code == 0, output
