"""A step of SSRL, by hand."""

import collections
import math
import pathlib
import runpy

import pytest
import torch

import speechbrain as sb
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.brains.ssrl import SSRLBrain
from speechbrain_cadino.gate.label_queue import EMPTY
from speechbrain_cadino.losses.label_correction import DROPPED

poisoned = runpy.run_path(pathlib.Path(__file__).with_name("poisoned.py"))
DEAD = 2


@pytest.fixture
def brain():
    """After two steps; two utterances of each of two classes, one is dead."""
    brain = poisoned["train"]("ssrl", [1, 2])
    brain.queue.alive[DEAD] = False
    brain.momentum = 0.8
    return brain


@pytest.fixture
def batch(brain):
    torch.manual_seed(5)
    batch = {
        "id": list("abcd"),
        "wav": torch.randn(4, 8000),
        "label": torch.tensor([0, 1, 0, 1]),
        "sample": torch.arange(4),
        "trusted": torch.tensor([False, False, False, True]),
    }
    brain.guard.begin(batch["id"])
    return batch


def mode(answers):
    """The most frequent of the answers of now, the oldest of equals."""
    living = [a for a in answers if a not in (EMPTY, DEAD)]
    return collections.Counter(living).most_common(1)[0][0]


def aam(cosines, label, margin=0.2, scale=10.0):
    """AAM-softmax of one row."""
    logits = [scale * cosine for cosine in cosines]
    logits[label] = scale * math.cos(math.acos(cosines[label]) + margin)
    return math.log(sum(map(math.exp, logits))) - logits[label]


def test_the_loss_weighs_the_labels_of_the_queue(brain, batch, monkeypatch):
    gate = brain.branch.loss_gate
    monkeypatch.setattr(gate, "weigh", lambda losses: 1 / (1 + losses))
    cosines, answers = brain.compute_forward(batch, sb.Stage.TRAIN)
    assert (cosines[:, DEAD] == -1).all()
    assert (answers[:, DEAD] == -1).all()
    before = brain.queue.answers[:4].tolist()
    loss = brain.compute_objectives((cosines, answers), batch, sb.Stage.TRAIN)
    said = [*answers.argmax(1).tolist()[:3], batch["label"][3].item()]
    labels = [mode([*row[1:], new]) for row, new in zip(before, said)]
    losses = [aam(row, label) for row, label in zip(cosines.tolist(), labels)]
    # A label that is given counts in full
    weights = [*(1 / (1 + loss) for loss in losses[:3]), 1.0]
    expected = sum(w * loss for w, loss in zip(weights, losses)) / 4
    assert loss.item() == pytest.approx(expected, rel=1e-5)


def test_classes_that_nobody_answers_any_more_die(brain, monkeypatch):
    brain.queue.alive[:] = True
    brain.queue.answers[:] = 0
    monkeypatch.setattr(PseudoLabelBrain, "on_stage_end", lambda *_: None)
    SSRLBrain.on_stage_end(brain, sb.Stage.TRAIN, 0.0, 1)
    assert brain.queue.alive.tolist() == [True, False, False]
    (warning,) = brain.warnings({"reliable": 1.0})
    assert warning.startswith("Of 3 classes 1 are left")
    brain.queue.alive[1] = True
    assert not brain.warnings({"reliable": 1.0})


def test_it_is_the_teacher_that_answers(brain, batch):
    """Which is elsewhere than the student after two steps."""
    _, answers = brain.compute_forward(batch, sb.Stage.TRAIN)
    said, own = (
        branch.clean(batch["wav"])
        for branch in (brain.teacher.network, brain.branch)
    )
    living = [0, 1]
    assert torch.equal(answers[:, living], said[:, living])
    assert (answers - own)[:, living].abs().min() > 1e-6


def test_the_teacher_starts_with_the_classes_that_the_student_starts_with(
    brain,
):
    """As where these are the centroids of the labels."""
    brain.branch.classifier.weight.data.fill_(7)
    brain._start_classifiers()
    assert (brain.teacher.network.classifier.weight == 7).all()


def test_the_teacher_follows_and_is_what_is_exported(brain, batch):
    teacher = brain.teacher.network
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    brain.on_fit_batch_end(batch, None, torch.zeros(()), should_step=True)
    student = brain.branch.state_dict()
    moved = [
        name for name, value in before.items() if value.is_floating_point()
    ]
    assert any("running_mean" in name for name in moved)
    for name in moved:
        expected = 0.8 * before[name] + 0.2 * student[name]
        torch.testing.assert_close(teacher.state_dict()[name], expected)
    assert brain.trained_weights() is teacher.embedding_model


def test_what_weighs_less_than_a_half_is_told_as_dropped(
    brain, batch, monkeypatch
):
    weights, told = torch.tensor([0.1, 0.9, 0.4, 0.2]), {}
    monkeypatch.setattr(brain.branch.loss_gate, "weigh", lambda losses: weights)
    record = brain.branch.gate_record
    monkeypatch.setattr(record, "add", lambda _, **found: told.update(found))
    outputs = brain.compute_forward(batch, sb.Stage.TRAIN)
    brain.compute_objectives(outputs, batch, sb.Stage.TRAIN)
    dropped = told["decisions"] == DROPPED
    assert dropped.tolist() == [True, False, True, False]  # the last is given
    assert (told["corrected"][dropped] == -1).all()
