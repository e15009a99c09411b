"""The loss gate against scikit-learn, and against losses of all shapes."""

import logging
import math

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture

from speechbrain_cadino.gate.loss_gate import DynamicLossGate
from speechbrain_cadino.gate.mixture import (
    LossMixture,
    TwoGaussians,
    log_odds,
    losses_of,
)
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer


def fit(losses):
    return TwoGaussians().mixture(losses)


def two_modes(count=2000, seed=0):
    """Losses of 70% right labels and 30% wrong ones."""
    rng = np.random.default_rng(seed)
    right = round(0.7 * count)
    losses = np.concatenate(
        [
            losses_of(rng.normal(-1, 2, right)),
            losses_of(rng.normal(9, 3, count - right)),
        ]
    )
    return rng.permutation(losses)


def reference_crossing(mixture):
    """Where the responsibility changes hands, by finer and finer grids."""
    reference = GaussianMixture(2)
    reference.weights_ = np.array(mixture.weights)
    reference.means_ = np.array(mixture.means)[:, None]
    reference.covariances_ = np.array(mixture.variances)[:, None, None]
    reference.precisions_cholesky_ = reference.covariances_**-0.5
    left, right = mixture.means
    for _ in range(4):
        grid = np.linspace(left, right, 1000)
        low_wins = reference.predict_proba(grid[:, None])[:, 0] > 0.5
        if not low_wins[0] or low_wins[-1]:
            return None
        last = np.flatnonzero(low_wins)[-1]
        left, right = grid[last : last + 2]
    return left


def test_a_figure_of_a_mixture_is_no_column_of_others():
    class Mine(TwoGaussians):
        columns = ("mean_low", "gate")

    with pytest.raises(ValueError, match="Mine: a figure is called gate"):
        DynamicLossGate(mixture=Mine())


def test_crossing_of_a_thousand_random_mixtures():
    rng = np.random.default_rng(3)
    crossings = 0
    for number in range(1000):
        low, high = np.sort(rng.normal(0, 2, 2))
        variances = np.exp(rng.normal(-1, 1.5, 2))
        if number % 10 == 0:
            variances[1] = variances[0]
        weight = rng.uniform(0.02, 0.98)
        mixture = LossMixture(
            (low, high), tuple(variances), (weight, 1 - weight)
        )
        expected = reference_crossing(mixture)
        if expected is None:
            assert mixture.crossing is None
        else:
            crossings += 1
            assert mixture.crossing == pytest.approx(expected, abs=1e-6)
    assert 300 < crossings < 1000


@pytest.mark.parametrize("difference", [1e-15, 1e-12, 1e-9, -1e-12])
def test_crossing_of_almost_equal_variances(difference):
    mixture = LossMixture((-1.0, 2.0), (1.0, 1.0 + difference), (0.6, 0.4))
    # Of equal ones: the middle, shifted by the weights
    expected = 0.5 + math.log(0.6 / 0.4) / 3
    assert mixture.crossing == pytest.approx(expected, abs=1e-8)


def test_separation_is_in_units_of_the_root_mean_square_deviation():
    """Of deviations 1 and 7, which is 5."""
    mixture = LossMixture((-1.0, 9.0), (1.0, 49.0), (0.5, 0.5))
    assert mixture.separation == 2


def test_log_odds_are_those_against_the_label():
    probabilities = np.array([1e-30, 0.01, 0.5, 0.9, 1 - 1e-4])
    odds = log_odds(-np.log(probabilities))
    expected = np.log((1 - probabilities) / probabilities)
    np.testing.assert_allclose(odds, expected, atol=1e-12)
    # Small losses are log-losses, large ones are what they are
    np.testing.assert_allclose(log_odds([1e-8, 800.0]), [math.log(1e-8), 800])
    np.testing.assert_allclose(losses_of(odds), -np.log(probabilities))
    assert losses_of(-800) == 0
    assert losses_of([800]) == [800]


def test_finds_the_components():
    mixture = fit(two_modes(50_000))
    assert mixture.means == pytest.approx((-1, 9), abs=0.1)
    assert mixture.variances == pytest.approx((4, 9), rel=0.1)
    assert mixture.weights == pytest.approx((0.7, 0.3), abs=0.02)


