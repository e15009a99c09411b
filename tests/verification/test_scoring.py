import numpy as np
import pandas as pd
import pytest
from scipy.stats import multivariate_normal

from speechbrain.processing import PLDA_LDA
from speechbrain_cadino.verification import scoring
from speechbrain_cadino.verification.scoring import (
    PLDA,
    cosine,
    read_scores,
    trial_scores,
    write_scores,
)


@pytest.fixture(scope="module")
def plda():
    """PLDA of 6 dimensions, trained on 40 speakers."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(40), 6)
    speakers = rng.standard_normal((40, 6)) * [3, 2, 2, 1, 1, 1] + 2
    noise = rng.standard_normal((240, 6)) * [1, 1, 2, 1, 2, 1]
    return PLDA(speakers[labels] + noise, labels, rank=3)


def test_cosine_equals_one_pair_at_a_time(monkeypatch):
    monkeypatch.setattr(scoring, "CHUNK", 7)
    rng = np.random.default_rng(0)
    embeddings = rng.standard_normal((10, 8)).astype(np.float32)
    enrol, test = rng.integers(10, size=(2, 30))
    scores = trial_scores(cosine(embeddings), enrol, test)
    for score, i, j in zip(scores, enrol, test):
        a, b = embeddings[i], embeddings[j]
        expected = a @ b / np.sqrt((a @ a) * (b @ b))
        assert score == pytest.approx(expected, abs=1e-6)


def test_a_null_embedding_scores_zero():
    sides = cosine(np.array([[0.0, 0.0], [1.0, 2.0]]))
    assert trial_scores(sides, np.array([0]), np.array([1])) == [0]


def test_plda_is_the_ratio_of_two_normal_densities(plda):
    rng = np.random.default_rng(1)
    embeddings = rng.standard_normal((8, 6)) + 2
    enrol, test = np.triu_indices(8, 1)
    scores = trial_scores(plda(embeddings), enrol, test)
    between = plda.plda.F @ plda.plda.F.T
    total = between + plda.plda.Sigma
    one = multivariate_normal(
        np.tile(plda.plda.mean, 2),
        np.block([[total, between], [between, total]]),
    )
    alone = multivariate_normal(plda.plda.mean, total)
    points = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for score, i, j in zip(scores, enrol, test):
        expected = one.logpdf(np.append(points[i], points[j]))
        expected -= alone.logpdf(points[i]) + alone.logpdf(points[j])
        assert score == pytest.approx(expected, abs=1e-3)


def test_plda_scores_as_speechbrain_does(plda):
    rng = np.random.default_rng(2)
    embeddings = rng.standard_normal((7, 6)) + 2
    points = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    names = np.array([f"u{i}" for i in range(7)], dtype=object)
    stat = PLDA_LDA.StatObject_SB(
        modelset=names,
        segset=names,
        start=np.full(7, None),
        stop=np.full(7, None),
        stat0=np.ones((7, 1)),
        stat1=points,
    )
    expected = PLDA_LDA.fast_PLDA_scoring(
        stat,
        stat,
        PLDA_LDA.Ndx(models=names, testsegs=names),
        plda.plda.mean,
        plda.plda.F,
        plda.plda.Sigma,
    ).scoremat
    enrol, test = map(np.ravel, np.indices((7, 7)))
    scores = trial_scores(plda(embeddings), enrol, test)
    np.testing.assert_allclose(scores.reshape(7, 7), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("count", "clusters"), [(6, 3), (50, 1)], ids=["utterances", "clusters"]
)
def test_too_little_to_train_plda_on(count, clusters):
    embeddings = np.random.default_rng(0).standard_normal((count, 6))
    with pytest.raises(ValueError, match=r"PLDA of 6 dimensions cannot"):
        PLDA(embeddings, np.arange(count) % clusters)


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
    backwards = trials.iloc[::-1]
    read = read_scores(tmp_path / "scores.txt", backwards)
    assert np.array_equal(read.astype(np.float32), scores[::-1])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "No score file at"),
        ("a b much\n", "is not a score file"),
        ("", "is empty"),
        ("a b nan\nb a 1\n", "'nan' is no score"),
        ("enrol test score\na b 1\nb a 2\n", "'score' is no score"),
        ("x y 1\n", "no score for 2 of 2"),
        ("1 a b 0.5\n0 b a 0.2\n", "begin with a label"),
        ("a b 1\nb a 1\na b 2\n", "two different scores for 'a b'"),
        ("0.5 a b\n0.5 b a\n", "'b' is no score"),
        ("a b 1\nb a 1 0.5\n", "line 2 is 'b a 1 0.5'"),
        # The label of another list
        ("a b 0 0.5\nb a 0 0.25\n", "neither the third nor the fourth"),
        ("a b 1\n", "no score for 1 of 2 trials; the first is 'b a'"),
    ],
)
def test_what_is_no_score_file(text, message, tmp_path):
    path = tmp_path / "scores.txt"
    if text is not None:
        path.write_text(text)
    trials = pd.DataFrame(
        {"enrol": ["a", "b"], "test": ["b", "a"], "target": [True, False]}
    )
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        read_scores(path, trials)


@pytest.mark.parametrize(
    "line",
    [
        "{e}.wav {t}.wav {s}",
        "{e} {t} {s}",
        "{e} {t} {label} {s}",
        "{e}.wav {t}.wav {s} {word}",
        "./{e}.wav {t}.flac {s}",
    ],
)
def test_forms_of_other_tools(line, tmp_path):
    rows = [("a/1", "a/2", 1, 0.5), ("b/x.1", "a/2", 0, 1), ("a/1", "c", 0, 0)]
    text = [
        line.format(e=e, t=t, label=n, s=s, word="target" if n else "nontarget")
        for e, t, n, s in rows
    ]
    path = tmp_path / "scores.txt"
    path.write_text("\r\n".join(text[::-1] + text[:1]), "utf-8-sig")
    trials = pd.DataFrame(rows, columns=["enrol", "test", "target", "score"])
    for side in ["enrol", "test"]:
        trials[side] += ".wav"
    assert read_scores(path, trials).tolist() == [0.5, 1, 0]


@pytest.mark.parametrize(
    ("other", "told"), [(0, "0 or 1"), (-1, "-1 or 1"), (1, "1"), (0.5, "")]
)
def test_scores_that_are_labels_are_warned_of(tmp_path, caplog, other, told):
    path = tmp_path / "scores.txt"
    path.write_text(f"a b 1\na c {other}\nb c {0.3 if not told else other}\n")
    trials = pd.DataFrame({"enrol": [*"aab"], "test": [*"bcc"]})
    read_scores(path, trials)
    assert (f"are {told}: are they labels" in caplog.text) == bool(told)
    assert bool(caplog.text) == bool(told)


def test_names_stand_in_a_score_file_as_they_are(tmp_path):
    names = ['a/"x".wav', "a/'y'.wav", "b,c;d.wav", 'e"', "#f"]
    trials = pd.DataFrame({"enrol": names, "test": names[::-1]})
    scores = np.arange(5) / 8
    write_scores(tmp_path / "scores.txt", trials, scores)
    first = (tmp_path / "scores.txt").read_text().splitlines()[0]
    assert first == 'a/"x".wav #f 0'
    found = read_scores(tmp_path / "scores.txt", trials)
    assert found.tolist() == scores.tolist()
    trials["enrol"] = [f"tape {name}" for name in names]
    write_scores(tmp_path / "scores.txt", trials, scores)
    found = read_scores(tmp_path / "scores.txt", trials)
    assert found.tolist() == scores.tolist()
