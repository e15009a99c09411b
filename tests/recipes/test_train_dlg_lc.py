"""Stage II as real processes: killed, resumed, with and without a gate."""

import numpy as np
import pandas as pd
import pytest
import torch
from recipe import RECIPE, SPEED, script

from speechbrain_cadino.losses.label_correction import RELIABLE


@pytest.fixture(scope="module")
def command(speech, labels):
    """A function that gives the command line of a tiny training."""

    def make(output_folder, yaml="small_dlg_lc.yaml", **flags):
        flags = {
            "data_folder": speech,
            "train_manifest": labels,
            "trials": speech / "trials.txt",
            "output_folder": output_folder,
            "number_of_epochs": 4,
            "first_gated_epoch": 2,
            # An untrained classifier's losses have no two modes
            "gate": 12.0,
            "confidence": 0.4,
            "speeds": "[1.0, 0.9]",
            "batch_size": 4,
            "steps_per_epoch": None,
            "evaluate_every": 1,
            "crop_seconds": 0.4,
            "channels": 16,
            "emb_dim": 768,
            "ckpt_interval_minutes": 0,
            "ckpt_interval_steps": 2,
            "final_map": None,  # which leaves no classifier
            **flags,
        }
        return script("train_dlg_lc.py", yaml, **flags)

    return make


@pytest.fixture(scope="module")
def uninterrupted(command, speech, audited, tmp_path_factory):
    """The run folder, and the files that were read."""
    folder = tmp_path_factory.mktemp("run")
    code, output, files = audited(*command(folder))
    assert code == 0, output
    return folder, files


def figures(folder):
    """All that a run measured and decided, but for its speed."""
    table = pd.read_csv(folder / "training.csv")
    epochs = {}
    for path in sorted((folder / "gate").glob("*.npz")):
        with np.load(path) as arrays:
            epochs[path.name] = {k: v.tolist() for k, v in arrays.items()}
    return {
        "training": table.drop(columns=SPEED).to_csv(),
        "gate": (folder / "gate.csv").read_text(),
        "metrics": (folder / "metrics.json").read_text(),
        "epochs": str(epochs),
    }


def test_run_folder_holds_what_is_promised(uninterrupted):
    folder, _ = uninterrupted
    for name in (
        "hyperparams.yaml",
        "train_log.txt",
        "metrics.json",
        "plots/training.png",
        "plots/gate.png",
        "classifier.ckpt",
        "encoder/hyperparams.yaml",
        "encoder/embedding_model.ckpt",
    ):
        assert (folder / name).stat().st_size > 0, name
    gate = pd.read_csv(folder / "gate.csv")
    assert gate["gate"].tolist() == [np.inf, 12.0, 12.0, 12.0]
    counts = gate[["reliable", "corrected", "dropped"]]
    assert (counts.sum(axis=1) == 48).all()
    assert (counts[1:].sum() > 0).all()
    # The shares in training.csv are means over the steps
    training = pd.read_csv(folder / "training.csv")
    np.testing.assert_allclose(training[counts.columns], counts / 48)


def test_training_opens_no_true_labels(uninterrupted):
    _, files = uninterrupted
    assert "pseudo_labels.csv" in files
    assert "speakers.csv" not in files


@pytest.mark.parametrize("end", [False, True])
def test_killed_ends_as_if_it_was_not(
    command, killed_and_resumed, uninterrupted, tmp_path, end
):
    first = command(tmp_path, ckpt_interval_steps=1000 if end else 2)
    killed_and_resumed(first, tmp_path, end, again=command(tmp_path))
    assert figures(tmp_path) == figures(uninterrupted[0])


