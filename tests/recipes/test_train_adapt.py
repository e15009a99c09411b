"""Adaptation as real processes: killed, resumed, on two processes."""

import shutil

import numpy as np
import pandas as pd
import pytest
import torch
from recipe import SPEED, TINY_STAGE_1, script

from speechbrain_cadino.dataio.manifest import write_manifest


@pytest.fixture(scope="module")
def source(labels, tmp_path_factory):
    """The labelled half of the files to train on."""
    table = pd.read_csv(labels, dtype={"spk_id": str})
    table["spk_id"] = table["ID"].str.split("/").str[1]
    path = tmp_path_factory.mktemp("source") / "source.csv"
    write_manifest(path, table[table["spk_id"].isin(["train2", "train3"])])
    return path


@pytest.fixture(scope="module")
def target(speech, tmp_path_factory):
    """A folder of the other half."""
    folder = tmp_path_factory.mktemp("target")
    for name in ("train0", "train1"):
        shutil.copytree(speech / "wav" / name, folder / name)
    return folder


@pytest.fixture(scope="module")
def command(speech, source, target):
    """A function that gives the command line of a tiny adaptation."""

    def make(folder, yaml="small_adapt.yaml", **flags):
        flags = {
            **TINY_STAGE_1,
            "source_manifest": source,
            "source_folder": speech,
            "data_folder": target,
            "trials": speech / "trials.txt",
            "trials_folder": speech,
            "output_folder": folder,
            "number_of_epochs": 3,
            "passes_per_epoch": 2,
            "speeds": "[1.0]",
            "piece_seconds": 0.3,
            "evaluate_every": 1,
            "ckpt_interval_minutes": 0,
            "ckpt_interval_steps": 2,
            **flags,
        }
        return script("train_adapt.py", yaml, **flags)

    return make


def found(folder):
    table = pd.read_csv(folder / "training.csv")
    weights = torch.load(folder / "encoder" / "embedding_model.ckpt")
    return table.drop(columns=SPEED), weights


@pytest.fixture(scope="module")
def uninterrupted(command, audited, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code, output, files = audited(*command(folder))
    assert code == 0, output
    return folder, files


def test_the_labels_of_the_target_are_never_opened(uninterrupted):
    folder, files = uninterrupted
    assert "source.csv" in files
    assert "speakers.csv" not in files
    manifest = pd.read_csv(folder / "save" / "train.csv")
    assert list(manifest) == ["ID", "duration", "wav", "start", "stop"]
    assert len(manifest) == 12


def test_both_losses_are_columns(uninterrupted):
    folder, _ = uninterrupted
    table, _ = found(folder)
    assert np.isfinite(table.to_numpy()).all()
    np.testing.assert_allclose(
        table["loss"], table["source_loss"] + table["target_loss"], rtol=1e-4
    )
    assert (table["source_accuracy"] > 0).any()
    assert (folder / "plots" / "training.png").stat().st_size > 0
    # Of recordings of less than a second, none can be told
    assert "no threshold" in (folder / "log.txt").read_text()


def test_killed_ends_as_if_it_was_not(
    command, killed_and_resumed, uninterrupted, tmp_path
):
    killed_and_resumed(command(tmp_path), tmp_path)
    table, weights = found(tmp_path)
    expected, others = found(uninterrupted[0])
    pd.testing.assert_frame_equal(table, expected)
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


def test_a_part_of_an_encoder_on_two_processes(
    command, run_script, uninterrupted, tmp_path
):
    start = uninterrupted[0] / "encoder"
    flags = {
        "start_encoder": start,
        "train_only": "[se_block, norm]",
        "final_map": None,  # it is in the last layer
        "number_of_epochs": 1,
        "warmup_epochs": 0.5,
        "trials": None,
        "batch_size": 2,
        "device": "cpu",
        "distributed_backend": "gloo",
    }
    code, output = run_script(*command(tmp_path, **flags), ranks=2)
    assert code == 0, output
    assert "parameters (" in output
    old, new = (
        torch.load(folder / "embedding_model.ckpt")
        for folder in (start, tmp_path / "encoder")
    )
    moved = {
        name
        for name in old
        if not torch.allclose(old[name].float(), new[name].float(), atol=1e-6)
    }
    assert any("se_block" in name for name in moved)
    assert not [n for n in moved if "norm" not in n and "se_block" not in n]


def test_another_objective(command, run_script, tmp_path):
    code, output = run_script(
        *command(
            tmp_path,
            yaml="small_adapt_contrastive.yaml",
            number_of_epochs=1,
            warmup_epochs=0.5,
            local_crops=0,
            trials=None,
        )
    )
    assert code == 0, output
    assert "contrastive_accuracy" in found(tmp_path)[0]


def test_clusters_of_the_target_on_two_processes(
    command, run_script, uninterrupted, tmp_path
):
    flags = {
        "start_encoder": uninterrupted[0] / "encoder",
        "number_of_epochs": 3,
        "first_clustering": 2,
        "local_crops": 0,
        "batch_size": 4,
        "trials": None,
        "final_map": None,
        "device": "cpu",
        "distributed_backend": "gloo",
    }
    yaml = "small_adapt_clusters.yaml"
    code, output = run_script(*command(tmp_path, yaml, **flags), ranks=2)
    assert code == 0, output
    table, _ = found(tmp_path)
    assert table["center"][0] == 0
    assert (table["center"][1:] > 0).all()
    assert (table["center_accuracy"][1:] > 0).all()
    assert table["clusters"][2] == 4  # 0.35 of 12, none of which speakers chose
    np.testing.assert_allclose(
        table["target_loss"], table["contrastive"] + table["center"], rtol=1e-4
    )


def test_clusters_of_the_target_outlive_a_kill(
    command, run_script, killed_and_resumed, uninterrupted, tmp_path
):
    options = {
        "yaml": "small_adapt_clusters.yaml",
        "start_encoder": uninterrupted[0] / "encoder",
        "number_of_epochs": 2,
        "local_crops": 0,
        "trials": None,
        "final_map": None,
    }
    code, output = run_script(*command(tmp_path / "whole", **options))
    assert code == 0, output
    killed_and_resumed(
        command(tmp_path / "killed", **options), tmp_path / "killed"
    )
    table, weights = found(tmp_path / "killed")
    expected, others = found(tmp_path / "whole")
    pd.testing.assert_frame_equal(table, expected)
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


def test_a_term_of_clusters_without_any(
    command, run_script, uninterrupted, tmp_path
):
    overlay = tmp_path / "overlay.yaml"
    overlay.write_text("base: small_adapt_clusters.yaml\nreclustering: null\n")
    start = uninterrupted[0] / "encoder"
    code, output = run_script(
        *command(tmp_path / "run", overlay, start_encoder=start)
    )
    assert code == 1
    assert "The term center of the objective waits for clusters" in output


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"train_only": "[lstm]"}, "has 'lstm' in its name"),
        ({"source_manifest": "/gone.csv"}, "No manifest at /gone.csv"),
    ],
)
def test_mistakes_are_one_sentence(
    command, run_script, tmp_path, flags, sentence
):
    code, output = run_script(*command(tmp_path, **flags))
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


def test_the_source_as_the_target(command, run_script, speech, tmp_path):
    code, output = run_script(*command(tmp_path, data_folder=speech))
    assert code == 1
    assert "Source and target have 12 files in common" in output
