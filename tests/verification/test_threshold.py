import types

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.encoders.calibration import ScoreCalibration
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.verification import halves, threshold
from speechbrain_cadino.verification.baselines import LogMelStats
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.threshold import (
    calibrate,
    calibrate_by_trials,
    fit,
)


def test_gaussian_scores_have_a_known_calibration():
    """Of N(a, s) and N(b, s) the log-likelihood ratio is (a - b) / s^2 times
    the distance from the middle."""
    rng = np.random.default_rng(0)
    same = np.arange(40000) < 10000
    scores = np.where(same, 0.6, 0.2) + 0.15 * rng.standard_normal(40000)
    found = fit(scores, same, "trials")
    assert found.slope == pytest.approx(0.4 / 0.15**2, rel=0.03)
    assert found.threshold == pytest.approx(0.4, abs=0.005)
    assert (found.n_pairs, found.n_same) == (40000, 10000)


def test_the_penalty_does_not_flatten_the_slope_of_four_hundred_trials():
    rng = np.random.default_rng(1)
    same = np.arange(400) < 100
    scores = np.where(same, 0.6, 0.2) + 0.15 * rng.standard_normal(400)
    # Newton's method without any penalty, both kinds weighing the same
    x = np.stack([np.ones(400), scores], 1)
    weights, w = np.where(same, 2.0, 2 / 3), np.zeros(2)
    for _ in range(50):
        p = 1 / (1 + np.exp(-x @ w))
        hessian = (x * (weights * p * (1 - p))[:, None]).T @ x
        w += np.linalg.solve(hessian, x.T @ (weights * (same - p)))
    found = fit(scores, same, "trials")
    assert found.slope == pytest.approx(w[1], rel=0.002)


def test_an_interval_is_over_recordings_and_not_over_their_pairs(monkeypatch):
    """Over five, the outermost draws are its ends. The mean score stands in
    for a threshold."""
    found = []

    def mean(scores, same, method):
        found.append(scores.mean())
        return types.SimpleNamespace(threshold=found[-1])

    monkeypatch.setattr(threshold, "fit", mean)
    enrol, test = halves.pairs_of(5)
    scores = np.random.default_rng(0).standard_normal(len(enrol))
    ends = threshold.threshold_interval(scores, enrol, test, replicates=200)
    assert ends == (min(found), max(found))


def test_crops_are_halves_of_recordings(encoder_folder, corpus, monkeypatch):
    monkeypatch.setattr(halves, "SHORTEST_HALF", 0.15)
    monkeypatch.setattr(halves, "FEWEST_RECORDINGS", 12)
    table = read_manifest(corpus / "train.csv", corpus)
    embedder = load_encoder(encoder_folder)
    # The first and the last sample of each half, and how long it is
    ends = Embedder(
        lambda wavs, lengths: torch.nn.functional.pad(
            wavs[:, [0, -1]], (0, 1), value=wavs.shape[1]
        )
    )
    both, rows = halves.embed_halves(ends, table)
    for one, other, path in zip(*both, table["wav"].iloc[rows]):
        wav, _ = soundfile.read(path, dtype="float32")
        assert 0.96 * len(wav) < 2 * one[2] == 2 * other[2] <= len(wav)
        length = int(one[2])
        expected = wav[[0, length - 1]], wav[[-length, -1]]
        np.testing.assert_allclose([one[:2], other[:2]], expected, atol=1e-4)
    scores, same = threshold._crops(embedder, table)
    assert (len(scores), same.sum()) == (12 * 11, 12)
    # An untrained encoder does not tell voices apart
    monkeypatch.setattr(
        threshold,
        "fit",
        lambda scores, same, method: fit((scores + same) / 2, same, method),
    )
    found = calibrate(embedder, table)
    assert (found.method, found.n_pairs, found.n_same) == ("crops", 132, 12)
    assert found == calibrate(embedder, table)


