"""Properties of any input: Hypothesis looks for one that lacks them."""

import itertools
import math
import pathlib
import tempfile

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch.utils.data import DataLoader

from speechbrain_cadino.dataio.crops import MultiCropDataset
from speechbrain_cadino.dataio.labels import read_labels
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.dataio.sampling import ClusterSampling
from speechbrain_cadino.gate.loss_gate import DynamicLossGate
from speechbrain_cadino.gate.mixture import (
    LOWEST,
    LossMixture,
    TwoGaussians,
    log_odds,
    losses_of,
)
from speechbrain_cadino.verification.metrics import (
    act_dcf,
    eer,
    error_rates,
    min_dcf,
)
from speechbrain_cadino.verification.trials import read_trials

settings.register_profile(
    "quick",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
settings.load_profile("quick")

RATE = 8000
# UTF-8 has no surrogates
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "file.csv"


# Manifests

# Blanks that a spreadsheet has put behind a path or a label are no part of it
TRIMMED = TEXT.filter(lambda text: not text.endswith(" "))
ROWS = st.lists(
    st.tuples(
        TEXT,
        TRIMMED,
        st.integers(0, 2**40),
        st.integers(1, 2**40),
        TRIMMED,
    ),
    min_size=1,
    unique_by=lambda row: row[0],
)


@given(ROWS, st.booleans())
def test_a_manifest_is_read_as_it_was_written(path, rows, labelled):
    table = pd.DataFrame(rows, columns=["ID", "wav", "start", "stop", "spk_id"])
    table["stop"] += table["start"]
    table["duration"] = (table["stop"] - table["start"]) / 16000
    if not labelled:
        del table["spk_id"]
    write_manifest(path, table)
    read = read_manifest(path, DATA_ROOT)
    expected = table.sort_values("ID", kind="stable", ignore_index=True)
    assert sorted(read) == sorted(expected)
    for column in expected:
        if column == "duration":
            np.testing.assert_allclose(
                read[column], expected[column], atol=1e-6, rtol=1e-12
            )
        else:
            assert read[column].tolist() == expected[column].tolist(), column
    first = path.read_bytes()
    write_manifest(path, read)
    assert path.read_bytes() == first


HEADER = st.sampled_from(
    [
        b"",
        b"ID,duration,wav,start,stop\n",
        b"ID,duration,wav,start,stop,spk_id\n",
        b"ID,spk_id\n",
    ]
)
PIECES = st.sampled_from(
    [
        b",",
        b'"',
        b"\n",
        b"\r\n",
        b"0",
        b"-1",
        b"1e400",
        b"nan",
        b"a",
        b"$",
        b"\0",
    ]
)
CONTENT = st.one_of(
    st.binary(max_size=200),
    TEXT.map(lambda text: text.encode()),
    st.lists(PIECES, max_size=40).map(b"".join),
)


@given(HEADER, CONTENT)
def test_any_manifest_is_read_or_refused_by_name(path, header, content):
    path.write_bytes(header + content)
    try:
        table = read_manifest(path, "/data")
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert len(table)
        assert np.isfinite(table["duration"]).all()
        assert table["start"].dtype == table["stop"].dtype == np.int64


@given(HEADER, CONTENT)
def test_any_file_of_labels_is_read_or_refused_by_name(path, header, content):
    path.write_bytes(header + content)
    try:
        labels = read_labels(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert labels.index.is_unique


LINES = st.lists(
    st.sampled_from(
        ["0", "1", "a/b.wav", "target", "nontarget", " ", "\t", "\n"]
    )
).map(lambda words: " ".join(words).encode())


@given(st.one_of(CONTENT, LINES))
def test_any_trial_list_is_read_or_refused_by_name(path, content):
    path.write_bytes(content)
    try:
        trials = read_trials(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert trials["target"].dtype == bool
        assert (trials[["enrol", "test"]] != "").all(axis=None)


# The loss gate

ANY_FLOATS = arrays.arrays(
    np.float32,
    st.integers(0, 60),
    elements=st.one_of(
        st.floats(width=32),
        st.floats(0, 16, width=32),
        st.sampled_from([0.0, np.float32(LOWEST), np.nan, np.inf, -np.inf]),
    ),
)


@settings(max_examples=40)
@given(ANY_FLOATS)
def test_the_gate_stands_any_losses(losses):
    gate = DynamicLossGate(first_epoch=2)
    figures = gate.update(losses)
    gate.start_epoch(2)
    assert gate.threshold > 0
    assert not math.isnan(gate.threshold)
    none = figures["crossing"] is None
    assert none == math.isinf(gate.threshold)


@settings(max_examples=15)
@given(
    st.floats(4.0, 8.0),
    st.floats(0.5, 4.0),
    st.integers(0, 2**32 - 1),
)
def test_the_gate_grows_with_the_losses(gap, shift, seed):
    """So much more against all labels, so much higher a gate."""
    rng = np.random.default_rng(seed)
    right = rng.normal(-1.0, 1.0, 300)
    wrong = rng.normal(gap, 1.0, 150)
    odds = np.concatenate([right, wrong])
    assume(odds.min() > log_odds(LOWEST))
    gates = [
        TwoGaussians().mixture(losses_of(odds + more)).crossing
        for more in (0, shift)
    ]
    assert gates[1] == pytest.approx(gates[0] + shift, abs=1e-3)
    assert right.mean() < gates[0] < wrong.mean()


@given(
    *[st.floats(-5, 5)] * 2,
    *[st.floats(1e-3, 10)] * 2,
    st.floats(0.01, 0.99),
)
def test_a_crossing_lies_between_the_means_where_the_densities_are_equal(
    low, high, low_var, high_var, weight
):
    assume(high - low > 1e-3)
    mixture = LossMixture(
        (low, high), (low_var, high_var), (weight, 1 - weight)
    )
    crossing = mixture.crossing
    if crossing is None:
        return
    assert low <= crossing <= high
    log_densities = [
        math.log(share / math.sqrt(variance))
        - (crossing - mean) ** 2 / (2 * variance)
        for mean, variance, share in zip(*mixture[:3])
    ]
    assert log_densities[0] == pytest.approx(log_densities[1], abs=1e-5)


# Metrics

# Few values, so that there are ties
SCORES = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3).map(float), st.floats(-100, 100)),
        st.booleans(),
    ),
    min_size=2,
    max_size=25,
).filter(lambda trials: len({target for _, target in trials}) == 2)


