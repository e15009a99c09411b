"""The DINO loss against the formula, written out as loops."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F

from speechbrain_cadino.losses import chunked as kernel
from speechbrain_cadino.losses.chunked import chunked
from speechbrain_cadino.losses.dino import CosineLoss, DINOLoss, plain
from speechbrain_cadino.losses.objective import Views
from speechbrain_cadino.losses.targets import Centering, JointSinkhorn, Sinkhorn


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


def views(pair, n_globals=2):
    """A bottleneck and prototypes as the Views of a network."""
    outputs = dict(zip(["bottleneck", "prototypes"], pair))
    return Views(pair[0], outputs, n_globals)


def compare(loss, student, teacher, n_globals=None):
    n_globals = len(teacher[0]) if n_globals is None else n_globals
    return loss(views(student, n_globals), views(teacher), 0.0)


@pytest.mark.parametrize(
    ("kernel_of", "chunk"),
    [(chunked, 1), (chunked, 74), (chunked, 10**6), (plain, 0)],
    ids=["chunk_1", "chunk_74", "chunk_all", "plain"],
)
@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("n_globals", [1, 2])
@pytest.mark.parametrize("batch", [1, 5])
@pytest.mark.parametrize("teacher_temp", [0.02, 0.07])
def test_value_and_gradient_equal_the_double_loop(
    monkeypatch, kernel_of, chunk, count, n_globals, batch, teacher_temp
):
    monkeypatch.setattr(kernel, "CHUNK", chunk)  # of one, two or all utterances
    torch.manual_seed(count + batch)
    target = Centering(37)
    target.center.normal_(std=0.1)
    loss = DINOLoss(
        37, target, teacher_temp, student_temp=0.1, kernel=kernel_of
    )
    teacher = points(n_globals, batch, 9), torch.randn(37, 9)
    ours = points(count, batch, 9), torch.randn(37, 9)
    loops = [part.double().requires_grad_() for part in ours]
    ours = [part.requires_grad_() for part in ours]

    value, _ = compare(loss, ours, teacher)
    (3 * value).backward()
    expected = loop_dino(
        cosines(*loops),
        cosines(*(part.double() for part in teacher)),
        target.center.double(),
        0.1,
        teacher_temp,
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
    value, _ = CosineLoss()(Views(ours, {}, 2), Views(teacher, {}, 2), 0.0)
    value.backward()
    expected = loop_cosine(loops, teacher.double())
    expected.backward()
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        ours.grad.double(), loops.grad, rtol=1e-4, atol=1e-6
    )


def test_the_precision_of_the_step_does_not_matter():
    torch.manual_seed(0)
    loss = DINOLoss(4096, Centering(4096), 0.04)
    prototypes = torch.randn(4096, 16)
    student = points(6, 4, 16).requires_grad_(), prototypes
    teacher = points(2, 4, 16), prototypes
    expected, _ = compare(loss, student, teacher)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, _ = compare(loss, student, teacher)
    torch.testing.assert_close(value, expected, rtol=0, atol=0)
    mean = cosines(*teacher).mean((0, 1))
    torch.testing.assert_close(loss.target.collected[1], mean)


def test_entropies_at_the_two_collapses():
    loss = DINOLoss(64, Centering(64), 0.04)
    undecided = torch.zeros(2, 3, 64), torch.eye(64)
    _, stats = compare(loss, undecided, undecided)
    assert stats["teacher_entropy"].item() == pytest.approx(math.log(64))
    assert stats["student_entropy"].item() == pytest.approx(math.log(64))
    assert stats["kl"].item() == pytest.approx(0, abs=1e-5)
    sure = torch.eye(64)[7].expand(2, 3, 64), torch.eye(64)
    _, stats = compare(loss, sure, sure)
    assert stats["teacher_entropy"].item() == pytest.approx(0, abs=1e-6)
    assert stats["student_entropy"].item() == pytest.approx(
        torch.distributions.Categorical(logits=10 * torch.eye(64)[7])
        .entropy()
        .item(),
        rel=1e-4,
    )


def test_which_entropies_are_a_collapse():
    loss = DINOLoss(1024, Centering(1024), 0.04)

    def told(share, kl):
        means = {"teacher_entropy": share * math.log(1024), "kl": kl}
        return [text.split(":")[0] for text in loss.warnings(means)]

    assert told(0.995, kl=0.0) == ["Collapse to uniform"]
    assert told(0.98, kl=0.0) == []
    assert told(0.02, kl=0.0) == []
    assert told(0.005, kl=0.0) == ["Collapse to one prototype"]
    assert told(0.005, kl=0.1) == []  # sharp, and not all the same


def test_one_view_is_refused_with_the_remedy():
    loss = DINOLoss(8, Centering(8), 0.04)
    one = torch.zeros(1, 2, 3), torch.ones(8, 3)
    with pytest.raises(ValueError, match="global_crops"):
        compare(loss, one, one)


def test_values_that_mean_nothing_are_refused():
    with pytest.raises(ValueError, match="center_momentum=3: give"):
        Centering(8, momentum=3)
    two = torch.zeros(2, 2, 3), torch.ones(8, 3)
    for values in [(0, 0.1), (lambda position: -position, 0.1), (0.04, 0)]:
        with pytest.raises(ValueError, match="give temperatures above 0"):
            compare(DINOLoss(8, Centering(8), *values), two, two)


@pytest.mark.parametrize("kernel_of", [chunked, plain])
def test_a_student_that_sees_no_global_crop_is_compared_with_all(kernel_of):
    """One global crop for the teacher, local crops alone for the student."""
    torch.manual_seed(0)
    loss = DINOLoss(9, Centering(9), 0.05, kernel=kernel_of)
    prototypes = torch.randn(9, 6)
    student, teacher = points(3, 4, 6), points(1, 4, 6)
    value, _ = compare(loss, (student, prototypes), (teacher, prototypes), 0)
    p = (cosines(teacher[0], prototypes) / 0.05).softmax(-1)
    log_q = (cosines(student, prototypes) / 0.1).log_softmax(-1)
    expected = -(p * log_q).sum(-1).mean()
    torch.testing.assert_close(value, expected)
    one = student[:1], prototypes  # which is another crop
    assert compare(loss, one, (teacher, prototypes), 0)[0].isfinite()
    # Of two that the teacher sees, the student's one global crop is the first
    both = torch.cat([student[:1], teacher])
    value, _ = compare(loss, one, (both, prototypes), 1)
    expected = -(p * log_q[0]).sum(-1).mean()
    torch.testing.assert_close(value, expected)


@pytest.mark.parametrize("kernel_of", [chunked, plain])
def test_the_loss_is_in_fp32_where_the_network_is_not(kernel_of):
    torch.manual_seed(0)
    loss = DINOLoss(9, Centering(9), 0.05, kernel=kernel_of)
    student, teacher = points(3, 4, 6), points(2, 4, 6)
    prototypes = torch.randn(9, 6)
    sides = (student, prototypes), (teacher, prototypes)
    expected, _ = compare(loss, *sides)
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = compare(loss, *sides)
    assert value == expected


def test_centre_follows_the_mean_over_accumulated_batches():
    torch.manual_seed(0)
    loss = DINOLoss(5, Centering(5, momentum=0.9), 0.04)
    prototypes = torch.randn(5, 3)
    batches = points(3, 2, 4, 3)
    for batch in batches:
        compare(loss, (batch, prototypes), (batch, prototypes))
    loss.after_step()
    mean = cosines(batches, prototypes).mean((0, 1, 2))
    torch.testing.assert_close(loss.target.center, 0.1 * mean)
    # A second update starts from what came since; what is forgotten or seen
    # without gradients does not count.
    compare(loss, (batches[1], prototypes), (batches[1], prototypes))
    loss.forget()
    compare(loss, (batches[0], prototypes), (batches[0], prototypes))
    with torch.no_grad():
        compare(loss, (batches[2], prototypes), (batches[2], prototypes))
    before = loss.target.center.clone()
    loss.after_step()
    mean = cosines(batches[0], prototypes).mean((0, 1))
    torch.testing.assert_close(loss.target.center, 0.9 * before + 0.1 * mean)


def test_the_temperature_may_follow_a_schedule():
    torch.manual_seed(0)
    pair = points(2, 4, 6), torch.randn(9, 6)
    loss = DINOLoss(9, Centering(9), lambda position: 0.04 + position / 100)
    warm = DINOLoss(9, Centering(9), 0.07)
    value, _ = loss(views(pair), views(pair), 3.0)
    torch.testing.assert_close(value, compare(warm, pair, pair)[0])


def test_gradient_steps_lower_the_loss():
    torch.manual_seed(0)
    loss = DINOLoss(32, Centering(32), 0.07)
    prototypes = torch.randn(32, 16)
    teacher = points(2, 8, 16), prototypes
    student = [points(6, 8, 16), prototypes.clone()]
    student = [part.requires_grad_() for part in student]
    optimizer = torch.optim.SGD(student, lr=1.0)
    first, _ = compare(loss, student, teacher)
    for _ in range(20):
        value, _ = compare(loss, student, teacher)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    assert value < 0.9 * first


def test_sinkhorn_equals_alternate_normalisation():
    """Knopp's algorithm as written: rows, then columns, of exp(logits)."""
    torch.manual_seed(0)
    logits = 3 * torch.randn(2, 6, 5)
    for view, ours in zip(logits, Sinkhorn(rounds=3)(logits)):
        q = view.double().exp() / view.double().exp().sum(1, keepdim=True)
        for _ in range(3):
            for k in range(5):
                q[:, k] /= q[:, k].sum() * 5
            for b in range(6):
                q[b] /= q[b].sum() * 6
        torch.testing.assert_close(ours.double(), 6 * q, rtol=1e-5, atol=1e-6)
    assert torch.equal(Sinkhorn()(logits), Sinkhorn(rounds=3)(logits))


