"""The DINO loss against the formula, written out as loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

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


@pytest.mark.parametrize("views", [2, 3, 6])
@pytest.mark.parametrize("n_globals", [1, 2])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("teacher_temp", [0.02, 0.07])
def test_value_and_gradient_equal_the_double_loop(
    views, n_globals, batch, teacher_temp
):
    torch.manual_seed(views + batch)
    loss = DINOLoss(out_dim=37, student_temp=0.1)
    loss.centre.normal_(std=0.1)
    teacher = torch.randn(n_globals, batch, 37)
    ours = torch.randn(views, batch, 37, requires_grad=True)
    loops = ours.detach().double().requires_grad_()

    value, _ = loss(ours, teacher, teacher_temp)
    value.backward()
    expected = loop_dino(
        loops, teacher.double(), loss.centre.double(), 0.1, teacher_temp
    )
    expected.backward()

    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        ours.grad.double(), loops.grad, rtol=1e-4, atol=1e-6
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


def test_half_precision_outputs_are_summed_in_single_precision():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=4096)
    student, teacher = torch.randn(6, 4, 4096), torch.randn(2, 4, 4096)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = loss(student, teacher, 0.04)
    expected, _ = loss(student.float(), teacher.float(), 0.04)
    torch.testing.assert_close(value, expected)


def test_entropies_at_the_two_collapses():
    loss = DINOLoss(out_dim=64)
    flat = torch.zeros(2, 3, 64)
    _, stats = loss(flat, flat, 0.04)
    assert stats["teacher_entropy"].item() == pytest.approx(math.log(64))
    assert stats["student_entropy"].item() == pytest.approx(math.log(64))
    assert stats["kl"].item() == pytest.approx(0, abs=1e-5)
    peaked = flat.clone()
    peaked[..., 7] = 50.0
    _, stats = loss(peaked, peaked, 0.04)
    assert stats["teacher_entropy"].item() == pytest.approx(0, abs=1e-6)


def test_one_view_is_refused_with_the_remedy():
    loss = DINOLoss(out_dim=8)
    with pytest.raises(ValueError, match="global_crops"):
        loss(torch.zeros(1, 2, 8), torch.zeros(1, 2, 8), 0.04)


def test_centre_follows_the_mean_over_accumulated_batches():
    loss = DINOLoss(out_dim=5, centre_momentum=0.9)
    batches = torch.randn(3, 2, 4, 5)
    for batch in batches:
        loss.collect_centre(batch)
    loss.update_centre()
    torch.testing.assert_close(loss.centre, 0.1 * batches.mean((0, 1, 2)))
    # A second update starts from what came since.
    loss.collect_centre(torch.ones(2, 4, 5))
    before = loss.centre.clone()
    loss.update_centre()
    torch.testing.assert_close(loss.centre, 0.9 * before + 0.1)


def test_gradient_steps_lower_the_loss():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=32)
    teacher = torch.randn(2, 8, 32)
    student = torch.randn(6, 8, 32, requires_grad=True)
    optimizer = torch.optim.SGD([student], lr=1.0)
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


def test_sinkhorn_targets_make_the_loss():
    torch.manual_seed(0)
    loss = DINOLoss(out_dim=9, sinkhorn_rounds=3)
    student, teacher = torch.randn(3, 4, 9), torch.randn(2, 4, 9)
    value, _ = loss(student, teacher, 0.05)
    p = sinkhorn(teacher / 0.05, 3)
    terms = [
        -(p[t, b] * torch.log_softmax(student[s, b] / 0.1, 0)).sum()
        for t in range(2)
        for s in range(3)
        for b in range(4)
        if s != t
    ]
    torch.testing.assert_close(value, torch.stack(terms).mean())