def both_rates(trials):
    """Misses and false alarms at each threshold, trial by trial."""
    points = []
    for threshold in [*sorted({score for score, _ in trials}), math.inf]:
        misses = alarms = targets = 0
        for score, target in trials:
            targets += target
            misses += target and score < threshold
            alarms += not target and score >= threshold
        points.append((misses / targets, alarms / (len(trials) - targets)))
    return points


@given(SCORES, st.floats(0.001, 0.999))
def test_eer_and_min_dcf_against_a_double_loop(trials, prior):
    points = both_rates(trials)
    p_miss, p_fa, _ = error_rates(*zip(*trials))
    np.testing.assert_allclose(np.stack([p_miss, p_fa], 1), points)
    # On the line between two neighbours
    crossing = next(
        a[0] + (a[1] - a[0]) / (b[0] - a[0] + a[1] - b[1]) * (b[0] - a[0])
        for a, b in itertools.pairwise(points)
        if a[0] < a[1] and b[0] >= b[1]
    )
    assert eer(p_miss, p_fa) == pytest.approx(crossing, abs=1e-12)
    costs = [prior * miss + (1 - prior) * alarm for miss, alarm in points]
    expected = min(costs) / min(prior, 1 - prior)
    assert min_dcf(p_miss, p_fa, prior) == pytest.approx(expected)


@given(SCORES, st.floats(0.001, 0.999), st.randoms(use_true_random=False))
def test_what_metrics_do_not_depend_on(trials, prior, random):
    def both(trials):
        p_miss, p_fa, _ = error_rates(*zip(*trials))
        return eer(p_miss, p_fa), min_dcf(p_miss, p_fa, prior)

    expected = pytest.approx(both(trials), abs=1e-12)
    shuffled = random.sample(trials, len(trials))
    ranks = sorted({score for score, _ in trials})
    assert both(shuffled) == expected
    assert both(trials * 3) == expected
    assert both([(ranks.index(s), target) for s, target in trials]) == expected
    # Both kinds change places
    mirrored = [(-score, not target) for score, target in trials]
    p_miss, p_fa, _ = error_rates(*zip(*mirrored))
    assert eer(p_miss, p_fa) == pytest.approx(both(trials)[0], abs=1e-12)
    assert min_dcf(p_miss, p_fa, 1 - prior) == pytest.approx(both(trials)[1])
    scores, targets = zip(*trials)
    assert act_dcf(scores, targets, prior) >= both(trials)[1] - 1e-12


