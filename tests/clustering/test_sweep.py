import json

import numpy as np
import pytest
from sklearn.metrics import adjusted_mutual_info_score, silhouette_score

from speechbrain_cadino.clustering.kmeans import cluster
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.clustering.sweep import (
    compare_numbers,
    stability,
    sweep,
)


def voices(count, utterances, spread, seed=0):
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((count, 1, 24))
    noise = spread * rng.standard_normal((count, utterances, 24))
    return (centres + noise).reshape(-1, 24).astype(np.float32)


@pytest.mark.parametrize("seed", range(3))
def test_both_criteria_find_voices_that_are_apart(seed, tmp_path):
    embeddings = voices(20, 12, spread=0.4, seed=seed)
    choice = sweep(tmp_path, embeddings, [10, 15, 20, 30, 45, 70, 120])
    content = json.loads((tmp_path / "sweep.json").read_text())
    assert content["picks"] == {"silhouette": 20, "stability": 20}
    assert content["choice"] == choice == 20
    assert (tmp_path / "plots" / "sweep.png").stat().st_size > 10_000


def test_too_many_clusters_do_not_pass_for_stable_in_noise():
    # Nothing is there to be found: no number may look good.
    noise = voices(400, 1, spread=0)
    assert max(stability(unit_rows(noise), k) for k in [5, 50, 150]) < 0.15


def test_columns_are_what_they_say():
    embeddings = voices(10, 6, spread=0.6)
    speakers = np.repeat(np.arange(10), 6)
    table = compare_numbers(embeddings, [40, 8], speakers, seed=3)
    assert table["num_clusters"].tolist() == [8, 40]
    for row in table.itertuples():
        labels = cluster(embeddings, row.num_clusters, seed=3).labels
        assert row.singletons == (np.bincount(labels) == 1).sum()
        expected = silhouette_score(embeddings, labels, metric="cosine")
        assert row.silhouette == pytest.approx(expected, abs=1e-4)
        expected = adjusted_mutual_info_score(speakers, labels)
        assert row.ami == pytest.approx(expected)
    # Half of the 60 utterances cannot make 40 clusters.
    assert table["stability"].isna().tolist() == [False, True]


def test_speakers_only_check(tmp_path):
    embeddings = voices(10, 6, spread=0.6)
    wrong = np.arange(60) % 3
    choice = sweep(tmp_path / "with", embeddings, [3, 10, 20, 50], wrong)
    assert choice == sweep(tmp_path / "without", embeddings, [3, 10, 20, 50])
    with_speakers = json.loads((tmp_path / "with/sweep.json").read_text())
    without = json.loads((tmp_path / "without/sweep.json").read_text())
    assert {"ami", "ari"} < set(with_speakers["picks"])
    assert without["rows"][-1]["stability"] is None
    for one, other in zip(with_speakers["rows"], without["rows"]):
        assert other.items() <= one.items()


def test_engines_and_options_reach_the_clustering():
    embeddings = voices(12, 10, spread=0.5)
    one = compare_numbers(embeddings, [12], engine="sklearn")
    other = compare_numbers(embeddings, [12], engine="torch", device="cpu")
    np.testing.assert_allclose(one, other, rtol=1e-4)
    merged = compare_numbers(embeddings, [30], merge_to=12)
    plain = compare_numbers(embeddings, [30])
    assert merged["stability"][0] > plain["stability"][0]


@pytest.mark.parametrize("candidates", [[], [1, 5]])
def test_senseless_candidates(candidates):
    with pytest.raises(ValueError, match="each 2 or more"):
        compare_numbers(voices(5, 4, 0.1), candidates)


def test_more_clusters_than_utterances():
    with pytest.raises(ValueError, match="20 utterances cannot make 21"):
        compare_numbers(voices(5, 4, 0.1), [21])
