import numpy as np
import pytest

from speechbrain_cadino.verification import normalisation
from speechbrain_cadino.verification.normalisation import (
    cohort_means,
    cohort_statistics,
    normalise,
)
from speechbrain_cadino.verification.scoring import cosine, trial_scores


@pytest.mark.parametrize("top", [None, 5, 100])
def test_equals_a_loop_over_trials_and_impostors(top, monkeypatch):
    monkeypatch.setattr(normalisation, "CHUNK_SCORES", 50)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((10, 8))
    impostors = rng.standard_normal((17, 8))
    enrol, test = rng.integers(10, size=(2, 30))
    sides = cosine(embeddings)
    plain = trial_scores(sides, enrol, test)
    found = normalise(
        plain, enrol, test, *cohort_statistics(sides, cosine(impostors), top)
    )

    def similarity(a, b):
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    for score, i, j in zip(found, enrol, test):
        halves = []
        for side in (i, j):
            against = [similarity(embeddings[side], x) for x in impostors]
            against = sorted(against, reverse=True)[: top or len(against)]
            raw = similarity(embeddings[i], embeddings[j])
            halves.append((raw - np.mean(against)) / np.std(against))
        assert score == pytest.approx(sum(halves) / 2, rel=1e-3, abs=1e-3)


def test_an_impostor_like_all_others_gives_no_infinity():
    sides = cosine(np.eye(2))
    mean, std = cohort_statistics(sides, cosine(np.ones((3, 2))))
    rows = np.array([0]), np.array([1])
    assert np.isfinite(normalise(np.array([0.5]), *rows, mean, std)).all()


def test_one_cluster_is_no_cohort():
    with pytest.raises(ValueError, match=r"cohort of 1 cluster"):
        cohort_means(np.eye(3), ["a"] * 3)


def test_a_cohort_of_one_score_has_no_spread():
    with pytest.raises(ValueError, match=r"top_cohort=1: give 2 or more"):
        cohort_statistics(cosine(np.eye(3)), cosine(np.eye(3)), top=1)
