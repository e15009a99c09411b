import numpy as np
import pytest

from speechbrain_cadino.embeddings.segments import trimmed_length


def test_trimmed_lengths():
    lengths = np.arange(1600, 30 * 16000)
    trimmed = trimmed_length(lengths)
    lost = (lengths - trimmed) / lengths
    assert lost.min() == 0
    assert lost.max() < 0.02
    assert (trimmed_length(trimmed) == trimmed).all()
    assert (np.diff(trimmed) >= 0).all()
    # VoxCeleb's, from 4 to 20 seconds
    assert len(np.unique(trimmed[4 * 16000 :][: 16 * 16000])) < 150
    assert trimmed.min() >= 1600


@pytest.mark.parametrize("rate", [8000, 11025, 16000, 22050, 44100, 48000])
def test_the_shortest_that_can_be_embedded_stays_so(rate):
    lengths = np.arange(int(np.ceil(0.1 * rate)), 2 * rate)
    assert trimmed_length(lengths, rate).min() >= 0.1 * rate
