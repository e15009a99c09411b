import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.verification import scoring
from speechbrain_cadino.verification.scoring import cosine_scores, write_scores


@pytest.mark.parametrize("mean", [None, np.full(8, 0.5)])
def test_equals_one_pair_at_a_time(mean, monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 7)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((10, 8)).astype(np.float32)
    enrol, test = rng.integers(10, size=(2, 30))
    scores = cosine_scores(embeddings, enrol, test, mean)
    centre = 0 if mean is None else mean
    for score, i, j in zip(scores, enrol, test):
        a, b = embeddings[i] - centre, embeddings[j] - centre
        expected = a @ b / np.sqrt((a @ a) * (b @ b))
        assert score == pytest.approx(expected, abs=1e-6)


def test_a_null_embedding_scores_zero():
    embeddings = np.array([[0.0, 0.0], [1.0, 2.0]])
    assert cosine_scores(embeddings, np.array([0]), np.array([1])) == [0]


def test_score_file_holds_every_bit(tmp_path):
    scores = np.random.default_rng(1).standard_normal(50).astype(np.float32)
    names = [f"s{i}/u.wav" for i in range(50)]
    trials = pd.DataFrame({"enrol": names, "test": names[::-1]})
    write_scores(tmp_path / "scores.txt", trials, scores)
    lines = (tmp_path / "scores.txt").read_text().splitlines()
    enrol, test, values = zip(*map(str.split, lines))
    assert list(enrol) == names
    assert list(test) == names[::-1]
    assert np.array_equal(np.array(values, np.float32), scores)