@pytest.mark.parametrize("target", [Sinkhorn(), JointSinkhorn()])
def test_sinkhorn_knows_shares_that_half_precision_does_not(target):
    logits = torch.tensor([[[25.0, -25.0, -25.0]]])
    half = target(logits.half())
    assert half.isfinite().all()
    torch.testing.assert_close(half, target(logits))


def test_sinkhorn_targets_make_the_loss(monkeypatch):
    monkeypatch.setattr(kernel, "CHUNK", 9)  # the student's, one by one
    torch.manual_seed(0)
    loss = DINOLoss(9, Sinkhorn(3), 0.05)
    prototypes = torch.randn(9, 6)
    student = points(3, 4, 6), prototypes
    teacher = points(2, 4, 6), prototypes
    value, _ = compare(loss, student, teacher)
    p = Sinkhorn(3)(cosines(*teacher) / 0.05)
    log_q = torch.log_softmax(cosines(*student) / 0.1, -1)
    terms = [
        -(p[t, b] * log_q[s, b]).sum()
        for t in range(2)
        for s in range(3)
        for b in range(4)
        if s != t
    ]
    torch.testing.assert_close(value, torch.stack(terms).mean())


def test_joint_sinkhorn_divides_the_exponentials_as_they_are():
    """The matrix of the code of SwAV, in float64; and far from overflow."""
    torch.manual_seed(0)
    logits = 8 * torch.randn(2, 6, 9, dtype=torch.float64)
    for view, ours in zip(logits, JointSinkhorn(rounds=3)(logits)):
        q = view.exp().T / view.exp().sum()
        for _ in range(3):
            q = q / q.sum(1, keepdim=True) / len(q)
            q = q / q.sum(0, keepdim=True) / q.shape[1]
        torch.testing.assert_close(ours, (q * q.shape[1]).T)
        each_first = Sinkhorn(rounds=3)(view[None])[0]
        assert (ours - each_first).abs().sum(-1).max() > 0.01
    assert JointSinkhorn()(torch.randn(1, 4, 3) * 1e3).isfinite().all()