def test_the_lower_component_comes_first_whatever_the_fit_does():
    for seed in range(10):
        mixture = TwoGaussians(seed=seed).mixture(two_modes())
        assert mixture.means[0] < mixture.crossing < mixture.means[1]
        assert mixture.weights[0] > mixture.weights[1]


def test_order_of_the_losses_does_not_matter():
    losses = two_modes()
    assert fit(losses) == fit(losses[::-1])


def test_what_is_not_finite_does_not_count():
    losses = two_modes()
    with_holes = np.concatenate([losses, np.full(500, np.nan), [np.inf] * 3])
    assert fit(with_holes) == fit(losses)


@pytest.mark.parametrize("outlier", [1e6, 1e30, 0.0])
def test_far_outliers_make_no_component(outlier):
    losses = two_modes()
    expected = fit(losses).crossing
    losses[:4] = outlier
    assert fit(losses).crossing == pytest.approx(expected, abs=0.15)


@pytest.mark.parametrize("share", [0.01, 0.05, 0.2, 0.5, 0.9])
def test_zeros_do_not_move_the_gate(share):
    losses = two_modes(10_000)
    expected = fit(losses).crossing
    zeros = fit(np.append(losses, np.zeros(int(share * 10_000))))
    assert zeros.crossing == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("mean", [-4, -6, -8])
def test_right_labels_that_are_learnt_well_get_no_gate(mean):
    """A part is below the lowest loss, and the rest is skewed."""
    losses = losses_of(np.random.default_rng(0).normal(mean, 3, 3000))
    with pytest.raises(ValueError, match="of learnt labels"):
        fit(losses)


@pytest.mark.parametrize("mean", [-6, -10])
def test_wrong_labels_among_well_learnt_ones(mean):
    rng = np.random.default_rng(0)
    right = losses_of(rng.normal(mean, 3, 7000))
    wrong = losses_of(rng.normal(9, 2, 3000))
    gate = fit(np.concatenate([right, wrong])).gate
    assert (right < gate).mean() > 0.98
    assert (wrong >= gate).mean() > 0.98


def test_labels_half_of_which_are_wrong_and_none_is_learnt_by_heart():
    """Losses of all labels are large: logarithms of them have one mode."""
    rng = np.random.default_rng(0)
    right = losses_of(rng.normal(3, 3, 1000))
    wrong = losses_of(rng.normal(11, 3, 1000))
    gate = fit(np.concatenate([right, wrong])).gate
    assert gate == pytest.approx(7, abs=0.5)
    assert (right < gate).mean() > 0.85
    assert (wrong >= gate).mean() > 0.85


def test_a_fit_that_does_not_converge_says_nothing(monkeypatch, recwarn):
    monkeypatch.setattr(
        "speechbrain_cadino.gate.mixture.GaussianMixture",
        lambda *args, **kwargs: GaussianMixture(
            *args, **{**kwargs, "max_iter": 1}
        ),
    )
    fit(two_modes())
    assert not recwarn.list


def test_labels_below_the_lowest_loss_count_as_learnt():
    rng = np.random.default_rng(0)
    right = losses_of(rng.normal(-13, 2.5, 1600))
    wrong = losses_of(rng.normal(9, 2, 400))
    mixture = fit(np.concatenate([right, wrong]))
    assert mixture.weights[0] < 0.4  # of those that are fitted
    assert (right < mixture.gate).all()
    assert (wrong > mixture.gate).mean() > 0.99
    # A few learnt labels and a crowd that is not
    with pytest.raises(ValueError, match="most labels are not learnt yet"):
        fit(np.concatenate([right[:100], wrong]))


def test_a_few_wrong_labels_are_a_tail():
    rng = np.random.default_rng(0)
    odds = np.concatenate([rng.normal(-1, 1, 3000), rng.normal(9, 1, 45)])
    losses = losses_of(odds)
    with pytest.raises(ValueError, match="have one mode and a tail"):
        fit(losses)
    gate, _ = TwoGaussians(least_weight=0.01).fit(losses)
    assert 2 < gate < 9


