import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.verification.calibration import (
    Calibration,
    logistic,
    quality_measures,
    weights_of,
)
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.metrics import cllr, error_rates, min_cllr


def draw(rng, count, share):
    """Scores whose log-likelihood ratio is 4 s / spread^2, by construction:
    normal around -1 and 1, the spread being the quality."""
    targets = rng.random(count) < share
    spread = rng.choice([0.5, 1.5], count)
    scores = np.where(targets, 1, -1) + spread * rng.standard_normal(count)
    return targets, scores, spread


def test_the_slope_is_that_of_kinds_that_are_well_apart():
    """Where scikit-learn's own tolerance ends, it is a fifth too flat."""
    rng = np.random.default_rng(0)
    targets = np.arange(22000) < 2000
    scores = rng.standard_normal(22000) + 6.5 * targets
    offset, (slope,) = weights_of(logistic(scores[:, None], targets))
    # The gradient of the penalised mean loss, by hand
    ratios = offset + slope * scores
    weights = np.where(targets, 0.5 / 2000, 0.5 / 20000) * 22000
    errors = weights * (1 / (1 + np.exp(-ratios)) - targets)
    standard = (scores - scores.mean()) / scores.std()
    penalty = slope * scores.std() / 100
    assert abs(errors @ standard + penalty) < 0.01 * abs(penalty)


def test_log_likelihood_ratios_whatever_the_share_of_targets():
    rng = np.random.default_rng(0)
    targets, scores, spread = draw(rng, 400_000, share=0.1)
    alike = spread == 0.5
    fitted = Calibration(
        scores[alike], targets[alike], np.zeros((alike.sum(), 1))
    )
    points = np.linspace(-1, 1, 5)
    ratios = fitted(points, np.zeros((5, 1)))
    # log N(s; 1, 0.5) - log N(s; -1, 0.5) = 8 s
    np.testing.assert_allclose(ratios, 8 * points, atol=0.3)


def test_quality_helps_and_calibration_costs_next_to_nothing():
    rng = np.random.default_rng(1)
    targets, scores, spread = draw(rng, 20_000, share=0.3)
    # The product is what a logistic regression needs of these.
    quality = np.stack([scores / spread**2, spread], axis=1)
    with_quality = Calibration(scores, targets, quality)
    without = Calibration(scores, targets, np.zeros((len(scores), 1)))
    targets, scores, spread = draw(rng, 20_000, share=0.3)
    quality = np.stack([scores / spread**2, spread], axis=1)
    good = with_quality(scores, quality)
    plain = without(scores, np.zeros((len(scores), 1)))
    assert cllr(good, targets) < 0.9 * cllr(plain, targets)
    p_miss, p_fa, _ = error_rates(good, targets)
    assert cllr(good, targets) == pytest.approx(
        min_cllr(p_miss, p_fa), abs=0.01
    )


def test_rounding_of_lengths_is_no_quality():
    rng = np.random.default_rng(0)
    points = rng.standard_normal((300, 16)).astype(np.float32)
    files = pd.DataFrame({"start": 0, "stop": 16000 * rng.integers(2, 9, 300)})
    enrol, test = rng.integers(300, size=(2, 750))
    found = quality_measures(files, points, enrol, test)
    assert np.ptp(found, axis=0).min() > 0.1
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    norms = np.linalg.norm(points, axis=1)
    assert 0 < np.ptp(norms) < 1e-6
    found = quality_measures(files, points, enrol, test)
    assert np.ptp(found, axis=0)[2:].tolist() == [0, 0]
    weights = Calibration(rng.random(750), rng.random(750) < 0.5, found)
    assert not np.any(list(weights.weights().values())[-2:])


@pytest.mark.parametrize("name", ["./a/1.wav", "wav/a/1.wav", "a/1.flac"])
def test_a_file_is_the_same_however_it_is_spelled(name):
    def listed(enrol, test):
        trials = object.__new__(TrialEvaluator)
        trials.trials = pd.DataFrame({"enrol": [enrol], "test": [test]})
        trials.data_folder = None
        return trials

    trials = listed("a/1.wav", "b/1.wav")
    with pytest.raises(ValueError, match=r"^1 file.*such as a/1.wav"):
        trials.check_apart(listed("c/1.wav", name))
    trials.check_apart(listed("c/1.wav", "a/2.wav"))


def test_a_file_with_an_absolute_name_is_the_same(tmp_path):
    for name in ["a/1", "a/2", "b/1"]:
        path = tmp_path / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, np.random.default_rng(0).normal(size=8000), 16000)
    lists = []
    for name, root in [("one", ""), ("two", f"{tmp_path}/")]:
        text = f"1 {root}a/1.wav {root}a/2.wav\n0 {root}a/1.wav {root}b/1.wav\n"
        (tmp_path / f"{name}.txt").write_text(text)
        lists.append(TrialEvaluator(tmp_path / f"{name}.txt", tmp_path))
    with pytest.raises(ValueError, match=r"^3 file"):
        lists[0].check_apart(lists[1])
