import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.frames import abx
from speechbrain_cadino.frames.abx import distances, score_abx, summarise
from speechbrain_cadino.frames.units import unit_figures


def walk(costs):
    """The cheapest path's sum and length, by all paths, of these that are
    cheapest with the preference of the rule: backwards from the end."""
    best = {}

    def cheapest(i, j):
        if (i, j) in best:
            return best[i, j]
        before = []
        if i and j:
            before.append(cheapest(i - 1, j - 1))
        if i:
            before.append(cheapest(i - 1, j))
        if j:
            before.append(cheapest(i, j - 1))
        total, length = min(before, key=lambda b: b[0]) if before else (0.0, 0)
        best[i, j] = total + costs[i][j], length + 1
        return best[i, j]

    total, length = cheapest(len(costs) - 1, len(costs[0]) - 1)
    return total / length


def angle(one, other):
    cosine = np.dot(one, other) / np.linalg.norm(one) / np.linalg.norm(other)
    return np.arccos(np.clip(cosine, -1, 1)) / np.pi


def far(one, other):
    return walk([[angle(a, b) for b in other] for a in one])


def make_items(rng, voices=3, times=3):
    """Two kinds of neighbours, three phones, and frames of 2 to 5."""
    rows = [
        (language, before, "t", phone, f"{language}{voice}")
        for language in ("en", "it")
        for before in ("p", "k")
        for phone in "aou"
        for voice in range(voices)
        for _ in range(rng.integers(0, times + 1))
    ]
    columns = ["language", "before", "after", "phone", "spk_id"]
    items = pd.DataFrame(rows, columns=columns)
    return items, [rng.normal(size=(rng.integers(2, 6), 3)) for _ in rows]


@pytest.mark.parametrize("cells", [abx.CELLS, 40], ids=["many", "few"])
def test_distances_are_those_of_plain_warping(monkeypatch, cells):
    monkeypatch.setattr(abx, "CELLS", cells)
    rng = np.random.default_rng(0)
    segments = [rng.normal(size=(rng.integers(1, 6), 3)) for _ in range(12)]
    first, second = np.triu_indices(12, 1)
    found = distances(segments, first, second)
    expected = [far(segments[i], segments[j]) for i, j in zip(first, second)]
    assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("most", [None, 7], ids=["many", "few"])
def test_scores_are_those_of_all_triples_one_by_one(monkeypatch, most):
    if most is not None:
        monkeypatch.setattr(abx, "SEGMENTS", most)
        monkeypatch.setattr(abx, "TRIPLES", most)
    rng = np.random.default_rng(1)
    items, segments = make_items(rng, voices=2)
    found = score_abx(items, segments)
    rows = list(items.itertuples())
    wrong, count = {}, {}
    for a in rows:
        for b in rows:
            if b.phone == a.phone or b[1:4] != a[1:4] or b.spk_id != a.spk_id:
                continue
            for x in rows:
                if x.phone != a.phone or x[1:4] != a[1:4] or x.Index == a.Index:
                    continue
                key = (*a[1:4], a.phone, b.phone, a.spk_id, x.spk_id)
                near = far(segments[a.Index], segments[x.Index])
                other = far(segments[b.Index], segments[x.Index])
                error = float(other < near) + 0.5 * (other == near)
                wrong[key] = wrong.get(key, 0) + error
                count[key] = count.get(key, 0) + 1
    columns = "language before after phone other voice voice_x".split()
    table = found.set_index(columns)
    assert {*table.index} == {*count}
    for key, total in count.items():
        assert table.loc[key, "triples"] == total
        assert table.loc[key, "error"] == pytest.approx(wrong[key] / total)
    # The means, one after the other
    figures = summarise(found, draws=10)
    for kind in ("within", "across"):
        pairs = {}
        for key in count:
            if (key[5] == key[6]) != (kind == "within"):
                continue
            place = pairs.setdefault((key[0], key[3], key[4]), {})
            error = wrong[key] / count[key]
            place.setdefault((key[5], key[6]), []).append(error)
        expected = np.mean(
            [
                np.mean([np.mean(errors) for errors in voices.values()])
                for voices in pairs.values()
            ]
        )
        assert figures[kind]["error"] == pytest.approx(expected)


