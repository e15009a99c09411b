"""Contrastive terms against plain loops in float64."""

import math

import numpy as np
import pytest
import torch

from speechbrain_cadino.losses.contrastive import AngularPrototypical
from speechbrain_cadino.losses.objective import Views


def loop(x, scale):
    """By the letter of the docstring."""
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    values = []
    for a, view in enumerate(x):
        for b, other in enumerate(x):
            for i, crop in enumerate(view):
                logits = [scale * crop @ candidate for candidate in other]
                likelihood = math.exp(logits[i]) / sum(map(math.exp, logits))
                values += [-math.log(likelihood)] if a != b else []
    return sum(values) / len(values)


@pytest.mark.parametrize("shape", [(2, 4, 3), (3, 2, 5)])
def test_value_and_gradient_are_those_of_the_loop(shape):
    x = np.random.default_rng(0).normal(size=shape)
    crops = torch.tensor(x, requires_grad=True)
    term = AngularPrototypical(scale=3).double()
    value, _ = term(Views(crops, {}, 2), None, 0.0)
    assert value.item() == pytest.approx(loop(x, 3), rel=1e-9)
    value.backward()
    for place in [(0, 0, 0), (1, 1, 2)]:
        step = np.zeros(shape)
        step[place] = 1e-6
        slope = (loop(x + step, 3) - loop(x - step, 3)) / 2e-6
        assert crops.grad[place].item() == pytest.approx(slope, rel=1e-5)
    slope = (loop(x, 3 + 1e-6) - loop(x, 3 - 1e-6)) / 2e-6
    assert term.scale.grad.item() == pytest.approx(slope, rel=1e-5)


def test_figures_are_the_scale_and_the_share_of_crops_that_are_found():
    first, second = torch.eye(3), torch.eye(3)[[0, 2, 1]]  # two are swapped
    term = AngularPrototypical(scale=7)
    _, figures = term(Views(torch.stack([first, second]), {}, 2), None, 0.0)
    assert set(figures) == set(term.figures)
    assert figures["contrastive_scale"].item() == 7
    assert figures["contrastive_accuracy"].item() == pytest.approx(1 / 3)


def test_crops_that_are_found_by_chance_are_told():
    term = AngularPrototypical()
    assert term.warnings({"contrastive_accuracy": 0.0}) == []  # of no batch
    term(Views(torch.eye(8).expand(2, 8, 8), {}, 2), None, 0.0)
    assert term.warnings({"contrastive_accuracy": 0.2}) == []
    (told,) = term.warnings({"contrastive_accuracy": 0.125})
    assert "among 8 no oftener (0.125) than by chance" in told


@pytest.mark.parametrize("shape", [(1, 4, 3), (2, 1, 3)])
def test_nothing_to_compare_is_said(shape):
    with pytest.raises(ValueError, match=r"Set global_crops \+ local_crops"):
        AngularPrototypical()(Views(torch.ones(shape), {}, 2), None, 0.0)


def test_a_scale_of_nothing_is_refused():
    with pytest.raises(ValueError, match="scale=0: give a number above 0"):
        AngularPrototypical(scale=0)
