import functools
import logging

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings import embedder as module
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.encoders.load import load_encoder


def table_of(tmp_path, lengths):
    """A manifest of files that hold their row number as their level."""
    rows = []
    for row, length in enumerate(lengths):
        path = tmp_path / f"{row}.wav"
        wav = np.resize([row / 100 + 2**-10, row / 100 - 2**-10], length)
        soundfile.write(path, wav, 16000, "FLOAT")
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

    embedder = Embedder(encode_batch, batch_size=2, num_workers=num_workers)
    embeddings = embedder.embed(table)
    # The longest first: what a bar promises comes true
    assert shapes == [(1, 4000), (2, 4000), (2, 3000)]
    assert embeddings.dtype == np.float32
    expected = np.arange(5)[:, None] / 100
    np.testing.assert_allclose(embeddings, expected, atol=1e-7)


def test_only_the_stretch_of_the_manifest_is_read(tmp_path):
    wav = np.repeat([0.1, 0.2, 0.3], 3000) + np.tile([0.05, -0.05], 4500)
    soundfile.write(tmp_path / "a.wav", wav, 16000, "FLOAT")
    table = pd.DataFrame({"ID": ["a"], "wav": [tmp_path / "a.wav"]})
    table["start"], table["stop"] = 3000, 6000
    assert Embedder(level).embed(table) == pytest.approx(0.2)


def test_batching_does_not_change_an_encoders_embeddings(
    encoder_folder, corpus
):
    table = read_manifest(corpus / "train.csv", corpus)
    batched = load_encoder(encoder_folder).embed(table)
    single = load_encoder(encoder_folder, batch_size=1).embed(table)
    np.testing.assert_allclose(batched, single, atol=1e-5)


def test_what_an_encoder_keeps_serves_its_training(tmp_path):
    """As tables of positions that are made once, for the longest input."""

    class Remembers(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(1))
            self.table = None

        def forward(self, wavs, lengths=None):
            if self.table is None:
                self.table = torch.arange(1.0, wavs.shape[1] + 1)
            return (self.scale * wavs * self.table).mean(1, keepdim=True)

    network = Remembers()
    Embedder(network, network).embed(table_of(tmp_path, [4000]))
    network(torch.ones(1, 4000)).sum().backward()
    assert network.scale.grad.item() == pytest.approx(2000.5)


def test_training_randomness_is_left_alone(tmp_path):
    table = table_of(tmp_path, [2000])
    state = torch.random.get_rng_state()
    Embedder(level).embed(table)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_an_unreadable_file_raises_or_is_skipped(tmp_path, num_workers, caplog):
    table = table_of(tmp_path, [3000, 3000, 3000])
    (tmp_path / "1.wav").write_text("no audio")
    embedder = Embedder(level, num_workers=num_workers)
    with pytest.raises(MediaError, match=r"1.wav: not readable"):
        embedder.embed(table)
    with caplog.at_level(logging.WARNING):
        embeddings = embedder.embed(table, skip_unreadable=True)
    assert np.isnan(embeddings[1]).all()
    np.testing.assert_allclose(embeddings[[0, 2], 0], [0, 0.02], atol=1e-7)
    assert "1 of 3 utterances cannot be read" in caplog.text


def test_all_unreadable(tmp_path):
    table = table_of(tmp_path, [3000])
    (tmp_path / "0.wav").unlink()
    with pytest.raises(MediaError, match=r"None .* no such file"):
        Embedder(level).embed(table, skip_unreadable=True)


def test_without_weights_nothing_is_kept(tmp_path):
    """Embeddings on disk are those of an encoder, which has a fingerprint."""
    table = table_of(tmp_path, [3000])
    with pytest.raises(ValueError, match="give Embedder weights"):
        Embedder(level).extract(tmp_path / "kept", table)


def test_a_reader_that_is_a_function_is_the_same_in_each_process(tmp_path):
    def reader_of(number):
        def read(*arguments):
            return number

        return functools.partial(read, number)

    weights = torch.nn.Linear(1, 1)
    readers = [reader_of(1), reader_of(1)]
    assert str(readers[0]) != str(readers[1])
    found = [
        Embedder(level, weights=weights, reader=reader).fingerprint()
        for reader in readers
    ]
    assert found[0] == found[1]
    assert "reader_of" in found[0]["reader"]


def test_too_short(tmp_path):
    table = table_of(tmp_path, [3000, 0])
    with pytest.raises(MediaError, match=r"1.wav: 0 samples are too short"):
        Embedder(level).embed(table)