def test_clusters_are_pairs_that_the_encoder_finds_alike(tmp_path):
    rng = np.random.default_rng(2)
    voices = np.repeat(rng.standard_normal((20, 16)), 3, axis=0)
    embeddings = voices + 0.3 * rng.standard_normal((60, 16))
    save_embeddings(tmp_path, [str(i) for i in range(60)], embeddings)
    stored = StoredEmbeddings(tmp_path)
    table = pd.DataFrame({"ID": stored.ids})
    found = calibrate(stored, table, method="clusters")
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = units @ units.T
    one, other = np.triu_indices(60, 1)
    same = one // 3 == other // 3
    answers = found.answers(scores[one, other])
    assert (answers[same] == "same").mean() > 0.9
    assert (answers[~same] == "different").mean() > 0.9
    # Ten others of each
    assert found.n_pairs - found.n_same == 600
    with pytest.raises(ValueError, match="embeddings alone"):
        calibrate(stored, table)


def test_a_draw_may_have_no_two_recordings_of_a_voice(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setattr(threshold, "MOST_RECORDINGS", 40)
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((20, 16)), 4, axis=0)
    points += 0.1 * rng.standard_normal(points.shape)
    names = [f"{number}.wav" for number in range(80)]
    save_embeddings(tmp_path, names, points)
    stored = StoredEmbeddings(tmp_path)
    for count, told in [(40, False), (80, True)]:
        table = pd.DataFrame({"ID": names[:count]})
        threshold.calibrate(stored, table, "clusters")
        assert ("40 of 80 recordings are drawn" in caplog.text) == told


def test_a_copy_is_not_another_voice(tmp_path, caplog, monkeypatch):
    """Whose halves are as alike as those of the recording itself."""
    monkeypatch.setattr(halves, "SHORTEST_HALF", 0.1)
    rng = np.random.default_rng(0)
    rows = []
    for number in range(24):
        wav = 0.1 * rng.standard_normal(8000) + rng.uniform(-0.3, 0.3)
        for copy in range(3 if number < 4 else 1):
            path = tmp_path / f"{number}-{copy}.wav"
            soundfile.write(path, wav, 16000)
            rows.append((path.stem, str(path), 0, 8000))
    table = pd.DataFrame(rows, columns=["ID", "wav", "start", "stop"])
    embedder = Embedder(LogMelStats())
    scores, same = threshold._crops(embedder, table)
    both, _ = halves.embed_halves(embedder, table)
    enrol, test = halves.pairs_of(32)
    names = np.array([name.split("-")[0] for name in table["ID"]])
    kept = (enrol == test) | (names[enrol] != names[test])
    assert f"{(~kept).sum()} pairs of recordings are left out" in caplog.text
    assert not kept.all()
    expected = halves.score_halves(both, enrol[kept], test[kept])
    np.testing.assert_array_equal(scores, expected)
    assert same.sum() == 32


def test_two_trials_are_no_calibration(corpus, tmp_path):
    lines = (corpus / "trials.txt").read_text().splitlines(keepends=True)
    few = [line for line in lines if line[0] == "1"][:9]
    others = [line for line in lines if line[0] == "0"]
    (tmp_path / "trials.txt").write_text("".join(few + others))
    trials = TrialEvaluator(tmp_path / "trials.txt", corpus)
    with pytest.raises(ValueError, match=r"9 trials of one .* 10 or more"):
        calibrate_by_trials(Embedder(LogMelStats()), trials)


def test_a_pair_is_one_trial(corpus, tmp_path):
    """However often, and in whatever order; a file and itself is none."""
    embedder = Embedder(LogMelStats())

    def calibrated(lines):
        (tmp_path / "trials.txt").write_text("\n".join(lines))
        trials = TrialEvaluator(tmp_path / "trials.txt", corpus)
        return calibrate_by_trials(embedder, trials)

    lines = (corpus / "trials.txt").read_text().splitlines()
    label, one, other = lines[0].split()
    more = [f"{label} {other} {one}", f"1 {one} {one}", *lines[:5]]
    assert calibrated([*lines, *more]) == calibrated(lines)
    wrong = f"{1 - int(label)} {other} {one}"
    with pytest.raises(ValueError, match="is a target trial and a non-target"):
        calibrated([*lines, wrong])