# Crops and samplers


@pytest.fixture(scope="module")
def ramp():
    """A file in which each sample tells where it is."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "ramp.wav"
        ramp = np.arange(1, 4001, dtype=np.float32)
        soundfile.write(path, ramp, RATE, "FLOAT")
        yield path


STRETCHES = st.lists(
    st.tuples(st.integers(0, 3900), st.integers(20, 4000)),
    min_size=1,
    max_size=9,
).map(lambda rows: [(a, min(a + n, 4000)) for a, n in rows])


def dataset(ramp, stretches, **options):
    folder = ramp.parent
    table = pd.DataFrame(stretches, columns=["start", "stop"])
    table["ID"] = [f"{i:02}" for i in range(len(table))]
    table["duration"] = (table["stop"] - table["start"]) / RATE
    table["wav"] = str(ramp)
    write_manifest(folder / "ramp.csv", table)
    return MultiCropDataset(
        folder / "ramp.csv",
        global_seconds=0.05,
        local_seconds=0.02,
        sample_rate=RATE,
        **options,
    )


@given(STRETCHES, st.integers(1, 3), st.integers(1, 2), st.integers(0, 99))
def test_an_epoch_has_each_utterance_once_and_crops_stay_inside(
    ramp, stretches, passes, speeds, epoch
):
    data = dataset(
        ramp, stretches, passes_per_epoch=passes, speeds=[1.0, 0.8][:speeds]
    )
    data.set_epoch(epoch)
    loader = DataLoader(data, shuffle=True, collate_fn=list)
    items = [item for (item,) in loader]
    drawn = sorted(item["sample"] for item in items)
    assert drawn == sorted([*range(len(stretches) * speeds)] * passes)
    for item in items:
        turn, row = divmod(item["sample"], len(stretches))
        start, stop = stretches[row]
        assert item["id"] == f"{row:02}"
        assert not item["problem"]
        for crops, length in [("globals", 400), ("locals", 160)]:
            assert item[crops].shape[1] == length
            if turn == 0:
                positions = item[crops].round().int()
                assert positions.min() > start
                assert positions.max() <= stop


@given(STRETCHES, st.integers(1, 40), st.integers(1, 9), st.integers(1, 2))
def test_epochs_of_any_length_go_on_where_the_last_has_ended(
    ramp, stretches, size, epochs, speeds
):
    """Each sample equally often, but for the last time through; a resume,
    another data set, draws the same."""
    options = {
        "samples_per_epoch": size,
        "passes_per_epoch": 4,
        "speeds": [1.0, 0.8][:speeds],
    }
    data = dataset(ramp, stretches, **options)
    size = min(size, 4 * data.samples)
    drawn = []
    for epoch in range(1, epochs + 1):
        data.set_epoch(epoch)
        items = [item for (item,) in DataLoader(data, collate_fn=list)]
        drawn += [item["sample"] for item in items]
        assert len(items) == len(data) == size
    counts = np.bincount(drawn, minlength=data.samples)
    assert len(counts) == len(stretches) * speeds
    assert np.ptp(counts) <= 1
    resumed = dataset(ramp, stretches, **options)
    resumed.set_epoch(epochs)
    assert resumed[size - 1]["sample"] == drawn[-1]


@given(
    st.lists(st.integers(-1, 3), min_size=1, max_size=12),
    st.integers(1, 6),
    st.integers(0, 99),
)
def test_crops_come_from_distinct_utterances_of_the_cluster(
    ramp, labels, utterances, epoch
):
    # Each utterance has values of its own
    stretches = [(300 * i, 300 * (i + 1)) for i in range(len(labels))]
    data = dataset(ramp, stretches, sampling=ClusterSampling(utterances))
    data.sampling.set_clusters(labels)
    data.set_epoch(epoch)
    for row, label in enumerate(labels):
        item = data[row]
        crops = [*item["globals"], *item["locals"]]
        rows = {int((crop.min().item() - 1) // 300) for crop in crops}
        cluster = {row} | {
            other
            for other, its in enumerate(labels)
            if its == label and label >= 0
        }
        assert row in rows
        assert rows <= cluster
        assert len(rows) == min(utterances, len(cluster))
