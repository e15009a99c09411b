import pytest
import torch
import torch.nn.functional as F

from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.brains.adaptation import AdaptationBrain
from speechbrain_cadino.lobes.heads import DINOHead, NoHead
from speechbrain_cadino.lobes.teacher import (
    JointNetwork,
    MultiCropNetwork,
    Teacher,
)
from speechbrain_cadino.losses.contrastive import AngularPrototypical
from speechbrain_cadino.losses.dino import DINOLoss
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.label_correction import LabelCorrectionLoss
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering
from speechbrain_cadino.training.schedules import LinearSchedule


def brain_of(weight, head=None, term=None, **hparams):
    torch.manual_seed(0)
    student = JointNetwork(
        ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        head or NoHead(),
        Classifier(8, out_neurons=3),
    )
    teacher = Teacher(student)
    objective = Objective({"ap": term or AngularPrototypical()}, {"ap": 1})
    return AdaptationBrain(
        modules={
            "student": student,
            "teacher": teacher,
            "objective": objective,
            "compute_features": Fbank(n_mels=20),
            "mean_var_norm": InputNormalization(norm_type="sentence"),
        },
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1),
        hparams={
            "seed": 1,
            "distillation": SelfDistillation(
                student, teacher, objective, lambda position: 0.9
            ),
            "label_loss": LabelCorrectionLoss(margin=0.2, scale=30),
            "target_weight": weight,
            "sample_rate": 16000,
            **hparams,
        },
        run_opts={"device": "cpu"},
    )


def batch():
    torch.manual_seed(5)
    return {
        "id": ["a", "b", "c", "d"],
        "globals": torch.randn(4, 2, 4000),
        "locals": torch.randn(4, 1, 3000),
        "source": torch.randn(4, 4000),
        "label": torch.tensor([0, 2, 1, 1]),
    }


def losses(brain):
    brain.optimizer_step, brain.steps_per_epoch = 5, 10
    brain.modules.train()
    data = batch()
    predictions = brain.compute_forward(data, None)
    return predictions, brain.compute_objectives(predictions, data, None)


def test_the_sum_by_the_formula():
    brain = brain_of(LinearSchedule(0.0, 0.8, epochs=1))
    (student, teacher), loss = losses(brain)
    figures = brain.record.means()
    cosines, labels = student.outputs["cosines"], batch()["label"]
    source = 0
    for row, label in zip(cosines, labels):
        logits = 30 * row.clone()
        logits[label] = 30 * torch.cos(torch.acos(row[label]) + 0.2)
        source += F.cross_entropy(logits[None], label[None]) / 4
    ap, _ = AngularPrototypical()(student, None, 0.0)
    assert figures["source_loss"] == pytest.approx(source.item(), rel=1e-4)
    assert figures["target_loss"] == pytest.approx(ap.item(), rel=1e-5)
    # Half an epoch on the way to 0.8
    expected = source.item() + 0.4 * ap.item()
    assert loss.item() == pytest.approx(expected, rel=1e-4)
    # The teacher knows nothing of the source
    assert "cosines" not in teacher.outputs


def test_batch_norm_sees_both_domains_at_once():
    brain = brain_of(1.0)
    encoder = brain.modules.student.encoder
    seen = []
    hook = encoder.register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape)
    )
    (student, _), _ = losses(brain)
    hook.remove()
    # Four of the source with eight global crops; four local ones
    assert [shape[0] for shape in seen] == [12, 4]
    data = batch()
    feats = torch.cat(
        [
            brain._features(data["source"][:, None], "source"),
            brain._features(data["globals"], "globals"),
        ]
    )
    embeddings = encoder(feats)
    torch.testing.assert_close(
        student.embeddings[:2].flatten(0, 1), embeddings[4:, 0]
    )
    torch.testing.assert_close(
        student.outputs["cosines"],
        brain.modules.student.classifier(embeddings[:4]).squeeze(1),
    )


def test_without_a_source_it_is_dino():
    """In eval mode, where BatchNorm knows no batch."""
    head = DINOHead(8, 24, hidden_size=16, bottleneck_size=6)
    term = DINOLoss(24, Centering(24), 0.05)
    brain = brain_of(1.0, head, term)
    brain.hparams.label_loss = lambda cosines, labels: (0 * cosines.sum(), {})
    brain.optimizer_step, brain.steps_per_epoch = 5, 10
    brain.modules.eval()
    student, teacher = brain.modules.student, brain.modules.teacher
    data = batch()
    brain.compute_objectives(
        brain.compute_forward(data, None), data, None
    ).backward()
    figures = brain.record.means()
    gradients = {name: p.grad for name, p in student.named_parameters()}
    student.zero_grad(set_to_none=True)

    plain = MultiCropNetwork(student.encoder, student.head)
    objective = Objective({"dino": term}, {"dino": 1})
    dino = SelfDistillation(plain, teacher, objective, lambda position: 0.9)
    value, expected = dino(brain._crops(data), 4, 0.5)
    value.backward()
    assert figures["target_loss"] == pytest.approx(value.item(), rel=1e-6)
    for name in ("kl", "teacher_entropy"):
        assert figures[name] == pytest.approx(expected[name].item(), rel=1e-5)
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad)
    assert student.head.prototypes.weight.grad.any()


@pytest.mark.parametrize("export", ["teacher", "student"])
def test_what_is_exported(export):
    brain = brain_of(1.0, export=export)
    student, teacher = brain.modules.student, brain.modules.teacher
    with torch.no_grad():
        student.encoder.fc.conv.weight += 1
    source = {"student": student, "teacher": teacher.network}[export]
    assert brain.trained_weights() is source.encoder
    wavs = batch()["source"]
    brain.modules.eval()
    feats = brain.network.features(wavs)
    found = brain.embedder().encode_batch(wavs)
    assert torch.equal(found, source.encoder(feats))


def test_nothing_else_can_be_exported():
    with pytest.raises(ValueError, match="export=both: give teacher or stude"):
        brain_of(1.0, export="both")


def test_without_weight_the_target_teaches_nothing():
    brain = brain_of(0.0)
    _, loss = losses(brain)
    loss.backward()
    assert brain.modules.objective.terms["ap"].scale.grad == 0
    assert brain.modules.student.classifier.weight.grad.abs().sum() > 0


def test_without_weight_the_gradient_is_that_of_the_source_alone():
    """Bit for bit, where both domains are in batches of their own."""
    brain = brain_of(0.0)
    brain.optimizer_step, brain.steps_per_epoch = 5, 10
    brain.modules.eval()
    data = {**batch(), "source": torch.randn(4, 3500)}
    predictions = brain.compute_forward(data, None)
    brain.compute_objectives(predictions, data, None).backward()
    student = brain.modules.student
    found = [parameter.grad for parameter in student.parameters()]
    student.zero_grad(set_to_none=True)
    feats = brain._features(data["source"][:, None], "source")
    cosines = student.classifier(student.encoder(feats)).squeeze(1)
    loss, _ = brain.hparams.label_loss(cosines, data["label"])
    loss.backward()
    for gradient, parameter in zip(found, student.parameters()):
        assert torch.equal(gradient, parameter.grad)
