import json

import numpy as np
import pandas as pd
import pytest
from sklearn.cluster import DBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from speechbrain_cadino.clustering.kmeans import SphericalKMeans, cluster
from speechbrain_cadino.clustering.pseudo_labels import (
    label_manifest,
    pseudo_label,
)
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.embeddings.whitening import Whitening
from speechbrain_cadino.encoders.load import load_encoder


@pytest.fixture
def table():
    names = list("abcdef")
    return pd.DataFrame(
        {
            "ID": names,
            "duration": 2.0,
            "wav": [f"$data_root/{name}.wav" for name in names],
            "start": 0,
            "stop": 32000,
        }
    )


def test_labels_find_their_rows(table, tmp_path):
    labels = np.array([3, 12, 3, 0])
    labelled = label_manifest(table, ["f", "b", "a", "d"], labels)
    write_manifest(tmp_path / "labelled.csv", labelled)
    assert (tmp_path / "labelled.csv").read_text().splitlines() == [
        "ID,duration,wav,start,stop,spk_id",
        "a,2.0,$data_root/a.wav,0,32000,03",
        "b,2.0,$data_root/b.wav,0,32000,12",
        "d,2.0,$data_root/d.wav,0,32000,00",
        "f,2.0,$data_root/f.wav,0,32000,03",
    ]
    assert "spk_id" not in table


def test_labels_of_a_labelled_manifest_are_replaced(table):
    table["spk_id"] = "old"
    labelled = label_manifest(table, ["a", "b"], [1, 0])
    assert labelled["spk_id"].tolist() == ["1", "0"]


@pytest.mark.parametrize(
    ("size", "left"), [(1, "abcdef"), (2, "acdef"), (3, "ace")]
)
def test_small_clusters_are_dropped(table, size, left):
    labels = np.array([4, 1, 4, 2, 4, 2])
    labelled = label_manifest(table, list("abcdef"), labels, size)
    assert labelled["ID"].tolist() == list(left)
    expected = {name: str(labels["abcdef".index(name)]) for name in left}
    assert dict(zip(labelled["ID"], labelled["spk_id"])) == expected


def test_no_cluster_is_large_enough(table):
    with pytest.raises(ValueError, match=r"=3: the largest cluster has 2"):
        label_manifest(table, ["a", "b", "c"], [0, 0, 1], 3)


def test_a_label_without_an_utterance(table):
    with pytest.raises(ValueError, match=r"'x' has a label but is not in"):
        label_manifest(table, ["a", "x"], [0, 0])


def test_whole_step_against_its_parts(encoder_folder, corpus, tmp_path):
    """Embedding, leaving out, clustering and labelling, one by one."""
    manifest = tmp_path / "train.csv"
    kept = read_manifest(corpus / "train.csv", DATA_ROOT)
    kept.loc[4, "wav"] = "$data_root/gone.wav"
    # Lengths that are not trimmed.
    kept["stop"], kept["duration"] = 4800, 0.3
    write_manifest(manifest, kept)
    embedder = load_encoder(encoder_folder, "cpu")
    clusterer = SphericalKMeans(0.25, seed=5)  # of 12 utterances
    pseudo_label(tmp_path / "out", embedder, manifest, clusterer, corpus)
    table = read_manifest(manifest, corpus).drop(index=4)
    embeddings = embedder.embed(table)
    labels, _ = cluster(embeddings, 3, seed=5)
    labelled = read_manifest(tmp_path / "out" / "pseudo_labels.csv", DATA_ROOT)
    pd.testing.assert_frame_equal(
        labelled.drop(columns="spk_id"),
        kept.drop(index=4).reset_index(drop=True),
    )
    assert labelled["spk_id"].tolist() == [str(label) for label in labels]
    skipped = pd.read_csv(tmp_path / "out" / "embeddings" / "skipped.csv")
    assert skipped["ID"].tolist() == [kept["ID"][4]]


@pytest.mark.parametrize(
    ("settings", "options", "error", "sentence"),
    [
        ({"n_clusters": 13}, {}, ValueError, "12 utterances cannot make 13"),
        ({"n_clusters": None}, {}, ValueError, "Give num_clusters, or in swee"),
        ({}, {"sweep": [3, 13]}, ValueError, "12 utterances cannot make 13"),
        ({"engine": "fais"}, {}, ValueError, "no engine 'fais'"),
        ({"merge_to": 5}, {}, ValueError, "merge_to is 5"),
        ({"merge_to": 0.25}, {}, ValueError, "merge_to is 3"),
        ({}, {"speakers": "/gone.csv"}, FileNotFoundError, "/gone.csv"),
    ],
)
def test_mistakes_show_before_anything_is_embedded(
    corpus, tmp_path, settings, options, error, sentence
):
    manifest = corpus / "train.csv"
    settings = {"n_clusters": 3, "device": "cpu", **settings}
    clusterer = SphericalKMeans(**settings)
    with pytest.raises(error, match=sentence):
        pseudo_label(
            tmp_path, Embedder(None), manifest, clusterer, corpus, **options
        )
    assert list(tmp_path.iterdir()) == []


