import numpy as np
import pytest
import torch
from scipy.spatial import ConvexHull
from sklearn.isotonic import IsotonicRegression
from sklearn.metrics import roc_curve

from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_cadino.verification.metrics import (
    SortedTrials,
    act_dcf,
    cllr,
    convex_hull,
    eer,
    error_rates,
    min_cllr,
    min_dcf,
    summary,
)


def plain_rates(scores, targets):
    """The rates by counting, one threshold and one trial at a time."""
    p_miss, p_fa = [], []
    for threshold in [*sorted(set(scores)), np.inf]:
        misses = false_alarms = 0
        for score, target in zip(scores, targets):
            misses += target and score < threshold
            false_alarms += not target and score >= threshold
        p_miss.append(misses / sum(targets))
        p_fa.append(false_alarms / (len(targets) - sum(targets)))
    return p_miss, p_fa


def plain_eer(p_miss, p_fa):
    """Walks the segments of the ROC until one meets p_miss = p_fa."""
    for i in range(len(p_miss) - 1):
        before = p_fa[i] - p_miss[i]
        after = p_fa[i + 1] - p_miss[i + 1]
        if before >= 0 >= after:
            share = before / (before - after)
            return (1 - share) * p_miss[i] + share * p_miss[i + 1]


def draw(seed, distinct=None):
    """Scores of 60 trials, rounded to few distinct values if wanted."""
    rng = np.random.default_rng(seed)
    targets = rng.random(60) < 0.3
    targets[:2] = [True, False]
    scores = rng.standard_normal(60) + 1.5 * targets
    if distinct:
        scores = np.round(scores * distinct) / distinct
    return scores.astype(np.float32), targets


