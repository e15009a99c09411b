import numpy as np
import pandas as pd
import pytest
from scipy import stats

from speechbrain_cadino.verification.bootstrap import (
    Bootstrap,
    interval,
    p_value,
    trial_speakers,
    warn_of_few,
)
from speechbrain_cadino.verification.metrics import summary

FIGURES = ["eer", "min_dcf_0.01", "min_dcf_0.05"]


def draw(speakers=12, utterances=4, seed=0, separation=2.0):
    """A list of all pairs: scores, targets, speakers of both sides.

    Each speaker is easy or hard to recognise.
    """
    rng = np.random.default_rng(seed)
    enrol, test = np.triu_indices(speakers * utterances, 1)
    enrol, test = enrol // utterances, test // utterances
    targets = enrol == test
    ease = rng.standard_normal(speakers)
    scores = rng.standard_normal(len(targets)) + targets * (
        separation + ease[enrol]
    )
    return scores, targets, enrol, test


def trial_list(*trials):
    return pd.DataFrame(trials, columns=["target", "enrol", "test"])


def materialised(scores, targets, enrol, test, times):
    """The trials of a sample of speakers, one by one."""
    sample = [(s, copy) for s, n in enumerate(times) for copy in range(n)]
    drawn = []
    for score, target, one, other in zip(scores, targets, enrol, test):
        for first in sample:
            for second in sample:
                # A target trial stays within one copy of its speaker.
                if (first[0], second[0]) == (one, other) and (
                    not target or first == second
                ):
                    drawn.append((score, target))
    return tuple(np.transpose(drawn)) if drawn else ([], [])


@pytest.mark.parametrize("speakers", [3, 6])
def test_replicates_equal_lists_that_are_written_out(speakers):
    trials = draw(speakers, utterances=3)
    bootstrap = Bootstrap(
        {"a": trials[0], "b": -trials[0]}, *trials[1:], replicates=20, seed=5
    )
    rng = np.random.default_rng(5)
    expected = {"a": [], "b": []}
    redrawn = 0
    while len(expected["a"]) < 20:
        times = rng.multinomial(speakers, np.full(speakers, 1 / speakers))
        scores, targets = materialised(*trials, times)
        if np.all(targets):
            redrawn += 1
            continue
        expected["a"].append(summary(scores, targets))
        expected["b"].append(summary(-scores, targets))
    # One speaker three times over is no list: that is among the draws.
    assert (redrawn > 0) == (speakers == 3)
    for name, rows in expected.items():
        np.testing.assert_allclose(bootstrap.samples[name], pd.DataFrame(rows))


def test_speakers_are_drawn_and_not_trials():
    # All trials of a speaker are alike: more of them tell nothing new.
    widths = []
    for utterances in (3, 12):
        _, targets, enrol, test = draw(20, utterances)
        ease = np.random.default_rng(1).standard_normal(20)
        scores = np.where(targets, 1 + ease[enrol], (ease[enrol] + ease[test]))
        found = Bootstrap({"a": scores}, targets, enrol, test, replicates=200)
        widths.append(np.ptp(found.intervals()["a"]["eer"]))
    assert widths[1] == pytest.approx(widths[0], rel=0.15)


def test_options_reach_the_figures():
    scores, *trials = draw()
    bootstrap = Bootstrap(
        {"a": scores},
        *trials,
        replicates=30,
        operating_points=[0.1],
        convex_hull=True,
        calibrated=True,
    )
    assert bootstrap.figures["a"] == summary(
        scores, trials[0], [0.1], convex_hull=True, calibrated=True
    )
    intervals = bootstrap.intervals()["a"]
    assert list(intervals) == list(bootstrap.figures["a"])
    for figure, (low, high) in intervals.items():
        assert low < bootstrap.figures["a"][figure] < high


def test_the_seed_decides():
    scores, *trials = draw()
    one, same, other = (
        Bootstrap({"a": scores}, *trials, replicates=50, seed=seed).intervals()
        for seed in (1, 1, 2)
    )
    assert one == same
    assert one != other


def test_a_system_draws_the_same_whoever_is_beside_it():
    scores, *trials = draw()
    alone = Bootstrap({"a": scores}, *trials, replicates=20)
    both = Bootstrap({"b": -scores, "a": scores}, *trials, replicates=20)
    pd.testing.assert_frame_equal(alone.samples["a"], both.samples["a"])


