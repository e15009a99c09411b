import shutil

import numpy as np
import pytest
import torch

from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain_cadino.encoders import fold, load
from speechbrain_cadino.encoders.calibration import (
    ScoreCalibration,
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.fold import fold_linear
from speechbrain_cadino.encoders.load import load_classifier, load_encoder
from speechbrain_cadino.encoders.trust import copy_known


def test_stock_speechbrain_computes_the_map(encoder_folder, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(encoder_folder, source)
    (source / "README.md").write_text(
        "# Mine\n\n## How good it is\n\nEER 1 %\n\n## Licence\n\nFree.\n"
    )
    calibration = ScoreCalibration(-1.0, 5.0, "crops", 10, 2)
    write_calibration(source, calibration)
    torch.manual_seed(0)
    layer = torch.nn.Linear(12, 12)
    fold_linear(source, layer, tmp_path / "folded")
    wavs = torch.randn(2, 9000)
    before = load_encoder(source)
    expected = layer(before.encode_batch(wavs, torch.ones(2)))
    stock = SpeakerRecognition.from_hparams(source=str(tmp_path / "folded"))
    torch.testing.assert_close(
        stock.encode_batch(wavs), expected, rtol=1e-4, atol=1e-5
    )
    mean = layer(torch.from_numpy(before.mean)).detach().numpy()
    found = load_encoder(tmp_path / "folded").mean
    np.testing.assert_allclose(found, mean, rtol=1e-5, atol=1e-6)
    # Its scores are others, and the model card says so
    card = (tmp_path / "folded" / "README.md").read_text()
    assert card.startswith("# Mine\n\n## How good it is\n\nNot evaluated since")
    assert "EER" not in card
    assert "## Licence\n\nFree.\n" in card
    assert "Threshold: none yet" in card
    assert read_calibration(tmp_path / "folded") is None
    assert read_calibration(source) == calibration


def test_weights_that_lie_elsewhere_and_a_card_of_others(
    encoder_folder, tmp_path
):
    """As of a hub, whose hyperparams.yaml says where its weights are: what is
    written stands alone."""
    source = tmp_path / "theirs"
    source.mkdir()
    text = (encoder_folder / "hyperparams.yaml").read_text()
    weights = encoder_folder / "embedding_model.ckpt"
    text = text.replace("sample_rate: 16000", "rate: 16000", 1)
    text = text.replace("<sample_rate>", "<rate>")
    text += f"  paths:\n    embedding_model: {weights}\n"
    (source / "hyperparams.yaml").write_text(text)
    (source / "README.md").write_text("EER of the best encoder: 0.1 %")
    shutil.copy(encoder_folder / "mean_var_norm_emb.ckpt", source)
    layer = torch.nn.Linear(12, 12)
    fold_linear(source, layer, tmp_path / "folded", mean=np.ones(12))
    shutil.rmtree(source)
    wavs = torch.randn(1, 9000)
    stock = SpeakerRecognition.from_hparams(source=str(tmp_path / "folded"))
    before = load_encoder(encoder_folder).encode_batch(wavs, torch.ones(1))
    torch.testing.assert_close(
        stock.encode_batch(wavs), layer(before), rtol=1e-4, atol=1e-5
    )
    expected = layer(torch.ones(12)).detach().numpy()
    found = load_encoder(tmp_path / "folded").mean
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    card = (tmp_path / "folded" / "README.md").read_text()
    assert "0.1 %" not in card
    assert "theirs with a linear map of its embeddings" in card
    assert "Not evaluated since a linear map" in card
    assert "Threshold: none yet" in card


def test_weights_under_another_name_are_taken_along(encoder_folder, tmp_path):
    """As in folders of others; where they cannot be told, nothing is
    written."""
    source = shutil.copytree(encoder_folder, tmp_path / "theirs")
    path = source / "hyperparams.yaml"
    text = path.read_text()
    own = "embedding_model: !ref <embedding_model>\n"
    before, _, after = text.rpartition(own)
    path.write_text(f"{before}model: !ref <embedding_model>\n{after}")
    (source / "embedding_model.ckpt").rename(source / "model.ckpt")
    layer = torch.nn.Linear(12, 12)
    fold_linear(source, layer, tmp_path / "folded")
    wavs = torch.randn(1, 9000)
    expected = layer(load_encoder(source).encode_batch(wavs, torch.ones(1)))
    found = load_encoder(tmp_path / "folded").encode_batch(wavs, torch.ones(1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    inside = "[!ref <embedding_model>]"
    path.write_text(
        f"{before}model: !new:torch.nn.ModuleList [{inside}]\n{after}"
    )
    weights = torch.load(source / "model.ckpt")
    weights = {f"0.{name}": value for name, value in weights.items()}
    torch.save(weights, source / "model.ckpt")
    with pytest.raises(ValueError, match="does not load its embedding_model"):
        fold_linear(source, layer, tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_what_cannot_be_folded(encoder_folder, tmp_path):
    with pytest.raises(ValueError, match="12 to 5 dimensions"):
        fold_linear(encoder_folder, torch.nn.Linear(12, 5), tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="no folder"):
        fold_linear("./gone", torch.nn.Linear(12, 12), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class Squashed(torch.nn.Module):
    """Ends in no linear layer."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(24, 4)

    def forward(self, feats, lens=None):
        return self.linear(feats.mean(1, keepdim=True)).tanh()


def test_an_encoder_that_does_not_end_in_a_linear_layer(
    encoder_folder, tmp_path, monkeypatch
):
    encoder = load_classifier(encoder_folder, "cpu")
    encoder.mods["embedding_model"] = Squashed()
    monkeypatch.setattr(fold, "load_classifier", lambda *arguments: encoder)
    with pytest.raises(ValueError, match="not linear"):
        fold_linear(encoder_folder, torch.nn.Linear(4, 4), tmp_path / "out")


def test_of_a_stranger_what_was_checked_is_what_is_written(
    encoder_folder, tmp_path, monkeypatch
):
    """And no file that a link of theirs leads to."""
    source = tmp_path / "theirs"
    shutil.copytree(encoder_folder, source)
    secret = tmp_path / "secret"
    secret.write_text("## How good it is\n\n## Licence\n\nSesame")
    (source / "README.md").symlink_to(secret)
    path = source / "hyperparams.yaml"
    good = path.read_text()

    def swap(*args, **kwargs):
        copy_known(*args, **kwargs)
        path.write_text(good.replace("!new:", "!apply:"))

    monkeypatch.setattr(load, "copy_known", swap)
    layer = torch.nn.Linear(12, 12)
    fold_linear(source, layer, tmp_path / "folded", trusted=False)
    assert "!apply:" in path.read_text()
    written = tmp_path / "folded"
    assert "!apply:" not in (written / "hyperparams.yaml").read_text()
    card = (written / "README.md").read_text()
    assert "Sesame" not in card
    assert "theirs with a linear map" in card
    wavs = torch.randn(1, 9000)
    expected = layer(load_encoder(encoder_folder).encode_batch(wavs, None))
    found = load_encoder(written, trusted=False).encode_batch(wavs, None)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_of_a_stranger_the_mean_that_is_given_counts(encoder_folder, tmp_path):
    """That of the recordings that it is adapted to."""
    layer, folder = torch.nn.Linear(12, 12), tmp_path / "folded"
    mean = np.full(12, 3.0)
    fold_linear(encoder_folder, layer, folder, mean, trusted=False)
    expected = layer(torch.full((12,), 3.0)).detach().numpy()
    found = load_encoder(folder).mean
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Linear(12, 12, bias=False),
        torch.nn.Linear(12, 12, dtype=torch.float64),
    ],
)
def test_any_linear_layer_is_a_map(encoder_folder, tmp_path, layer):
    fold_linear(encoder_folder, layer, tmp_path / "folded")
    wavs = torch.randn(2, 9000)
    before, after = map(load_encoder, (encoder_folder, tmp_path / "folded"))
    expected = layer.float()(before.encode_batch(wavs, torch.ones(2)))
    torch.testing.assert_close(
        after.encode_batch(wavs, torch.ones(2)), expected, rtol=1e-4, atol=1e-5
    )
    mean = layer(torch.from_numpy(before.mean)).detach().numpy()
    np.testing.assert_allclose(after.mean, mean, rtol=1e-5, atol=1e-6)
