"""Self-distillation in a Brain that knows nothing of DINOBrain."""

import pytest
import torch

import speechbrain as sb
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
from speechbrain_cadino.losses.chunked import chunked
from speechbrain_cadino.losses.dino import DINOLoss, cosines, plain
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering, Sinkhorn


class Encoder(torch.nn.Module):
    """Mean over time, a layer: (batch, time, 6) to (batch, 1, 5)."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)

    def forward(self, feats):
        return self.linear(feats.mean(1, keepdim=True))


def parts(freeze=0.0, **options):
    torch.manual_seed(0)
    student = MultiCropNetwork(
        Encoder(), DINOHead(5, 12, hidden_size=8, bottleneck_size=4)
    )
    objective = Objective(
        {"dino": DINOLoss(12, Centering(12), 0.04)}, {"dino": 1}
    )
    return SelfDistillation(
        student,
        Teacher(student),
        objective,
        momentum_schedule=lambda position: 0.9,
        freeze_prototypes_epochs=freeze,
        **options,
    ), student


class Classifier(sb.Brain):
    """Its own task, with DINO as an auxiliary loss."""

    def compute_forward(self, batch, stage):
        crops, _ = batch
        embeddings = self.modules.student.encoder(crops[:4])
        return crops, self.modules.classifier(embeddings[:, 0])

    def compute_objectives(self, predictions, batch, stage):
        crops, logits = predictions
        own = torch.nn.functional.cross_entropy(logits, batch[1])
        groups = [crops[:8], crops[8:, :10]]
        dino, self.figures = self.hparams.distillation(
            groups, batch_size=4, position=0.0
        )
        return own + 0.5 * dino

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if should_step:
            self.hparams.distillation.after_step(position=0.0)


def test_an_auxiliary_loss_of_any_brain():
    distillation, student = parts()
    classifier = torch.nn.Linear(5, 3)
    brain = Classifier(
        modules={"student": student, "classifier": classifier},
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1),
        hparams={"distillation": distillation},
        run_opts={"device": "cpu"},
    )
    batch = torch.randn(16, 20, 6), torch.tensor([0, 1, 2, 0])
    before = [p.clone() for p in student.parameters()]
    batches = torch.utils.data.DataLoader([batch] * 3, batch_size=None)
    brain.fit([1], batches, progressbar=False)
    assert list(brain.figures)[:1] == ["dino"]
    teacher = distillation._networks["teacher"]
    for old, new, follower in zip(
        before, student.parameters(), teacher.parameters()
    ):
        assert not torch.equal(old, new)
        assert not torch.equal(old, follower)
        assert (follower - new).norm() < (old - new).norm()
    assert distillation.objective.terms["dino"].target.center.norm() > 0


def test_frozen_prototypes_have_no_gradient():
    for freeze, frozen in [(1.0, True), (0.0, False)]:
        distillation, student = parts(freeze)
        loss, _ = distillation([torch.randn(8, 20, 6)], 4, position=0.5)
        loss.backward()
        distillation.before_step(position=0.5)
        assert (student.head.prototypes.weight.grad is None) == frozen
        assert student.encoder.linear.weight.grad is not None


def test_an_undone_step_is_forgotten():
    distillation, _ = parts()
    crops = [torch.randn(8, 20, 6)]
    distillation(crops, 4, position=0.0)
    distillation.rewind()
    distillation(crops, 4, position=0.0)
    target = distillation.objective.terms["dino"].target
    assert len(target.collected) == 1


def test_a_student_of_local_crops_alone_is_compared_in_all_of_them():
    """As a loop over the teacher's crop and each local one."""
    distillation, _ = parts(student_sees_globals=False)
    crops = [torch.randn(4, 20, 6), torch.randn(12, 10, 6)]
    student, teacher = distillation.views(crops, batch_size=4)
    assert (student.globals, teacher.globals) == (0, 1)
    loss, figures = distillation.compare(student, teacher, 0.0)
    p = (cosines(teacher.outputs) / 0.04).softmax(-1)[0]
    log_q = (cosines(student.outputs) / 0.1).log_softmax(-1)
    values = [-(p * log_q[view]).sum(-1).mean() for view in range(3)]
    torch.testing.assert_close(loss, sum(values) / 3)
    expected = -(log_q[0].exp() * log_q[0]).sum(-1).mean()
    torch.testing.assert_close(figures["student_entropy"], expected.detach())
    with pytest.raises(ValueError, match="needs local ones: set local_crops"):
        distillation.views(crops[:1], batch_size=4)


