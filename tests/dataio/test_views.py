"""Views cut from a padded batch, against places found by looking."""

import pytest
import torch

from speechbrain_cadino.dataio.views import ViewCutter

RATE = 1000


def numbered(lengths, longest=1000):
    """Signals whose samples tell row and place; their padding is -1."""
    wavs = torch.full((len(lengths), longest), -1.0, dtype=torch.float64)
    for row, length in enumerate(lengths):
        wavs[row, :length] = torch.arange(length) + 10000 * row
    return wavs, torch.tensor(lengths) / longest


def test_crops_lie_within_the_true_lengths_and_anywhere_in_them():
    lengths = [1000, 700, 300, 301, 520]
    wavs, relative = numbered(lengths)
    cut = ViewCutter(RATE, 2, 0.3, 3, 0.1)
    firsts = {
        (samples, row): set() for samples in (300, 100) for row in range(5)
    }
    torch.manual_seed(0)
    for _ in range(1500):
        groups = cut(wavs, relative)
        assert [g.shape for g in groups] == [(10, 300), (15, 100)]
        for group in groups:
            samples = group.shape[1]
            # One after the other, of the row that is said
            assert (group.diff(dim=1) == 1).all()
            for place, first in enumerate(group[:, 0].long().tolist()):
                row = place % 5
                assert first // 10000 == row
                firsts[samples, row].add(first % 10000)
    for (samples, row), found in firsts.items():
        spare = lengths[row] - samples
        assert (min(found), max(found)) == (0, spare)
        assert len(found) > 0.9 * (spare + 1)


def test_a_shorter_utterance_is_repeated():
    wavs, relative = numbered([70, 1, 1000])
    (crops,) = ViewCutter(RATE, 2, 0.15, 0)(wavs, relative)
    assert crops[0].equal(wavs[0, :70].repeat(3)[:150])
    assert crops[1].equal(wavs[1, :1].repeat(150))
    assert crops[3].equal(crops[0])


def test_lengths_are_optional_and_rounding_does_no_harm():
    wavs = torch.arange(333.0)[None]
    for lengths in (None, torch.tensor([1.0]), torch.tensor([332.6 / 333])):
        (crops,) = ViewCutter(RATE, 2, 0.333, 0)(wavs, lengths)
        assert crops.equal(wavs.expand(2, -1))
    (crops,) = ViewCutter(RATE, 2, 0.01, 0)(wavs, torch.tensor([0.0]))
    assert (crops == 0).all()


def test_what_cannot_be_cut():
    with pytest.raises(ValueError, match="two crops in all"):
        ViewCutter(RATE, 1, 0.1, 0)
    with pytest.raises(ValueError, match="at least one global crop"):
        ViewCutter(RATE, 0, 0.1, 4)
    with pytest.raises(ValueError, match="A crop of 0 seconds: give a length"):
        ViewCutter(RATE, 2, 0.1, 4, 0)
    with pytest.raises(ValueError, match=r"shape \(2, 500, 2\).*one channel"):
        ViewCutter(RATE, 2, 0.1, 0)(torch.zeros(2, 500, 2))


def test_a_silent_view_is_drawn_again():
    # One side of a call: its other nine tenths are the dither of silence
    generator = torch.Generator().manual_seed(0)
    wavs = torch.randn(4, 10000, generator=generator)
    wavs[0, 1000:] *= 1e-6
    wavs[1] *= 1e-6
    torch.manual_seed(1)
    (crops,) = ViewCutter(RATE, 20, 0.5, 0)(wavs)
    loud = (crops.std(1) > 1e-3).view(20, 4)
    # Nothing is to be found in a signal that is silent all over
    assert loud[:, [0, 2, 3]].all()
    assert not loud[:, 1].any()


def test_views_that_are_heard_are_drawn_once():
    wavs = torch.randn(3, 1000, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    ViewCutter(RATE, 2, 0.3, 4, 0.1)(wavs)
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    torch.rand(2 * 3), torch.rand(4 * 3)
    assert torch.random.get_rng_state().equal(state)
