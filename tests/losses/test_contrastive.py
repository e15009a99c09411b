"""Contrastive terms against plain loops in float64."""

import math

import numpy as np
import pytest
import torch

from speechbrain_cadino.losses.contrastive import (
    AngularPrototypical,
    ContrastiveCenter,
)
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


@pytest.mark.parametrize("term", [AngularPrototypical, ContrastiveCenter])
def test_a_scale_of_nothing_is_refused(term):
    with pytest.raises(ValueError, match="scale=0: give a number above 0"):
        term(scale=0)


def center_loop(x, labels, centroids, scale):
    """By the letter of the docstring; those in no cluster are left out."""
    values, found = [], []
    for crops, label in zip(x.swapaxes(0, 1), labels):
        if label < 0:
            continue
        mean = sum(crops) / len(crops)
        logits = [
            scale * mean @ c / np.linalg.norm(mean) / np.linalg.norm(c)
            for c in centroids
        ]
        likelihood = math.exp(logits[label]) / sum(map(math.exp, logits))
        values.append(-math.log(likelihood))
        found.append(np.argmax(logits) == label)
    return sum(values) / len(values), sum(found) / len(found)


def test_centres_by_the_loop():
    rng = np.random.default_rng(0)
    x, centroids = rng.normal(size=(3, 5, 4)), rng.normal(size=(6, 4))
    labels = np.array([3, -1, 0, 5, 5, 1, 2])  # of seven samples
    samples = [6, 1, 0, 4, 2]
    term = ContrastiveCenter(scale=3).double()
    term.set_clusters(labels, centroids.astype(np.float32))
    crops = torch.tensor(x, requires_grad=True)
    views = Views(crops, {}, 2, torch.tensor(samples))
    value, figures = term(views, None, 0.0)
    centroids = centroids.astype(np.float32)
    expected, found = center_loop(x, labels[samples], centroids, 3)
    assert value.item() == pytest.approx(expected, rel=1e-6)
    assert set(figures) == set(term.figures)
    assert figures["center_accuracy"].item() == pytest.approx(found)
    value.backward()
    step = np.zeros(x.shape)
    step[1, 3, 2] = 1e-4
    above, below = (
        center_loop(x + side * step, labels[samples], centroids, 3)[0]
        for side in (1, -1)
    )
    slope = (above - below) / 2e-4
    assert crops.grad[1, 3, 2].item() == pytest.approx(slope, rel=1e-4)
    assert not crops.grad[:, 1].any()  # of no cluster
    assert term.scale.grad != 0


def test_without_clusters_centres_teach_nothing():
    term = ContrastiveCenter()
    crops = torch.randn(2, 3, 4, requires_grad=True)
    with pytest.raises(ValueError, match="its Views need samples"):
        term(Views(crops, {}, 2), None, 0.0)
    before = term(Views(crops, {}, 2, torch.arange(3)), None, 0.0)
    term.set_clusters([-1, 0], torch.eye(4)[:1])
    views = Views(crops[:, :1], {}, 2, torch.tensor([0]))
    of_none = term(views, None, 0.0)
    for value, figures in (before, of_none):
        value.backward()  # DistributedDataParallel waits for each parameter
        assert value == figures["center_accuracy"] == 0
        assert term.scale.grad == 0
