"""Voices and faces as real processes: both stages, killed and resumed, and
what becomes of utterances without a face."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from recipe import SPEED, script

from speechbrain_cadino.dataio.manifest import write_manifest
from speechbrain_cadino.encoders.load import load_encoder

COLUMNS = ["ID", "duration", "wav", "start", "stop"]
SMALL_FACES = {"face_size": 16}


@pytest.fixture(scope="module")
def faces(speech, tmp_path_factory):
    """Three frames for each file of the corpus, and their manifests; two of
    the training files and one of the tests have no face, one is blank."""
    folder = tmp_path_factory.mktemp("faces")
    rng = np.random.default_rng(0)
    rows = {"faces.csv": [], "faces_test.csv": []}
    for wav in sorted((speech / "wav").rglob("*.wav")):
        name = wav.relative_to(speech / "wav").with_suffix("").as_posix()
        if name in ("train0/00/0", "train1/01/0", "test0/a/1"):
            continue
        person = np.random.default_rng(list(name.split("/")[0].encode()))
        pattern = person.integers(256, size=(16, 16, 3))
        (folder / name).mkdir(parents=True)
        for frame in range(3):
            image = pattern + rng.integers(-60, 60, size=pattern.shape)
            if name == "train2/02/0":
                image = np.zeros_like(image)
            image = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
            image.save(folder / name / f"{frame}.png")
        test = name.startswith("test")
        rows["faces_test.csv" if test else "faces.csv"].append(
            (name if test else f"wav/{name}", 3.0, f"$data_root/{name}", 0, 3)
        )
    for manifest, table in rows.items():
        table = pd.DataFrame(table, columns=COLUMNS)
        write_manifest(folder / manifest, table)
    return folder


@pytest.fixture(scope="module")
def command(speech, faces, labels):
    """A function that gives the command line of a tiny training."""

    def make(output_folder, **flags):
        flags = {
            "data_folder": speech,
            "face_folder": faces,
            "face_manifest": faces / "faces.csv",
            "train_manifest": labels,
            "trials": speech / "trials.txt",
            "face_trials_manifest": faces / "faces_test.csv",
            "output_folder": output_folder,
            "number_of_epochs": 3,
            "first_gated_epoch": 2,
            "gate": 12.0,
            "confidence": 0.3,
            "batch_size": 4,
            "evaluate_every": 1,
            "crop_seconds": 0.4,
            "speeds": "[1.0, 0.9]",
            "channels": 16,
            "face_size": 16,
            "face_channels": "[4, 8]",
            "face_block_sizes": "[1, 1]",
            "ckpt_interval_minutes": 0,
            "ckpt_interval_steps": 2,
            **flags,
        }
        return script("train_av_dlg_lc.py", "demo_av_dlg_lc.yaml", **flags)

    return make


@pytest.fixture(scope="module")
def uninterrupted(command, audited, tmp_path_factory):
    """The run folder, and the files that were read."""
    folder = tmp_path_factory.mktemp("run")
    code, output, files = audited(*command(folder))
    assert code == 0, output
    return folder, files


def figures(folder):
    """All that a run measured and decided, but for its speed."""
    table = pd.read_csv(folder / "training.csv")
    decided = {}
    for path in sorted(folder.glob("*/gate/*.npz")):
        with np.load(path) as arrays:
            decided[str(path.relative_to(folder))] = {
                name: np.nan_to_num(array, nan=-1).tolist()
                for name, array in arrays.items()
            }
    return table.drop(columns=SPEED), decided


def test_each_signal_has_a_gate_and_they_decide_together(uninterrupted):
    folder, files = uninterrupted
    assert "speakers.csv" not in files
    gates = {
        signal: pd.read_csv(folder / signal / "gate.csv")
        for signal in ("audio", "face")
    }
    table = pd.read_csv(folder / "training.csv")
    assert table["gate"].tolist()[1:] == [12.0, 12.0]
    assert table["face_gate"].tolist()[1:] == [12.0, 12.0]
    # 24 utterances, each at two speeds; 2 have no face and the blank one counts
    # as none
    drawn = ["reliable", "corrected", "dropped"]
    assert (gates["audio"][drawn].sum(axis=1) == 48).all()
    assert (gates["face"][drawn].sum(axis=1) == 42).all()
    assert table["faces"].tolist() == pytest.approx([21 / 24] * 3)
    for signal in gates:
        assert (folder / signal / "plots" / "gate.png").stat().st_size > 10_000
    with (
        np.load(folder / "audio" / "gate" / "epoch003.npz") as audio,
        np.load(folder / "face" / "gate" / "epoch003.npz") as face,
    ):
        seen = face["decisions"] >= 0
        assert seen.sum() == 42
        assert (audio["decisions"][seen] == face["decisions"][seen]).all()
        reliable = (audio["losses"] < 12) & (~seen | (face["losses"] < 12))
        assert ((audio["decisions"] == 1) == reliable).all()


def test_the_table_and_both_encoders(uninterrupted, faces):
    folder, _ = uninterrupted
    results = json.loads((folder / "metrics.json").read_text())
    assert list(results["systems"]) == ["audio", "face", "fused"]
    assert "training_overlap" in results
    log = (folder / "log.txt").read_text()
    assert "The encoder has no threshold: 0 recording(s) of 2 s" in log
    text = (folder / "encoder" / "hyperparams.yaml").read_text()
    assert "!new:speechbrain_cadino" not in text
    encoder = load_encoder(folder / "face_encoder")
    with encoder.reader(faces / "test0" / "a" / "0") as track:
        assert encoder.encode_batch(track.read()[None]).shape == (1, 1, 192)


def test_killed_and_resumed_it_is_the_same(
    command, uninterrupted, killed_and_resumed, tmp_path
):
    folder, _ = uninterrupted
    killed_and_resumed(command(tmp_path), tmp_path)
    (table, decided), (expected, all_decided) = map(figures, (tmp_path, folder))
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert decided == all_decided
    for name in ("encoder", "face_encoder"):
        weights, others = (
            torch.load(path / name / "embedding_model.ckpt")
            for path in (tmp_path, folder)
        )
        assert all(torch.equal(weights[key], others[key]) for key in others)


def test_faces_of_another_corpus_are_refused(
    command, faces, run_script, tmp_path
):
    text = (faces / "faces.csv").read_text().replace("\nwav/", "\nother/")
    (tmp_path / "faces.csv").write_text(text)
    code, output = run_script(
        *command(tmp_path / "run", face_manifest=tmp_path / "faces.csv")
    )
    assert code == 1
    assert "has the face of no utterance in" in output
    assert "Traceback" not in output


def test_batches_with_a_single_face_or_none(
    command, faces, run_script, tmp_path
):
    table = pd.read_csv(faces / "faces.csv")
    write_manifest(tmp_path / "faces.csv", table[1:2])
    code, output = run_script(
        *command(
            tmp_path / "run",
            face_manifest=tmp_path / "faces.csv",
            number_of_epochs=1,
            gate="none",
            warmup_epochs=0,
        )
    )
    assert code == 0, output
    assert len(pd.read_csv(tmp_path / "run" / "training.csv")) == 1


def test_a_gate_for_all_rules(command, run_script, tmp_path):
    code, output = run_script(*command(tmp_path, reliable_rule="all"))
    assert code == 1
    assert "reliable_rule=all: give one of both, either, mean" in output


@pytest.fixture(scope="module")
def face_run(faces, speech, run_script, tmp_path_factory):
    """Stage I on faces, with clusters."""
    folder = tmp_path_factory.mktemp("dino")
    flags = {
        "data_folder": faces,
        "train_manifest": faces / "faces.csv",
        "trials": speech / "trials.txt",
        "trials_manifest": faces / "faces_test.csv",
        "prepare": "[]",
        "output_folder": folder,
        "number_of_epochs": 2,
        "first_clustering": 2,
        "num_clusters": 4,
        "clustering_engine": "sklearn",
        "freeze_prototypes_epochs": 0,
        "warmup_epochs": 0,
        "batch_size": 8,
        "num_workers": 0,
        "channels": "[4, 8]",
        "block_sizes": "[1, 1]",
        "face_size": 16,
        "global_size": 16,
        "local_size": 8,
        "out_dim": 16,
        "head_size": 16,
        "ckpt_interval_minutes": 0,
    }
    code, output = run_script(
        *script("train_dino.py", "av_ca_dino_face.yaml", **flags),
    )
    assert code == 0, output
    return folder


def test_stage_one_on_faces(face_run):
    table = pd.read_csv(face_run / "training.csv")
    assert table["clusters"].iloc[-1] == 4
    systems = json.loads((face_run / "metrics.json").read_text())["systems"]
    assert {"encoder", "random_encoder", "pixels"} <= set(systems)
    assert all(np.isfinite(row["eer"]) for row in systems.values())


def test_verified_by_voice_and_face(
    face_run, faces, speech, encoder_folder, run_script, tmp_path
):
    """As real processes: face encoders count frames."""
    flags = {
        "encoder": encoder_folder,
        "face_encoder": face_run / "encoder",
        "trials": speech / "trials.txt",
        "data_folder": speech,
        "trials_manifest": faces / "faces_test.csv",
        "face_folder": faces,
        "output_folder": tmp_path,
        "replicates": 20,
    }
    code, output = run_script(*script("verify.py", "av_verify.yaml", **flags))
    assert code == 0, output
    systems = json.loads((tmp_path / "metrics.json").read_text())["systems"]
    assert list(systems) == ["audio", "face", "fused"]
    assert systems["face"]["unseen"] > 0


def test_stage_two_on_faces_alone(face_run, faces, run_script, tmp_path):
    table = pd.read_csv(faces / "faces.csv")
    table["spk_id"] = [name.split("/")[1] for name in table["ID"]]
    table.to_csv(tmp_path / "labels.csv", index=False)
    flags = {
        "data_folder": faces,
        "train_manifest": tmp_path / "labels.csv",
        "start_encoder": face_run / "encoder",
        "output_folder": tmp_path / "run",
        "prepare": "[]",
        "number_of_epochs": 1,
        "gate": "none",
        "warmup_epochs": 0,
        "batch_size": 8,
        "num_workers": 0,
        "channels": "[4, 8]",
        "block_sizes": "[1, 1]",
        "face_size": 16,
        "ckpt_interval_minutes": 0,
    }
    code, output = run_script(
        *script("train_dlg_lc.py", "av_dlg_lc_face.yaml", **flags)
    )
    assert code == 0, output
    assert load_encoder(tmp_path / "run" / "encoder").sample_rate == 1
    assert (tmp_path / "run" / "classifier.ckpt").is_file()


def test_labels_of_voices_and_faces(
    face_run, faces, speech, encoder_folder, labels, run_script, tmp_path
):
    flags = {
        "encoder": encoder_folder,
        "manifest": labels,
        "data_folder": speech,
        "face_encoder": face_run / "encoder",
        "face_manifest": faces / "faces.csv",
        "face_folder": faces,
        "speakers": speech / "speakers.csv",
        "output_folder": tmp_path,
        "num_clusters": 4,
        "engine": "sklearn",
        "num_workers": 0,
    }
    code, output = run_script(
        *script("pseudo_label.py", "av_pseudo_label.yaml", **flags),
    )
    assert code == 0, output
    report = json.loads((tmp_path / "clusters.json").read_text())
    assert report["with_face"] == 21  # and a blank one
    assert set(report["alone"]) == {"audio", "face", "both"}
    assert len(pd.read_csv(tmp_path / "pseudo_labels.csv")) == 24
