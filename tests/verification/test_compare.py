import json

import numpy as np
import pytest

from speechbrain_cadino.verification.compare import compare, format_comparison
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.scoring import write_scores
from speechbrain_cadino.verification.trials import read_trials


@pytest.fixture
def folder(tmp_path):
    """Trials among 12 speakers; a good, a bad and a mirrored good system."""
    files = [f"id{i // 4}/{i}.wav" for i in range(48)]
    lines = [
        f"{int(a.split('/')[0] == b.split('/')[0])} {a} {b}\n"
        for i, a in enumerate(files)
        for b in files[:i]
    ]
    (tmp_path / "trials.txt").write_text("".join(lines))
    trials = read_trials(tmp_path / "trials.txt")
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((2, len(trials)))
    good = noise[0] + 3 * trials["target"]
    write_scores(tmp_path / "good.txt", trials, good)
    write_scores(tmp_path / "bad.txt", trials, noise[1] + trials["target"])
    write_scores(tmp_path / "same.txt", trials, 2 * good + 1)
    return tmp_path


def test_which_is_better(folder):
    names = ["good", "bad", "same"]
    results = compare(
        folder / "trials.txt",
        {name: folder / f"{name}.txt" for name in names},
        replicates=200,
        folder=folder,
    )
    targets = read_trials(folder / "trials.txt")["target"]
    for name in names:
        scores = np.loadtxt(folder / f"{name}.txt", usecols=2)
        expected = summary(scores, targets)
        found = results["systems"][name]
        assert {key: found[key] for key in expected} == expected
    bad = results["differences"]["bad"]["eer"]
    assert bad["interval"][0] > 0
    assert bad["p_value"] < 0.03
    same = results["differences"]["same"]["eer"]
    assert (same["difference"], same["p_value"]) == (0, 1)
    text = format_comparison(results)
    assert "EER minus that of good" in text
    *_, worse, same = text.splitlines()
    assert same.startswith("same   +0.00 [0.00, 0.00]  p = 1.0")
    assert same.endswith("  not sure")
    assert worse.endswith("  surely worse")
    written = json.loads((folder / "comparison.json").read_text())
    assert written["speakers"] == 12
    assert (folder / "det.png").stat().st_size > 10_000


def test_distances_are_warned_of(folder, caplog):
    lines = (folder / "good.txt").read_text().split("\n")
    fields = [line.split() for line in lines if line]
    turned = [f"{enrol} {test} {-float(s)}\n" for enrol, test, s in fields]
    (folder / "turned.txt").write_text("".join(turned))
    for name, told in [("good", False), ("turned", True)]:
        caplog.clear()
        compare(folder / "trials.txt", {name: folder / f"{name}.txt"})
        assert ("are these distances?" in caplog.text) == told


def test_trials_of_one_kind_tell_no_errors(folder, recwarn):
    lines = (folder / "trials.txt").read_text().splitlines(keepends=True)
    kind = [line for line in lines if line.startswith("1")]
    (folder / "one.txt").write_text("".join(kind))
    trials = read_trials(folder / "one.txt")
    write_scores(folder / "good.txt", trials, np.linspace(0, 1, len(trials)))
    with pytest.raises(ValueError, match=r"one\.txt holds target trials only"):
        compare(folder / "one.txt", {"good": folder / "good.txt"})
    assert not recwarn.list


def test_scores_of_another_list(folder):
    (folder / "other.txt").write_text("x y 1\n")
    with pytest.raises(ValueError, match=r"other.txt has no score for 1128"):
        compare(folder / "trials.txt", {"other": folder / "other.txt"})
