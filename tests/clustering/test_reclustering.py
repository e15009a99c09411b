import pathlib

import forked
import numpy as np
import pytest
import torch
from sklearn.cluster import DBSCAN, AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from speechbrain_cadino.clustering.kmeans import cluster
from speechbrain_cadino.clustering.reclustering import Reclustering
from speechbrain_cadino.dataio.crops import MultiCropDataset
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.whitening import Whitening

SCRIPT = pathlib.Path(__file__).with_name("recluster.py")


def run(*command, ranks=None):
    code, output = forked.run(*command, ranks=ranks)
    assert code == 0, output


def test_two_processes_agree_with_each_other_and_with_one(
    corpus, encoder_folder, tmp_path
):
    run(SCRIPT, corpus, encoder_folder, tmp_path / "one")
    run(
        SCRIPT,
        corpus,
        encoder_folder,
        tmp_path / "two",
        "--distributed_backend=gloo",
        ranks=2,
    )
    one = torch.load(tmp_path / "one" / "0.pt")
    assert one["epoch"] == 5  # due at 2 and 5
    assert [sorted(labels.unique()) for labels in one["history"]] == [
        [0, 1],
        [0, 1, 2, 3, 4],
    ]
    assert one["stats"]["clusters"] == 5
    assert one["stats"]["agreement"] == adjusted_rand_score(*one["history"])
    for rank in range(2):
        other = torch.load(tmp_path / "two" / f"{rank}.pt")
        for labels, expected in zip(other["history"], one["history"]):
            assert torch.equal(labels, expected)
        assert other["stats"] == one["stats"]
    # The embeddings are not left behind.
    assert not (tmp_path / "two" / "embeddings").exists()


@pytest.fixture
def data(corpus):
    return MultiCropDataset(corpus / "train.csv", corpus)


@pytest.fixture
def data_with_a_gap(corpus, tmp_path):
    """The second file is gone."""
    (tmp_path / "wav").symlink_to(corpus / "wav")
    text = (corpus / "train.csv").read_text()
    (tmp_path / "train.csv").write_text(text.replace("a/1.wav", "a/gone.wav"))
    return MultiCropDataset(tmp_path / "train.csv", tmp_path)


def level_and_slope(wavs, wav_lens):
    """Embeddings of their own kind for each file of the corpus."""
    return torch.stack([wavs.square().mean(1), wavs.diff().square().mean(1)], 1)


@pytest.fixture
def embedder():
    return Embedder(level_and_slope, torch.nn.Identity())


class OnMeta(Embedder):
    device = "meta"


class OnItsDevice:
    """Remembers where it worked."""

    device = None
    seen = []

    def fit_predict(self, points):
        self.seen.append(self.device)
        return np.arange(len(points)) % 2


def test_the_clusterer_is_on_the_device_of_the_training(data, tmp_path):
    """--device=cpu took the GPU, where there was one."""
    embedder = OnMeta(level_and_slope, torch.nn.Identity())
    make(tmp_path, clusterer=OnItsDevice())(3, embedder, data.table)
    assert OnItsDevice.seen == ["meta"]


def make(folder, **options):
    return Reclustering(
        folder / "embeddings",
        first_epoch=3,
        every=2,
        last_epoch=7,
        **{"start_clusters": 4, "num_clusters": 4, **options},
    )


def test_a_resumed_run_has_the_same_clusters_and_does_not_make_them_again(
    data, embedder, tmp_path
):
    before = make(tmp_path)
    before(3, embedder, data.table)
    before._save(tmp_path / "state")
    after = make(tmp_path)
    after._load(tmp_path / "state", end_of_epoch=False)
    np.testing.assert_array_equal(after.labels, before.labels)
    assert after.stats == before.stats
    assert [epoch for epoch in range(1, 8) if after.due(epoch)] == [5, 7]
    # ... and the change to the next ones is measured against them.
    after(5, embedder, data.table)
    assert after.stats["agreement"] == 1.0


