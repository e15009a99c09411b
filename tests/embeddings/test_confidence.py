"""Scores of utterances by plain loops."""

import numpy as np
import pytest

from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings import confidence
from speechbrain_cadino.embeddings.store import save_embeddings


def unit(point):
    return point / np.linalg.norm(point)


@pytest.fixture
def made(tmp_path):
    """13 utterances of 1 to 4 segments, some unreadable; and their labels, of
    which one has none."""
    rng = np.random.default_rng(3)
    segments, ids, points = {}, [], []
    for number in range(13):
        name = f"u{number}"
        own = rng.standard_normal((1 + number % 4, 5)) + 2
        if number == 7:
            own[1] = np.nan
        if number == 4:
            own[:] = np.nan
        ids += [name] * len(own)
        points += list(own)
        fine = own[np.isfinite(own).all(1)].astype(np.float32)
        segments[name] = [unit(point.astype(np.float64)) for point in fine]
    save_embeddings(tmp_path, ids, np.array(points))
    labels = np.array([f"s{number % 3}" for number in range(12)] + ["alone"])
    labels = np.where(np.arange(13) == 5, None, labels)
    return tmp_path, segments, labels


def test_scores_by_loops(made, monkeypatch):
    folder, segments, labels = made
    mean = np.mean([s for own in segments.values() for s in own], 0)
    centred = {
        name: [s - mean for s in own] for name, own in segments.items() if own
    }
    directions = {name: unit(sum(own)) for name, own in centred.items()}
    found = confidence.score(folder, list(segments), labels)
    # In stretches of a few rows, and in another order, the same
    monkeypatch.setattr(confidence, "ROWS", 5)
    order = np.random.default_rng(0).permutation(len(segments))
    names = list(segments)
    again = confidence.score(folder, [names[i] for i in order], labels[order])
    np.testing.assert_allclose(again, found.iloc[order], rtol=1e-5)
    for (name, own), label, row in zip(
        segments.items(), labels, found.itertuples()
    ):
        assert row.segments == len(own)
        if len(own) < 2:
            assert np.isnan(row.consistency)
        if not own:
            assert np.isnan(row.density)
            assert np.isnan(row.agreement)
            continue
        if len(own) > 1:
            mine = centred[name]
            pairs = [
                mine[i] @ mine[j]
                for i in range(len(mine))
                for j in range(i + 1, len(mine))
            ]
            squares = np.mean([s @ s for s in mine])
            expected = np.mean(pairs) / squares
            assert row.consistency == pytest.approx(expected, rel=1e-5)
        others = sorted(
            directions[name] @ direction
            for other, direction in directions.items()
            if other != name
        )
        expected = np.mean(others[-confidence.NEIGHBOURS :])
        assert row.density == pytest.approx(expected, rel=1e-4)
        groups = {}
        for other, of in zip(segments, labels):
            if other in directions and other != name and of is not None:
                groups.setdefault(of, []).append(directions[other])
        cosines = {
            of: directions[name] @ unit(sum(group))
            for of, group in groups.items()
        }
        if label not in cosines:
            assert np.isnan(row.agreement)
            continue
        best = max(value for of, value in cosines.items() if of != label)
        expected = (cosines[label] - best) / 2
        assert row.agreement == pytest.approx(expected, abs=1e-5)


def test_segments_of_an_utterance_are_below_each_other(tmp_path):
    save_embeddings(tmp_path, ["a", "b", "a"], np.eye(3))
    with pytest.raises(ValueError, match="names a in two places"):
        confidence.score(tmp_path, ["a", "b"])
    save_embeddings(tmp_path, ["a", "b", "c"], np.eye(3))
    with pytest.raises(ValueError, match="has no embedding of wav/a"):
        confidence.score(tmp_path, ["wav/a"])


def test_what_is_unlike_itself_or_all_others_scores_low(tmp_path):
    """Four voices of ten utterances; one in which two voices take turns, one
    of noise that nothing else is like."""
    rng = np.random.default_rng(0)
    voices = rng.standard_normal((4, 32))
    points, ids = [], []
    for number in range(40):
        points += list(voices[number % 4] + rng.normal(0, 0.3, (3, 32)))
        ids += [f"{number:02}"] * 3
    points += [voices[0], voices[1], *([rng.standard_normal(32)] * 2)]
    ids += ["turns", "turns", "noise", "noise"]
    save_embeddings(tmp_path, ids, np.array(points))
    found = confidence.score(tmp_path, list(dict.fromkeys(ids)))
    assert found["consistency"].iloc[:40].min() > 0.7
    assert found["consistency"].iloc[40] < 0
    assert found["consistency"].iloc[41] == pytest.approx(1)
    assert found["density"].iloc[41] < found["density"].iloc[:40].min() - 0.3


def test_without_any_label_there_is_no_agreement(made):
    folder, segments, _ = made
    found = confidence.score(folder, list(segments), [None] * len(segments))
    assert found["agreement"].isna().all()


def test_neighbours_are_of_the_sample_but_for_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(confidence, "SAMPLE", 4)
    monkeypatch.setattr(confidence, "NEIGHBOURS", 2)
    points = np.random.default_rng(0).standard_normal((9, 5))
    save_embeddings(tmp_path, list("abcdefghi"), points)
    found = confidence.score(tmp_path, list("abcdefghi"))["density"]
    some, units = spread_rows(9, 4), [unit(point) for point in points]
    mean = np.mean([units[other] for other in some], 0)
    points = [unit(point - mean) for point in units]
    for row, density in enumerate(found):
        cosines = [points[row] @ points[i] for i in some if i != row]
        assert density == pytest.approx(np.mean(sorted(cosines)[-2:]), abs=1e-5)
