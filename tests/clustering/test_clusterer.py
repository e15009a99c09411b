import numpy as np
import pytest
from sklearn.cluster import DBSCAN, KMeans

from speechbrain_cadino.clustering.clusterer import find_clusters
from speechbrain_cadino.clustering.rows import unit_rows


@pytest.fixture
def embeddings():
    """Of 12 speakers that overlap."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((12, 1, 8))
    return (centres + 0.7 * rng.standard_normal((12, 15, 8))).reshape(-1, 8)


def test_centroids_of_any_clusterer_are_of_unit_length(embeddings):
    clusters, within = find_clusters(KMeans(12, random_state=0), embeddings)
    assert within.all()
    points = unit_rows(embeddings)
    for label, centroid in enumerate(clusters.centroids):
        mean = points[clusters.labels == label].mean(0)
        expected = mean / np.linalg.norm(mean)
        np.testing.assert_allclose(centroid, expected, atol=1e-6)


def test_a_clusterer_that_leaves_all_out_is_named(embeddings):
    with pytest.raises(ValueError, match="DBSCAN leaves all 180 utterances"):
        find_clusters(DBSCAN(eps=1e-6), embeddings)
