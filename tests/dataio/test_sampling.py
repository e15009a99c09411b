"""Samplings, without any audio."""

from collections import Counter

import numpy as np
import pytest

from speechbrain_cadino.dataio.sampling import (
    ClusterSampling,
    GrowingSampling,
    Sampling,
    partner_precision,
)
from speechbrain_cadino.training.schedules import LinearSchedule


@pytest.fixture
def wavs():
    """300 utterances in 40 folders of 1 to 20, shuffled."""
    rng = np.random.default_rng(0)
    sizes = rng.multinomial(260, rng.dirichlet(np.ones(40))) + 1
    names = [f"s{i}/v/{j}.wav" for i, n in enumerate(sizes) for j in range(n)]
    return [str(name) for name in rng.permutation(names)]


def growing(wavs, seed=5, sampling=None, start=0.2, epochs=8):
    share = LinearSchedule(start=start, end=1, epochs=epochs)
    grown = GrowingSampling(sampling or Sampling(), share, seed)
    return grown.attach(len(wavs), wavs)


def test_whole_folders_nested_of_the_share_in_epochs_of_one_length(wavs):
    sampling, before = growing(wavs), set()
    largest = max(Counter(wav.split("/")[0] for wav in wavs).values())
    for epoch in range(1, 12):
        order = sampling.order(epoch)
        assert len(order) == len(wavs)
        active = set(order.tolist())
        assert before <= active
        before = active
        folders = {wavs[row].split("/")[0] for row in active}
        for row, wav in enumerate(wavs):
            assert (row in active) == (wav.split("/")[0] in folders)
        share = min(1, 0.2 + 0.1 * (epoch - 1))
        size = len(active) - share * len(wavs)
        assert -1e-6 <= size <= largest
        times = Counter(order.tolist()).values()
        assert max(times) - min(times) <= 1
    assert len(before) == len(wavs)
    assert (sampling.order(11) == np.arange(len(wavs))).all()


def test_no_place_in_the_manifest_makes_more_samples():
    """By mean counts over many seeds, while the share grows."""
    wavs = [f"s{i:03}/{j}.wav" for i in range(100) for j in range(5)]
    counts = np.zeros(len(wavs))
    for seed in range(60):
        sampling = growing(wavs, seed, start=0.3, epochs=8)
        for epoch in range(1, 9):
            counts += np.bincount(sampling.order(epoch), minlength=len(wavs))
    first, last = counts[:250].mean(), counts[250:].mean()
    assert first == pytest.approx(last, rel=0.05)


def test_the_seed_alone_decides(wavs):
    # Another object, and the epochs backwards, as after a resume
    one, two = growing(wavs), growing(wavs)
    later = {epoch: two.order(epoch) for epoch in (7, 3, 1)}
    for epoch, order in later.items():
        assert (one.order(epoch) == order).all()
    other = growing(wavs, seed=6)
    assert set(other.order(1)) != set(one.order(1))
    # Not the order of names
    first = {wavs[row].split("/")[0] for row in one.order(1)}
    assert first != set(sorted({w.split("/")[0] for w in wavs})[: len(first)])


def test_files_of_one_folder_come_one_by_one():
    wavs = [f"calls/{i // 2}.wav" for i in range(40)]  # two pieces of each
    order = growing(wavs, start=0.5).order(1)
    assert len(set(order.tolist())) == 20
    assert {row ^ 1 for row in order} == set(order.tolist())


