"""Labels of some utterances, DINO on all: the real script on tiny data."""

import shutil

import pandas as pd
import pytest
from hyperpyyaml import load_hyperpyyaml
from recipe import RECIPE, SPEED, script

from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.dataio.crops import PseudoLabelDataset
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.dataio.semi_supervised import SemiSupervisedDataset

TINY = {
    "share": 0.3,
    "number_of_epochs": 2,
    "steps_per_epoch": 6,
    "batch_size": 4,
    "evaluate_every": 1,
    "crop_seconds": 0.4,
    "other_seconds": 0.6,
    "global_seconds": 0.4,
    "local_seconds": 0.3,
    "local_crops": 2,
    "channels": 16,
    "out_dim": 32,
    "head_size": 16,
    "bottleneck_size": 8,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 2,
}


@pytest.fixture(scope="module")
def manifest(labels, tmp_path_factory):
    """The 24 utterances, without labels."""
    path = tmp_path_factory.mktemp("manifest") / "train.csv"
    table = read_manifest(labels, DATA_ROOT)
    write_manifest(path, table.drop(columns="spk_id"))
    return path


@pytest.fixture(scope="module")
def command(speech, manifest):
    """A function that gives a command line."""

    def make(output_folder, **flags):
        flags = {
            "data_folder": speech,
            "train_manifest": manifest,
            "speakers": speech / "speakers.csv",
            "trials": speech / "trials.txt",
            "output_folder": output_folder,
            **TINY,
            **flags,
        }
        yaml = "small_speaker_with_dino.yaml"
        return script("train_speaker_with_dino.py", yaml, **flags)

    return make


def figures(folder):
    return pd.read_csv(folder / "training.csv").drop(columns=SPEED)


@pytest.fixture(scope="module")
def finished(command, run_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code, output = run_script(*command(folder))
    assert code == 0, output
    return folder


def test_learns_both_and_ends_with_an_encoder(finished):
    table = figures(finished)
    expected = table["aam"] + table["dino_loss"]
    pd.testing.assert_series_equal(
        table["loss"], expected, check_names=False, rtol=1e-4
    )
    assert (table["skipped_steps"] == 0).all()
    assert table["dino_loss"][1] < table["dino_loss"][0]
    labelled = pd.read_csv(finished / "save" / "labelled.csv")
    assert labelled["spk_id"].value_counts().to_list() == [2] * 4
    assert (finished / "encoder" / "embedding_model.ckpt").is_file()
    assert (finished / "metrics.json").is_file()
    assert (finished / "plots" / "training.png").is_file()


def test_killed_it_ends_as_if_it_was_not(
    command, killed_and_resumed, finished, tmp_path
):
    """Amid the second epoch."""
    output = killed_and_resumed(command(tmp_path), tmp_path)
    assert "Resumed from a checkpoint, after 1 epochs" in output
    pd.testing.assert_frame_equal(
        figures(tmp_path), figures(finished), check_exact=True
    )
    ends = [
        (folder / "encoder" / "embedding_model.ckpt").read_bytes()
        for folder in (tmp_path, finished)
    ]
    assert ends[0] == ends[1]


def test_without_dino_and_augmentation(command, run_script, tmp_path):
    code, output = run_script(
        *command(tmp_path, dino_weight=0, augment=None, trials=None)
    )
    assert code == 0, output
    table = figures(tmp_path)
    assert "dino_loss" not in table
    assert table["loss"].equals(table["aam"])
    assert (tmp_path / "plots" / "training.png").is_file()


def test_other_speakers_are_another_run(
    command, run_script, finished, speech, tmp_path
):
    shutil.copy(speech / "speakers.csv", tmp_path / "others.csv")
    code, output = run_script(
        *command(finished, speakers=tmp_path / "others.csv")
    )
    assert code == 1
    assert "begun with other settings: speakers was" in output


def test_each_labelled_utterance_is_drawn_equally_often(
    labels, manifest, speech
):
    """And never the same crop; all others once."""
    table = read_manifest(labels, DATA_ROOT)[:5]
    few = manifest.with_name("few.csv")
    write_manifest(few, table)
    data = SemiSupervisedDataset(
        lambda: PseudoLabelDataset(few, speech, crop_seconds=0.2),
        manifest,
        speech,
        other_seconds=0.3,
    )
    orders = []
    for epoch in (1, 2):
        data.set_epoch(epoch)
        items = [data[index] for index in range(len(data))]
        orders.append([item["id"] for item in items])
        counts = pd.Series(orders[-1]).value_counts()
        assert len(items) == 24
        assert set(counts) == {4, 5}
        crops = {item["wav"].numpy().tobytes() for item in items}
        assert len(crops) == 24
        assert all(item["other"].shape == (4800,) for item in items)
        assert data[7]["wav"].equal(items[7]["wav"])
        names = table.set_index("ID")["spk_id"]
        numbers = {name: i for i, name in enumerate(sorted(set(names)))}
        for item in items:
            assert item["label"] == numbers[names[item["id"]]]
    assert orders[0] != orders[1]


@pytest.mark.parametrize(
    "name",
    [f"{size}speaker_with_dino" for size in ("", "small_", "demo_")],
)
def test_yaml_loads(speech, manifest, tmp_path, name):
    path, _, overrides = parse_arguments(
        [
            str(RECIPE / "hparams" / f"{name}.yaml"),
            f"--data_folder={speech}",
            f"--output_folder={tmp_path}",
            f"--train_manifest={manifest}",
            "--channels=16",
            "--out_dim=8",
            f"--speakers={speech / 'speakers.csv'}",
            "--head_size=8",
        ]
    )
    with open(path, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    labelled = hparams["train_data"]().labelled
    assert labelled.classes == 4 * len(hparams["speeds"])
    assert len(hparams["classifier"].weight) == labelled.classes
    assert hparams["dino"].encoder is hparams["embedding_model"]
    assert hparams["dino"].augment is hparams["augment"]
    assert hparams["lr_schedule"](hparams["number_of_epochs"]) > 0
