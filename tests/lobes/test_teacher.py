import pytest
import torch

from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.lobes.teacher import (
    JointNetwork,
    MultiCropNetwork,
    Teacher,
)
from speechbrain_cadino.losses.distillation import SelfDistillation


def tiny_network():
    torch.manual_seed(0)
    return MultiCropNetwork(
        ECAPA_TDNN(8, channels=[16] * 5, lin_neurons=6, attention_channels=4),
        DINOHead(6, out_dim=12, hidden_size=8, bottleneck_size=4),
    )


def test_follows_by_moving_average():
    student = tiny_network()
    teacher = Teacher(student)
    start = [p.clone() for p in teacher.parameters()]
    with torch.no_grad():
        for p in student.parameters():
            p.add_(torch.randn_like(p))
    teacher.follow(student, 0.9)
    for old, new, p in zip(start, teacher.parameters(), student.parameters()):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * p)
    teacher.follow(student, 1.0)
    teacher.follow(student, 0.0)
    for new, p in zip(teacher.parameters(), student.parameters()):
        torch.testing.assert_close(new, p)
    for momentum in (-0.1, 99.6, float("nan")):
        with pytest.raises(ValueError, match=f"momentum is {momentum:g} in"):
            teacher.follow(student, momentum)


def test_gives_and_takes_no_gradient():
    student = tiny_network()
    teacher = Teacher(student)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(p.requires_grad for p in student.parameters())
    embeddings, outputs = teacher([torch.randn(3, 20, 8)])
    said = [embeddings, *outputs.values()]
    assert not any(tensor.requires_grad for tensor in said)


def test_batch_norm_statistics_come_from_the_teachers_own_forwards():
    student = tiny_network()
    teacher = Teacher(student).train()
    norm = teacher.network.encoder.blocks[0].norm.norm
    before = norm.running_mean.clone()
    teacher.follow(student, 0.5)
    torch.testing.assert_close(norm.running_mean, before)
    teacher([torch.randn(3, 20, 8) + 5.0])
    assert not torch.allclose(norm.running_mean, before)


def test_nothing_is_dropped_out_of_what_the_teacher_says():
    student = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Dropout(0.5))
    teacher = Teacher(student.train()).train()
    said = [teacher(torch.ones(8, 3)) for _ in range(2)]
    assert torch.equal(*said)
    assert teacher.network.training
    assert student[1].training


def test_crops_of_different_lengths_keep_their_order():
    network = tiny_network().eval()
    long, short = torch.randn(2, 30, 8), torch.randn(3, 20, 8)
    embeddings, outputs = network([long, short])
    alone = network.encoder(short).squeeze(1)
    torch.testing.assert_close(embeddings[2:], alone)
    torch.testing.assert_close(
        outputs["bottleneck"][2:], network.head(alone)["bottleneck"]
    )


@pytest.mark.parametrize("frames", [20, 25])
def test_labelled_crops_and_local_ones_are_as_each_alone(frames):
    """In one batch if they are equally long, where the student sees no global
    crop."""
    parts = tiny_network()
    student = JointNetwork(
        parts.encoder, parts.head, Classifier(6, out_neurons=3)
    ).eval()
    distillation = SelfDistillation(
        student,
        Teacher(student).eval(),
        objective=None,
        momentum_schedule=None,
        student_sees_globals=False,
    )
    crops = [torch.randn(2, 30, 8), torch.randn(6, 20, 8)]
    source = torch.randn(5, frames, 8)
    said, _ = distillation.views(crops, batch_size=2, source=source)
    alone = student.encoder(crops[1]).reshape(3, 2, 6)
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(said.embeddings, alone, **close)
    cosines = student.classifier(student.encoder(source)).squeeze(1)
    torch.testing.assert_close(said.outputs["cosines"], cosines, **close)
