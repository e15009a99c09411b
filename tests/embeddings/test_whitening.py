import numpy as np
import pytest

from speechbrain_cadino.embeddings import store
from speechbrain_cadino.embeddings.whitening import Whitening


def whiten(embeddings, power):
    return Whitening(power).fit(embeddings).transform(embeddings)


def embeddings():
    rng = np.random.default_rng(0)
    return rng.standard_normal((500, 6)) @ rng.standard_normal((6, 6)) + 3


def test_full_whitening_has_a_covariance_of_one():
    white = whiten(embeddings(), power=1)
    assert white.dtype == np.float32
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(6), atol=1e-4)


@pytest.mark.parametrize("power", [0.25, 0.5])
def test_a_power_takes_the_rest_of_the_singular_values_out(power):
    x = embeddings()
    left, values, _ = np.linalg.svd(x - x.mean(0), full_matrices=False)
    white = whiten(x, power)
    # Singular values are standard deviations times the root of N.
    expected = left * values ** (1 - power) * 500 ** (power / 2)
    # An axis may point either way.
    signs = np.sign((white * expected).sum(0))
    np.testing.assert_allclose(white, expected * signs, rtol=1e-3, atol=1e-4)


def test_power_zero_keeps_all_angles_between_centred_embeddings():
    x = embeddings()
    centred = x - x.mean(0)
    white = whiten(x, power=0)
    np.testing.assert_allclose(
        white @ white.T, centred @ centred.T, rtol=1e-3, atol=1e-3
    )


def test_a_direction_without_variance_stays_zero():
    x = embeddings()
    x[:, 2] = x[:, 0]
    white = whiten(x, power=1)
    assert np.isfinite(white).all()
    assert np.abs(white[:, 5]).max() == 0


def test_chunks_make_no_difference(monkeypatch):
    whole = whiten(embeddings(), power=0.5)
    monkeypatch.setattr(store, "CHUNK", 33)
    np.testing.assert_allclose(
        whiten(embeddings(), power=0.5), whole, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("count", "power", "told"),
    [(12, 1, True), (12, 0.5, False), (13, 1, False)],
)
def test_too_few_to_even_out_is_told(count, power, told, caplog):
    """Twelve in twelve dimensions are all equally far apart."""
    points = np.random.default_rng(0).standard_normal((count, 12))
    Whitening(power).fit_transform(points)
    assert ("and all are far apart" in caplog.text) == told
