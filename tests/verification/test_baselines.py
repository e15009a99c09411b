import numpy as np
import pytest
import torch

from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.verification import baselines
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    random_encoder,
)


def test_log_mel_stats_equal_numpy_on_speechbrains_features(corpus):
    wav = AudioReader(corpus / "wav" / "a" / "0.wav").read()
    system = LogMelStats()
    bands = system.compute_features(wav[None])[0].numpy()
    expected = np.concatenate([bands.mean(0), bands.std(0, ddof=1)])
    (actual,) = system(wav[None])
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_random_encoder_is_seeded_untrained_and_of_the_same_shape(
    encoder_folder, corpus
):
    table = read_manifest(corpus / "train.csv", corpus)
    trained = load_encoder(encoder_folder)
    state = torch.random.get_rng_state()
    first, again, other = (
        random_encoder(trained, table, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(torch.random.get_rng_state(), state)
    wavs = torch.randn(2, 8000)
    assert torch.equal(first.encode_batch(wavs), again.encode_batch(wavs))
    assert not torch.allclose(
        first.encode_batch(wavs), other.encode_batch(wavs)
    )
    old, new = (x.encoder.mods.embedding_model for x in (trained, first))
    for name, weight in old.named_parameters():
        fresh = new.get_parameter(name)
        assert fresh.shape == weight.shape
    assert not torch.equal(fresh, weight)


def test_batch_norm_statistics_are_the_average_over_training_crops(
    encoder_folder, corpus, monkeypatch
):
    table = read_manifest(corpus / "train.csv", corpus)
    crops = []

    def keep(*arguments):
        crops.append(draw(*arguments))
        return crops[-1]

    draw = baselines._random_crops
    monkeypatch.setattr(baselines, "_random_crops", keep)
    embedder = random_encoder(load_encoder(encoder_folder), table, seed=4)
    encoder = embedder.encoder
    assert len(crops) == 25
    assert not any(module.training for module in encoder.modules())
    # The first layer sees features only, so its statistics are theirs.
    block = encoder.mods.embedding_model.blocks[0]
    outputs = [
        block.activation(
            block.conv(
                encoder.mods.mean_var_norm(
                    encoder.mods.compute_features(wavs)
                ).transpose(1, 2)
            )
        )
        for wavs in crops
    ]
    mean = torch.stack([output.mean((0, 2)) for output in outputs]).mean(0)
    var = torch.stack([output.var((0, 2)) for output in outputs]).mean(0)
    torch.testing.assert_close(block.norm.norm.running_mean, mean)
    torch.testing.assert_close(block.norm.norm.running_var, var)


def test_crops_of_short_utterances(corpus):
    table = read_manifest(corpus / "train.csv", corpus)
    rng = np.random.default_rng(0)
    crops = baselines._random_crops(table, AudioReader, 16000, rng)
    # A third of the utterances has 6000 samples, a third 6800.
    assert crops.shape == (baselines.CALIBRATION_BATCH_SIZE, 6800)


def test_embeddings_of_the_baselines(encoder_folder, corpus):
    table = read_manifest(corpus / "train.csv", corpus)
    system = random_encoder(load_encoder(encoder_folder), table)
    assert system.embed(table).shape == (12, 12)
    assert Embedder(LogMelStats()).embed(table).shape == (12, 160)


def test_a_training_set_that_is_elsewhere_is_one_sentence(
    encoder_folder, corpus, tmp_path
):
    table = read_manifest(corpus / "train.csv", tmp_path)
    with pytest.raises(MediaError, match="Is train_data_folder right"):
        random_encoder(load_encoder(encoder_folder), table, 1)