def test_a_manifest_is_not_replaced_by_its_labels(corpus, tmp_path):
    table = read_manifest(corpus / "train.csv", DATA_ROOT)
    manifest = tmp_path / "pseudo_labels.csv"
    write_manifest(manifest, table)
    before = manifest.read_bytes()
    with pytest.raises(ValueError, match="would be replaced by what is made"):
        pseudo_label(
            tmp_path, Embedder(None), manifest, SphericalKMeans(3), corpus
        )
    assert manifest.read_bytes() == before


def label_points(folder, points, clusterer, **options):
    """Pseudo labels of utterances that have embeddings and no audio."""
    names = [f"u{row:02}" for row in range(len(points))]
    table = pd.DataFrame({"ID": names, "duration": 2.0, "wav": "gone.wav"})
    write_manifest(folder / "all.csv", table.assign(start=0, stop=32000))
    save_embeddings(folder / "stored", names, points)
    embedder = StoredEmbeddings(folder / "stored")
    manifest = folder / "all.csv"
    pseudo_label(folder / "out", embedder, manifest, clusterer, **options)
    return read_manifest(folder / "out" / "pseudo_labels.csv")


def test_outliers_of_dbscan_have_no_label_and_are_counted(tmp_path):
    points = np.array([[1, 0], [0, 5], [-1, 0], [1, 0.1], [-1, 0.1], [3, -9]])
    labelled = label_points(tmp_path, points, DBSCAN(0.2, min_samples=2))
    assert labelled["ID"].tolist() == ["u00", "u02", "u03", "u04"]
    assert labelled["spk_id"].tolist() == ["0", "1", "0", "1"]
    report = json.loads((tmp_path / "out" / "clusters.json").read_text())
    assert report["outliers"] == 2
    assert (report["utterances"], report["clusters"]) == (4, 2)


@pytest.mark.parametrize(
    "clusterer",
    [
        AgglomerativeClustering(4),
        AgglomerativeClustering(0.2),  # of 30
        AgglomerativeClustering(None, distance_threshold=3),
    ],
)
def test_any_clusterer_of_scikit_learn_gives_its_own_partition(
    tmp_path, clusterer
):
    points = np.random.default_rng(0).standard_normal((30, 3))
    labelled = label_points(tmp_path, points, clusterer)
    if clusterer.n_clusters == 0.2:
        clusterer = AgglomerativeClustering(6)
    expected = clusterer.fit_predict(points.astype(np.float32))
    assert len(np.unique(expected)) > 2
    assert labelled["spk_id"].astype(int).tolist() == expected.tolist()
    report = json.loads((tmp_path / "out" / "clusters.json").read_text())
    assert "outliers" not in report


def test_whitening_comes_before_the_clustering(tmp_path):
    """Two voices lie along a direction that is narrow beside the others."""
    points = np.random.default_rng(0).standard_normal((40, 3)) * [1, 9, 9]
    points[:, 0] += np.where(np.arange(40) < 20, 4, -4)
    voices = ["0" if row < 20 else "1" for row in range(40)]

    def agreement(name, **options):
        (tmp_path / name).mkdir()
        clusterer = SphericalKMeans(2, seed=1)
        found = label_points(tmp_path / name, points, clusterer, **options)
        return adjusted_rand_score(found["spk_id"], voices)

    assert agreement("plain") < 0.5
    assert agreement("whitened", transform=Whitening(1.0)) == 1


def test_a_map_of_recordings_is_learnt_before_the_clustering(tmp_path):
    class Turned:
        """Learns what it is to do from the audio."""

        def learn(self, embedder, table):
            self.column = len(table) - 4

        def fit_transform(self, embeddings):
            return embeddings[:, self.column][:, None] * [[1, 0]]

    points = np.array([[1, 9.0], [2, -9], [-2, 9], [-1, -9]])
    found = label_points(
        tmp_path, points, SphericalKMeans(2), transform=Turned()
    )
    assert found["spk_id"].tolist() == ["0", "0", "1", "1"]


def test_all_utterances_being_outliers_is_said(tmp_path):
    with pytest.raises(ValueError, match="DBSCAN leaves all 3 utterances out"):
        label_points(tmp_path, np.eye(3), DBSCAN(0.1, min_samples=2))


@pytest.mark.parametrize("transform", [None, Whitening(1.0)])
def test_embeddings_that_are_all_the_same_are_no_clusters(tmp_path, transform):
    points = np.ones((6, 4)) * [3, -1, 2, 0.5] * (1 + 1e-8)
    with pytest.raises(ValueError, match="All 6 embeddings are the same: did"):
        label_points(tmp_path, points, SphericalKMeans(2), transform=transform)


def test_labels_of_clusters_are_none_that_were_given():
    """Of a joined manifest they would never be dropped nor corrected."""
    table = pd.DataFrame({"ID": ["a", "b"], "spk_id": ["anna", "0"]})
    labelled = label_manifest(table.assign(trusted=[1, 0]), ["a", "b"], [0, 0])
    assert list(labelled) == ["ID", "spk_id"]
    assert labelled["spk_id"].tolist() == ["0", "0"]