def test_a_run_resumed_before_the_first_clustering_has_none(tmp_path):
    make(tmp_path)._save(tmp_path / "state")
    after = make(tmp_path)
    after._load(tmp_path / "state", end_of_epoch=True)
    assert after.labels is None
    assert [epoch for epoch in range(1, 8) if after.due(epoch)] == [3, 5, 7]


def test_an_utterance_that_cannot_be_read_belongs_to_no_cluster(
    data_with_a_gap, embedder, tmp_path
):
    data = data_with_a_gap
    reclustering = make(tmp_path)
    reclustering(3, embedder, data.table)
    assert np.flatnonzero(reclustering.labels < 0).tolist() == [1]
    assert set(reclustering.labels[reclustering.labels >= 0]) == {0, 1, 2, 3}


def test_who_has_no_cluster_agrees_with_nobody(data, embedder, tmp_path):

    class Other:
        labels = ["XXXXXXXX0011", "XXXXXXXX0101"]

        def fit_predict(self, embeddings):
            letters = self.labels.pop(0)
            return np.array([-1 if x == "X" else int(x) for x in letters])

    reclustering = make(tmp_path, clusterer=Other())
    reclustering(3, embedder, data.table)
    reclustering(5, embedder, data.table)
    assert reclustering.stats["agreement"] == -0.5


def test_a_transform_of_recordings_is_refused_before_training(tmp_path):
    with pytest.raises(ValueError, match="RecordingLDA learns from recordings"):
        make(tmp_path, transform=RecordingLDA()).check(12)


def test_whitening_comes_before_the_clustering(data, embedder, tmp_path):
    reclustering = make(tmp_path, transform=Whitening(0.5))
    reclustering(3, embedder, data.table)
    # All lengths of the corpus are on the grid of extract(), or nearly so.
    embeddings = embedder.embed(data.table)
    expected = cluster(Whitening(0.5).fit_transform(embeddings), 4)
    assert adjusted_rand_score(reclustering.labels, expected.labels) == 1
    plain = cluster(embeddings, 4)
    assert adjusted_rand_score(reclustering.labels, plain.labels) < 1


def test_centroids_are_of_the_embeddings_whatever_the_transform(
    data_with_a_gap, embedder, tmp_path
):
    data = data_with_a_gap
    reclustering = make(tmp_path, transform=Whitening(0.5))
    reclustering(3, embedder, data.table)
    assert reclustering.centroids is None
    reclustering.keeps_centroids = True
    reclustering(5, embedder, data.table)
    readable = reclustering.labels >= 0
    embeddings = embedder.embed(data.table[readable])
    labels = reclustering.labels[readable]
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    for number, centroid in enumerate(reclustering.centroids):
        mean = units[labels == number].mean(0)
        np.testing.assert_allclose(
            centroid, mean / np.linalg.norm(mean), atol=1e-5
        )
    assert len(reclustering.centroids) == 4
    reclustering._save(tmp_path / "state")
    after = make(tmp_path)
    after._load(tmp_path / "state", end_of_epoch=False)
    np.testing.assert_array_equal(after.centroids, reclustering.centroids)


def test_more_clusters_than_utterances_says_what_to_set(
    data, embedder, tmp_path
):
    reclustering = make(tmp_path, start_clusters=13)
    with pytest.raises(ValueError, match=r"12 utterances .* num_clusters"):
        reclustering(3, embedder, data.table)
    make(tmp_path).check(12)
    for options in ({"start_clusters": 13}, {"num_clusters": 13}):
        with pytest.raises(ValueError, match=r"12 utterances .* num_clusters"):
            make(tmp_path, **options).check(12)


@pytest.mark.parametrize("options", [{"first_epoch": 8}, {"every": 0}])
def test_a_schedule_without_a_clustering_is_refused(tmp_path, options):
    with pytest.raises(ValueError, match="never happens in 7 epochs"):
        Reclustering(
            tmp_path,
            **{"first_epoch": 1, "every": 1, "last_epoch": 7, **options},
            num_clusters=4,
            start_clusters=4,
        )


