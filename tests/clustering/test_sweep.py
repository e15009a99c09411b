import json

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from speechbrain_cadino.clustering import sweep
from speechbrain_cadino.clustering.kmeans import SphericalKMeans, cluster
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.clustering.sweep import (
    choose_number,
    compare_numbers,
    stability_of_halves,
)


def voices(count, utterances, spread, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 1, 24))
    noise = spread * rng.standard_normal((count, utterances, 24))
    return (centres + noise).reshape(-1, 24).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_both_criteria_find_voices_that_are_apart(seed, tmp_path):
    embeddings = voices(20, 12, spread=0.4, seed=seed)
    candidates = [10, 15, 20, 30, 45, 70, 120]
    choice = choose_number(tmp_path, embeddings, candidates, SphericalKMeans())
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["picks"] == {"silhouette": 20, "stability": 20}
    assert content["choice"] == choice == 20
    assert (tmp_path / "plots" / "sweep.png").stat().st_size > 10_000


@pytest.mark.parametrize("first", ["silhouette", "stability"])
def test_of_two_picks_the_larger_is_chosen(first, tmp_path, monkeypatch):
    other = {"silhouette": "stability", "stability": "silhouette"}[first]
    table = pd.DataFrame(
        {
            "num_clusters": [10, 20, 30],
            "singletons": 0,
            first: [0.9, 0.5, 0.1],
            other: [0.2, 0.8, 0.1],
        }
    )
    monkeypatch.setattr(sweep, "compare_numbers", lambda *_: table)
    assert choose_number(tmp_path, None, [10, 20, 30], None) == 20
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["picks"] == {first: 10, other: 20}


def test_too_many_clusters_do_not_pass_for_stable_in_noise():
    # Nothing is there to be found: no number may look good.
    noise = unit_rows(voices(400, 1, spread=0))
    for number in [5, 50, 150]:
        assert stability_of_halves(noise, SphericalKMeans(number)) < 0.15


def test_columns_are_what_they_say():
    embeddings = voices(10, 6, spread=0.6)
    speakers = np.repeat(np.arange(10), 6)
    table = compare_numbers(
        embeddings, [40, 8, 30], SphericalKMeans(seed=3), speakers
    )
    assert table["num_clusters"].tolist() == [8, 30, 40]
    for row in table.itertuples():
        labels = cluster(embeddings, row.num_clusters, seed=3).labels
        assert row.singletons == (np.bincount(labels) == 1).sum()
        expected = silhouette_score(embeddings, labels, metric="cosine")
        assert row.silhouette == pytest.approx(expected, abs=1e-4)
        expected = adjusted_mutual_info_score(speakers, labels)
        assert row.ami == pytest.approx(expected)
    # Half of the 60 utterances can make 30 clusters, but not 40.
    assert table["stability"].isna().tolist() == [False, False, True]


def test_speakers_only_check(tmp_path):
    embeddings = voices(10, 6, spread=0.6)
    wrong = np.arange(60) % 3
    rest = embeddings, [3, 10, 20, 50], SphericalKMeans()
    choice = choose_number(tmp_path / "with", *rest, wrong)
    assert choice == choose_number(tmp_path / "without", *rest)
    with_speakers = json.loads((tmp_path / "with/sweep.json").read_text())
    without = json.loads((tmp_path / "without/sweep.json").read_text())
    assert {"ami", "ari"} < set(with_speakers["picks"])
    assert without["rows"][-1]["stability"] is None
    for one, other in zip(with_speakers["rows"], without["rows"]):
        assert other.items() <= one.items()


def test_it_is_the_clusterer_that_clusters_and_nothing_is_merged():
    embeddings = voices(12, 10, spread=0.5)
    one, other, merged, short = (
        compare_numbers(embeddings, [12], SphericalKMeans(**options))
        for options in [
            {"engine": "sklearn"},
            {"engine": "torch", "device": "cpu"},
            {"merge_to": 5},
            {"iterations": 0},
        ]
    )
    np.testing.assert_allclose(one, other, rtol=1e-4)
    np.testing.assert_array_equal(one, merged)
    assert short["stability"][0] < one["stability"][0]


@pytest.mark.parametrize("candidates", [[], [1, 5]])
def test_senseless_candidates(candidates):
    with pytest.raises(ValueError, match="each 2 or more"):
        compare_numbers(voices(5, 4, 0.1), candidates, SphericalKMeans())


def test_candidates_may_be_of_numpy():
    candidates = list(np.arange(4, 6))
    table = compare_numbers(voices(5, 4, 0.1), candidates, SphericalKMeans())
    assert table["num_clusters"].tolist() == [4, 5]


def test_more_clusters_than_utterances():
    with pytest.raises(ValueError, match="20 utterances cannot make 21"):
        compare_numbers(voices(5, 4, 0.1), [21], SphericalKMeans())
