"""Regularisers against plain loops in float64."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from speechbrain_cadino.losses import points
from speechbrain_cadino.losses.objective import Views
from speechbrain_cadino.losses.prototypes import MeanEntropyMaximum
from speechbrain_cadino.losses.regularizers import (
    Covariance,
    Frobenius,
    KoLeo,
    OffDiagonal,
    Variance,
)


def loop_variance(student, teacher, globals_):
    total = 0.0
    for x in (student[:globals_].mean(0), teacher.mean(0)):
        for column in x.T:
            deviation = math.sqrt(np.var(column, ddof=1) + 1e-4)
            total += max(0.0, 1 - deviation) / x.shape[1] / 2
    return total


def loop_covariance(student, teacher, globals_, divisor=None):
    total = 0.0
    for x in (student[:globals_].mean(0), teacher.mean(0)):
        matrix = np.atleast_2d(np.cov(x, rowvar=False))
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if i != j:
                    total += value**2 / (divisor or x.shape[1])
    return total


def loop_koleo(student, teacher, globals_):
    total = 0.0
    for x in student:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        distances = cdist(x, x)
        for i, row in enumerate(distances):
            others = [value for j, value in enumerate(row) if j != i]
            total -= math.log(min(others) + 1e-8) / len(x)
    return total


def loop_off_diagonal(student, teacher, globals_):
    total = 0.0
    for x in student:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
        matrix = np.corrcoef(x, rowvar=False)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                if i != j:
                    total += value**2 / x.shape[1] / len(student)
    return total


def loop_frobenius(student, teacher, globals_):
    total = 0.0
    for x in student:
        size = x.shape[1]
        matrix = np.zeros((size, size))
        for row in x / np.linalg.norm(x, axis=1, keepdims=True):
            matrix += size * np.outer(row, row) / len(x)
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                total += (value - (i == j)) ** 2 / size / len(student)
    return total


TERMS = {
    "variance": (Variance("embeddings"), loop_variance),
    "covariance": (Covariance("embeddings"), loop_covariance),
    "covariance by K": (
        Covariance("embeddings", 100),
        lambda *views: loop_covariance(*views, divisor=100),
    ),
    "koleo": (KoLeo(), loop_koleo),
    # Its eps is far below the variances here
    "off-diagonal": (OffDiagonal(eps=1e-12), loop_off_diagonal),
    "frobenius": (Frobenius(), loop_frobenius),
}


def views(count, utterances, size, globals_, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(
        count, utterances, size, generator=generator, dtype=torch.float64
    )
    x = (0.7 * x + 0.3).to(dtype).requires_grad_()
    return Views(x, {"expanded": 2 * x}, globals_)


@pytest.mark.parametrize("gathered", [True, False])
def test_koleo_may_be_that_of_one_process(gathered, monkeypatch):
    batch = views(3, 4, 5, globals_=2)
    alone, _ = KoLeo()(batch, batch, 0.0)
    # Another process has the same utterances
    monkeypatch.setattr(
        points,
        "ddp_gather",
        lambda x, dim: torch.cat([x, x], dim),
    )
    value, _ = KoLeo(gathered=gathered)(batch, batch, 0.0)
    assert (value > 10 * abs(alone)) if gathered else (value == alone)


def numeric_gradient(function, x, step=1e-6):
    gradient = np.zeros_like(x)
    for place in np.ndindex(*x.shape):
        ends = []
        for sign in (1, -1):
            moved = x.copy()
            moved[place] += sign * step
            ends.append(function(moved))
        gradient[place] = (ends[0] - ends[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("name", TERMS)
@pytest.mark.parametrize(
    ("count", "utterances", "size", "globals_"),
    [(3, 6, 4, 2), (2, 3, 7, 0), (2, 2, 3, 1)],
)
def test_value_and_gradient_are_those_of_the_loops(
    name, count, utterances, size, globals_
):
    term, loop = TERMS[name]
    student = views(count, utterances, size, globals_)
    teacher = views(max(globals_, 1), utterances, size, globals_, seed=1)
    value, figures = term(student, teacher, 0.0)
    assert figures == {}
    arrays = [v.embeddings.detach().numpy() for v in (student, teacher)]
    taken = globals_ or count
    assert value.item() == pytest.approx(loop(*arrays, taken), rel=1e-6)
    value.backward()
    expected = numeric_gradient(
        lambda x: loop(x, arrays[1], taken), arrays[0].copy()
    )
    np.testing.assert_allclose(
        student.embeddings.grad.numpy(), expected, rtol=1e-5, atol=1e-7
    )


@pytest.mark.parametrize("name", TERMS)
def test_identical_utterances_give_finite_gradients(name):
    term, _ = TERMS[name]
    x = torch.ones(2, 3, 5).requires_grad_()
    value, _ = term(Views(x, {}, 2), Views(torch.ones(2, 3, 5), {}, 2), 0.0)
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("name", TERMS)
def test_in_a_step_of_bf16_as_in_fp32(name):
    term, _ = TERMS[name]
    student, teacher = (views(2, 8, 16, 2, torch.float32, s) for s in (0, 1))
    expected, _ = term(student, teacher, 0.0)
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = term(student, teacher, 0.0)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected)


def test_the_matrix_of_dimensions_is_never_there():
    """(D, D) in fp32 would be 4 GB here."""
    x = torch.randn(2, 4, 32768).requires_grad_()
    sides = Views(x, {}, 2), Views(x.detach(), {}, 2)
    shapes = []
    hooks = torch.autograd.graph.saved_tensors_hooks(
        lambda saved: shapes.append(saved.numel()) or saved, lambda saved: saved
    )
    with hooks:
        for term, _ in TERMS.values():
            term(*sides, 0.0)[0].backward()
    assert max(shapes) <= x.numel()


def test_one_utterance_is_no_statistic():
    one = views(2, 1, 4, 2)
    value, _ = KoLeo()(one, one, 0.0)
    assert value.item() == 0
    for term in (Variance("embeddings"), Covariance("embeddings")):
        with pytest.raises(ValueError, match="one utterance has no variance"):
            term(one, one, 0.0)


def test_an_output_of_the_head_may_be_regularised():
    student, teacher = views(2, 5, 3, 2), views(2, 5, 3, 2, seed=1)
    value, _ = Covariance()(student, teacher, 0.0)
    expected, _ = Covariance("embeddings")(student, teacher, 0.0)
    torch.testing.assert_close(value, 16 * expected)  # twice as long
    with pytest.raises(ValueError, match="no output scores: set 'of' of the"):
        Variance("scores")(student, teacher, 0.0)


def test_mean_entropy_is_that_of_the_loops():
    torch.manual_seed(0)
    bottleneck = torch.nn.functional.normalize(
        torch.randn(3, 5, 4, dtype=torch.float64), dim=-1
    ).requires_grad_()
    prototypes = torch.randn(7, 4, dtype=torch.float64).requires_grad_()
    outputs = {"bottleneck": bottleneck, "prototypes": prototypes}
    term = MeanEntropyMaximum(7, student_temp=0.2)
    value, _ = term(Views(bottleneck, outputs, 0), None, 0.0)

    def loop(bottleneck, prototypes):
        mean = np.zeros(7)
        for view in bottleneck:
            for point in view:
                scores = [
                    point @ c / np.linalg.norm(c) / 0.2 for c in prototypes
                ]
                mean += np.exp(scores) / np.sum(np.exp(scores)) / 15
        return math.log(7) - sum(-p * math.log(p) for p in mean)

    arrays = [x.detach().numpy() for x in (bottleneck, prototypes)]
    assert value.item() == pytest.approx(loop(*arrays), rel=1e-6)
    value.backward()
    np.testing.assert_allclose(
        bottleneck.grad,
        numeric_gradient(lambda x: loop(x, arrays[1]), arrays[0].copy()),
        atol=1e-8,
    )
    np.testing.assert_allclose(
        prototypes.grad,
        numeric_gradient(lambda x: loop(arrays[0], x), arrays[1].copy()),
        atol=1e-8,
    )


def test_too_many_prototypes_are_refused_when_built():
    MeanEntropyMaximum(16384)
    with pytest.raises(ValueError, match=r"16384 or less .1024 in SDPN"):
        MeanEntropyMaximum(16385)