@pytest.mark.parametrize("distinct", [None, 1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_equals_a_count_in_plain_loops(seed, distinct):
    scores, targets = draw(seed, distinct)
    p_miss, p_fa, thresholds = error_rates(scores, targets)
    expected_miss, expected_fa = plain_rates(scores, targets)
    np.testing.assert_allclose(p_miss, expected_miss)
    np.testing.assert_allclose(p_fa, expected_fa, atol=1e-15)
    assert thresholds.tolist() == [*sorted(set(scores.tolist())), np.inf]
    assert eer(p_miss, p_fa) == pytest.approx(
        plain_eer(expected_miss, expected_fa)
    )
    for p_target in (0.01, 0.05, 0.7):
        cost = min(
            p_target * miss + (1 - p_target) * fa
            for miss, fa in zip(expected_miss, expected_fa)
        )
        assert min_dcf(p_miss, p_fa, p_target) == pytest.approx(
            cost / min(p_target, 1 - p_target)
        )


def test_rates_equal_those_of_scikit_learn():
    scores, targets = draw(9, distinct=4)
    p_miss, p_fa, _ = error_rates(scores, targets)
    fpr, tpr, _ = roc_curve(targets, scores, drop_intermediate=False)
    np.testing.assert_allclose(p_miss[::-1], 1 - tpr, atol=1e-15)
    np.testing.assert_allclose(p_fa[::-1], fpr, atol=1e-15)


@pytest.mark.parametrize(
    ("scores", "targets", "expected"),
    [
        ([1, 2, 3, 4], [0, 0, 1, 1], 0),
        ([1, 2, 3, 4], [1, 1, 0, 0], 1),
        # All alike: a coin decides.
        ([5, 5, 5], [0, 1, 1], 1 / 2),
        # From (miss 0, fa 1/3) over the tie to (1/2, 0): meets at 1/5.
        ([0, 0, 1, 1, 2], [0, 0, 1, 0, 1], 1 / 5),
        # The vertical step of the lower target, from miss 0 to 1/2.
        ([0, 1, 2, 3, 4], [0, 0, 1, 0, 1], 1 / 3),
    ],
)
def test_eer_by_hand(scores, targets, expected):
    p_miss, p_fa, _ = error_rates(scores, targets)
    assert eer(p_miss, p_fa) == pytest.approx(expected)


def test_min_dcf_by_hand():
    # Best threshold 3: one of two targets missed, no false alarm.
    p_miss, p_fa, _ = error_rates([1, 2, 3, 4], [0, 1, 0, 1])
    assert min_dcf(p_miss, p_fa, 0.01) == pytest.approx(0.5)
    # Misses cost more than false alarms: threshold 2 has one of two.
    assert min_dcf(p_miss, p_fa, 0.5, c_miss=10) == pytest.approx(0.5)
    assert min_dcf(p_miss, p_fa, 0.5, c_fa=0.1) == pytest.approx(0.5)


def test_useless_scores_cost_one():
    scores, targets = np.zeros(10), np.arange(10) < 3
    assert summary(scores, targets) == {
        "eer": 50,
        "min_dcf_0.01": 1,
        "min_dcf_0.05": 1,
    }


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_speechbrain_within_its_resolution(seed):
    scores, targets = draw(seed)
    positive, negative = (
        torch.from_numpy(scores[mask]) for mask in (targets, ~targets)
    )
    ours = summary(scores, targets)
    # SpeechBrain takes the nearest point, not the crossing.
    step = 1 / min(len(positive), len(negative))
    assert ours["eer"] / 100 == pytest.approx(
        EER(positive, negative)[0], abs=step / 2
    )
    for p_target in (0.01, 0.05):
        cost = minDCF(positive, negative, p_target=p_target)[0]
        assert ours[f"min_dcf_{p_target}"] == pytest.approx(
            cost / p_target, rel=1e-5
        )


def plain_hull(points):
    """Which points of the ROC, in trials, are vertices of its hull.

    Those that lie below every line between a point before and one after.
    """

    def below(point, before, after):
        (x, y), (right, up) = point - before, after - before
        return x * up > y * right

    return [
        i
        for i, point in enumerate(points)
        if all(
            below(point, before, after)
            for before in points[:i]
            for after in points[i + 1 :]
        )
    ]


@pytest.mark.parametrize("distinct", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_hull_equals_a_search_in_plain_loops(seed, distinct):
    scores, targets = draw(seed, distinct)
    p_miss, p_fa, _ = error_rates(scores, targets)
    trials = [p_miss * targets.sum(), p_fa * (~targets).sum()]
    vertices = plain_hull(np.rint(np.transpose(trials)))
    hull_miss, hull_fa = convex_hull(p_miss, p_fa)
    # All the vertices; and what rounding may add lies between them.
    assert set(zip(p_miss[vertices], p_fa[vertices])) <= set(
        zip(hull_miss, hull_fa)
    )
    for found, rates in [(hull_miss, p_miss), (hull_fa, p_fa)]:
        expected = np.interp(
            hull_miss - hull_fa, (p_miss - p_fa)[vertices], rates[vertices]
        )
        np.testing.assert_allclose(found, expected, atol=1e-12)


def test_hull_equals_that_of_a_geometry_library():
    scores, targets = draw(5)
    p_miss, p_fa, _ = error_rates(scores, targets)
    points = np.stack([[*p_miss, 1], [*p_fa, 1]], axis=1)
    vertices = set(ConvexHull(points).vertices) - {len(p_miss)}
    hull_miss, hull_fa = convex_hull(p_miss, p_fa)
    assert sorted(zip(hull_miss, hull_fa)) == sorted(
        (p_miss[i], p_fa[i]) for i in vertices
    )


@pytest.mark.parametrize("seed", range(3))
def test_hull_costs_what_the_best_decisions_cost(seed):
    scores, targets = draw(seed)
    p_miss, p_fa, _ = error_rates(scores, targets)
    hull = convex_hull(p_miss, p_fa)
    priors = np.linspace(0, 1, 10001)[1:-1, None]
    errors = (priors * p_miss + (1 - priors) * p_fa).min(axis=1)
    # Of all priors, the worst: what the ROCCH-EER is.
    assert eer(*hull) == pytest.approx(errors.max(), abs=1e-4)
    assert eer(*hull) < eer(p_miss, p_fa)
    figures = summary(scores, targets, convex_hull=True)
    assert figures["eer"] == 100 * eer(*hull)
    for p_target in (0.01, 0.05, 0.7):
        assert min_dcf(*hull, p_target) == min_dcf(p_miss, p_fa, p_target)


def test_hull_of_a_list_that_is_told_apart_has_one_corner():
    hull = convex_hull(*error_rates([1, 2, 3, 4], [0, 0, 1, 1])[:2])
    assert np.transpose(hull).tolist() == [[0, 1], [0, 0], [1, 0]]
    assert str(min_cllr(*hull)) == "0.0"


def test_act_dcf_by_hand():
    scores = [-3.0, -1.0, 1.0, 3.0]
    targets = [True, False, False, True]
    # At log(0.9 / 0.1) = 2.2: one of two targets missed.
    assert act_dcf(scores, targets, 0.1) == pytest.approx(0.5)
    # At 0, one of two non-targets comes in too.
    assert act_dcf(scores, targets, 0.5) == pytest.approx(1)
    # Costs move it to log(0.5 / 4.5) = -2.2: a miss of two costs 9 / 2, and
    # both non-targets 1.
    assert act_dcf(scores, targets, 0.5, c_miss=9) == pytest.approx(5.5)
    # A score at the threshold is accepted, in any precision.
    assert act_dcf(np.float32([0, -1]), [True, False], 0.5) == 0


def test_costs_only_matter_through_the_effective_prior():
    scores, targets = draw(2)
    p_target, c_miss, c_fa = 0.02, 10, 0.5
    effective = p_target * c_miss / (p_target * c_miss + (1 - p_target) * c_fa)
    assert act_dcf(scores, targets, p_target, c_miss, c_fa) == pytest.approx(
        act_dcf(scores, targets, effective)
    )
    p_miss, p_fa, _ = error_rates(scores, targets)
    assert min_dcf(p_miss, p_fa, p_target, c_miss, c_fa) == pytest.approx(
        min_dcf(p_miss, p_fa, effective)
    )


def test_cllr_equals_a_sum_in_plain_loops():
    scores, targets = draw(4, distinct=3)
    losses = {True: [], False: []}
    for score, target in zip(scores.tolist(), targets.tolist()):
        odds = np.exp(-score if target else score)
        losses[target].append(np.log2(1 + odds))
    expected = (np.mean(losses[True]) + np.mean(losses[False])) / 2
    assert cllr(scores, targets) == pytest.approx(expected)


def test_cllr_of_scores_whose_exponential_overflows():
    scores = np.float32([-2000, 2000, 2000])
    # One target of two at -2000 costs 2000 / log 2 bits, all else nothing.
    assert cllr(scores, [True, True, False]) == pytest.approx(
        (1000 + 2000) / np.log(2) / 2
    )


@pytest.mark.parametrize("distinct", [None, 1, 3])
@pytest.mark.parametrize("seed", range(3))
def test_min_cllr_is_that_of_scikit_learns_calibration(seed, distinct):
    scores, targets = draw(seed, distinct)
    posteriors = IsotonicRegression().fit_transform(scores, targets)
    prior = targets.mean()
    with np.errstate(divide="ignore"):
        ratios = np.log(posteriors) - np.log(1 - posteriors)
    ratios -= np.log(prior / (1 - prior))
    rates = error_rates(scores, targets)[:2]
    assert min_cllr(*rates) == pytest.approx(cllr(ratios, targets))
    assert min_cllr(*convex_hull(*rates)) == pytest.approx(min_cllr(*rates))
    assert min_cllr(*rates) < cllr(scores, targets)


def test_summary_of_calibrated_scores_holds_all_figures():
    scores, targets = draw(1)
    p_miss, p_fa, _ = error_rates(scores, targets)
    assert summary(
        scores, targets, operating_points=[0.001, 0.5], calibrated=True
    ) == {
        "eer": 100 * eer(p_miss, p_fa),
        "min_dcf_0.001": min_dcf(p_miss, p_fa, 0.001),
        "min_dcf_0.5": min_dcf(p_miss, p_fa, 0.5),
        "act_dcf_0.001": act_dcf(scores, targets, 0.001),
        "act_dcf_0.5": act_dcf(scores, targets, 0.5),
        "cllr": cllr(scores, targets),
        "min_cllr": min_cllr(p_miss, p_fa),
    }


def test_infinite_scores_are_the_surest():
    scores = [-np.inf, -np.inf, 0, np.inf, np.inf]
    targets = [False, False, True, True, False]
    p_miss, p_fa, thresholds = error_rates(scores, targets)
    assert p_miss.tolist() == [0, 0, 0.5, 1]
    np.testing.assert_allclose(p_fa, [1, 1 / 3, 1 / 3, 0])
    assert thresholds.tolist() == [-np.inf, 0, np.inf, np.inf]
    assert act_dcf(scores, targets, 0.5) == pytest.approx(1 / 3)
    assert cllr(scores, targets) == np.inf
    # What is infinitely wrong does not count without weight.
    weights = [1, 1, 1, 1, 0]
    assert SortedTrials(scores, targets).cllr(weights) == pytest.approx(0.25)


@pytest.mark.parametrize("distinct", [None, 3])
@pytest.mark.parametrize("seed", range(3))
def test_weights_are_repeated_trials(seed, distinct):
    scores, targets = draw(seed, distinct)
    weights = np.random.default_rng(seed).integers(0, 4, len(scores))
    weights[:2] = 1
    repeated = np.repeat(scores, weights), np.repeat(targets, weights)
    *rates, thresholds = error_rates(scores, targets, weights)
    *expected, kept = error_rates(*repeated)
    there = np.searchsorted(thresholds, kept)
    np.testing.assert_array_equal(np.stack(rates)[:, there], expected)
    options = {"convex_hull": True, "calibrated": True}
    trials = SortedTrials(scores, targets)
    for weighted in (
        trials.summary(weights, **options),
        trials.summary(weights.astype(np.float32) / 3, **options),
    ):
        assert weighted == pytest.approx(summary(*repeated, **options))


def test_nan_scores_are_an_error():
    with pytest.raises(ValueError, match=r"1 score.* NaN"):
        error_rates([0.1, np.nan], [True, False])


@pytest.mark.parametrize("targets", [[True, True], [False, False]])
@pytest.mark.parametrize("figure", [error_rates, cllr, summary])
def test_one_kind_of_trial_is_an_error(figure, targets):
    with pytest.raises(ValueError, match="need some of both"):
        figure([0.1, 0.2], targets)


def test_one_kind_of_trial_with_weight_is_an_error():
    with pytest.raises(ValueError, match="1 target and 0 non-target"):
        error_rates([0.1, 0.2], [True, False], weights=[1, 0])


def test_scores_of_other_trials_are_an_error():
    with pytest.raises(ValueError, match="2 scores of 3 trials"):
        error_rates([0.1, 0.2], [True, False, True])


@pytest.mark.parametrize("price", [{"p_target": 1}, {"c_miss": 0}])
def test_what_costs_nothing_is_an_error(price):
    price = {"p_target": 0.5} | price
    with pytest.raises(ValueError, match="between 0 and 1"):
        act_dcf([0.1, 0.2], [True, False], **price)
    with pytest.raises(ValueError, match="between 0 and 1"):
        min_dcf(np.array([0, 1]), np.array([1, 0]), **price)
