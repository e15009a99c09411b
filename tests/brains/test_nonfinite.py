"""A batch that is not finite leaves nothing behind, in real Brains."""

import pathlib
import runpy

import forked
import numpy as np
import pytest
import torch

from speechbrain_cadino.training.guard import StepGuard

SCRIPT = pathlib.Path(__file__).with_name("poisoned.py")
poisoned = runpy.run_path(SCRIPT)


def end(stage, batches, *options, **kwargs):
    brain = poisoned["train"](stage, batches, *options, **kwargs)
    return poisoned["state"](brain)


def assert_same(result, expected):
    for name in ("modules", "optimizer", "means"):
        torch.testing.assert_close(
            result[name], expected[name], rtol=1e-5, atol=1e-7
        )
    assert all(t.isfinite().all() for t in result["modules"].values())


@pytest.mark.parametrize("stage", ["dino", "labels", "ssrl", "frames"])
@pytest.mark.parametrize(
    ("batches", "without", "options"),
    [
        ([1, 2, -3, 4], [1, 2, 4], []),
        ([-3, 1], [1], ["--max_grad_norm=0"]),
        # The other half of the step goes with it
        ([1, 2, -3, 4, 5, 6], [1, 2, 5, 6], ["--grad_accumulation_factor=2"]),
        ([1, 2, 4, -3, 5, 6], [1, 2, 5, 6], ["--grad_accumulation_factor=2"]),
        # So does what never became a step
        ([1, 2, -3], [1, 2], ["--grad_accumulation_factor=2"]),
    ],
)
def test_a_step_that_is_not_finite_is_as_if_not_taken(
    stage, batches, without, options
):
    result = end(stage, batches, *options)
    assert_same(result, end(stage, without, *options))
    assert result["skipped"] == 1
    bad = batches.index(-3)
    size = 4 * (2 if "accumulation" in "".join(options) else 1)
    skipped = range(bad * 4 // size * size, bad * 4 // size * size + size)
    if stage in ("labels", "ssrl"):
        drawn = [not np.isnan(loss) for loss in result["losses"]]
        assert drawn == [i not in skipped for i in range(len(drawn))]
    if stage == "ssrl":
        answered = (result["answers"] >= 0).sum(1).tolist()
        assert answered == [1 + (i not in skipped) for i in range(len(drawn))]


def test_processes_skip_together(tmp_path):
    """Only one of them has seen what is not finite."""
    for name, batches in [("bad", "1,2,-3,4"), ("good", "1,2,4")]:
        code, output = forked.run(
            SCRIPT, "dino", tmp_path / name, batches, "--device=cpu", ranks=2
        )
        assert code == 0, output
        if name == "bad":
            assert "Skipped step 3 of epoch 1" in output
            # the IDs of the other process are free from suspicion
            assert "The utterances in it: batch-3/17, batch-3/19," in output
    result, expected = (
        torch.load(tmp_path / name, weights_only=False)
        for name in ("bad", "good")
    )
    assert_same(result, expected)
    assert (result["skipped"], expected["skipped"]) == (1, 0)


def test_many_in_a_row_stop_the_run_and_name_the_utterances(caplog):
    good_between = [1, -2, -3, -4, 5, -6, -7, -8, 9]
    assert end("dino", good_between)["skipped"] == 6
    with pytest.raises(ValueError, match=r"in 4 steps in a row.* batch-5/16,"):
        end("dino", [1, -2, -3, -4, -5, 6])
    with pytest.raises(ValueError, match="in 2 steps in a row"):
        end("labels", [1, -2, -3], "--nonfinite_patience=1")


@pytest.mark.parametrize("stage", ["dino", "labels"])
def test_steps_that_overflow_in_fp16_are_as_if_not_taken(stage, caplog):
    """Nobody is told: the scaler finds its scale so."""
    result = end(stage, [1] * 12, scale=2.0**20)
    count = int(result["skipped"])
    assert 0 < count < 12
    assert "Skipped" not in caplog.text
    expected = end(stage, [1] * (12 - count), scale=2.0 ** (20 - count))
    assert_same(result, expected)


def test_overflows_do_not_use_up_the_patience_for_bad_losses():
    guard = StepGuard([])
    for step in range(6):
        guard.begin(["a"])
        guard.note(torch.tensor(1.0))
        unsound = torch.tensor(False)
        guard.keep_or_undo(f"step {step}", 3, unsound, scaled=True)
    guard.begin(["a"])
    guard.note(torch.tensor(torch.nan))
    guard.keep_or_undo("step 6", 3, scaled=True)
    assert guard.in_a_row == {True: 6, False: 1}


def test_an_overflow_at_any_scale_stops_the_run():
    with pytest.raises(ValueError, match="in 33 steps in a row"):
        end("dino", range(40), scale=2.0**90)
