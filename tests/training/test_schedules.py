import math

import pytest

from speechbrain_cadino.dataio.crops import samples_of_steps
from speechbrain_cadino.training.schedules import (
    CosineSchedule,
    LinearSchedule,
    TriStageSchedule,
    scale_lr,
    scale_momentum,
)


def test_cosine_matches_the_formula_between_its_ends():
    schedule = CosineSchedule(0.2, 0.01, epochs=150, warmup_epochs=20)
    for position in (20, 33.3, 85, 149.9, 150):
        phase = math.pi * (position - 20) / 130
        expected = 0.01 + 0.5 * (0.2 - 0.01) * (1 + math.cos(phase))
        assert schedule(position) == pytest.approx(expected)
    assert schedule(5) == pytest.approx(0.05)
    assert schedule(151) == pytest.approx(0.01)


def test_momentum_grows_from_peak_to_one():
    schedule = CosineSchedule(0.996, 1.0, epochs=10)
    values = [schedule(position) for position in range(11)]
    assert values == sorted(values)
    assert values[0] == pytest.approx(0.996)
    assert values[-1] == 1.0


def test_warm_up_longer_than_training_is_refused():
    with pytest.raises(ValueError, match="warmup_epochs"):
        CosineSchedule(1.0, 0.0, epochs=5, warmup_epochs=5)


def test_linear_without_a_ramp_is_constant():
    assert LinearSchedule(0.04, 0.07, epochs=0)(0) == 0.07


def test_learning_rate_scales_with_the_processes(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")  # as a job script may
    assert scale_lr(0.2, batch_size=64) == pytest.approx(0.05)
    monkeypatch.setenv("LOCAL_RANK", "0")
    assert samples_of_steps(85, batch_size=32) == 8 * 85 * 32
    assert scale_lr(0.2, batch_size=64) == pytest.approx(0.4)
    assert scale_momentum(0.996, batch_size=64) == pytest.approx(0.996)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [-0.1, 0.5]])
def test_shares_that_leave_no_decay_are_refused(shares):
    with pytest.raises(ValueError, match=r"lr_shares=.*below 1 in all"):
        TriStageSchedule(1.0, 0.01, epochs=10, shares=shares)


def test_nothing_decays_exponentially_to_zero():
    with pytest.raises(ValueError, match=r"lr=0.1, final_lr=0.*above 0"):
        TriStageSchedule(0.1, 0, epochs=10)


def test_a_decay_ends_where_training_does():
    schedule = TriStageSchedule(1.0, 0.01, epochs=100)
    assert schedule(120) == schedule(100) == pytest.approx(0.01)
