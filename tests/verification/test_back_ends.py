"""Back-ends, and what they learn of a training set."""

import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.dataio.manifest import write_manifest
from speechbrain_cadino.embeddings.coral import Coral
from speechbrain_cadino.embeddings.whitening import Whitening
from speechbrain_cadino.verification.back_ends import BackEnds, Background
from speechbrain_cadino.verification.scoring import PLDA, trial_scores


class Numbers:
    """The embedding of an utterance is its number; one cannot be read."""

    mean = None

    def replace(self, **options):
        # Whole utterances, also where segments are compared
        assert options["segment_seconds"] is None
        return self

    def extract(self, folder, table):
        embeddings = table["ID"].str[1:].to_numpy(np.float32)[:, None]
        return list(table["ID"]), np.where(embeddings == 3, np.nan, embeddings)


def test_each_utterance_that_stands_for_its_cluster_keeps_its_label(tmp_path):
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(list("abcd"), [7, 1, 5, 3]))
    rows = [
        (f"u{i}", 1.0, f"/x/{i}.wav", 0, 16000, label)
        for i, label in enumerate(labels)
    ]
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    path = tmp_path / "pseudo_labels.csv"
    write_manifest(path, pd.DataFrame(rows, columns=columns))
    background = Background(path, utterances_per_cluster=2)
    read = background.read(True, "as_norm")
    embeddings, found = background.embed(Numbers(), tmp_path, *read)
    numbers = embeddings[:, 0].astype(int)
    assert found.tolist() == labels[numbers].tolist()
    assert 3 not in numbers
    assert 5 <= len(numbers) <= 7
    assert pd.Series(found).value_counts().max() == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("plda", "1 dimensions cannot be trained .* Raise utterances_per_clu"),
        ("as_norm", "A cohort of 1 cluster"),
    ],
)
def test_what_is_too_small_shows_before_trials_are_embedded(
    tmp_path, name, said
):
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    rows = [(f"u{i}", 1.0, f"/x/{i}.wav", 0, 16000, "a") for i in range(9)]
    path = tmp_path / "pseudo_labels.csv"
    write_manifest(path, pd.DataFrame(rows, columns=columns))
    background = Background(path, utterances_per_cluster=1)
    with pytest.raises(ValueError, match=said):
        BackEnds(["cosine", name]).prepare(Numbers(), background, tmp_path)


@pytest.mark.parametrize(
    "options", [{"names": []}, {"names": ["as_norm"], "top_cohort": 1}]
)
def test_what_scores_nothing_is_refused(options):
    with pytest.raises(ValueError, match="1 back-end or more, and 2 or more"):
        BackEnds(**options)


def test_coral_learns_from_target_and_source(tmp_path):
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    paths = [tmp_path / "target.csv", tmp_path / "source.csv"]
    for path, first in zip(paths, (10, 20)):
        rows = [
            (f"u{first + i}", 1.0, f"/x/{i}.wav", 0, 16000, "ab"[i % 2])
            for i in range(5)
        ]
        write_manifest(path, pd.DataFrame(rows, columns=columns))
    back_ends = BackEnds(["coral"])
    target, source = map(Background, paths)
    back_ends.prepare(Numbers(), target, tmp_path / "training_set", source)
    (back_end,) = back_ends
    sides = np.array([[11.0], [14.0], [30.0]], np.float32)
    scores = back_ends.scores(back_end, sides, [0, 1], [1, 2])
    np.testing.assert_allclose(scores, [-1, 1])  # around the target's mean
    assert back_ends.source[:, 0].tolist() == [20, 21, 22, 23, 24]


@pytest.mark.parametrize("name", ["coral+plda", "coral+plda+s_norm"])
def test_plda_after_coral_learns_from_the_source(name):
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 40
    points = rng.standard_normal((2, 40, 4))[:, labels] * [5.0, 1, 1, 0.2]
    points += 0.3 * rng.standard_normal((2, 200, 4)) + 1
    target, source = points @ np.diag([1.0, 2, 3, 4]), points[1]
    target = target[0]
    sides = rng.standard_normal((20, 4))
    enrol, test = np.arange(10), np.arange(10, 20)
    back_ends = BackEnds([name], plda_rank=3)
    back_ends.learn(
        embeddings=target, labels=labels, source=source, source_labels=labels
    )
    (back_end,) = back_ends
    scores = back_ends.scores(back_end, sides, enrol, test)
    plda = PLDA(source - source.mean(0), labels, rank=3)
    coral = Coral().fit(target, source)
    expected = trial_scores(plda(coral.transform(sides)), enrol, test)
    if "s_norm" in back_end:
        cohort = coral.transform(target)
        units = cohort / np.linalg.norm(cohort, axis=1, keepdims=True)
        cohort = [units[labels == label].mean(0) for label in range(40)]
        expected = np.mean(
            [
                above(plda, coral.transform(sides[side]), cohort, expected)
                for side in (enrol, test)
            ],
            axis=0,
        )
    np.testing.assert_allclose(scores, expected, rtol=1e-3, atol=1e-3)


def above(scorer, points, cohort, scores):
    """How far scores lie above those of a cohort with the one side of each."""
    found = []
    for point, score in zip(points, scores):
        pairs = [scorer(np.stack([point, mean])) for mean in cohort]
        those = [trial_scores(pair, [0], [1])[0] for pair in pairs]
        found.append((score - np.mean(those)) / np.std(those))
    return found


@pytest.mark.parametrize("name", ["plda", "whiten+plda", "plda+s_norm"])
def test_plda_learns_from_what_is_scored(name):
    rng = np.random.default_rng(1)
    labels = np.arange(200) % 40
    scale = np.array([5.0, 1, 1, 0.2])
    training = rng.standard_normal((40, 4))[labels] * scale + 1
    training += 0.3 * rng.standard_normal((200, 4))
    sides = rng.standard_normal((20, 4))
    enrol, test = np.arange(10), np.arange(10, 20)
    back_ends = BackEnds([name], whitening=1.0, plda_rank=3)
    back_ends.learn(embeddings=training, labels=labels)
    (back_end,) = back_ends
    scores = back_ends.scores(back_end, sides, enrol, test)
    change = lambda embeddings: embeddings  # noqa: E731
    if "whiten" in back_end:
        change = Whitening(1.0).fit(training).transform
    plda = PLDA(change(training), labels, rank=3)
    expected = trial_scores(plda(change(sides)), enrol, test)
    if "s_norm" in back_end:
        units = training / np.linalg.norm(training, axis=1, keepdims=True)
        cohort = [units[labels == label].mean(0) for label in range(40)]
        expected = np.mean(
            [
                above(plda, sides[side], cohort, expected)
                for side in (enrol, test)
            ],
            axis=0,
        )
    np.testing.assert_allclose(scores, expected, rtol=1e-4, atol=1e-4)
