import json
import shutil
import types

import numpy as np
import pytest

from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.runs import finish as end
from speechbrain_cadino.runs import stage_two
from speechbrain_cadino.runs.finish import check_exportable, finish, fold
from speechbrain_cadino.verification import halves, threshold
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.threshold import fit


@pytest.fixture
def hparams(run_hyperparams, corpus, tmp_path):
    """What a training leaves."""
    shutil.copyfile(run_hyperparams, tmp_path / "hyperparams.yaml")
    return {
        "output_folder": tmp_path,
        "encoder_folder": tmp_path / "encoder",
        "train_manifest": corpus / "train.csv",
        "data_folder": corpus,
        "evaluator": None,
    }


@pytest.fixture
def embedder(encoder_folder, trained_modules):
    """The trained encoder."""
    weights = trained_modules["embedding_model"]
    return load_encoder(encoder_folder).replace(weights=weights)


def test_of_a_joined_manifest_the_target_counts(
    hparams, embedder, corpus, tmp_path, monkeypatch
):
    """Source and target are other kinds of recordings, and the encoder is for
    the target, whose labels were guessed."""
    table = read_manifest(corpus / "train.csv", "$data_root")
    own = table["ID"].str[0] > "b"
    labelled = table.assign(spk_id=table["ID"].str[0], trusted=1 - own)
    write_manifest(tmp_path / "joined.csv", labelled)
    heard = []
    for place, name in [
        (embedder, "mean_embedding"),
        (end, "fold"),
        (end, "calibrate_without_labels"),
    ]:
        real = getattr(place, name)

        def note(*arguments, real=real):
            heard.append(arguments[-1]["ID"].tolist())
            return real(*arguments)

        monkeypatch.setattr(place, name, note)
    hparams |= {
        "train_manifest": tmp_path / "joined.csv",
        "final_map": RecordingLDA(crops=3),
    }
    finish(embedder, hparams)
    assert heard == 3 * [table["ID"][own].tolist()]
    card = (tmp_path / "encoder" / "README.md").read_text(encoding="utf-8")
    assert "And with speaker labels: 6 recordings of 2 speakers" in card


def test_a_map_that_would_not_fit_is_refused_before_the_training(hparams):
    hparams |= {"embedding_model": None, "emb_dim": 12}
    check_exportable({**hparams, "final_map": RecordingLDA(dimensions=12)})
    with pytest.raises(ValueError, match="final_map: it keeps 3 dimensions"):
        check_exportable({**hparams, "final_map": RecordingLDA(dimensions=3)})


@pytest.mark.parametrize("final_map", [None, RecordingLDA(crops=3)])
def test_a_trained_encoder_has_a_threshold(
    hparams, embedder, final_map, monkeypatch, caplog
):
    hparams["final_map"] = final_map
    finish(embedder, hparams)
    # Recordings of less than a second: said, and the encoder is there
    assert "The encoder has no threshold: 0 recording" in caplog.text
    folder = hparams["encoder_folder"]
    assert read_calibration(folder) is None
    monkeypatch.setattr(halves, "SHORTEST_HALF", 0.15)
    monkeypatch.setattr(halves, "FEWEST_RECORDINGS", 12)

    def higher(scores, same, method):
        # An untrained encoder does not tell voices apart
        return fit((scores + same) / 2, same, method)

    monkeypatch.setattr(threshold, "fit", higher)
    finish(embedder, hparams)
    found = read_calibration(folder)
    assert (found.method, found.n_same) == ("crops", 12)
    # Of the scores that the folder gives
    table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    expected = threshold.calibrate(load_encoder(folder), table)
    assert found.threshold == pytest.approx(expected.threshold, abs=1e-4)
    # A user's own is not lost without a word
    assert "had a threshold by trials" not in caplog.text
    write_calibration(folder, found._replace(method="trials"))
    finish(embedder, hparams)
    assert "had a threshold by trials" in caplog.text
    assert read_calibration(folder).method == "crops"


