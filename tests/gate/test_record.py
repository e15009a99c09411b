import pathlib

import forked
import numpy as np
import pandas as pd
import pytest
import torch

from speechbrain_cadino.gate.record import (
    GateRecord,
    check_same_classes,
    checksum_of,
)
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer

SAMPLES = torch.tensor([4, 0, 2])
RESULTS = {
    "losses": torch.tensor([0.25, 0.0, 30.0]),
    "decisions": torch.tensor([RELIABLE, CORRECTED, DROPPED]),
    "corrected": torch.tensor([-1, 70_000, -1]),
}


def filled():
    record = GateRecord(6)
    record.add(SAMPLES, **RESULTS)
    return record


def test_what_is_written_is_what_was_added(tmp_path):
    record = filled()
    row = {"epoch": 1, "gate": float("inf"), **record.counts()}
    record.write(tmp_path, row)
    with np.load(tmp_path / "gate" / "epoch001.npz") as arrays:
        nan = np.nan
        np.testing.assert_array_equal(
            arrays["losses"], np.float32([0.0, nan, 30.0, nan, 0.25, nan])
        )
        assert arrays["decisions"].tolist() == [2, -1, 0, -1, 1, -1]
        assert arrays["corrected"].tolist() == [70_000, -1, -1, -1, -1, -1]
        kinds = {name: arrays[name].dtype.name for name in arrays}
    assert kinds == {
        "losses": "float32",
        "decisions": "int8",
        "corrected": "int32",
    }
    table = pd.read_csv(tmp_path / "gate.csv")
    assert table.to_dict("records") == [row]


def test_given_labels_are_not_judged(tmp_path):
    trusted = np.array([True, False, False, False, True, False])
    record = GateRecord(6, trusted=trusted)
    record.add(SAMPLES, **RESULTS)
    nan = np.nan
    np.testing.assert_array_equal(
        record.judged, np.float32([nan, nan, 30.0, nan, nan, nan])
    )
    assert np.isfinite(record.losses[[0, 4]]).all()
    record.write(tmp_path, {"epoch": 1})
    with np.load(tmp_path / "gate" / "epoch001.npz") as arrays:
        assert arrays["trusted"].tolist() == trusted.tolist()


def test_an_epoch_forgets_the_one_before(tmp_path):
    record = filled()
    record.end_epoch()
    assert np.isnan(record.losses).all()
    assert sum(record.counts().values()) == 0


def test_a_classifier_is_of_the_labels_of_the_last_epoch(tmp_path):
    first, last = (
        {"labels": checksum_of(labels), "speeds": [1.0, 0.9]}
        for labels in ([0, 1, 1], [0, 1, 2])
    )
    for epoch, classes in enumerate([first, last], 1):
        GateRecord(6, classes=classes).write(tmp_path, {"epoch": epoch})
    check_same_classes(tmp_path, last)
    with pytest.raises(ValueError, match="was trained on other labels"):
        check_same_classes(tmp_path, first)
    for speeds in ([1.0, 1.1], [1.0]):
        with pytest.raises(ValueError, match="was trained on other speeds"):
            check_same_classes(tmp_path, last | {"speeds": speeds})


def test_goes_on_from_a_checkpoint(tmp_path):
    record = filled()
    # A mixture of one's own may give a number of NumPy
    row = {"epoch": 1, "gate": float("inf"), "crossing": None}
    record.write(tmp_path, {**row, "own": np.float64(0.5), "n": np.int64(3)})
    AtomicCheckpointer(tmp_path, recoverables={"r": record}).save_checkpoint()
    again = GateRecord(6)
    AtomicCheckpointer(
        tmp_path, recoverables={"r": again}
    ).recover_if_possible()
    again.add(torch.tensor([5]), **{k: v[:1] for k, v in RESULTS.items()})
    record.add(torch.tensor([5]), **{k: v[:1] for k, v in RESULTS.items()})
    np.testing.assert_array_equal(again.losses, record.losses)
    assert again.counts() == record.counts()
    assert again.rows == record.rows


def test_refuses_a_checkpoint_of_another_manifest(tmp_path):
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"r": filled()})
    checkpointer.save_checkpoint()
    other = AtomicCheckpointer(tmp_path, recoverables={"r": GateRecord(7)})
    with pytest.raises(ValueError, match="of 6 samples, the manifest makes 7"):
        other.recover_if_possible()


@pytest.mark.parametrize("resumed", [[], ["resumed"]])
def test_what_two_processes_have_drawn_whenever_it_is_saved(resumed, tmp_path):
    """The last draw counts, in one step that of the higher rank; a queue of
    labels takes in all of them."""
    script = pathlib.Path(__file__).with_name("draws.py")
    code, output = forked.run(script, tmp_path / "held", *resumed, ranks=2)
    assert code == 0, output
    held = torch.load(tmp_path / "held")
    expected = torch.tensor([1.0, 10.1, 11.2, 11.3])
    torch.testing.assert_close(held["losses"], expected)
    answers = [[0, 2, 3], [0, 1, 2], [0, 1, 4], [0, 3, 4]]
    assert held["answers"].tolist() == answers
