"""All real scripts in a row, on tiny data."""

import json
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile

RECIPE = pathlib.Path(__file__).parents[2] / "recipes" / "VoxCeleb"


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """24 files of 4 voices to train on, and two test speakers."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    names = [f"train{i % 4}/{i:02}/0.wav" for i in range(24)]
    names += [f"test{i}/a/{j}.wav" for i in range(2) for j in range(3)]
    for name in names:
        path = folder / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voice = np.random.default_rng(list(name.split("/")[0].encode()))
        wav = np.convolve(
            rng.standard_normal(12000), voice.standard_normal(16), "same"
        )
        soundfile.write(path, 0.02 * wav, 16000)
    test = [name for name in names if name.startswith("test")]
    lines = [f"{int(a[:5] == b[:5])} {a} {b}\n" for a in test for b in test]
    (folder / "trials.txt").write_text("".join(lines))
    rows = [
        f"wav/{name.removesuffix('.wav')},{name.split('/')[0]}\n"
        for name in names
    ]
    (folder / "speakers.csv").write_text("ID,spk_id\n" + "".join(rows))
    return folder


ENTRIES = {
    "stage_1": {
        "hparams": "small_ca_dino.yaml",
        "number_of_epochs": 2,
        "first_clustering": 2,
        "clustering_every": 1,
        "num_clusters": 6,
        "warmup_epochs": 1,
        "batch_size": 4,
        "min_duration": 0.1,
        "global_seconds": 0.5,
        "local_seconds": 0.3,
        "local_crops": 2,
        "channels": 16,
        "out_dim": 32,
        "head_size": 16,
        "bottleneck_size": 8,
    },
    "pseudo_label": {"num_clusters": 5, "engine": "sklearn", "num_workers": 0},
    "dlg_lc": {
        "hparams": "small_dlg_lc.yaml",
        "number_of_epochs": 3,
        "first_gated_epoch": 2,
        "batch_size": 4,
        "gate": 16.0,
        "crop_seconds": 0.5,
        "channels": 16,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 2,
    },
    "large_margin": {
        "hparams": "small_large_margin.yaml",
        "number_of_epochs": 1,
        "first_gated_epoch": 1,
        "gate": 16.0,
        "batch_size": 4,
        "crop_seconds": 0.5,
        "channels": 16,
    },
}


def command(speech, folder, **flags):
    flags = {
        **{name: json.dumps(entry) for name, entry in ENTRIES.items()},
        "data_folder": speech,
        "trials": speech / "trials.txt",
        "speakers": speech / "speakers.csv",
        "iterations": 1,
        "output_folder": folder,
        **flags,
    }
    return [
        *(sys.executable, str(RECIPE / "run_pipeline.py")),
        str(RECIPE / "hparams" / "pipeline.yaml"),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def run(*args, **flags):
    process = subprocess.run(
        command(*args, **flags),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process.returncode, process.stdout


@pytest.fixture(scope="module")
def whole(speech, tmp_path_factory):
    """The output folder of an uninterrupted run, and what was said."""
    folder = tmp_path_factory.mktemp("whole")
    code, output = run(speech, folder)
    assert code == 0, output
    return folder, output


def figures(folder):
    """The report, but for the time that it all took."""
    stages = json.loads((folder / "report.json").read_text())["stages"]
    return [
        {name: value for name, value in stage.items() if name != "seconds"}
        for stage in stages
    ]


def test_the_whole_system(whole, speech):
    folder, output = whole
    stages = figures(folder)
    assert [stage.pop("name") for stage in stages] == [
        *("random_encoder", "stage_1", "iteration_1", "large_margin"),
    ]
    assert all(0 <= stage["eer"] <= 100 for stage in stages)
    assert stages[1]["utterances"] == 24
    for stage in stages[2:]:
        assert (stage["utterances"], stage["clusters"]) == (24, 5)
        assert stage["ami"] is not None
        assert 0 < stage["reliable"] <= 1
    # verify.py scored the last encoder.
    metrics = json.loads((folder / "verify" / "metrics.json").read_text())
    assert metrics["systems"]["encoder"]["eer"] == stages[-1]["eer"]
    # report_gate.py compared each training with the true speakers.
    for name in ["iteration_1/train", "large_margin"]:
        table = pd.read_csv(folder / name / "gate.csv")
        assert table["reliable_right"].notna().any()
    assert (folder / "plots" / "pipeline.png").stat().st_size > 0
    assert re.search(r"^large_margin +\d", output, re.M)


def test_true_speakers_reach_no_training(whole):
    folder, _ = whole
    for name in ["stage_1", "iteration_1/train", "large_margin"]:
        text = (folder / name / "hyperparams.yaml").read_text()
        assert "speakers.csv" not in text


def test_killed_in_a_training_ends_as_if_it_was_not(speech, whole, tmp_path):
    """A moved copy of the whole run, with its training to be made anew."""
    flags = {"large_margin": "null"}
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for name in ["iteration_1/train", "large_margin", "verify"]:
        shutil.rmtree(tmp_path / name)
    process = subprocess.Popen(
        command(speech, tmp_path, **flags),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    save = tmp_path / "iteration_1" / "train" / "save"
    while not list(save.glob("CKPT*/CKPT.yaml")):
        assert process.poll() is None, "ended before it could be killed"
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (save.parent / "encoder").exists()
    code, output = run(speech, tmp_path, **flags)
    assert code == 0, output
    assert "iteration_1/labels: done before." in output
    assert "Loading a checkpoint from" in output
    assert figures(tmp_path) == figures(whole[0])[:3]
    code, output = run(speech, tmp_path, **flags, seed=1)
    assert code == 1
    assert "stage_1 was begun with other settings: seed was 1986" in output
    assert "Traceback" not in output