def test_labels_of_other_speakers_are_told(hparams, embedder, corpus, tmp_path):
    """Those of the source of an adaptation, which may be tested speakers."""
    rows = read_manifest(corpus / "train.csv", "$data_root")
    target = tmp_path / "target.csv"
    (tmp_path / "t").mkdir()
    names = [f"t/{number}" for number in range(12)]
    wavs = [tmp_path / f"{name}.wav" for name in names]
    for wav, copy in zip(rows["wav"], wavs):
        shutil.copy(wav.replace("$data_root", str(corpus)), copy)
    write_manifest(target, rows.assign(ID=names, wav=wavs))
    source = tmp_path / "source.csv"
    write_manifest(source, rows.assign(spk_id=rows["ID"].str[0])[:6])
    trials = TrialEvaluator(corpus / "trials.txt", corpus / "wav")
    hparams |= {"train_manifest": target, "evaluator": trials}
    for more, known, told in [
        ({}, 0, "without speaker labels.\n"),
        (
            {"source_manifest": source, "source_folder": corpus},
            2,
            "And with speaker labels: 6 recordings of 2 speakers.",
        ),
    ]:
        finish(embedder, hparams | more)
        metrics = json.loads((tmp_path / "metrics.json").read_text())
        assert metrics["training_overlap"]["trained_on"] == known
        card = (tmp_path / "encoder" / "README.md").read_text()
        assert told in card


def test_a_map_of_the_training_set_is_in_the_encoder_folder(hparams, embedder):
    finish(embedder, hparams | {"final_map": RecordingLDA(crops=3)})
    table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    expected = RecordingLDA(crops=3).learn(embedder, table)
    np.testing.assert_allclose(
        load_encoder(hparams["encoder_folder"]).embed(table),
        expected.transform(embedder.embed(table)),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_map_knows_no_labels_that_were_not_learnt(
    hparams, embedder, tmp_path, monkeypatch
):
    """A file that two are said to speak in is one recording still."""
    heard = []
    monkeypatch.setattr(
        end, "fold", lambda encoder, final_map, table: heard.append(table)
    )
    monkeypatch.setattr(end, "calibrate_without_labels", lambda *_: None)
    table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    wavs = table["wav"].to_numpy().repeat(2)[: len(table)]
    manifest = tmp_path / "labelled.csv"
    write_manifest(manifest, table.assign(wav=wavs, spk_id=table["ID"]))
    hparams |= {"train_manifest": manifest, "final_map": RecordingLDA(crops=3)}
    for labels in (False, True):
        finish(embedder, hparams, labels=labels)
    assert ["spk_id" in own for own in heard] == [False, True]


@pytest.mark.parametrize("final_map", [None, RecordingLDA(crops=3)])
def test_files_are_read_by_the_workers_of_the_training(
    hparams, embedder, final_map, monkeypatch
):
    seen = []

    def calibrate(encoder, table):
        seen.append(encoder.num_workers)
        raise ValueError("enough")

    monkeypatch.setattr(end, "calibrate", calibrate)
    finish(embedder.replace(num_workers=1), hparams | {"final_map": final_map})
    assert seen == [1]


def test_too_few_recordings_for_a_map_leave_the_encoder_as_it_was(
    encoder_folder, hparams, tmp_path, caplog
):
    folder = shutil.copytree(encoder_folder, tmp_path / "own")
    table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    fold(load_encoder(folder), RecordingLDA(), table.iloc[:1])
    assert "The encoder has no final_map: " in caplog.text
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before


@pytest.mark.parametrize("final_map", [None, RecordingLDA(crops=3)])
def test_a_classifier_is_kept_where_it_fits_the_encoder(
    hparams, embedder, final_map, monkeypatch, tmp_path
):
    """One of before a map goes."""
    kept, file = [], tmp_path / "classifier.ckpt"
    file.touch()
    branches = {"audio": types.SimpleNamespace(classifier_file=file)}
    monkeypatch.setattr(stage_two, "save_classifiers", kept.append)
    brain = types.SimpleNamespace(
        embedder=lambda: embedder, device=None, branches=branches
    )
    stage_two.finish_voices(brain, hparams | {"final_map": final_map})
    assert kept == ([brain] if final_map is None else [])
    assert file.exists() == (final_map is None)