def test_comparison_of_a_system_with_itself():
    scores, *trials = draw()
    # Another scale is no other system.
    bootstrap = Bootstrap(
        {"a": scores, "b": np.exp(scores)}, *trials, replicates=50
    )
    assert bootstrap.compare("a", "b") == {
        figure: {"difference": 0, "interval": (0, 0), "p_value": 1}
        for figure in FIGURES
    }


def test_comparison_with_a_better_system():
    scores, targets, *speakers = draw()
    bootstrap = Bootstrap(
        {"bad": scores, "good": scores + 1.5 * targets},
        targets,
        *speakers,
        replicates=400,
    )
    there, back = (
        bootstrap.compare(*pair)["eer"]
        for pair in (("bad", "good"), ("good", "bad"))
    )
    assert there["difference"] == (
        bootstrap.figures["bad"]["eer"] - bootstrap.figures["good"]["eer"]
    )
    assert 0 < there["interval"][0] < there["difference"]
    assert there["p_value"] < 0.05
    assert back == {
        "difference": -there["difference"],
        "interval": tuple(-end for end in reversed(there["interval"])),
        "p_value": there["p_value"],
    }


def test_comparison_with_a_system_that_is_better_for_some_speakers():
    scores, targets, enrol, test = draw(16)
    shift = np.where(enrol % 2, 1.0, -1.0)
    bootstrap = Bootstrap(
        {"a": scores + shift * targets, "b": scores - shift * targets},
        targets,
        enrol,
        test,
        replicates=400,
    )
    comparison = bootstrap.compare("a", "b")["eer"]
    assert comparison["interval"][0] < 0 < comparison["interval"][1]
    assert comparison["p_value"] > 0.1


def test_comparison_of_systems_that_are_both_infinitely_wrong():
    scores, targets, *speakers = draw()
    systems = {"fine": scores}
    for name, trial in zip("ab", np.flatnonzero(targets)[[0, 40]]):
        systems[name] = scores.copy()
        systems[name][trial] = -np.inf
    bootstrap = Bootstrap(
        systems, targets, *speakers, replicates=200, calibrated=True
    )
    # Each is finite where its one speaker is not drawn: neither is better.
    both = bootstrap.compare("a", "b")["cllr"]
    assert both["difference"] == 0
    assert both["interval"] == (-np.inf, np.inf)
    assert both["p_value"] > 0.1
    one = bootstrap.compare("a", "fine")["cllr"]
    assert one["difference"] == np.inf
    assert one["interval"] == (0, np.inf)


def test_interval_of_a_mean_is_nearly_that_of_student():
    # Means of normal samples: here the t interval is exact.
    rng = np.random.default_rng(0)
    sample = rng.standard_normal(10)
    means = rng.choice(sample, (100_000, 10)).mean(1)
    expected = stats.t.interval(
        0.95, 9, sample.mean(), sample.std(ddof=1) / np.sqrt(10)
    )
    found = interval(means, sample.mean(), 10)
    np.testing.assert_allclose(found, expected, atol=0.1)
    # Plain percentiles are a sixth shorter.
    plain = np.quantile(means, [0.025, 0.975])
    assert np.ptp(plain) < 0.85 * np.ptp(found)


def test_bias_moves_the_interval_to_the_other_side():
    # Replicates half a standard deviation too low, as the estimate is then.
    values = stats.norm.ppf(np.arange(1, 10_000) / 10_000)
    low, high = interval(values, 0.5, 10**6)
    assert (low, high) == pytest.approx((1 - 1.96, 1 + 1.96), abs=0.02)


@pytest.mark.parametrize("seed", range(20))
def test_p_value_is_where_the_interval_meets_zero(seed):
    rng = np.random.default_rng(seed)
    centre = rng.uniform(-2, 2)
    differences = centre + rng.standard_normal(999)
    sample = differences, centre + 0.2 * rng.standard_normal(), 25
    p = p_value(*sample)
    assert 0 < p < 1
    low, high = interval(*sample, level=1 - 1.001 * p)
    assert low > 0 or high < 0
    low, high = interval(*sample, level=1 - 0.999 * p)
    assert low <= 0 <= high


def test_infinite_figures_have_infinite_intervals():
    assert interval([1.0, 2.0, np.inf], np.inf, 3) == (1, np.inf)
    assert interval([np.inf] * 9, np.inf, 3) == (np.inf, np.inf)


