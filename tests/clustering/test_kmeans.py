import importlib.util
import sys

import numpy as np
import pytest
import torch
from sklearn.cluster import kmeans_plusplus
from sklearn.metrics import adjusted_mutual_info_score

from speechbrain_cadino.clustering import kmeans
from speechbrain_cadino.clustering.kmeans import (
    cluster,
    fill_empty,
)
from speechbrain_cadino.clustering.rows import unit_rows

needs_faiss = pytest.mark.skipif(
    importlib.util.find_spec("faiss") is None,
    reason="faiss-cpu, the extra faiss, is not installed",
)
ENGINES = ["sklearn", pytest.param("faiss", marks=needs_faiss), "torch"]


def speech_like(speakers=12, utterances=15, spread=0.7, seed=3):
    """Embeddings around speakers that overlap; lengths differ."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((speakers, 1, 8))
    noise = spread * rng.standard_normal((speakers, utterances, 8))
    embeddings = (centres + noise).reshape(-1, 8)
    lengths = rng.uniform(0.1, 30, (len(embeddings), 1))
    return (lengths * embeddings).astype(np.float32)


def plain_kmeans(embeddings, centroids, iterations):
    """Spherical k-means, an utterance at a time, in float64."""
    points = [row / np.sqrt((row**2).sum()) for row in np.float64(embeddings)]
    centroids = list(np.float64(centroids))
    for _ in range(iterations + 1):
        labels = [
            max(
                range(len(centroids)), key=lambda k: float(point @ centroids[k])
            )
            for point in points
        ]
        final = centroids
        centroids = []
        for k in range(len(final)):
            total = sum(p for p, label in zip(points, labels) if label == k)
            centroids.append(total / np.sqrt((total**2).sum()))
    return np.array(labels), np.array(final)


@pytest.mark.parametrize("iterations", [1, 3, 20])
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_is_plain_spherical_kmeans(engine, iterations):
    embeddings = speech_like()
    start = cluster(embeddings, 9, iterations=0, engine=engine, seed=5)
    labels, centroids = plain_kmeans(embeddings, start.centroids, iterations)
    found = cluster(embeddings, 9, iterations=iterations, engine=engine, seed=5)
    assert (found.labels == labels).all()
    np.testing.assert_allclose(found.centroids, centroids, atol=1e-5)
    assert (found.labels != start.labels).any()


@pytest.mark.parametrize("engine", ENGINES)
def test_result_has_the_promised_form(engine):
    clusters = cluster(speech_like(), 30, engine=engine)
    assert clusters.labels.dtype == np.int64
    assert clusters.centroids.dtype == np.float32
    assert clusters.centroids.shape == (30, 8)
    assert set(clusters.labels) == set(range(30))
    lengths = np.linalg.norm(clusters.centroids, axis=1)
    np.testing.assert_allclose(lengths, 1, atol=1e-5)


def test_the_cosine_counts_not_the_length():
    embeddings = speech_like()
    lengths = np.geomspace(1e-3, 1e3, len(embeddings))[:, None]
    one, other = cluster(embeddings, 9), cluster(lengths * embeddings, 9)
    assert (one.labels == other.labels).all()


def test_the_seed_decides_and_global_random_states_stay():
    embeddings = speech_like()
    np.random.seed(11)
    torch.manual_seed(11)
    expected = np.random.random(), torch.rand(1)
    np.random.seed(11)
    torch.manual_seed(11)
    one, same = cluster(embeddings, 9, seed=1), cluster(embeddings, 9, seed=1)
    assert (np.random.random(), torch.rand(1)) == expected
    assert (one.labels == same.labels).all()
    assert (one.centroids == same.centroids).all()
    assert (one.labels != cluster(embeddings, 9, seed=2).labels).any()


@pytest.mark.parametrize("clusters", [1, 9, 60])
def test_the_start_is_that_of_scikit_learn(clusters):
    points = speech_like().astype(np.float64)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    for seed in range(5):
        rows = kmeans.plus_plus(
            points, clusters, np.random.RandomState(seed), "cpu"
        )
        _, expected = kmeans_plusplus(points, clusters, random_state=seed)
        assert rows.tolist() == expected.tolist()


def test_small_clusters_of_many_are_found():
    """800 clusters of 5: from random rows, AMI is 0.83 here."""
    rng = np.random.default_rng(0)
    centers = unit_rows(rng.standard_normal((800, 32)))
    truth = np.repeat(np.arange(800), 5)
    points = centers[truth] + 0.08 * rng.standard_normal((4000, 32))
    labels, _ = cluster(points, 800, iterations=2)
    assert adjusted_mutual_info_score(truth, labels) > 0.95


def test_input_on_disk_is_read_and_left_alone(tmp_path):
    embeddings = speech_like()
    np.save(tmp_path / "embeddings.npy", embeddings)
    stored = np.load(tmp_path / "embeddings.npy", mmap_mode="r")
    before = embeddings.copy()
    one, other = cluster(embeddings, 9), cluster(stored, 9)
    assert (one.labels == other.labels).all()
    assert (embeddings == before).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_clusters_are_never_empty(engine):
    same = np.repeat(speech_like()[:5], 4, axis=0)
    for num_clusters in [1, 5, 8, 20]:
        labels, centroids = cluster(same, num_clusters, engine=engine)
        assert set(labels) == set(range(num_clusters))
        assert np.isfinite(centroids).all()
    # As many clusters as distinct embeddings are these embeddings.
    labels, _ = cluster(same, 5, engine=engine)
    assert (labels.reshape(5, 4) == labels[::4, None]).all()
    labels, centroids = cluster(speech_like(), 180, engine=engine)
    assert sorted(labels) == list(range(180))
    expected = unit_rows(speech_like())
    np.testing.assert_allclose(centroids[labels], expected, atol=1e-6)


def test_an_empty_cluster_gets_the_worst_fit_of_a_shared_one():
    labels = np.array([3, 0, 0, 0, 3])
    cosines = np.array([0.5, 0.9, 0.3, 0.4, 0.1])
    empty, rows = fill_empty(labels, cosines, num_clusters=5)
    # Row 4 first; row 0 then has its cluster for itself, and stays.
    assert empty.tolist() == [1, 2, 4]
    assert rows.tolist() == [4, 2, 3]
    assert labels.tolist() == [3, 0, 2, 4, 1]


def test_opposite_members_leave_the_centroid_where_it_was():
    clusters = cluster(np.array([[1, 0], [-1, 0]]), 1)
    assert np.isfinite(clusters.centroids).all()
    assert np.linalg.norm(clusters.centroids) == 1


def test_merging():
    embeddings = speech_like(spread=0.2)
    speakers = np.repeat(np.arange(12), 15)
    labels, centroids = cluster(embeddings, 40, merge_to=12)
    pairs = set(zip(speakers, labels))
    assert len(pairs) == 12  # one cluster per speaker
    points = unit_rows(embeddings)
    for label in range(12):
        total = points[labels == label].sum(0)
        expected = total / np.linalg.norm(total)
        np.testing.assert_allclose(centroids[label], expected, atol=1e-5)


def test_numbers_may_be_shares():
    embeddings = speech_like(spread=0.2)
    shares = cluster(embeddings, 40 / 180, merge_to=12 / 180)
    for found, expected in zip(shares, cluster(embeddings, 40.0, merge_to=12)):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_clusters": 0}, "num_clusters is 0"),
        ({"num_clusters": 181}, "180 utterances cannot make 181 clusters"),
        ({"num_clusters": 9, "merge_to": 9}, "merge_to is 9"),
        ({"num_clusters": 9, "merge_to": 0}, "merge_to is 0"),
        ({"num_clusters": 9.5}, "num_clusters is 9.5: give a whole number"),
        ({"num_clusters": 9, "merge_to": 4.5}, "merge_to is 4.5: give a whole"),
        ({"num_clusters": 9, "engine": "k"}, "'sklearn', 'faiss' or 'torch'"),
    ],
)
def test_senseless_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        cluster(speech_like(), **options)


def test_shares_of_a_large_archive_are_refused_before_memory_ends():
    clusterer = kmeans.SphericalKMeans(0.7, merge_to=0.35)
    with pytest.raises(ValueError, match=r"merge 7000000 .* takes 392000 GB"):
        clusterer.check(10_000_000)
    clusterer.check(7_000)


@pytest.mark.parametrize(
    ("value", "kind"), [(0, "zero"), (np.nan, "not fin"), (np.inf, "not fin")]
)
def test_broken_embeddings_are_named(value, kind):
    embeddings = np.tile(speech_like(), (100, 1))
    embeddings[17_017] = value
    with pytest.raises(ValueError, match=rf"row 17017 .* is {kind}"):
        cluster(embeddings, 2)


def test_a_missing_faiss_is_told_how_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ImportError, match=r"pip install .*\[faiss\]"):
        cluster(speech_like(), 3, engine="faiss")
