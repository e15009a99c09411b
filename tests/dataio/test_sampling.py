"""Samplings, without any audio."""

from collections import Counter

import numpy as np
import pytest

from speechbrain_cadino.dataio.sampling import (
    ClusterSampling,
    GrowingSampling,
    Sampling,
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
        growing(wavs, start=share).order(1)
