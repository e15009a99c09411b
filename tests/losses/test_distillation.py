"""Self-distillation in a Brain that knows nothing of DINOBrain."""

import torch

import speechbrain as sb
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
from speechbrain_cadino.losses.dino import DINOLoss
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering


class Encoder(torch.nn.Module):
    """Mean over time, a layer: (batch, time, 6) to (batch, 1, 5)."""

    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(6, 5)

    def forward(self, feats):
        return self.linear(feats.mean(1, keepdim=True))


def parts(freeze=0.0):
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
        assert (follower - new).norm() < (old - new).norm() + 1e-6
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
