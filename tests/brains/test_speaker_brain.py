"""Signals that a Brain with labels of a few hears, and how."""

import types

import torch

from speechbrain_cadino.brains.speaker import SpeakerBrain


class Listening(SpeakerBrain):
    """A Brain of which the networks are left out: features are signals."""

    def __init__(self):
        self.device = "cpu"
        self.augmenters = {"all": lambda wavs: 2 * wavs}
        self.modules = types.SimpleNamespace(classifier=None)

    @property
    def network(self):
        return types.SimpleNamespace(
            features=lambda wavs, augment=lambda wavs: wavs: augment(wavs)
        )

    def encode_with_dino(self, features, wavs):
        self.heard = features, wavs
        return features, "views"


def test_labels_are_of_augmented_crops_and_dino_hears_the_others(monkeypatch):
    monkeypatch.setattr(
        "speechbrain_cadino.brains.speaker.classify", lambda _, points: points
    )
    brain = Listening()
    batch = {"wav": torch.ones(2, 5), "other": torch.full((2, 7), 3.0)}
    answers, views = brain.compute_forward(batch, None)
    assert torch.equal(answers, torch.full((2, 5), 2.0))
    assert torch.equal(brain.heard[1], batch["other"])
    assert views == "views"