def test_pieces_of_a_recording_are_no_pair(
    encoder_folder, corpus, monkeypatch, tmp_path
):
    monkeypatch.setattr(halves, "SHORTEST_HALF", 0.1)
    monkeypatch.setattr(halves, "FEWEST_RECORDINGS", 12)
    whole = read_manifest(corpus / "train.csv", corpus)
    pieces = pd.concat([whole.assign(stop=4000), whole.assign(start=1600)])
    recordings = halves.number_recordings(pieces)
    assert recordings.tolist() == 2 * list(range(12))
    both, _ = halves.embed_halves(load_encoder(encoder_folder), pieces)
    expected = []
    for one, other in zip(*halves.pairs_of(24)):
        if one == other or recordings[one] != recordings[other]:
            a, b = both[0, one], both[1, other]
            cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
            expected.append((cosine, one == other))
    scores, same = threshold._crops(load_encoder(encoder_folder), pieces)
    assert len(scores) < 24 * 11
    np.testing.assert_allclose(scores, [pair[0] for pair in expected], 1e-4)
    assert same.tolist() == [pair[1] for pair in expected]
    # Nor are there more recordings than files
    with pytest.raises(ValueError, match=r"9 recording\(s\) of 0 s or more"):
        calibrate(load_encoder(encoder_folder), pieces[recordings < 9])
    # Both pieces of a recording are alike, and of one voice each
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((12, 16)).repeat(2, axis=0)
    ids = [str(i) for i in range(24)]
    save_embeddings(tmp_path, ids, voices + 0.1 * rng.standard_normal((24, 16)))
    wavs = [f"{i // 2}.wav" for i in range(24)]
    table = pd.DataFrame({"ID": ids, "wav": wavs})
    scores, same = threshold._clusters(StoredEmbeddings(tmp_path), table)
    assert scores.max() < 0.9


def test_copies_are_no_two_recordings_of_a_voice(tmp_path, caplog):
    """In a cluster, of which they would be the most alike."""
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((12, 16)).repeat(2, axis=0)
    points = voices + 0.5 * rng.standard_normal((24, 16))
    ids = [str(i) for i in range(36)]
    save_embeddings(tmp_path, ids, np.concatenate([points, points[::2]]))
    stored = StoredEmbeddings(tmp_path)
    scores, same = threshold._clusters(stored, pd.DataFrame({"ID": ids}))
    assert scores[same].max() < 0.999
    assert "12 pairs of recordings are left out: they are copies" in caplog.text


@pytest.mark.parametrize("voices", [10, 40])
def test_many_pieces_of_a_recording_are_no_clusters_of_their_own(voices):
    """Forty recordings of twenty pieces each, each in a channel of its own."""
    rng = np.random.default_rng(0)
    recordings = np.repeat(np.arange(40), 20)
    points = rng.standard_normal((voices, 32))[recordings % voices]
    points += 0.4 * rng.standard_normal((40, 32))[recordings]
    points += 0.3 * rng.standard_normal(points.shape)
    table = pd.DataFrame({"ID": np.arange(800), "wav": recordings.astype(str)})
    embedder = types.SimpleNamespace(embed=lambda *_, **__: points)
    scores, same = threshold._clusters(embedder, table)
    assert same.sum() > 1000
    if voices == 10:  # of four recordings each
        one, other = np.triu_indices(800, 1)
        true = recordings[one] % 10 == recordings[other] % 10
        true &= recordings[one] != recordings[other]
        units = points / np.linalg.norm(points, axis=1, keepdims=True)
        whole = (units[one[true]] * units[other[true]]).sum(1).mean()
        assert scores[same].mean() == pytest.approx(whole, abs=0.03)


def test_recordings_without_a_pair_are_one_sentence():
    """As those in one cluster are copies of one."""
    points = np.eye(5).repeat(6, axis=0)
    table = pd.DataFrame(
        {"ID": np.arange(30), "wav": np.arange(30).astype(str)}
    )
    embedder = types.SimpleNamespace(embed=lambda *_, **__: points)
    with pytest.raises(ValueError, match="No two recordings are in one clus"):
        threshold._clusters(embedder, table)