def test_what_others_keep_in_its_folder_stays(data, embedder, tmp_path):
    folder = tmp_path / "embeddings"
    folder.mkdir()
    (folder / "thesis.txt").write_text("...")
    make(tmp_path)(3, embedder, data.table, speakers=["a"] * len(data.table))
    assert [path.name for path in folder.iterdir()] == ["thesis.txt"]
    make(tmp_path / "own")(3, embedder, data.table)
    assert not (tmp_path / "own" / "embeddings").exists()


def test_a_share_is_that_of_the_utterances(data, embedder, tmp_path):
    reclustering = make(tmp_path, start_clusters=0.25, num_clusters=0.5)
    reclustering.check(12)
    reclustering(3, embedder, data.table)
    assert reclustering.stats["clusters"] == 3
    reclustering(7, embedder, data.table)
    assert reclustering.stats["clusters"] == 6


def test_what_a_clusterer_leaves_out_is_counted(
    data, embedder, tmp_path, caplog
):
    """The figures of the others alone would look excellent."""
    points = embedder.embed(data.table)
    gaps = np.sort(np.linalg.norm(points[:, None] - points, axis=2).ravel())
    clusterer = DBSCAN(eps=gaps[len(points) + 5 :][:3].mean(), min_samples=2)
    left_out = (clusterer.fit_predict(points) < 0).sum()
    assert 0 < left_out < len(points)
    reclustering = make(tmp_path, clusterer=clusterer)
    with caplog.at_level("INFO"):
        reclustering(3, embedder, data.table)
    assert reclustering.stats["outliers"] == left_out
    assert f"Clustered {len(points) - left_out} utterances" in caplog.text


def test_where_a_clusterer_leaves_all_out_the_clusters_before_stay(
    data, embedder, tmp_path, caplog
):
    """The training goes on, and so does one that is started again."""
    reclustering = make(tmp_path)
    reclustering(3, embedder, data.table)
    before = reclustering.labels.copy()
    reclustering.clusterer = DBSCAN(eps=1e-9, min_samples=2)
    reclustering(4, embedder, data.table)
    assert reclustering.epoch == 4
    assert reclustering.stats == {"outliers": len(data.table)}
    np.testing.assert_array_equal(reclustering.labels, before)
    assert "DBSCAN leaves all" in caplog.text
    first = make(tmp_path / "first", clusterer=reclustering.clusterer)
    first(3, embedder, data.table)
    assert first.labels is None
    assert "There are none until the next clustering" in caplog.text


def test_the_last_clustering_has_the_last_number(tmp_path):
    """Also where no clustering is due in the last epoch."""
    numbers = {"start_clusters": 100, "num_clusters": 300}
    epochs = {"first_epoch": 10, "every": 5, "last_epoch": 22}
    reclustering = Reclustering(tmp_path, **epochs, **numbers)
    due = [epoch for epoch in range(1, 23) if reclustering.due(epoch)]
    found = {epoch: reclustering.number(epoch, 1000) for epoch in due}
    assert found == {10: 100, 15: 200, 20: 300}


def test_one_cluster_is_no_error(data, embedder, tmp_path):
    reclustering = make(tmp_path, clusterer=DBSCAN(eps=1e6))
    reclustering(3, embedder, data.table)
    assert reclustering.stats["clusters"] == 1
    assert "silhouette" not in reclustering.stats


def test_a_clusterer_that_finds_its_number_keeps_to_it(
    data, embedder, tmp_path
):
    clusterer = AgglomerativeClustering(None, distance_threshold=1e-3)
    reclustering = make(tmp_path, clusterer=clusterer)
    reclustering.check(12)
    reclustering(3, embedder, data.table)
    expected = clusterer.fit_predict(embedder.embed(data.table))
    assert adjusted_rand_score(reclustering.labels, expected) == 1
