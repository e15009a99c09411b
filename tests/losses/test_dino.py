"""The DINO loss against the formula, written out as loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from speechbrain_cadino.losses import dino
from speechbrain_cadino.losses.dino import DINOLoss, cosine_loss, sinkhorn


def loop_dino(student, teacher, centre, student_temp, teacher_temp):
    """Caron et al. (2021), eq. 1 and 4: every pair and every utterance."""
    terms = []
    for t, s in itertools.product(range(len(teacher)), range(len(student))):
        if t == s:
            continue
        for b in range(student.shape[1]):
            p = torch.softmax((teacher[t, b] - centre) / teacher_temp, 0)
            log_q = torch.log_softmax(student[s, b] / student_temp, 0)
            terms.append(-(p * log_q).sum())
    return torch.stack(terms).mean()


def loop_cosine(student, teacher):
    terms = []
    for t, s in itertools.product(range(len(teacher)), range(len(student))):
        if t != s:
            for b in range(student.shape[1]):
                terms.append(
                    1 - F.cosine_similarity(teacher[t, b], student[s, b], dim=0)
                )
    return torch.stack(terms).mean()


def points(*shape):
    """Points of unit length, as the bottleneck of the head gives them."""
    return F.normalize(torch.randn(shape), dim=-1)


def cosines(bottleneck, prototypes):
    return bottleneck @ F.normalize(prototypes, dim=-1).mT


@pytest.mark.parametrize("chunk", [1, 74, 10**6], ids="chunk_{}".format)
@pytest.mark.parametrize("views", [2, 3, 6])
@pytest.mark.parametrize("n_globals", [1, 2])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("teacher_temp", [0.02, 0.07])
def test_value_and_gradient_equal_the_double_loop(
    monkeypatch, chunk, views, n_globals, batch, teacher_temp
):
    monkeypatch.setattr(dino, "CHUNK", chunk)  # of one, two or all utterances
    torch.manual_seed(views + batch)
    loss = DINOLoss(out_dim=37, student_temp=0.1)
    loss.centre.normal_(std=0.1)
    teacher = points(n_globals, batch, 9), torch.randn(37, 9)
    ours = points(views, batch, 9), torch.randn(37, 9)
    loops = [part.double().requires_grad_() for part in ours]
    ours = [part.requires_grad_() for part in ours]

    value, _ = loss(ours, teacher, teacher_temp)
    (3 * value).backward()
    expected = loop_dino(
        cosines(*loops),
        cosines(*(part.double() for part in teacher)),
        *(loss.centre.double(), 0.1, teacher_temp),
    )
    (3 * expected).backward()

    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    for part, other in zip(ours, loops):
        torch.testing.assert_close(
            part.grad.double(), other.grad, rtol=1e-4, atol=3e-6
        )


def test_cosine_value_and_gradient_equal_the_double_loop():
    torch.manual_seed(0)
    teacher = torch.randn(2, 4, 19)
    ours = torch.randn(6, 4, 19, requires_grad=True)
    loops = ours.detach().double().requires_grad_()
    value = cosine_loss(ours, teacher)
    value.backward()
    expected = loop_cosine(loops, teacher.double())
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        ours.grad.double(), loops.grad, rtol=1e-4, atol=1e-6
    )


def test_the_precision_of_the_step_does_not_matter():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=4096)
    prototypes = torch.randn(4096, 16)
    student = points(6, 4, 16).requires_grad_(), prototypes
    teacher = points(2, 4, 16), prototypes
    expected, _ = loss(student, teacher, 0.04)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = loss(student, teacher, 0.04)
        loss.collect_centre(teacher)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    mean = cosines(*teacher).mean((0, 1))
    torch.testing.assert_close(loss.collected[0], mean)


def test_entropies_at_the_two_collapses():
    loss = DINOLoss(out_dim=64)
    undecided = torch.zeros(2, 3, 64), torch.eye(64)
    _, stats = loss(undecided, undecided, 0.04)
    assert stats["teacher_entropy"].item() == pytest.approx(math.log(64))
    assert stats["student_entropy"].item() == pytest.approx(math.log(64))
    assert stats["kl"].item() == pytest.approx(0, abs=1e-5)
    sure = torch.eye(64)[7].expand(2, 3, 64), torch.eye(64)
    _, stats = loss(sure, sure, 0.04)
    assert stats["teacher_entropy"].item() == pytest.approx(0, abs=1e-6)
    assert stats["student_entropy"].item() == pytest.approx(
        torch.distributions.Categorical(logits=10 * torch.eye(64)[7])
        .entropy()
        .item(),
        rel=1e-4,
    )


def test_one_view_is_refused_with_the_remedy():
    loss = DINOLoss(out_dim=8)
    one = torch.zeros(1, 2, 3), torch.ones(8, 3)
    with pytest.raises(ValueError, match="global_crops"):
        loss(one, one, 0.04)


def test_centre_follows_the_mean_over_accumulated_batches():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=5, centre_momentum=0.9)
    prototypes = torch.randn(5, 3)
    batches = points(3, 2, 4, 3)
    for batch in batches:
        loss.collect_centre((batch, prototypes))
    loss.update_centre()
    mean = cosines(batches, prototypes).mean((0, 1, 2))
    torch.testing.assert_close(loss.centre, 0.1 * mean)
    # A second update starts from what came since.
    loss.collect_centre((batches[0], prototypes))
    before = loss.centre.clone()
    loss.update_centre()
    mean = cosines(batches[0], prototypes).mean((0, 1))
    torch.testing.assert_close(loss.centre, 0.9 * before + 0.1 * mean)


def test_gradient_steps_lower_the_loss():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=32)
    prototypes = torch.randn(32, 16)
    teacher = points(2, 8, 16), prototypes
    student = [points(6, 8, 16), prototypes.clone()]
    student = [part.requires_grad_() for part in student]
    optimizer = torch.optim.SGD(student, lr=1.0)
    first, _ = loss(student, teacher, 0.07)
    for _ in range(20):
        value, _ = loss(student, teacher, 0.07)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value < 0.9 * first


def test_sinkhorn_equals_alternate_normalisation():
    """Knopp's algorithm as written: rows, then columns, of exp(logits)."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 6, 5)
    for view, ours in zip(logits, sinkhorn(logits, rounds=3)):
        q = view.double().exp() / view.double().exp().sum(1, keepdim=True)
        for _ in range(3):
            for k in range(5):
                q[:, k] /= q[:, k].sum() * 5
            for b in range(6):
                q[b] /= q[b].sum() * 6
        torch.testing.assert_close(ours.double(), 6 * q, rtol=1e-5, atol=1e-6)


def test_sinkhorn_targets_make_the_loss(monkeypatch):
    monkeypatch.setattr(dino, "CHUNK", 9)  # the student's, one by one
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=9, sinkhorn_rounds=3)
    prototypes = torch.randn(9, 6)
    student = points(3, 4, 6), prototypes
    teacher = points(2, 4, 6), prototypes
    value, _ = loss(student, teacher, 0.05)
    p = sinkhorn(cosines(*teacher) / 0.05, 3)
    log_q = torch.log_softmax(cosines(*student) / 0.1, -1)
    terms = [
        -(p[t, b] * log_q[s, b]).sum()
        for t in range(2)
        for s in range(3)
        for b in range(4)
        if s != t
    ]
    torch.testing.assert_close(value, torch.stack(terms).mean())
