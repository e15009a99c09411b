"""CORAL against matrix roots by SciPy, in another order of multiplications."""

import numpy as np
import pytest
from scipy.linalg import inv, sqrtm

from speechbrain_cadino.embeddings.coral import Coral


@pytest.fixture
def domains():
    rng = np.random.default_rng(0)
    target = rng.normal(size=(50, 4)) @ rng.normal(size=(4, 4)) + 3
    source = rng.normal(size=(30, 4)) @ rng.normal(size=(4, 4)) - 1
    return target.astype(np.float32), source.astype(np.float32)


@pytest.mark.parametrize("ridge", [1.0, 0.01])
def test_the_formula(domains, ridge):
    target, source = domains
    roots = []
    for points in domains:
        covariance = np.cov(points.T.astype(float), bias=True)
        covariance += ridge * np.diag(covariance).mean() * np.eye(4)
        roots.append(sqrtm(covariance))
    expected = (target - target.mean(0)) @ inv(roots[0]) @ roots[1]
    mapped = Coral(ridge).fit(target, source).transform(target)
    np.testing.assert_allclose(mapped, expected, rtol=1e-4, atol=1e-4)


def test_without_a_difference_nothing_changes_but_the_mean(domains):
    target, _ = domains
    mapped = Coral().fit(target, target + 9).transform(target)
    np.testing.assert_allclose(mapped, target - target.mean(0), atol=1e-4)


def test_a_covariance_becomes_the_other_one(domains):
    target, source = domains
    mapped = Coral(1e-9).fit(target, source).transform(target)
    np.testing.assert_allclose(np.cov(mapped.T), np.cov(source.T), rtol=0.05)


def test_fewer_embeddings_than_dimensions_are_enough():
    rng = np.random.default_rng(0)
    target, source = rng.normal(size=(2, 5, 20))
    assert np.isfinite(Coral().fit(target, source).transform(target)).all()


@pytest.mark.parametrize("side", ["target", "source"])
def test_embeddings_that_are_the_same_are_told(domains, side):
    sides = dict(zip(("target", "source"), domains))
    sides[side] = np.ones_like(sides[side])
    with pytest.raises(ValueError, match=f"embeddings of the {side} are the"):
        Coral().fit(**sides)


def test_no_ridge_is_refused():
    with pytest.raises(ValueError, match="ridge=0: give a number above 0"):
        Coral(ridge=0)