def test_a_million_losses():
    few, many = (fit(two_modes(n)) for n in (100_000, 1_000_000))
    assert many.crossing == pytest.approx(few.crossing, abs=0.05)


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([], "only 0 of the losses can be fitted, and 10"),
        ([np.nan] * 100 + [1.0] * 9, "only 9 of the losses can be fitted"),
        ([0.0] * 1000, "only 0 of the losses can be fitted"),
        ([0.5] * 1000, "all losses are the same"),
        (
            np.random.default_rng(0).lognormal(size=3000),
            "overlap like one mode",
        ),
        # As of an untrained classifier
        (np.random.default_rng(0).normal(13, 2, size=3000), "have one mode"),
        # Skewed: two Gaussians fit better than one, but they overlap
        (np.random.default_rng(0).gamma(3, size=3000), "overlap like one mode"),
    ],
)
def test_losses_without_two_modes(losses, reason, caplog):
    with pytest.raises(ValueError, match=reason):
        fit(losses)
    gate = DynamicLossGate()
    gate.update(two_modes())
    gate.start_epoch(2)
    last = gate.threshold
    with caplog.at_level(logging.WARNING):
        assert set(gate.update(losses).values()) == {None}
    gate.start_epoch(3)
    assert gate.threshold == last < math.inf
    assert reason in caplog.text
    assert f"The loss gate stays {last:.3g}: " in caplog.text
    assert "a tail" not in caplog.text
    levels = [record.levelname for record in caplog.records]
    assert levels.count("WARNING") == 1
    caplog.clear()
    gate = DynamicLossGate(first_epoch=3)
    gate.start_epoch(1)
    gate.update(losses)
    assert not caplog.text  # the next epoch is not gated anyway
    gate.start_epoch(2)
    gate.update(losses)
    assert "No loss gate yet: " in caplog.text


def test_the_log_tells_when_a_gate_begins(caplog):
    gate = DynamicLossGate(gate=3.0, first_epoch=2)
    with caplog.at_level(logging.INFO):
        for epoch in (1, 2, 3):
            gate.start_epoch(epoch)
    (record,) = caplog.records
    assert "The loss gate is 3 from epoch 2 on" in record.getMessage()


def test_ten_losses():
    losses = [0.01, 0.02, 0.02, 0.03, 0.05, 0.04, 9.0, 10.0, 11.0, 12.0]
    assert 0.05 < fit(losses).gate < 9.0


def gates(gate, epochs=4):
    """The threshold of each epoch."""
    thresholds = []
    for epoch in range(1, epochs + 1):
        gate.start_epoch(epoch)
        thresholds.append(gate.threshold)
        gate.update(two_modes(seed=epoch))
    return thresholds


def test_when_there_is_which_gate():
    crossings = [fit(two_modes(seed=epoch)).gate for epoch in range(1, 4)]
    inf = math.inf
    assert gates(DynamicLossGate("dynamic", 2)) == [inf, *crossings]
    assert gates(DynamicLossGate("dynamic", 3)) == [inf, inf, *crossings[1:]]
    assert gates(DynamicLossGate("none", 2)) == [inf] * 4
    assert gates(DynamicLossGate(3, 3)) == [inf, inf, 3.0, 3.0]
    assert gates(DynamicLossGate(0.5, 1)) == [0.5] * 4


def test_no_gate_as_long_as_there_was_no_fit():
    gate = DynamicLossGate(first_epoch=2)
    gate.update([1.0] * 100)
    gate.start_epoch(2)
    assert gate.threshold == math.inf