def test_recordings_of_one_voice_are_no_calibration(tmp_path):
    """Pairs that are taken for two voices are as alike as the others, which
    the calibration before tells."""
    rng = np.random.default_rng(2)
    voice = rng.standard_normal(16)
    one = voice + 0.3 * rng.standard_normal((30, 16))
    save_embeddings(tmp_path, [str(i) for i in range(30)], one)
    stored = StoredEmbeddings(tmp_path)
    table = pd.DataFrame({"ID": stored.ids})
    before = ScoreCalibration(-4.0, 10.0, "trials", 400, 40)
    with pytest.raises(ValueError, match="100% of the pairs that are taken"):
        calibrate(stored, table, method="clusters", before=before)


def test_too_few_recordings_are_said(tmp_path):
    save_embeddings(tmp_path, list("abcde"), np.eye(5))
    stored = StoredEmbeddings(tmp_path)
    table = pd.DataFrame({"ID": stored.ids})
    with pytest.raises(ValueError, match="too few for a threshold: give 20"):
        calibrate(stored, table, method="clusters")


def test_too_few_trials_are_said_before_they_are_embedded(tmp_path):
    save_embeddings(tmp_path, list("abcde"), np.eye(5))
    (tmp_path / "trials.txt").write_text("1 a b\n1 b a\n0 a c\n0 a a\n")
    trials = TrialEvaluator(tmp_path / "trials.txt", embeddings=tmp_path)
    with pytest.raises(ValueError, match="1 trials of one voice and 1 of two"):
        calibrate_by_trials(None, trials)


def test_a_threshold_that_nothing_can_pass_is_refused(monkeypatch, tmp_path):
    save_embeddings(tmp_path, [str(i) for i in range(30)], np.eye(30))
    stored = StoredEmbeddings(tmp_path)
    rng = np.random.default_rng(0)
    flat = rng.normal(0.5, 0.3, 600) + np.repeat([0.1, 0], [60, 540])
    monkeypatch.setattr(
        threshold, "_clusters", lambda *_: (flat, np.arange(600) < 60)
    )
    table = pd.DataFrame({"ID": stored.ids})
    with pytest.raises(ValueError, match="not even a recording and itself"):
        calibrate(stored, table, method="clusters")


def test_trials_that_give_no_threshold_are_refused(tmp_path):
    """One that no pair can pass would answer "different" for ever."""
    rng = np.random.default_rng(0)
    points = rng.standard_normal((80, 8))
    save_embeddings(tmp_path, [str(i) for i in range(80)], points)
    lines = [f"{int(i % 4 == 0)} {i} {i + 1}" for i in range(79)]
    (tmp_path / "trials.txt").write_text("\n".join(lines))
    trials = TrialEvaluator(tmp_path / "trials.txt", embeddings=tmp_path)
    with pytest.raises(ValueError, match="mix up targets"):
        calibrate_by_trials(StoredEmbeddings(tmp_path), trials)


def test_trials_calibrate(corpus):
    evaluate = TrialEvaluator(corpus / "trials.txt", corpus)
    embedder = Embedder(LogMelStats())
    found = calibrate_by_trials(embedder, evaluate)
    assert (found.n_pairs, found.n_same) == (66, 12)
    scores = evaluate.scores(embedder)
    targets = evaluate.trials["target"].to_numpy()
    llr = found.llr(scores)
    assert llr[targets].mean() > 0 > llr[~targets].mean()


def test_what_gives_no_threshold(encoder_folder, corpus):
    table = read_manifest(corpus / "train.csv", corpus)
    embedder = load_encoder(encoder_folder)
    with pytest.raises(ValueError, match=r"0 recording.* of 2 s or more"):
        calibrate(embedder, table)
    with pytest.raises(ValueError, match="method=guess"):
        calibrate(embedder, table, "guess")
    with pytest.raises(ValueError, match="not higher"):
        fit(np.array([0.4, 0.3, 0.2]), np.array([False, False, True]), "x")
