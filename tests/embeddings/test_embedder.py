import logging

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.embedder import embed, mean_embedding
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.encoders.load import load_encoder, stored_mean


def table_of(tmp_path, lengths):
    """A manifest of files that hold their row number as their level."""
    rows = []
    for row, length in enumerate(lengths):
        path = tmp_path / f"{row}.wav"
        soundfile.write(path, np.full(length, row / 100), 16000, "FLOAT")
        rows.append((f"u{row}", str(path), 0, length))
    return pd.DataFrame(rows, columns=["ID", "wav", "start", "stop"])


def level(wavs, wav_lens):
    return wavs.mean(1, keepdim=True)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_table_order_and_batches_of_one_length(tmp_path, num_workers):
    table = table_of(tmp_path, [4000, 3000, 4000, 4000, 3000])
    shapes = []

    def encode_batch(wavs, wav_lens):
        shapes.append(tuple(wavs.shape))
        return level(wavs, wav_lens)

    embeddings = embed(
        encode_batch, table, batch_size=2, num_workers=num_workers
    )
    assert shapes == [(2, 3000), (2, 4000), (1, 4000)]
    assert embeddings.dtype == np.float32
    expected = np.arange(5)[:, None] / 100
    np.testing.assert_allclose(embeddings, expected, atol=1e-7)


def test_only_the_stretch_of_the_manifest_is_read(tmp_path):
    wav = np.repeat([0.1, 0.2, 0.3], 3000)
    soundfile.write(tmp_path / "a.wav", wav, 16000, "FLOAT")
    table = pd.DataFrame({"ID": ["a"], "wav": [tmp_path / "a.wav"]})
    table["start"], table["stop"] = 3000, 6000
    assert embed(level, table) == pytest.approx(0.2)


def test_batching_does_not_change_an_encoders_embeddings(
    encoder_folder, corpus
):
    encoder = load_encoder(encoder_folder)
    table = read_manifest(corpus / "train.csv", corpus)
    batched = embed(encoder.encode_batch, table)
    single = embed(encoder.encode_batch, table, batch_size=1)
    np.testing.assert_allclose(batched, single, atol=1e-5)


def test_training_randomness_is_left_alone(tmp_path):
    table = table_of(tmp_path, [2000])
    state = torch.random.get_rng_state()
    embed(level, table)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_file_raises_or_is_skipped(tmp_path, num_workers, caplog):
    table = table_of(tmp_path, [3000, 3000, 3000])
    (tmp_path / "1.wav").write_text("no audio")
    with pytest.raises(MediaError, match=r"1.wav: not readable"):
        embed(level, table, num_workers=num_workers)
    with caplog.at_level(logging.WARNING):
        embeddings = embed(
            level, table, num_workers=num_workers, skip_unreadable=True
        )
    assert np.isnan(embeddings[1]).all()
    np.testing.assert_allclose(embeddings[[0, 2], 0], [0, 0.02], atol=1e-7)
    assert "1 of 3 utterances cannot be read" in caplog.text


def test_all_unreadable(tmp_path):
    table = table_of(tmp_path, [3000])
    (tmp_path / "0.wav").unlink()
    with pytest.raises(MediaError, match=r"None .* no such file"):
        embed(level, table, skip_unreadable=True)


def test_too_short(tmp_path):
    table = table_of(tmp_path, [3000, 0])
    with pytest.raises(MediaError, match=r"1.wav: 0 samples are too short"):
        embed(level, table)


def test_an_embedding_that_is_not_finite_names_its_file(tmp_path):
    table = table_of(tmp_path, [3000, 3000])
    with pytest.raises(ValueError, match=r"embedding of .*1.wav is not finite"):
        embed(lambda wavs, lens: wavs[:, :1] / (wavs[:, :1] < 0.005), table)


def test_silence_has_an_embedding(encoder_folder, tmp_path):
    table = table_of(tmp_path, [3000])  # level 0
    encoder = load_encoder(encoder_folder)
    assert np.isfinite(embed(encoder.encode_batch, table)).all()


def test_mean_embedding_of_a_large_set_is_taken_evenly(tmp_path, monkeypatch):
    table = table_of(tmp_path, [2000] * 9)
    assert mean_embedding(level, table) == pytest.approx(0.04)
    monkeypatch.setattr(
        "speechbrain_cadino.embeddings.embedder.MEAN_UTTERANCES", 3
    )
    rows = []
    mean = mean_embedding(
        lambda w, n: rows.append(len(w)) or level(w, n), table
    )
    assert sum(rows) == 3
    assert mean == pytest.approx(0.04)


def test_load_encoder_leaves_no_files_behind(
    encoder_folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    before = sorted(encoder_folder.iterdir())
    encoder = load_encoder(encoder_folder, device="cpu")
    assert not encoder.mods.training
    assert list(tmp_path.iterdir()) == []
    assert sorted(encoder_folder.iterdir()) == before
    expected = np.arange(1, 13, dtype=np.float32) / 100
    np.testing.assert_array_equal(stored_mean(encoder), expected)


def test_load_encoder_names_what_is_missing(encoder_folder, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*/nowhere"):
        load_encoder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"has no hyperparams.yaml"):
        load_encoder(tmp_path)
    text = (encoder_folder / "hyperparams.yaml").read_text()
    (tmp_path / "hyperparams.yaml").write_text(text)
    with pytest.raises(FileNotFoundError, match=r"no embedding_model.ckpt"):
        load_encoder(tmp_path)


def test_a_run_folder_is_no_encoder_folder(run_hyperparams, tmp_path):
    (tmp_path / "hyperparams.yaml").write_text(run_hyperparams.read_text())
    (tmp_path / "encoder").mkdir()
    with pytest.raises(ValueError, match=r"Did you mean .*/encoder\?"):
        load_encoder(tmp_path)


def test_embeddings_on_disk(tmp_path):
    ids = ["a", "b b", "ü"]
    embeddings = np.random.default_rng(0).standard_normal((3, 4))
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "extraction.json").write_text("{}")
    save_embeddings(tmp_path / "new", ids, embeddings)
    assert not (tmp_path / "new" / "extraction.json").exists()
    loaded_ids, loaded = load_embeddings(tmp_path / "new")
    assert loaded_ids == ids
    assert isinstance(loaded, np.memmap)
    assert np.array_equal(loaded, embeddings.astype(np.float32))


def test_embeddings_and_ids_of_two_runs_are_never_paired(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    with pytest.raises(ValueError):  # dies before the new array is written
        save_embeddings(tmp_path, ["c", "d"], [["x"]])
    assert load_embeddings(tmp_path)[0] == ["a", "b"]
    (tmp_path / "ids.txt").unlink()  # killed before the new one is there
    with pytest.raises(FileNotFoundError, match=r"no ids.txt"):
        load_embeddings(tmp_path)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"1 lines in ids.txt, 2 rows"):
        load_embeddings(tmp_path)
