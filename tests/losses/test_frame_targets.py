"""BEST-RQ's targets, against a plain loop."""

import pytest
import torch

from speechbrain_cadino.losses.frame_targets import RandomTargets

STACK, BANDS = 2, 3


@pytest.fixture
def targets():
    """Of which the features are the samples themselves."""
    torch.manual_seed(0)
    return RandomTargets(
        lambda wavs: wavs.unflatten(1, (-1, BANDS)), BANDS, STACK, codes=12
    )


def test_codes_are_those_of_the_frames_that_are_hidden(targets):
    """The last utterance is shorter than the latents by half a frame."""
    wavs = torch.randn(2, 7 * BANDS)
    mask = torch.tensor(
        [[True, False, True, False], [False, True, False, True]]
    )
    found = targets.codes(wavs, torch.zeros(2, 4, 1), mask)
    expected = []
    for wav, hidden in zip(wavs.unflatten(1, (-1, BANDS)), mask):
        frames = [*wav, wav[-1]]
        for place in range(4):
            if hidden[place]:
                pair = torch.cat(frames[STACK * place : STACK * (place + 1)])
                expected.append(targets.quantizer(pair[None, None]).item())
    assert found.tolist() == [expected]
    assert len(set(expected)) > 1


def test_codes_of_steps_that_stand_are_counted(targets):
    latents, mask = torch.zeros(1, 2, 1), torch.ones(1, 2, dtype=torch.bool)
    given = set()
    for kept in (True, False, True):
        codes = targets.codes(torch.randn(1, 4 * BANDS), latents, mask)
        if kept:
            given.update(codes.flatten().tolist())
            targets.after_step(0.0, None)
        else:
            targets.rewind()
    hits = targets.hits.clone()
    assert set(hits.nonzero().flatten().tolist()) == given
    assert hits.sum() == 4
    targets.eval()
    targets.codes(torch.randn(1, 4 * BANDS), latents, mask)
    targets.after_step(0.0, None)
    assert (targets.hits == hits).all()
    assert targets.end_epoch(1.0) == {"used_1": pytest.approx(len(given) / 12)}
    assert not targets.hits.any()