def test_clusters_are_those_of_the_other_one(wavs):
    sampling = growing(wavs, sampling=ClusterSampling(2))
    assert sampling.utterances_per_sample == 2
    rng = np.random.default_rng(0)
    assert sampling.partners(3, rng) == []
    sampling.set_clusters(np.arange(len(wavs)) // 2)
    assert sampling.partners(3, rng) == [2]
    assert not hasattr(growing(wavs), "set_clusters")


@pytest.mark.parametrize("share", [0, -1, 1.5])
def test_a_share_is_one(wavs, share):
    with pytest.raises(ValueError, match="schedule above 0, up to 1"):
        growing(wavs, start=share)


@pytest.mark.parametrize("end", [0, 1.2])
def test_a_share_that_makes_no_sense_shows_before_its_epoch(end):
    share = LinearSchedule(start=0.5, end=end, epochs=40)
    with pytest.raises(ValueError, match="schedule above 0, up to 1"):
        GrowingSampling(Sampling(), share)


def test_partners_are_of_the_cluster_and_of_other_recordings(wavs):
    """Against a plain loop over all pairs."""
    labels = np.random.default_rng(1).integers(6, size=len(wavs))
    labels[:3] = -1
    sampling = ClusterSampling(3, other_recordings=True)
    sampling.attach(len(wavs), wavs).set_clusters(labels)
    folders = [wav.rsplit("/", 1)[0] for wav in wavs]
    rng = np.random.default_rng(2)
    for row in range(len(wavs)):
        wanted = {
            other
            for other in range(len(wavs))
            if labels[other] == labels[row] != -1
            and folders[other] != folders[row]
        }
        drawn = [sampling.partners(row, rng) for _ in range(200)]
        assert {len(d) for d in drawn} == {min(2, len(wanted))}
        assert {len(set(d)) for d in drawn} == {min(2, len(wanted))}
        seen = {other for d in drawn for other in d}
        assert seen <= wanted
        if len(wanted) < 15:  # missed by chance once in 10^12
            assert seen == wanted


def test_how_often_partners_share_a_speaker():
    sampling = ClusterSampling(2).attach(7)
    # Of the first cluster, a third of the partners are right, in the mean
    sampling.set_clusters([0, 0, 0, 0, 1, 1, 2])
    speakers = ["a", "a", "b", "b", "c", np.nan, "d"]
    figures = [partner_precision(sampling, speakers, s) for s in range(300)]
    assert {f["partners"] for f in figures} == {6 / 7}
    mean = np.mean([f["partner_precision"] for f in figures])
    assert abs(mean - 1 / 3) < 0.03
    sampling.set_clusters(range(7))
    alone = partner_precision(sampling, speakers)
    assert alone["partners"] == 0
    assert np.isnan(alone["partner_precision"])


def test_partners_are_judged_by_anchors_of_all_parts(monkeypatch):
    """Only the first half has any."""
    monkeypatch.setattr("speechbrain_cadino.dataio.sampling.MOST_ANCHORS", 4)
    sampling = ClusterSampling(2).attach(8)
    sampling.set_clusters([0, 0, 0, 0, 1, 2, 3, 4])
    assert partner_precision(sampling, ["a"] * 8)["partners"] == 0.5


@pytest.mark.parametrize("of_speakers", [True, False])
def test_folders_of_speakers_are_no_recordings(of_speakers, caplog):
    """All partners in other folders would be of other voices."""
    labels = np.arange(100) // 10
    folders = labels if of_speakers else np.arange(100) // 3
    sampling = ClusterSampling(2, other_recordings=True)
    sampling.attach(100, [f"{f}/{i}.wav" for i, f in enumerate(folders)])
    # Each cluster has one of another speaker
    sampling.set_clusters(np.roll(labels, 1))
    said = "leave other_recordings out" in caplog.text
    assert said == of_speakers


def test_the_share_of_pairs_of_one_folder_is_that_of_all_pairs(caplog):
    """Of four in one folder and a fifth: six pairs of ten."""
    sampling = ClusterSampling(2, other_recordings=True)
    sampling.attach(5, ["a/1", "a/2", "a/3", "a/4", "b/1"])
    sampling.set_clusters([0] * 5)
    assert "60% of the pairs of utterances in a cluster" in caplog.text


def test_partners_may_come_as_an_array():
    class Arrays(Sampling):
        utterances_per_sample = 3

        def partners(self, row, rng):
            return np.array([1, 2])

    found = partner_precision(Arrays().attach(3), ["a", "a", "a"])
    assert found == {"partners": 1.0, "partner_precision": 1.0}