def test_an_embedding_that_is_not_finite_names_its_file(tmp_path):
    table = table_of(tmp_path, [3000, 3000])
    embedder = Embedder(lambda wavs, lens: wavs[:, :1] / (wavs[:, :1] < 0.005))
    with pytest.raises(ValueError, match=r"embedding of .*1.wav is not finite"):
        embedder.embed(table)


def test_silence_has_no_embedding(encoder_folder, tmp_path, caplog):
    table = table_of(tmp_path, [3000, 3000])
    soundfile.write(table["wav"][0], np.zeros(3000), 16000)
    encoder = load_encoder(encoder_folder)
    with pytest.raises(MediaError, match=r"wav: silent"):
        encoder.embed(table)
    found = encoder.embed(table, skip_unreadable=True)
    assert np.isnan(found).all(1).tolist() == [True, False]
    assert "silent" in caplog.text


def test_mean_embedding_of_a_large_set_is_of_some_of_it(tmp_path, monkeypatch):
    table = table_of(tmp_path, [2000] * 9)
    assert Embedder(level).mean_embedding(table) == pytest.approx(0.04)
    monkeypatch.setattr(
        "speechbrain_cadino.embeddings.embedder.MEAN_UTTERANCES", 3
    )
    rows = []
    embedder = Embedder(lambda w, n: rows.append(len(w)) or level(w, n))
    mean = embedder.mean_embedding(table)
    assert sum(rows) == 3
    assert mean == pytest.approx(np.mean(spread_rows(9, 3)) / 100)


@pytest.fixture
def stored(tmp_path):
    """A folder of embeddings that somebody made."""
    save_embeddings(tmp_path / "stored", ["a", "b", "c"], np.diag([1, 2, 3]))
    return tmp_path / "stored"


def test_stored_embeddings_are_found_by_id_in_the_tables_order(
    stored, tmp_path
):
    embedder = StoredEmbeddings(stored)
    table = pd.DataFrame({"ID": ["c", "a"]})
    expected = [[0, 0, 3], [1, 0, 0]]
    embeddings = embedder.embed(table)
    assert embeddings.dtype == np.float32
    assert embeddings.tolist() == expected
    ids, extracted = embedder.extract(tmp_path / "out", table)
    assert ids == load_embeddings(tmp_path / "out")[0] == ["c", "a"]
    assert extracted.tolist() == expected


def test_a_null_row_is_no_embedding(tmp_path):
    """Its cosine to anything would be 0: a score that means nothing."""
    save_embeddings(tmp_path, ["a", "b"], np.diag([1, 0]))
    embedder = StoredEmbeddings(tmp_path)
    table = pd.DataFrame({"ID": ["a", "b"]})
    with pytest.raises(ValueError, match=r"1 of 2 .* zero or not finite, .*b"):
        embedder.embed(table)
    embeddings = embedder.embed(table, skip_unreadable=True)
    assert np.isnan(embeddings).tolist() == [[False] * 2, [True] * 2]


def test_stored_embeddings_do_not_take_the_place_of_others(stored, tmp_path):
    table = pd.DataFrame({"ID": ["a"]})
    others = tmp_path / "others"
    save_embeddings(others, ["x"], np.eye(3)[:1])
    with pytest.raises(ValueError, match=r"embeddings\.npy would be replaced"):
        StoredEmbeddings(stored).extract(others, table)
    assert load_embeddings(others)[0] == ["x"]
    # Nor their own, of which a manifest may have a part
    with pytest.raises(ValueError, match="holds the embeddings that are given"):
        StoredEmbeddings(others).extract(others, pd.DataFrame({"ID": ["x"]}))


def test_an_id_without_a_stored_embedding_is_named_or_skipped(stored):
    embedder = StoredEmbeddings(stored)
    table = pd.DataFrame({"ID": ["b", "x", "y"]})
    with pytest.raises(
        ValueError, match="no embedding of 2 of 3 utterances, such as x"
    ):
        embedder.embed(table)
    embeddings = embedder.embed(table, skip_unreadable=True)
    assert embeddings[0].tolist() == [0, 2, 0]
    assert np.isnan(embeddings[1:]).all()
    with pytest.raises(
        ValueError, match="no embedding of 2 of 2 utterances, such as x"
    ):
        embedder.embed(table[1:], skip_unreadable=True)
    with pytest.raises(ValueError, match="no utterance to look up"):
        embedder.embed(table[:0])


