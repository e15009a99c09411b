import json

import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import (
    adjusted_mutual_info_score,
    adjusted_rand_score,
    normalized_mutual_info_score,
    silhouette_samples,
)

from speechbrain_cadino.clustering import quality as module
from speechbrain_cadino.clustering.kmeans import Clusters, cluster
from speechbrain_cadino.clustering.quality import (
    adjusted_mutual_information,
    quality,
    separation,
    silhouettes,
    write_clusters,
)
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.dataio.spread import spread_rows


@pytest.fixture(scope="module")
def embeddings():
    rng = np.random.default_rng(4)
    centres = rng.standard_normal((10, 1, 6))
    noise = rng.standard_normal((10, 12, 6))
    return (centres + 0.6 * noise).reshape(-1, 6)


@pytest.fixture(scope="module")
def clusters(embeddings):
    return cluster(embeddings, 14)


def hand_made():
    """Clusters of 4, 1 and 2, of three speakers and one unknown."""
    labels = np.array([0, 0, 0, 0, 1, 2, 2])
    speakers = ["a", "a", "b", "b", "a", "c", None]
    return Clusters(labels, np.eye(3, dtype=np.float32)), speakers


def test_figures_worked_out_by_hand():
    clusters, speakers = hand_made()
    figures = quality(clusters, speakers=speakers)
    assert figures["utterances"] == 7
    assert figures["clusters"] == 3
    assert figures["singletons"] == 1
    assert figures["sizes"] == {"min": 1, "median": 2, "mean": 7 / 3, "max": 4}
    assert figures["size_histogram"] == {"1": 1, "2-3": 1, "4-7": 1}
    assert figures["without_speaker"] == 1
    assert figures["speakers"] == 3
    assert figures["purity"] == (2 + 1 + 1) / 6
    # a is in clusters 0 and 1, b in 0, c in 2
    assert figures["clusters_per_speaker"] == 4 / 3
    assert figures["speakers_per_cluster"] == 4 / 3


def test_more_clusters_than_speakers():
    """Each of two speakers in two of three clusters, one of which has both."""
    clusters = Clusters(np.array([0, 0, 1, 1, 2]), np.eye(3, dtype=np.float32))
    figures = quality(clusters, speakers=["a", "a", "a", "b", "b"])
    assert figures["clusters_per_speaker"] == 4 / 2
    assert figures["speakers_per_cluster"] == 4 / 3


def test_figures_with_speakers_are_those_of_sklearn():
    clusters, speakers = hand_made()
    pair = speakers[:-1], clusters.labels[:-1]
    figures = quality(
        clusters, speakers=np.array([*speakers[:-1], np.nan], "O")
    )
    assert figures["nmi"] == pytest.approx(normalized_mutual_info_score(*pair))
    assert figures["ami"] == pytest.approx(adjusted_mutual_info_score(*pair))
    assert figures["ari"] == pytest.approx(adjusted_rand_score(*pair))


def test_no_known_speaker():
    clusters, _ = hand_made()
    with pytest.raises(ValueError, match="None of the 7 utterances"):
        quality(clusters, speakers=[None] * 7)


@pytest.mark.parametrize("clusters", [1, 2, 40, 300])
def test_adjusted_mutual_information_is_that_of_sklearn(clusters):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, 25, 300) ** 2
    noise = rng.permutation(300) % clusters
    found = np.where(rng.random(300) < 0.5, truth % clusters, noise)
    expected = adjusted_mutual_info_score(truth, found)
    assert adjusted_mutual_information(truth, found) == pytest.approx(expected)
    assert adjusted_mutual_information(truth, -truth) == 1


def test_separation_against_one_utterance_at_a_time(embeddings, clusters):
    points = unit_rows(embeddings)
    own, other = separation(points, clusters)
    for row, label in enumerate(clusters.labels):
        cosines = (clusters.centroids @ points[row]).tolist()
        assert own[row] == pytest.approx(cosines.pop(label), abs=1e-6)
        assert other[row] == pytest.approx(max(cosines), abs=1e-6)


@pytest.mark.parametrize("num_clusters", [2, 14, 40, 110])
def test_silhouettes_are_those_of_sklearn(embeddings, num_clusters):
    labels = cluster(embeddings, num_clusters).labels
    expected = silhouette_samples(embeddings, labels, metric="cosine")
    found = silhouettes(unit_rows(embeddings), labels)
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_a_sample_is_judged_by_all_utterances(
    embeddings, clusters, monkeypatch
):
    points = unit_rows(embeddings)
    own, _ = separation(points, clusters)
    silhouette = silhouettes(points, clusters.labels)
    monkeypatch.setattr(module, "SAMPLE", 18)
    monkeypatch.setattr(module, "SIMILARITIES", 14 * 5)
    rows = spread_rows(120, 18)
    np.testing.assert_allclose(separation(points, clusters)[0], own[rows])
    sampled = silhouettes(points, clusters.labels)
    np.testing.assert_allclose(sampled, silhouette[rows], atol=1e-5)


def test_figures_with_embeddings(embeddings, clusters):
    figures = quality(clusters, embeddings)
    points = unit_rows(embeddings)
    cosines = (points * clusters.centroids[clusters.labels]).sum(1)
    assert figures["cosine_to_centroid"] == pytest.approx(cosines.mean())
    assert figures["cosine_to_nearest_other"] < figures["cosine_to_centroid"]
    alone = quality(cluster(embeddings, 1), embeddings)
    assert alone["silhouette"] is alone["cosine_to_nearest_other"] is None


@pytest.mark.parametrize("num_clusters", [1, 14, 120])
def test_report(num_clusters, embeddings, tmp_path):
    clusters = cluster(embeddings, num_clusters)
    ids = [f"u{row:03}" for row in range(120)]
    speakers = np.repeat(np.array([*"abcdefghi", None]), 12)
    report = write_clusters(tmp_path, ids, clusters, embeddings, speakers)
    text = (tmp_path / "clusters.json").read_text()
    assert json.loads(text) == report
    assert "NaN" not in text
    figures = quality(clusters, embeddings, speakers)
    assert figures.items() <= report.items()
    assert len(report["largest"]) == min(5, num_clusters)
    largest = report["largest"][0]
    assert largest["utterances"] == report["sizes"]["max"]
    rows = [ids.index(name) for name in largest["examples"]]
    assert (clusters.labels[rows] == largest["cluster"]).all()
    with Image.open(tmp_path / "plots" / "clusters.png") as image:
        width, height = image.size
    assert width > 3 * height  # four panels


def test_report_without_embeddings_and_speakers(clusters, tmp_path):
    write_clusters(tmp_path, [str(row) for row in range(120)], clusters)
    with Image.open(tmp_path / "plots" / "clusters.png") as image:
        width, height = image.size
    assert width < 2 * height  # one panel


def test_report_of_other_utterances(clusters, embeddings, tmp_path):
    with pytest.raises(ValueError, match="120 labels, but 119"):
        write_clusters(tmp_path, ["u"] * 120, clusters, embeddings[1:])
    assert not list(tmp_path.iterdir())
