import types
from types import SimpleNamespace

import pytest
import torch

from speechbrain_cadino.audio_visual.brain import AudioVisualBrain, at_speed
from speechbrain_cadino.audio_visual.label_correction import (
    AudioVisualCorrectionLoss,
)
from speechbrain_cadino.gate.record import GateRecord
from speechbrain_cadino.losses.label_correction import LabelCorrectionLoss


@pytest.fixture
def faces():
    """Cosines to 5 faces, and labels among the classes of 3 speeds."""
    generator = torch.Generator().manual_seed(0)
    cosines = 2 * torch.rand(8, 5, generator=generator) - 1
    return cosines, torch.randint(15, (8,), generator=generator)


def test_faces_are_compared_with_the_classes_of_a_speed(faces):
    cosines, labels = faces
    spread = at_speed(cosines, labels, 15)
    for row, label in enumerate(labels.tolist()):
        for column in range(15):
            same = column // 5 == label // 5
            expected = cosines[row, column % 5] if same else -1.0
            assert spread[row, column] == expected
    assert torch.equal(at_speed(cosines, labels % 5, 5), cosines)


def test_other_speeds_add_nothing_to_the_loss(faces):
    cosines, labels = faces
    loss = LabelCorrectionLoss()
    torch.testing.assert_close(
        loss.aam_losses(at_speed(cosines, labels, 15), labels),
        loss.aam_losses(cosines, labels % 5),
        rtol=0,
        atol=1e-3,
    )


@pytest.mark.parametrize("has_face", [[1, 0, 1, 1], [0, 0, 0, 1], [0, 0, 0, 0]])
def test_each_face_is_that_of_its_utterance(has_face, faces):
    brain = object.__new__(AudioVisualBrain)
    brain.modules = {"audio": lambda wavs: wavs, "face": lambda crops: crops}
    brain.device = "cpu"
    brain.branches = {}
    voices, images = faces[0][:4], faces[0][4:]
    has_face = torch.tensor(has_face, dtype=torch.bool)
    labels = torch.zeros(4, dtype=torch.int64)
    batch = {"wav": voices, "face": images, "label": labels}
    heard, seen = brain.compute_forward({**batch, "has_face": has_face}, None)
    assert torch.equal(heard, voices)
    assert torch.equal(seen[has_face], images[has_face])


def test_a_face_is_compared_at_the_speed_of_its_own_utterance(faces):
    """Beside an utterance without a face, and where some are corrected."""
    brain = object.__new__(AudioVisualBrain)
    brain.device = "cpu"
    images = faces[0][:4]
    heard = torch.zeros(4, 15)
    brain.modules = {"audio": lambda wavs: heard, "face": lambda crops: crops}
    labels = torch.tensor([6, 1, 11, 2])
    batch = {
        "wav": heard,
        "face": images,
        "label": labels,
        "has_face": torch.tensor([False, True, True, True]),
    }
    brain.branches = {
        key: types.SimpleNamespace(key=key, clean=lambda crops: crops)
        for key in ("wav", "face")
    }
    expected = at_speed(images, labels, 15)
    _, seen = brain.compute_forward(batch, None)
    assert torch.equal(seen[1:], expected[1:])
    rows = torch.tensor([1, 3])
    _, seen = brain._answer(batch, rows)
    assert torch.equal(seen, expected[rows])


def test_a_gate_of_faces_is_fitted_to_faces_that_were_seen(faces):
    cosines, labels = faces[0], faces[1] % 5
    has_face = torch.arange(8) % 3 != 1
    brain, added = object.__new__(AudioVisualBrain), []
    brain.device, brain.record = "cpu", SimpleNamespace(add=dict)
    gate = SimpleNamespace(threshold=float("inf"), add=added.append)
    branch = SimpleNamespace(loss_gate=gate, gate_record=GateRecord(8))
    brain.branches = {"audio": branch, "face": branch}
    brain.hparams = SimpleNamespace(label_loss=AudioVisualCorrectionLoss())
    batch = {"label": labels, "has_face": has_face, "sample": torch.arange(8)}
    brain.compute_objectives([cosines, cosines], batch, None)
    assert added[0].isfinite().all()
    assert torch.equal(added[1].isnan(), ~has_face)
