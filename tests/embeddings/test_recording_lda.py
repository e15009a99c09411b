import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.covariance import LedoitWolf
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings import recording_lda as module
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.linear import LDA
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings


def crops(recordings=400, each=6, width=8, seed=0):
    """Embeddings of crops whose noise is correlated, and their recordings."""
    rng = np.random.default_rng(seed)
    mix = rng.standard_normal((width, width))
    names = np.repeat(np.arange(recordings), each)
    voices = rng.standard_normal((recordings, width)) * np.arange(1, width + 1)
    noise = 3 * rng.standard_normal((len(names), width)) @ mix
    return voices[names] + noise + 5, names


def test_all_axes_amount_to_the_inverse_of_the_shrunk_covariance():
    """But for a scale, by which embeddings vary as much as before."""
    embeddings, names = crops(recordings=7)
    lda = RecordingLDA().fit(embeddings, names)
    residuals = [
        embeddings[i] - embeddings[names == names[i]].mean(0)
        for i in range(len(names))
    ]
    within = LedoitWolf(assume_centered=True).fit(residuals).covariance_
    within *= len(names) / (len(names) - 7)
    points = np.random.default_rng(1).standard_normal((3, 8))
    centred = points - embeddings.mean(0)
    expected = centred @ np.linalg.inv(within) @ centred.T
    mapped = lda.transform(points)
    ratio = mapped @ mapped.T / expected
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)
    total = lda.transform(embeddings).var(0).sum()
    assert total == pytest.approx(embeddings.var(0).sum(), rel=1e-4)


@pytest.mark.parametrize("alike", [True, False])
def test_fewer_axes_are_those_of_scikit_learn(alike):
    """A class weighs as much as it has members."""
    # With so many crops there is nothing left to shrink.
    embeddings, names = crops(recordings=3000)
    if not alike:  # small classes differ most, along an axis of their own
        rng = np.random.default_rng(1)
        names = np.repeat(np.arange(1000), np.repeat([20, 2], 500))
        voices = rng.standard_normal((1000, 8)) * np.arange(1, 9) / 2
        voices[:500, 0] *= 12
        voices[500:, 1] *= 15
        noise = rng.standard_normal((len(names), 8)) * np.arange(1, 9)
        embeddings = voices[names] + noise
    lda = RecordingLDA(dimensions=3).fit(embeddings, names)
    theirs = LinearDiscriminantAnalysis(n_components=3).fit(embeddings, names)
    ours, theirs = lda.transform(embeddings), theirs.transform(embeddings)
    assert ours.shape == (len(names), 3)
    for axis in range(3):
        alike = abs(np.corrcoef(ours[:, axis], theirs[:, axis])[0, 1])
        assert alike > 0.999


def test_a_layer_does_the_same(corpus):
    table = read_manifest(corpus / "train.csv", corpus)
    linear = torch.nn.Linear(80, 6)
    embedder = Embedder(
        lambda wavs, lens: linear(wavs.unfold(1, 80, 80).abs().mean(1))
    )
    state = torch.random.get_rng_state()
    lda, again = (
        RecordingLDA(crop_seconds=0.4, dimensions=4).learn(embedder, table)
        for _ in range(2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(lda.axes, again.axes)
    expected = lda.transform(embedder.embed(table))
    found = lda.after(embedder).embed(table)
    assert found.shape == (12, 4)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_damaged_and_silent_recordings_are_replaced(corpus, tmp_path, caplog):
    table = read_manifest(corpus / "train.csv", corpus)
    soundfile.write(tmp_path / "silent.wav", np.zeros(9000), 16000)
    table.loc[0, "wav"] = str(tmp_path / "silent.wav")
    (tmp_path / "damaged.wav").write_bytes(b"RIFF")
    table.loc[5, "wav"] = str(tmp_path / "damaged.wav")
    embedder = Embedder(lambda wavs, lens: wavs.unfold(1, 8, 8).std(1))
    lda = RecordingLDA(crop_seconds=0.3).learn(embedder, table)
    assert np.isfinite(lda.axes).all()
    assert "2 of 12 recordings cannot be read or are silent" in caplog.text


@pytest.mark.parametrize("labelled", [False, True])
def test_pieces_of_a_file_are_one_recording_and_so_are_those_of_a_label(
    corpus, labelled
):
    table = read_manifest(corpus / "train.csv", corpus)
    middle = (table["start"] + table["stop"]) // 2
    pieces = pd.concat([table.assign(stop=middle), table.assign(start=middle)])
    of_file = list(range(12)) * 2
    if labelled:  # the first file is a conversation
        pieces["spk_id"] = ["a"] * 12 + ["b"] + ["a"] * 11
        of_file[12] = 12
    embedder = Embedder(lambda wavs, lens: wavs.unfold(1, 8, 8).std(1))
    lda = RecordingLDA(crop_seconds=0.2, crops=2)
    crops, rows = lda.embed_crops(embedder, pieces)
    assert rows.tolist() == np.repeat(range(24), 2).tolist()
    expected = LDA().fit(crops, np.repeat(of_file, 2))
    found = lda.learn(embedder, pieces)
    np.testing.assert_allclose(found.axes, expected.axes, rtol=1e-6)


def test_what_it_cannot_learn_from(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    table = pd.DataFrame({"ID": ["a", "b"]})
    with pytest.raises(ValueError, match="embeddings alone"):
        RecordingLDA().learn(StoredEmbeddings(tmp_path), table)
    with pytest.raises(ValueError, match="two recordings"):
        RecordingLDA().fit(np.eye(3), np.zeros(3))
    with pytest.raises(ValueError, match="same embedding"):
        RecordingLDA().fit(np.eye(3), np.arange(3))


def test_what_follows_an_encoder_can_be_extracted(corpus, tmp_path):
    table = read_manifest(corpus / "train.csv", corpus)
    encoder = torch.nn.Linear(1, 3)

    def encode(wavs, lens):
        return encoder(wavs.square().mean(1, keepdim=True)).detach()

    lda = LDA().fit(np.random.default_rng(0).normal(size=(9, 3)), [0, 1, 2] * 3)
    whole = lda.after(Embedder(encode, encoder))
    _, found = whole.extract(tmp_path / "mapped", table)
    np.testing.assert_allclose(found, whole.embed(table), rtol=1e-5)
    other = LDA().fit(np.eye(3), [0, 1, 1]).after(Embedder(encode, encoder))
    assert other.fingerprint() != whole.fingerprint()


def test_rooms_and_noises_are_of_the_rate_of_the_encoder(corpus, monkeypatch):
    made, rates = module.default_augment, []

    def spy(sample_rate=16000):
        rates.append(sample_rate)
        return made(sample_rate)

    monkeypatch.setattr(module, "default_augment", spy)
    table = read_manifest(corpus / "train.csv", corpus)
    encode = lambda wavs, lens: wavs.unfold(1, 8, 8).std(1)  # noqa: E731
    embedder = Embedder(encode, sample_rate=8000)
    RecordingLDA(crop_seconds=0.3).learn(embedder, table.assign(stop=3000))
    assert rates == [8000]