@pytest.mark.parametrize("fitted", [False, True])
def test_goes_on_from_a_checkpoint(tmp_path, fitted):
    gate = DynamicLossGate()
    gate.start_epoch(1)
    if fitted:
        gate.update(two_modes())
        gate.start_epoch(2)
        gate.update(two_modes(seed=1))
    AtomicCheckpointer(tmp_path, recoverables={"g": gate}).save_checkpoint()
    again = DynamicLossGate()
    AtomicCheckpointer(
        tmp_path, recoverables={"g": again}
    ).recover_if_possible()
    for _ in range(2):
        assert again.threshold == gate.threshold  # to the last digit
        again.start_epoch(3)
        gate.start_epoch(3)
    assert math.isfinite(gate.threshold) == fitted


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("dynamical", 2), "gate=dynamical: give"),
        ((0, 2), "gate=0: give"),
        ((-1.5, 2), "gate=-1.5: give"),
        ((True, 2), "gate=True: give"),
        (("dynamic", 0), "first_gated_epoch=0: epochs count from 1"),
        ((2.0, 0), "epochs count from 1"),
        (("none", 2, None, 5), "gate_window=5 and gate=none: a dynamic gate"),
        ((3.0, 2, None, 5), "gate=3.0: .* Give gate=dynamic, or gate_window=0"),
        (("dynamic", 2, None, -1), "gate_window=-1: give 1 step or more"),
    ],
)
def test_values_that_make_no_sense(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        DynamicLossGate(*arguments)


def test_the_papers_rule_is_gaussians_of_logarithms():
    """Two modes of log-losses, against scikit-learn."""
    rng = np.random.default_rng(0)
    low, high = rng.normal(-2, 1, 2000), rng.normal(2, 0.5, 1000)
    losses = np.exp(np.concatenate([low, high]))
    papers = TwoGaussians(rule="papers", outliers=0.0)
    threshold, figures = papers.fit(losses)
    assert figures["scale"] == "log"
    fitted = GaussianMixture(2, random_state=0).fit(np.log(losses)[:, None])
    assert [figures["mean_low"], figures["mean_high"]] == pytest.approx(
        sorted(fitted.means_[:, 0]), abs=0.02
    )
    # Where the posteriors are equal
    grid = np.linspace(-2, 2, 10_000)[:, None]
    sides = fitted.predict(grid) == fitted.means_[:, 0].argmax()
    expected = grid[sides.argmax(), 0]
    assert math.log(threshold) == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("seed", range(4))
def test_the_papers_rule_takes_two_gaussians_that_cross(seed):
    """Whatever they are of: here of one mode."""
    losses = np.random.default_rng(seed).lognormal(size=3000)
    threshold, _ = TwoGaussians(rule="papers").fit(losses)
    assert losses.min() < threshold < losses.max()
    assert TwoGaussians().fit(losses)[0] is None


def test_the_least_trusted_share_can_be_set():
    rng = np.random.default_rng(0)
    right = losses_of(rng.normal(-3, 1, 200))
    wrong = losses_of(rng.normal(9, 2, 800))
    losses = np.concatenate([right, wrong])
    assert TwoGaussians().fit(losses) == (
        None,
        "most labels are not learnt yet",
    )
    threshold, _ = TwoGaussians(least_trusted=0.1).fit(losses)
    assert right.max() < threshold < np.quantile(wrong, 0.05)
    with pytest.raises(ValueError, match="gate_rule=paper: give"):
        TwoGaussians(rule="paper")


def steps_of(count, seed=0):
    """Losses of steps of 20: two modes, which drift upwards."""
    rng = np.random.default_rng(seed)
    for step in range(count):
        losses = [*rng.normal(-1, 1, 14), *rng.normal(7, 1, 6)]
        yield torch.tensor(losses_of(np.array(losses) + step / 10)).float()


def take(gate, steps):
    for losses in steps:
        gate.mark()
        # In two micro-batches
        gate.add(losses[:12])
        gate.add(losses[12:])
        gate.after_step()


def test_a_window_is_the_last_steps_and_nothing_else():
    gate = DynamicLossGate(first_epoch=1, window=10)
    gate.start_epoch(1)
    steps = [*steps_of(30)]
    take(gate, steps)
    expected = TwoGaussians().fit(torch.cat(steps[20:]).numpy())[0]
    assert gate.threshold == expected
    assert expected != TwoGaussians().fit(torch.cat(steps[19:]).numpy())[0]
    # The losses of an epoch do not move it
    gate.update(two_modes())
    assert gate.state_dict()["crossing"] == expected


def test_a_window_opens_the_gate_with_the_first_gated_epoch():
    gate = DynamicLossGate(first_epoch=2, window=10)
    gate.start_epoch(1)
    take(gate, steps_of(20))
    assert gate.threshold == math.inf
    gate.start_epoch(2)
    assert math.isfinite(gate.threshold)


def test_a_window_that_moves_the_gate_no_more_is_told(caplog):
    """Once in an epoch; not in one of which a step has moved it, whatever its
    losses together look like."""
    caplog.set_level(logging.WARNING, "speechbrain_cadino")
    rng = np.random.default_rng(1)
    alike = [
        torch.tensor(rng.normal(13, 2, 20)).float().clamp(min=1)
        for _ in range(20)
    ]
    gate = DynamicLossGate(first_epoch=1, window=10)
    gate.start_epoch(1)
    take(gate, steps_of(20))
    gate.update(torch.cat(alike).numpy())
    assert caplog.text == ""
    gate.start_epoch(2)
    last = gate.threshold
    # The window forgets what had two modes
    take(gate, alike)
    take(gate, alike)
    moved = gate.threshold
    gate.update(torch.cat(alike).numpy())
    caplog.clear()
    gate.start_epoch(3)
    take(gate, alike)
    gate.update(torch.cat(alike).numpy())
    assert gate.threshold == moved
    assert "The loss gate stays" in caplog.text
    assert len(caplog.records) == 1
    assert math.isfinite(last)


def test_a_gate_does_not_wait_for_a_long_window():
    gate = DynamicLossGate(first_epoch=2, window=100)
    gate.start_epoch(1)
    steps = [*steps_of(10)]
    take(gate, steps)
    gate.gather()
    gate.update(torch.cat(steps).numpy())
    gate.start_epoch(2)
    assert gate.threshold == TwoGaussians().fit(torch.cat(steps).numpy())[0]


def test_training_does_not_end_before_there_is_a_gate():
    for gate in ("dynamic", 5.0):
        DynamicLossGate(gate, first_epoch=3).check(3)
        with pytest.raises(ValueError, match="first_gated_epoch=3 of 2 epochs"):
            DynamicLossGate(gate, first_epoch=3).check(2)
    DynamicLossGate("none", first_epoch=3).check(2)


def test_a_window_is_not_fitted_to_before_the_gate_is_near():
    class Counted(TwoGaussians):
        fits = 0

        def fit(self, losses):
            self.fits += 1
            return super().fit(losses)

    gate = DynamicLossGate(first_epoch=3, window=10, mixture=Counted())
    gate.start_epoch(1)
    take(gate, steps_of(20))
    assert gate.mixture.fits == 0
    gate.start_epoch(2)
    take(gate, steps_of(20))
    assert gate.mixture.fits == 10
    gate.start_epoch(3)
    expected = TwoGaussians().fit(gate.window.losses)[0]
    assert gate.threshold == expected


def test_a_step_that_is_undone_is_not_in_the_window():
    gates = [DynamicLossGate(first_epoch=1, window=10) for _ in range(2)]
    for gate in gates:
        gate.start_epoch(1)
    take(gates[0], steps_of(20))
    for number, losses in enumerate(steps_of(20)):
        if number == 15:
            gates[1].mark()
            gates[1].add(torch.full((20,), 50.0))
            gates[1].rewind()
        take(gates[1], [losses])
    assert gates[0].state_dict() == gates[1].state_dict()


@pytest.mark.parametrize("saved", [3, 13])
def test_a_window_goes_on_from_a_checkpoint(tmp_path, saved):
    whole = DynamicLossGate(first_epoch=1, window=10)
    whole.start_epoch(1)
    steps = [*steps_of(24)]
    take(whole, steps[:saved])
    whole.gather()
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"gate": whole})
    checkpointer.save_checkpoint()
    take(whole, steps[saved:])
    resumed = DynamicLossGate(first_epoch=1, window=10)
    AtomicCheckpointer(
        tmp_path, recoverables={"gate": resumed}
    ).recover_if_possible()
    resumed.start_epoch(1)
    take(resumed, steps[saved:])
    for gate in (whole, resumed):
        gate.gather()
    assert resumed.state_dict() == whole.state_dict()
    assert math.isfinite(whole.threshold)
