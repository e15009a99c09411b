import json

import numpy as np
import pytest

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings import embed, load_encoder, mean_embedding
from speechbrain_cadino.verification.baselines import LogMelStats
from speechbrain_cadino.verification.evaluate import TrialEvaluator, verify
from speechbrain_cadino.verification.metrics import summary

SYSTEMS = ["encoder", "random_encoder", "log_mel_stats"]


def test_scores_are_those_of_each_pair_and_files_are_read_once(corpus):
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    seen = []

    def encode_batch(wavs, wav_lens):
        seen.extend(wavs)
        assert wav_lens.tolist() == [1] * len(wavs)
        return wavs[:, None, :5]

    scores = evaluator.scores(encode_batch, mean=np.full(5, 0.1))
    assert len(seen) == 12
    table = read_manifest(corpus / "train.csv", corpus).set_index("ID")
    for line, score in zip(open(corpus / "trials.txt"), scores):
        _, *pair = line.split()
        a, b = embed(encode_batch, table.loc[pair].reset_index()) - 0.1
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert score == pytest.approx(expected, abs=1e-6)


def test_metrics_of_an_encoder_that_hears_the_spectrum(corpus):
    metrics = TrialEvaluator(corpus / "trials.txt", corpus)(LogMelStats())
    assert list(metrics) == ["eer", "min_dcf_0.01", "min_dcf_0.05"]
    assert metrics["eer"] < 10


def test_one_kind_of_trial_is_refused_at_once(tmp_path):
    (tmp_path / "trials.txt").write_text("1 a.wav b.wav\n")
    with pytest.raises(ValueError, match=r"trials.txt holds target trials"):
        TrialEvaluator(tmp_path / "trials.txt", tmp_path)


def test_verify_writes_all_systems(encoder_folder, corpus, tmp_path):
    results = verify(
        tmp_path,
        encoder_folder,
        corpus / "trials.txt",
        corpus,
        baselines=True,
        train_manifest=corpus / "train.csv",
        train_data_folder=corpus,
        seed=3,
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert (results["trials"], results["targets"]) == (66, 12)
    assert list(results["systems"]) == SYSTEMS
    targets = [line[0] == "1" for line in open(corpus / "trials.txt")]
    for system, figures in results["systems"].items():
        lines = (tmp_path / f"scores_{system}.txt").read_text().splitlines()
        scores = np.array([line.split()[2] for line in lines], np.float32)
        assert figures == summary(scores, targets)


def test_which_mean_is_subtracted(encoder_folder, corpus, tmp_path):
    """The encoder's from its folder, a baseline's from the training set."""
    table = read_manifest(corpus / "train.csv", corpus)
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    encoder = load_encoder(encoder_folder)
    stored = np.arange(1, 13, dtype=np.float32) / 100
    own = mean_embedding(LogMelStats(), table)
    for subtract in (True, False):
        results = verify(
            tmp_path,
            encoder_folder,
            corpus / "trials.txt",
            corpus,
            mean_subtraction=subtract,
            baselines=True,
            train_manifest=corpus / "train.csv",
            train_data_folder=corpus,
        )
        written = [
            np.loadtxt(tmp_path / f"scores_{system}.txt", usecols=2)
            for system in ("encoder", "log_mel_stats")
        ]
        assert results["trials"] == len(written[0])
        for scores, encode_batch, mean in [
            (written[0], encoder.encode_batch, stored),
            (written[1], LogMelStats(), own),
        ]:
            expected = evaluator.scores(
                encode_batch, mean if subtract else None
            )
            np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_baselines_without_training_data(encoder_folder, corpus, tmp_path):
    with pytest.raises(ValueError, match=r"baselines.* give train_manifest"):
        verify(
            tmp_path,
            encoder_folder,
            corpus / "trials.txt",
            corpus,
            baselines=True,
        )


def test_an_encoder_without_a_mean(encoder_folder, corpus, tmp_path):
    """As of SpeechBrain's recipes that never saved mean_var_norm_emb."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    text = (encoder_folder / "hyperparams.yaml").read_text()
    text = text.replace("    mean_var_norm_emb: !ref <mean_var_norm_emb>\n", "")
    (folder / "hyperparams.yaml").write_text(text)
    weights = "embedding_model.ckpt"
    (folder / weights).write_bytes((encoder_folder / weights).read_bytes())
    arguments = [folder, corpus / "trials.txt", corpus]
    with pytest.raises(ValueError, match=r"foreign comes without the mean"):
        verify(tmp_path, *arguments, mean_subtraction=True)
    verify(
        tmp_path,
        *arguments,
        mean_subtraction=True,
        train_manifest=corpus / "train.csv",
        train_data_folder=corpus,
    )
    encoder = load_encoder(encoder_folder).encode_batch
    table = read_manifest(corpus / "train.csv", corpus)
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    expected = evaluator.scores(encoder, mean_embedding(encoder, table))
    scores = np.loadtxt(tmp_path / "scores_encoder.txt", usecols=2)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