def test_load_encoder_takes_a_folder_of_embeddings(stored):
    embedder = load_encoder(stored, device="cpu", batch_size=2)
    assert isinstance(embedder, StoredEmbeddings)
    assert embedder.embed(pd.DataFrame({"ID": ["b"]})).tolist() == [[0, 2, 0]]


def test_segments_are_of_audio(stored, encoder_folder, corpus):
    for options in ({"embeddings": stored}, {"source": stored}):
        with pytest.raises(ValueError, match="segment_seconds is of audio"):
            load_encoder(segment_seconds=3, **options)
    apart = {"segment_seconds": 0.2, "keep_segments": True}
    embedder = load_encoder(encoder_folder, **apart)
    with pytest.raises(ValueError, match="no embedding of an utterance"):
        embedder.embed(read_manifest(corpus / "train.csv", corpus))


def test_a_manifest_of_another_rate_is_refused(tmp_path):
    """It would be a half of each file: at the rate of the files, or prepared
    for another encoder."""
    for file_rate, manifest_rate in [(8000, 8000), (16000, 8000)]:
        wav = np.random.default_rng(0).uniform(-0.3, 0.3, 2 * file_rate)
        soundfile.write(tmp_path / "a.wav", wav, file_rate)
        table = pd.DataFrame({"ID": ["a"], "wav": [tmp_path / "a.wav"]})
        table["start"], table["stop"] = 0, 2 * manifest_rate
        table["duration"] = 2.0
        with pytest.raises(ValueError, match=r"counts 8000 .* stop by 2"):
            Embedder(level).embed(table)
        Embedder(level).embed(table.assign(stop=32000))
        Embedder(level, sample_rate=8000).embed(table)


def test_an_option_that_there_is_not(tmp_path):
    save_embeddings(tmp_path, ["a"], np.ones((1, 2)))
    with pytest.raises(TypeError, match=r"no argument .*'batchsize'"):
        load_encoder(tmp_path, batchsize=4)


@pytest.mark.parametrize("window", [False, True])
def test_modules_without_weights_are_told_apart(window):
    """A window that nothing has learnt says nothing of the rest."""

    class Loud(torch.nn.Module):
        def __init__(self, least):
            super().__init__()
            self.least = least
            if window:
                self.register_buffer("window", torch.ones(3))

        def forward(self, wavs, lens):
            return (wavs.abs() > self.least).float().mean(1, keepdim=True)

    class Louder(Loud):
        pass

    modules = [Loud(0.1), Loud(0.1), Loud(0.2), Louder(0.1)]
    prints = [Embedder(each, each).fingerprint()["weights"] for each in modules]
    assert prints[0] == prints[1]
    assert len(set(prints)) == 3


def test_of_a_long_utterance_the_first_part_is_embedded(tmp_path, monkeypatch):
    """Where it begins inside its file, too; and of long ones fewer at once."""
    monkeypatch.setattr(module, "LONGEST", 1)  # s
    wav = np.repeat([0.1, 0.2, 0.3, 0.4], 16000)
    wav[::2] += 0.01
    soundfile.write(tmp_path / "a.wav", wav, 16000, "FLOAT")
    rows = [
        (f"u{start}", str(tmp_path / "a.wav"), start, start + 40000)
        for start in (16000, 0, 16000, 8000)
    ]
    table = pd.DataFrame(rows, columns=["ID", "wav", "start", "stop"])
    shapes = []

    def encode_batch(wavs, wav_lens):
        shapes.append(tuple(wavs.shape))
        return level(wavs, wav_lens)

    embeddings = Embedder(encode_batch, batch_size=16).embed(table)
    expected = np.array([0.2, 0.1, 0.2, 0.15])[:, None] + 0.005
    np.testing.assert_allclose(embeddings, expected, atol=1e-6)
    assert shapes == [(2, 16000), (2, 16000)]


def test_the_device_is_that_of_the_weights():
    assert Embedder(level, torch.nn.Linear(1, 1)).device == "cpu"
    assert Embedder(level, torch.nn.Identity()).device is None


def test_the_mean_is_of_what_can_be_read(tmp_path):
    """Or one file would make the mean of an encoder folder NaN."""
    table = table_of(tmp_path, [2000] * 3)
    (tmp_path / "1.wav").write_text("no audio")
    assert Embedder(level).mean_embedding(table) == pytest.approx(0.01)