def test_separable_frames_have_no_error_and_noise_that_of_chance():
    rng = np.random.default_rng(2)
    items, segments = make_items(rng, voices=6, times=6)
    axis = {"a": 0, "o": 1, "u": 2}
    clean = [
        np.eye(3)[axis[phone]] + 0.01 * segment
        for phone, segment in zip(items["phone"], segments)
    ]
    figures = summarise(score_abx(items, clean), draws=10)
    assert figures["within"]["error"] == figures["across"]["error"] == 0
    noise = summarise(score_abx(items, segments))
    for kind in ("within", "across"):
        assert noise[kind]["error"] == pytest.approx(0.5, abs=0.06)
        assert noise[kind]["low"] < 0.5 < noise[kind]["high"]
    same = summarise(score_abx(items, [np.ones((2, 3))] * len(items)), draws=2)
    assert same["across"]["error"] == 0.5


def test_voices_that_hide_the_phone_cost_errors_across_alone():
    """A voice turns all its frames by an angle that is larger than a phone."""
    rng = np.random.default_rng(3)
    items, _ = make_items(rng, voices=4, times=5)
    turn = {v: i for i, v in enumerate(items["spk_id"].unique())}
    angles = [
        0.2 * "aou".index(row.phone) + 0.31 * turn[row.spk_id]
        for row in items.itertuples()
    ]
    frames = [np.array([[np.cos(a), np.sin(a)]] * 3) for a in angles]
    figures = summarise(score_abx(items, frames), draws=10)
    assert figures["within"]["error"] == 0
    assert figures["across"]["error"] > 0.3


def test_nothing_to_compare_is_said():
    items = pd.DataFrame({"phone": ["a", "o"], "spk_id": "v"})
    items[["language", "before", "after"]] = "en", "p", "t"
    with pytest.raises(ValueError, match="nothing to compare"):
        score_abx(items, [np.ones((1, 2))] * 2)
    # No phone has neighbours
    with pytest.raises(ValueError, match="nothing to compare"):
        score_abx(items[:0], [])


def test_units_are_those_of_scikit_learn():
    from sklearn.metrics import mutual_info_score

    rng = np.random.default_rng(4)
    codes, phones = rng.integers(7, size=500), rng.integers(4, size=500)
    phones = np.where(rng.random(500) < 0.5, codes % 4, phones)
    found = unit_figures(codes, phones, size=10)
    shares = np.bincount(phones) / 500
    entropy = -(shares * np.log(shares)).sum()
    expected = mutual_info_score(codes, phones) / entropy
    assert found["pnmi"] == pytest.approx(expected)
    right = sum(np.bincount(phones[codes == c]).max() for c in range(7))
    assert found["purity"] == pytest.approx(right / 500)
    assert found["used"] == 0.7


def test_draws_are_of_voices_that_count_as_often_as_they_are_drawn():
    """Against a plain loop; the interval holds 95% of them."""
    items, segments = make_items(np.random.default_rng(3), voices=6, times=2)
    scores = score_abx(items, segments)
    for name, figures in summarise(scores, draws=40, seed=5).items():
        voices = sorted({*scores["voice"], *scores["voice_x"]})
        chosen = np.random.default_rng(5).multinomial(
            len(voices), np.full(len(voices), 1 / len(voices)), size=40
        )
        pair = ["language", "phone", "other"]
        means = []
        for draw in chosen:
            times = dict(zip(voices, draw.tolist()))
            by_pair = {}
            cells = scores.groupby([*pair, "voice", "voice_x"])["error"].mean()
            for (*key, voice, other), error in cells.items():
                if (voice == other) != (name == "within"):
                    continue
                weight = times[voice]
                if voice != other:
                    weight *= times[other]
                by_pair.setdefault(tuple(key), []).append((weight, error))
            errors = [
                sum(w * e for w, e in found) / sum(w for w, _ in found)
                for found in by_pair.values()
                if sum(w for w, _ in found)
            ]
            means.append(np.mean(errors))
        np.testing.assert_allclose(figures["draws"], means)
        ends = np.quantile(means, [0.025, 0.975])
        np.testing.assert_allclose((figures["low"], figures["high"]), ends)