@pytest.mark.parametrize(
    "keep",
    [
        # Target trials of one speaker.
        lambda targets, enrol, test: ~targets | (enrol == 0),
        # Non-target trials of two.
        lambda targets, enrol, test: targets | (enrol + test == 1),
        lambda targets, enrol, test: targets,
    ],
)
def test_too_few_speakers_are_an_error(keep):
    scores, *trials = draw()
    kept = keep(*trials)
    with pytest.raises(ValueError, match="at least 2 and 3"):
        Bootstrap({"a": scores[kept]}, *(part[kept] for part in trials))


def test_few_speakers_with_target_trials_widen_the_interval():
    scores, targets, enrol, test = draw(20)
    kept = ~targets | (enrol < 5)
    few = Bootstrap(
        {"a": scores[kept]},
        *(part[kept] for part in (targets, enrol, test)),
        replicates=10,
    )
    assert few.speakers == 5
    assert (
        Bootstrap({"a": scores}, targets, enrol, test, replicates=10).speakers
        == 20
    )


def test_speakers_of_folders():
    trials = trial_list(
        (True, "b/x/1.wav", "b/y/2.wav"),
        (False, "b/x/1.wav", "a/x/1.wav"),
        (False, "c/z/1.wav", "a/x/1.wav"),
    )
    enrol, test = trial_speakers(trials)
    assert enrol.tolist() == [0, 0, 1]
    assert test.tolist() == [0, 2, 2]


def test_speakers_of_a_table():
    trials = trial_list((True, "a/1", "b/1"), (False, "a/1", "b/2"))
    table = {"a/1": "x", "b/1": "x", "b/2": "y", "unused": "z"}
    for speakers in (table, pd.Series(table)):
        enrol, test = trial_speakers(trials, speakers)
        assert enrol.tolist() == [0, 0]
        assert test.tolist() == [0, 1]


@pytest.mark.parametrize("prefix", ["", "wav/"])
def test_speakers_are_what_target_trials_link(prefix):
    trials = trial_list(
        (True, "1.wav", "2.wav"),
        (True, "3.wav", "2.wav"),
        (False, "1.wav", "4.wav"),
        (True, "4.wav", "5.wav"),
        (False, "3.wav", "6.wav"),
    )
    trials[["enrol", "test"]] = prefix + trials[["enrol", "test"]]
    enrol, test = trial_speakers(trials)
    first, second, third = enrol[0], enrol[3], test[4]
    assert len({first, second, third}) == 3
    assert enrol.tolist() == [first, first, first, second, first]
    assert test.tolist() == [first, first, second, second, third]


def test_a_name_that_is_not_in_the_table_is_an_error():
    trials = trial_list((True, "a", "b"), (False, "a", "c"))
    with pytest.raises(ValueError, match=r"lacks 1 of the 3 names.*'c'"):
        trial_speakers(trials, {"a": "x", "b": "x"})


def test_a_name_that_is_in_the_table_twice_is_an_error():
    trials = trial_list((True, "a", "b"), (False, "a", "c"))
    table = pd.Series(["x", "x", "y", "x"], index=["a", "b", "c", "b"])
    with pytest.raises(ValueError, match="has 'b' more than once"):
        trial_speakers(trials, table)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"a": 1, "b": 2, "c": 3}, "'a b' is a target, .* two speakers"),
        ({"a": 1, "b": 1, "c": 1}, "'a c' is a non-target, .* one speaker"),
    ],
)
def test_a_trial_against_the_table_is_an_error(table, message):
    trials = trial_list((True, "a", "b"), (False, "a", "c"), (False, "b", "c"))
    with pytest.raises(ValueError, match=message):
        trial_speakers(trials, table)


def test_a_non_target_trial_of_one_speaker_is_an_error():
    trials = trial_list(
        (True, "a", "b"), (True, "b", "c"), (False, "d", "a"), (False, "c", "a")
    )
    with pytest.raises(ValueError, match=r"'c a' is a non-target.*by other"):
        trial_speakers(trials)


@pytest.mark.parametrize(
    ("replicates", "speakers", "few"),
    [(30, 3, False), (30, 10, True), (100, 10, True), (120, 10, False)],
)
def test_too_few_replicates_are_told(replicates, speakers, few, caplog):
    """Fewer than 6 speakers are never enough, and known not to be."""
    warn_of_few(replicates, speakers)
    assert ("are too few for 95% intervals" in caplog.text) == few
