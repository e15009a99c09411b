import shutil

from speechbrain_cadino.encoders.calibration import read_calibration
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.runs.finish import finish
from speechbrain_cadino.verification import threshold
from speechbrain_cadino.verification.threshold import fit


def test_a_trained_encoder_has_a_threshold(
    encoder_folder,
    run_hyperparams,
    trained_modules,
    corpus,
    tmp_path,
    monkeypatch,
    caplog,
):
    shutil.copyfile(run_hyperparams, tmp_path / "hyperparams.yaml")
    hparams = {
        "output_folder": tmp_path,
        "encoder_folder": tmp_path / "encoder",
        "train_manifest": corpus / "train.csv",
        "data_folder": corpus,
        "evaluator": None,
    }
    weights = trained_modules["embedding_model"]
    embedder = load_encoder(encoder_folder).replace(weights=weights)
    finish(embedder, hparams)
    # Recordings of less than a second: said, and the encoder is there
    assert "The encoder has no threshold: 0 recording" in caplog.text
    assert read_calibration(tmp_path / "encoder") is None
    monkeypatch.setattr(threshold, "SHORTEST_HALF", 0.15)
    monkeypatch.setattr(threshold, "FEWEST_RECORDINGS", 12)

    def higher(scores, same, method):
        # An untrained encoder does not tell voices apart
        return fit((scores + same) / 2, same, method)

    monkeypatch.setattr(threshold, "fit", higher)
    finish(embedder, hparams)
    found = read_calibration(tmp_path / "encoder")
    assert (found.method, found.n_same) == ("crops", 12)