@pytest.mark.parametrize("kernel", [plain, chunked])
def test_the_entropy_of_fewer_views_than_the_teachers(kernel):
    """Two global crops, one local one, which the student alone sees."""
    distillation, _ = parts(student_sees_globals=False)
    distillation.objective.terms["dino"].kernel = kernel
    crops = [torch.randn(8, 20, 6), torch.randn(4, 10, 6)]
    student, teacher = distillation.views(crops, batch_size=4)
    _, figures = distillation.compare(student, teacher, 0.0)
    q = (cosines(student.outputs) / 0.1).softmax(-1)
    expected = -(q * q.log()).sum(-1).mean()
    torch.testing.assert_close(figures["student_entropy"], expected.detach())


def test_shared_prototypes_are_learnt_through_the_student_alone():
    """SDPN's cross-entropy, written out; its targets carry no gradient."""
    distillation, student = parts(
        student_sees_globals=False, shared_prototypes=True
    )
    term = DINOLoss(12, Sinkhorn(3), teacher_temp=0.025)
    distillation.bind(
        {
            **distillation._networks,
            "objective": Objective({"a": term}, {"a": 1}),
        }
    )
    with torch.no_grad():  # the teacher's own prototypes are of no account
        distillation._networks["teacher"].network.head.prototypes.weight.fill_(
            7.0
        )
    crops = [torch.randn(4, 20, 6), torch.randn(12, 10, 6)]
    loss, _ = distillation(crops, batch_size=4, position=0.0)
    loss.backward()

    head = student.head
    prototypes = head.prototypes.weight.detach().clone().requires_grad_()
    unit = prototypes / prototypes.norm(dim=1, keepdim=True)
    with torch.no_grad():
        _, outputs = student(crops[1:])
        _, answers = distillation._networks["teacher"](crops[:1])
        # Softmax, sharpened by a power, balanced by alternating divisions
        p = (answers["bottleneck"] @ unit.T / 0.1).softmax(-1) ** 4
        p = p / p.sum(1, keepdim=True)
        for _ in range(3):
            p = p / p.sum(0, keepdim=True)
            p = p / p.sum(1, keepdim=True)
    q = (outputs["bottleneck"] @ unit.T / 0.1).softmax(-1)
    expected = -(p.repeat(3, 1) * q.log()).sum(1).mean()
    expected.backward()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(head.prototypes.weight.grad, prototypes.grad)


@pytest.mark.parametrize(("at", "expected"), [("start", 0.5), ("end", 1.0)])
def test_the_momentum_of_the_start_or_of_the_end_of_a_step(at, expected):
    """One step, in which the momentum grows from 0.5 to 1."""
    distillation, student = parts(momentum_at=at)
    distillation.momentum_schedule = {0.0: 0.5, 1.0: 1.0}.get
    teacher = distillation._networks["teacher"]
    before = teacher.network.encoder.linear.weight.clone()
    with torch.no_grad():
        student.encoder.linear.weight.add_(1.0)
    distillation.before_step(position=0.0)
    distillation.after_step(position=1.0)
    moved = teacher.network.encoder.linear.weight - before
    torch.testing.assert_close(moved, torch.full_like(moved, 1 - expected))
    with pytest.raises(ValueError, match="momentum_at=middle: give start or"):
        parts(momentum_at="middle")
