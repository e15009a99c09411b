import logging
import types

import pytest

from speechbrain_cadino.training.effort import say_how_often


class Labelled(types.SimpleNamespace):
    """As many samples as said, of so many classes."""

    def __len__(self):
        return self.samples


@pytest.mark.parametrize(
    ("samples", "classes", "seen"),
    [(2624, 8400, "4.4"), (2624, 3673, None), (2624, 0, None)],
)
def test_classes_that_are_hardly_seen_are_told(caplog, samples, classes, seen):
    """14 epochs of 82 steps of 32: 36,736 crops."""
    dataset = Labelled(samples=samples, classes=classes)
    with caplog.at_level(logging.INFO):
        say_how_often(dataset, 14)
    warnings = [r.message for r in caplog.records if r.levelname == "WARNING"]
    if seen is None:
        assert warnings == []
    else:
        (warning,) = warnings
        assert f"Of each of the {classes} classes {seen} crops" in warning
