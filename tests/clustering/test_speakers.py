import numpy as np
import pytest
from scipy.cluster.hierarchy import fcluster, linkage

from speechbrain_cadino.clustering import speakers
from speechbrain_cadino.clustering.kmeans import cluster
from speechbrain_cadino.clustering.speakers import (
    find_speakers,
    most_likely_number,
    stability,
)
from speechbrain_cadino.encoders.calibration import ScoreCalibration

CALIBRATION = ScoreCalibration(-5.0, 10.0, "trials", 100, 10)


def voices(number, files, noise=0.5, seed=0):
    """Embeddings of files of some voices, and whose they are."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(number), files)
    centres = rng.standard_normal((number, 24))
    embeddings = centres[owners]
    embeddings = embeddings + noise * rng.standard_normal(embeddings.shape)
    return embeddings, owners


def test_many_files_are_clustered_on_the_device(monkeypatch):
    points, _ = voices(4, 6)
    monkeypatch.setattr(speakers, "MOST_LEAVES", 8)
    found = []
    for device, engine in [(None, "sklearn"), ("cuda:1", "torch")]:

        def on_the_cpu(*args, expected=(engine, device), **options):
            assert (options["engine"], options["device"]) == expected
            return cluster(*args)

        monkeypatch.setattr(speakers, "cluster", on_the_cpu)
        found.append(find_speakers(points, 4, device=device))
    np.testing.assert_array_equal(*found)


def test_stability_is_the_share_of_those_in_either():
    """Five of six files are drawn: those that were apart are one cluster, or
    those that were one are apart."""
    points = np.random.default_rng(0).standard_normal((6, 3))
    for labels, choose in [
        (np.arange(6), lambda drawn: np.zeros(len(drawn), int)),
        (np.zeros(6, int), lambda drawn: np.arange(len(drawn))),
    ]:
        values, _ = stability(points, labels, choose)
        np.testing.assert_allclose(values, 1 / 5)


def test_the_number_is_that_of_the_most_likely_partition():
    """All cuts of the tree, all their pairs."""
    points, _ = voices(4, 6, noise=1.0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    tree = linkage(points, "ward")
    ratios = CALIBRATION.llr(points @ points.T)
    values = []
    for number in range(1, 25):
        labels = fcluster(tree, number, "maxclust")
        values.append(
            sum(
                -np.logaddexp(0, -ratios[i, j])
                if labels[i] == labels[j]
                else -np.logaddexp(0, ratios[i, j])
                for i in range(24)
                for j in range(i)
            )
        )
    best = int(np.argmax(values)) + 1
    leaves = np.arange(24)
    assert most_likely_number(points, tree, leaves, CALIBRATION) == best
    assert 1 < best < 24


@pytest.mark.parametrize(("number", "files"), [(1, 8), (3, 3), (5, 3), (1, 1)])
def test_the_number_of_voices_may_be_one(number, files):
    embeddings, owners = voices(number, files)
    labels = find_speakers(embeddings, calibration=CALIBRATION)
    assert labels.max() + 1 == number
    assert len(set(zip(labels, owners))) == number


@pytest.mark.parametrize(
    ("number", "calibration"),
    [(1, CALIBRATION), (8, CALIBRATION), (8, None)],
)
def test_many_files_are_leaves_of_several(number, calibration, monkeypatch):
    monkeypatch.setattr(speakers, "MOST_LEAVES", 100)
    embeddings, owners = voices(number, 480 // number)
    labels = find_speakers(embeddings, calibration=calibration)
    assert len(set(zip(labels, owners))) == labels.max() + 1 == number
    given = find_speakers(embeddings, 2 * number)
    assert given.max() + 1 == 2 * number


def test_more_speakers_than_leaves_are_made_if_asked_for(monkeypatch):
    monkeypatch.setattr(speakers, "MOST_LEAVES", 10)
    embeddings, _ = voices(20, 2)
    assert set(find_speakers(embeddings, 15)) == set(range(15))


def test_likelihoods_of_leaves_are_those_of_their_points():
    """All cuts of a tree of leaves, all pairs of points."""
    points, _ = voices(6, 4, noise=1.0)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    leaves = np.arange(24) // 2
    tree = linkage(points[::2] + points[1::2], "ward")
    ratios = CALIBRATION.llr(points @ points.T)
    values = []
    for number in range(1, 13):
        labels = fcluster(tree, number, "maxclust")[leaves]
        same = labels[:, None] == labels
        values.append(ratios[same & ~np.eye(24, dtype=bool)].sum())
    best = int(np.argmax(values)) + 1
    assert most_likely_number(points, tree, leaves, CALIBRATION) == best
    assert 1 < best < 12


@pytest.mark.parametrize("calibration", [CALIBRATION, None])
def test_the_order_of_the_files_does_not_matter(calibration):
    embeddings, _ = voices(6, 4, noise=1.2)
    embeddings = np.concatenate([embeddings, embeddings[:5]])  # ties
    labels = find_speakers(embeddings, calibration=calibration)
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(labels))
        again = find_speakers(embeddings[order], calibration=calibration)
        assert list(again) == list(labels[order])


@pytest.mark.parametrize("number", range(1, 13))
def test_copies_of_files_do_not_change_the_number_that_was_asked_for(number):
    embeddings, _ = voices(3, 2)
    labels = find_speakers(np.repeat(embeddings, 2, 0), number)
    assert set(labels) == set(range(number))


def test_what_is_guessed_is_not_stable():
    def choose(points):
        return find_speakers(points, calibration=CALIBRATION)

    values = {}
    for noise in [0.2, 0.9]:
        embeddings, _ = voices(5, 6, noise)
        labels = choose(embeddings)
        values[noise], numbers = stability(embeddings, labels, choose)
        order = np.random.default_rng(3).permutation(30)
        again, _ = stability(embeddings[order], labels[order], choose)
        np.testing.assert_allclose(again, values[noise][order])
    assert values[0.2].min() > 0.99
    assert values[0.9].mean() < 0.9
    assert len(numbers) == 50
