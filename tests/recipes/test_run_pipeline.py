"""All real scripts in a row, on tiny data."""

import json
import re
import shutil

import pandas as pd
import pytest
from recipe import SPEED, TINY_STAGE_1, script

ENTRIES = {
    "stage_1": {
        "hparams": "small_ca_dino.yaml",
        **TINY_STAGE_1,
        "speeds": [1.0],
        "number_of_epochs": 2,
        "first_clustering": 2,
        "clustering_every": 1,
        "num_clusters": 6,
    },
    "pseudo_label": {"num_clusters": 5, "engine": "sklearn", "num_workers": 0},
    "dlg_lc": {
        "hparams": "small_dlg_lc.yaml",
        "number_of_epochs": 3,
        "first_gated_epoch": 2,
        "batch_size": 4,
        "steps_per_epoch": None,
        "gate": 16.0,
        "crop_seconds": 0.5,
        "speeds": [1.0],
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
        "steps_per_epoch": None,
        "crop_seconds": 0.5,
        "speeds": [1.0],
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
    return script("run_pipeline.py", "pipeline.yaml", **flags)


@pytest.fixture(scope="module")
def whole(speech, run_script, tmp_path_factory):
    """The output folder of an uninterrupted run, and what was said."""
    folder = tmp_path_factory.mktemp("whole")
    code, output = run_script(*command(speech, folder))
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
        "random_encoder",
        "stage_1",
        "iteration_1",
        "large_margin",
    ]
    assert all(0 <= stage["eer"] <= 100 for stage in stages)
    assert stages[1]["utterances"] == 24
    for stage in stages[2:]:
        assert (stage["utterances"], stage["clusters"]) == (24, 5)
        assert stage["ami"] is not None
        assert 0 < stage["reliable"] <= 1
    # verify.py scored the last encoder, not the one before
    scores = {
        name: (folder / name / "scores_encoder.txt").read_text()
        for name in ["verify", "large_margin", "iteration_1/train"]
    }
    assert scores["verify"] == scores["large_margin"]
    assert scores["verify"] != scores["iteration_1/train"]
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


def test_killed_in_a_training_ends_as_if_it_was_not(
    speech, run_script, kill_when, whole, tmp_path
):
    """A moved copy of the whole run, with its training to be made anew."""
    flags = {"large_margin": "null"}
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for name in ["iteration_1/train", "large_margin", "verify"]:
        shutil.rmtree(tmp_path / name)
    save = tmp_path / "iteration_1" / "train" / "save"
    kill_when(
        lambda: list(save.glob("CKPT*/CKPT.yaml")),
        *command(speech, tmp_path, **flags),
    )
    assert not (save.parent / "encoder").exists()
    code, output = run_script(*command(speech, tmp_path, **flags))
    assert code == 0, output
    assert "iteration_1/labels: done before." in output
    assert "Resumed from a checkpoint" in output
    assert figures(tmp_path) == figures(whole[0])[:3]
    for path in [save.parent / "training.csv", save.parent / "gate.csv"]:
        table, other = (
            pd.read_csv(folder / path.relative_to(tmp_path))
            for folder in (tmp_path, whole[0])
        )
        pd.testing.assert_frame_equal(
            *(t.drop(columns=SPEED, errors="ignore") for t in (table, other))
        )