def test_ssrl_and_a_running_window_end_as_if_they_were_not_killed(
    command, run_script, killed_and_resumed, uninterrupted, tmp_path
):
    flags = {
        "yaml": "small_ssrl.yaml",
        "start_encoder": uninterrupted[0] / "encoder",
        "number_of_epochs": 3,
        "gate": "dynamic",
        "gate_rule": "papers",
        "gate_window": 3,
        "teacher_momentum": 0.8,
        "margin": 0,
        "average_epochs": 2,
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = run_script(*command(whole, **flags))
    assert code == 0, output
    training = pd.read_csv(whole / "training.csv")
    assert training["weight"][0] == 1
    assert (training["weight"][1:] < 1).all()
    # Four clusters at two speeds, of which the teacher leaves some
    assert training["clusters"].is_monotonic_decreasing
    assert (training["clusters"] <= 8).all()
    assert (pd.read_csv(whole / "gate.csv")["corrected"] > 0).any()
    killed_and_resumed(command(killed, **flags), killed)
    assert figures(killed) == figures(whole)
    epochs = [
        torch.load(whole / "save" / "last_epochs" / f"epoch00{epoch}.ckpt")
        for epoch in (2, 3)
    ]
    for folder, name in (("", "classifier"), ("encoder", "embedding_model")):
        one, other = (
            torch.load(run / folder / f"{name}.ckpt", weights_only=True)
            for run in (whole, killed)
        )
        for key, value in one.items():
            assert torch.equal(value, other[key]), key
            if value.is_floating_point():
                first, second = (epoch[f"0.{name}.{key}"] for epoch in epochs)
                torch.testing.assert_close(value, (first + second) / 2)
                assert "running" in key or not torch.equal(first, second)


def test_goes_on_with_a_larger_margin_on_two_processes(
    command, run_script, uninterrupted, tmp_path
):
    start, _ = uninterrupted
    flags = {
        "start_encoder": start / "encoder",
        "start_classifier": start / "classifier.ckpt",
        "margin": 0.5,
        # So small that one sees where it started
        "lr": 1e-7,
        "final_lr": 1e-7,
        "batch_size": 2,
        "number_of_epochs": 2,
        "trials": "null",
        "device": "cpu",
        "distributed_backend": "gloo",
        "precision": "bf16",
    }
    code, output = run_script(*command(tmp_path, **flags), ranks=2)
    assert code == 0, output
    for name in ["classifier.ckpt", "encoder/embedding_model.ckpt"]:
        old, new = (
            torch.load(folder / name, weights_only=True)
            for folder in (start, tmp_path)
        )
        assert old.keys() == new.keys()
        for key in old:
            if "running" not in key and "num_batches" not in key:
                assert torch.allclose(old[key], new[key], atol=1e-4), key
    gate = pd.read_csv(tmp_path / "gate.csv")
    counts = gate[["reliable", "corrected", "dropped"]]
    assert (counts.sum(axis=1) == 48).all()


def test_given_labels_stay_and_the_gate_is_that_of_the_others(
    command, run_script, labels, tmp_path
):
    """Joined by the script; a gate that trusts nothing by its loss."""
    table = pd.read_csv(labels, dtype={"spk_id": str})
    for name, part in (("source", table[:12]), ("target", table[12:])):
        part.to_csv(tmp_path / f"{name}.csv", index=False)
    joined = tmp_path / "joined.csv"
    code, output = run_script(
        RECIPE / "join_manifests.py",
        tmp_path / "source.csv",
        tmp_path / "target.csv",
        f"--output={joined}",
    )
    assert code == 0, output
    assert "12 of 3 labels that are given, 12 of 3 labels that were" in output
    flags = {"gate": 1e-6, "number_of_epochs": 2, "evaluate_every": 2}
    code, output = run_script(
        *command(tmp_path / "run", train_manifest=joined, **flags)
    )
    assert code == 0, output
    trusted = pd.read_csv(joined)["trusted"].to_numpy() == 1
    with np.load(tmp_path / "run" / "gate" / "epoch002.npz") as arrays:
        decisions = arrays["decisions"].reshape(2, 24)
        assert arrays["trusted"].tolist() == [*trusted, *trusted]
    assert (decisions[:, trusted] == RELIABLE).all()
    assert (decisions[:, ~trusted] != RELIABLE).all()


def test_what_cannot_be_joined(run_script, labels, tmp_path):
    def refused(source, target):
        code, output = run_script(
            RECIPE / "join_manifests.py",
            source,
            target,
            f"--output={tmp_path / 'joined.csv'}",
        )
        assert code == 1, output
        assert "Traceback" not in output
        assert not (tmp_path / "joined.csv").exists()
        return output

    assert "have 24 IDs in common" in refused(labels, labels)
    table = pd.read_csv(labels, dtype={"spk_id": str})
    one, bare = tmp_path / "one.csv", tmp_path / "bare.csv"
    table.assign(spk_id="anne").to_csv(one, index=False)
    assert f"{one} is of one speaker" in refused(one, labels)
    table.drop(columns="spk_id").to_csv(bare, index=False)
    assert "has no column spk_id" in refused(labels, bare)
    table.assign(trusted=1).to_csv(one, index=False)
    assert "is joined already" in refused(labels, one)
    spk_id = table["spk_id"].where(table.index != 3, "")
    table.assign(spk_id=spk_id).to_csv(one, index=False)
    assert "1 utterances have no spk_id, the first is" in refused(one, labels)
    half = table.assign(ID="other" + table["ID"], stop=table["stop"] // 2)
    half["wav"] = half["wav"].str.replace("$data_root/", "$data_root/other/")
    half.to_csv(one, index=False)
    assert "counts 16000 samples a second and" in refused(labels, one)
    # The same files by other names
    table["ID"] = "other" + table["ID"]
    table["wav"] = table["wav"].str.replace("$data_root/", "$data_root/./")
    table.to_csv(one, index=False)
    assert "have 24 files in common" in refused(labels, one)


def test_a_manifest_is_not_joined_over_itself(run_script, labels, tmp_path):
    source = tmp_path / "source.csv"
    table = pd.read_csv(labels, dtype=str)
    table["wav"] = table["wav"].str.replace("$data_root/", "$data_root/other")
    table.assign(ID="other" + table["ID"]).to_csv(source, index=False)
    before = source.read_bytes()
    script = RECIPE / "join_manifests.py"
    output = f"--output={tmp_path}/./source.csv"
    code, output = run_script(script, source, labels, output)
    assert code == 1
    assert "would be replaced by what is made of it" in output
    assert source.read_bytes() == before
    for name, sentence in [("", "is a folder"), ("a.wav", "a recording")]:
        output = f"--output={tmp_path}/{name}"
        code, output = run_script(script, source, labels, output)
        assert code == 1
        assert sentence in output


def test_mistakes_are_one_sentence(
    command, run_script, speech, labels, uninterrupted, tmp_path
):
    def output_of(folder=tmp_path, **flags):
        code, output = run_script(*command(folder, **flags))
        assert code == 1, output
        assert "Traceback" not in output
        return output

    table = pd.read_csv(labels, dtype={"spk_id": str})
    unlabelled = tmp_path / "train.csv"
    table.drop(columns="spk_id").to_csv(unlabelled, index=False)
    output = output_of(train_manifest=unlabelled)
    assert "has no column spk_id: it holds no labels" in output
    assert "pseudo_label.py" in output

    run_folder, _ = uninterrupted
    output = output_of(start_encoder=run_folder)
    assert f"Did you mean {run_folder}/encoder?" in output
    output = output_of(start_classifier="centroids")
    assert "learnt nothing say nothing. Give start_encoder" in output

    output = output_of(run_folder, train_manifest=unlabelled)
    assert "begun with other settings: train_manifest was" in output

    # Other labels in the same file
    before = labels.read_bytes()
    try:
        fewer = table["spk_id"].replace("03", "02")
        table.assign(spk_id=fewer).to_csv(labels, index=False)
        output = output_of(run_folder)
        assert "made with other settings or with another number of" in output
        assert "classifier" in output or "weight" in output
        swapped = table["spk_id"][::-1].to_numpy()
        table.assign(spk_id=swapped).to_csv(labels, index=False)
        assert "is of another training set" in output_of(run_folder)
        table[1:].to_csv(labels, index=False)
        output = output_of(run_folder)
    finally:
        labels.write_bytes(before)
    assert "of 48 samples, the manifest makes 46" in output
