import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from speechbrain.utils.metric_stats import EER, minDCF
from speechbrain_cadino.verification.metrics import (
    eer,
    error_rates,
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


def test_agrees_with_speechbrain_within_its_resolution():
    scores, targets = draw(3)
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


def test_nan_scores_are_an_error():
    with pytest.raises(ValueError, match=r"1 score.* NaN"):
        error_rates([0.1, np.nan], [True, False])


@pytest.mark.parametrize("targets", [[True, True], [False, False]])
def test_one_kind_of_trial_is_an_error(targets):
    with pytest.raises(ValueError, match="need some of both"):
        error_rates([0.1, 0.2], targets)
