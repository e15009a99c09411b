import shutil

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain_cadino.audio_visual.faces import FaceReader
from speechbrain_cadino.encoders import load
from speechbrain_cadino.encoders.load import as_embedder, load_encoder

# From the names before 0.2.0 to those of today
OLD_NAMES = {
    "speechbrain_cadino.lobes.face_resnet.FaceResNet": (
        "speechbrain_cadino.audio_visual.face_resnet.FaceResNet"
    ),
    "speechbrain_cadino.lobes.face_resnet.FaceNormalization": (
        "speechbrain_cadino.audio_visual.face_resnet.FaceNormalization"
    ),
    "speechbrain_cadino.dataio.faces.FaceReader": (
        "speechbrain_cadino.audio_visual.faces.FaceReader"
    ),
}


def test_load_encoder_leaves_no_files_behind(
    encoder_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(encoder_folder.iterdir())
    embedder = load_encoder(encoder_folder, device="cpu")
    assert not embedder.encoder.mods.training
    assert list(tmp_path.iterdir()) == []
    assert sorted(encoder_folder.iterdir()) == before
    expected = np.arange(1, 13, dtype=np.float32) / 100
    np.testing.assert_array_equal(embedder.mean, expected)


def test_load_encoder_knows_devices_from_encoders(encoder_folder):
    device = torch.device("cpu")
    assert str(load_encoder(encoder_folder, device).device) == "cpu"
    with pytest.raises(ValueError, match="No device warp:9"):
        load_encoder(encoder_folder, device="warp:9")


def test_load_encoder_names_what_is_missing(
    encoder_folder, tmp_path, monkeypatch
):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/nowhere"):
        load_encoder(tmp_path / "nowhere")
    # At once: no hub is asked for what is none of its ids
    monkeypatch.setattr(load, "fetch", None)
    for source in ("encoderx", "results/dino/encoderx", "results/encoderx"):
        with pytest.raises(FileNotFoundError, match=f"no folder {source}"):
            load_encoder(source)
    # A model of the hub that is another one: before its weights are fetched
    path = tmp_path / "asr.yaml"
    path.write_text("modules: {encoder: 1}\npretrainer: {loadables: {}}\n")
    monkeypatch.setattr(load, "fetch", lambda name, source: path)
    with pytest.raises(ValueError, match="is none that EncoderClassifier loa"):
        load_encoder("speechbrain/asr")
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams.yaml"):
        load_encoder(tmp_path)
    text = (encoder_folder / "hyperparams.yaml").read_text()
    (tmp_path / "hyperparams.yaml").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"no embedding_model.ckpt"):
        load_encoder(tmp_path)


def test_the_rate_of_the_features_counts(encoder_folder, tmp_path):
    """SpeechBrain takes 16 kHz where a folder of others names none."""
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    path = folder / "hyperparams.yaml"
    settings = YAML().load(path)
    del settings["audio_normalizer"]
    settings["compute_features"]["sample_rate"] = 8000
    YAML().dump(settings, path)
    assert load_encoder(folder).sample_rate == 8000
    stock = EncoderClassifier.from_hparams(source=str(folder))
    assert as_embedder(stock).sample_rate == 8000


def test_settings_that_make_no_sense(encoder_folder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    path = folder / "hyperparams.yaml"
    whole = path.read_text()
    settings = YAML().load(path)
    del settings["embedding_model"]["channels"][-1]
    YAML().dump(settings, path)
    for text in [path.read_text(), f"{whole}\nother: !foo 3\n"]:
        path.write_text(text)
        with pytest.raises(ValueError, match="encoder cannot be loaded: "):
            load_encoder(folder)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "embedding_model.ckpt is empty"),
        (b"version https://git-lfs.github.com/spec/v1\n", "pointer of Git LFS"),
        (None, "cannot be loaded"),  # half of it
    ],
)
def test_weights_that_were_not_copied(
    encoder_folder, tmp_path, content, sentence
):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    path = folder / "embedding_model.ckpt"
    path.write_bytes(path.read_bytes()[:5000] if content is None else content)
    with pytest.raises(ValueError, match=sentence):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("input_size:", "wheels: 4\n  input_size:", "wheels"),
        ("loadables:", "loadables: null\n  other:", "names no weights"),
    ],
)
def test_a_folder_of_another_version(
    encoder_folder, tmp_path, old, new, sentence
):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=sentence):
        load_encoder(folder)


def test_a_run_folder_is_no_encoder_folder(run_hyperparams, tmp_path):
    (tmp_path / "hyperparams.yaml").write_text(run_hyperparams.read_text())
    (tmp_path / "encoder").mkdir()
    with pytest.raises(ValueError, match=r"Did you mean .*/encoder\?"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("trusted", [True, False])
def test_an_encoder_of_faces_made_before_its_modules_moved(
    face_encoder, tmp_path, trusted
):
    folder = shutil.copytree(face_encoder, tmp_path / "encoder")
    path = folder / "hyperparams.yaml"
    text = path.read_text()
    for old, new in OLD_NAMES.items():
        assert f":{new}" in text
        text = text.replace(f":{new}", f":{old}")
    assert "audio_visual" not in text
    path.write_text(text)
    embedder = load_encoder(folder, trusted=trusted)
    assert embedder.reader.func is FaceReader
    frames = torch.randint(256, (2, 4, 3, 16, 16), dtype=torch.uint8)
    expected = load_encoder(face_encoder).encode_batch(frames)
    assert torch.equal(embedder.encode_batch(frames), expected)


@pytest.mark.parametrize("layout", ["hub", "savedir"])
def test_a_copy_from_a_hub_needs_no_hub(
    layout, encoder_folder, tmp_path, monkeypatch
):
    """Its hyperparams.yaml still names that, as SpeechBrain's own do. In a
    savedir, SpeechBrain calls weights by what they are for."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    expected = load_encoder(encoder_folder)
    folder = shutil.copytree(encoder_folder, tmp_path / "copy")
    path = folder / "hyperparams.yaml"
    text = f"pretrained_path: somebody/encoder\n{path.read_text()}"
    text += "  paths:\n"
    for name in ("embedding_model", "mean_var_norm_emb"):
        file = f"{name}.ckpt"
        if layout == "savedir" and name == "mean_var_norm_emb":
            file = "norm.txt"
        text += f"    {name}: !ref <pretrained_path>/{file}\n"
    path.write_text(text)
    wavs = torch.randn(2, 8000)
    for trusted in (True, False):
        found = load_encoder(folder, trusted=trusted)
        np.testing.assert_array_equal(found.mean, expected.mean)
        assert torch.equal(
            found.encode_batch(wavs, torch.ones(2)),
            expected.encode_batch(wavs, torch.ones(2)),
        )
