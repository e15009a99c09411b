import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.results import (
    Assessor,
    format_results,
    read_groups,
    trial_groups,
    write_results,
)
from speechbrain_cadino.verification.trials import read_trials

# Tab-separated, as VoxCeleb's vox1_meta.csv is
META = "VoxCeleb1 ID\tName\tGender\nid0\tAnna\tf\nid1\tBert\tm\nid2\tEva\tf\n"


@pytest.fixture(scope="module")
def trials():
    """All pairs of four files each of three speakers."""
    files = [f"id{i // 4}/{i}.wav" for i in range(12)]
    pairs = [(a, b) for i, a in enumerate(files) for b in files[:i]]
    table = pd.DataFrame(pairs, columns=["enrol", "test"])
    table["target"] = table["enrol"].str[:3] == table["test"].str[:3]
    return table


@pytest.fixture(scope="module")
def scores(trials):
    rng = np.random.default_rng(0)
    return rng.standard_normal(len(trials)) + trials["target"].to_numpy()


def test_groups_of_a_table(trials, scores, tmp_path):
    (tmp_path / "meta.csv").write_text(META)
    figures = Assessor(trials, groups=tmp_path / "meta.csv")([*scores])
    # One voice alone, by name or being the one man, has no non-target trials.
    assert list(figures["groups"]) == ["Gender=f"]
    rows = ~(
        trials["enrol"].str.startswith("id1")
        | trials["test"].str.startswith("id1")
    ).to_numpy()
    found = figures["groups"]["Gender=f"]
    assert found["trials"] == rows.sum() == 28
    assert found["targets"] == 12
    expected = summary(scores[rows], trials["target"][rows])
    assert {key: found[key] for key in expected} == expected


def test_an_empty_field_is_no_group(trials):
    table = pd.DataFrame({"Gender": ["f", "", ""]})
    table.index = ["id0", "id1", "id2"]
    assert [*trial_groups(trials, table.assign(Gender=["", "f", "f"]))] == [
        "Gender=f"
    ]
    assert not trial_groups(trials, table)


@pytest.mark.parametrize("prior", [5, 0, 1, "low", True])
def test_a_prior_that_is_none_is_refused_before_the_scores(trials, prior):
    with pytest.raises(ValueError, match=f"operating_points: {prior} is no"):
        Assessor(trials, operating_points=[0.01, prior])


def test_groups_by_file_and_in_the_list_itself(trials, tmp_path):
    table = pd.DataFrame({"noise": ["yes", "no"] * 6})
    table.index = [f"id{i // 4}/{i}.wav" for i in range(12)]
    groups = trial_groups(trials, table)
    assert {name: rows.sum() for name, rows in groups.items()} == {
        "noise=no": 15,
        "noise=yes": 15,
    }
    text = "1 a/1 a/2 easy\n0 a/1 b/1 easy\n1 a/1 a/3 odd\n"
    (tmp_path / "trials.txt").write_text(text)
    listed = read_trials(tmp_path / "trials.txt")
    groups = trial_groups(listed)
    assert {name: rows.tolist() for name, rows in groups.items()} == {
        "easy": [True, True, False]
    }


@pytest.mark.parametrize(
    "names",
    [
        ["wav/a\u0308/1.wav", "./b/1.wav"],
        ["a\u0308/1", "b/1"],
        ["\xe4/1", "b/1"],
    ],
)
@pytest.mark.parametrize(
    "index",
    [["a\u0308", "b"], ["\xe4", "b"], ["\xe4/1.flac", "b/1.flac"]],
)
def test_groups_of_files_however_they_are_spelled(names, index):
    trials = pd.DataFrame(
        [(True, names[0], names[0]), (False, *names)],
        columns=["target", "enrol", "test"],
    )
    table = pd.DataFrame({"sex": ["f", "f"]}, index=index)
    (rows,) = trial_groups(trials, table).values()
    assert rows.tolist() == [True, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID\nid0\n", "at least one more column; it has ID"),
        ("ID;Gender\nid0;f\n", "it has semicolons between ID Gender"),
        ("ID,a\nid0,x\nid0,y\n", "one line for each"),
        ("", "not a readable CSV"),
    ],
)
def test_a_table_that_is_none(text, message, tmp_path):
    (tmp_path / "groups.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_groups(tmp_path / "groups.csv")


@pytest.mark.parametrize("separator", [", ", "\t", ","])
def test_tables_that_went_through_other_hands(separator, tmp_path):
    rows = [["VoxCeleb1 ID", "Gender"], ["id1", "f "], ["id2", "m"]]
    text = "\ufeff" + "\r\n".join(separator.join(row) for row in rows)
    (tmp_path / "groups.csv").write_text(text, encoding="utf-8")
    table = read_groups(tmp_path / "groups.csv")
    assert table["Gender"].to_dict() == {"id1": "f", "id2": "m"}


def test_tables_that_do_not_fit(trials, tmp_path):
    with pytest.raises(FileNotFoundError, match="No table of groups"):
        read_groups(tmp_path / "groups.csv")
    table = pd.DataFrame({"Gender": ["f"]}, index=["somebody"])
    with pytest.raises(ValueError, match=r"knows neither id0/1\.wav nor id0"):
        trial_groups(trials, table)


def test_each_system_has_the_lines_of_its_own_groups(trials):
    groups = pd.DataFrame({"Gender": list("ffm")}, index=["id0", "id1", "id2"])
    path = {"good": 3.0, "bad": 0.0}
    rng = np.random.default_rng(1)
    assess = Assessor(trials)
    assess.groups = trial_groups(trials, groups)
    systems = {
        name: assess(rng.standard_normal(len(trials)) + by * trials["target"])
        for name, by in path.items()
    }
    results = {"trials": 66, "targets": 18, "systems": systems}
    lines = format_results(results).splitlines()[2:]
    assert len(lines) == 4
    for place, (name, figures) in enumerate(systems.items()):
        whole, group = lines[2 * place : 2 * place + 2]
        assert whole.split()[:2] == [name, f"{figures['eer']:.2f}"]
        of_group = figures["groups"]["Gender=f"]["eer"]
        assert group.split()[:3] == ["Gender=f", "(28)", f"{of_group:.2f}"]
    first, second = (systems[name]["groups"]["Gender=f"] for name in systems)
    assert first["eer"] != second["eer"]


def test_scores_of_another_run_do_not_stay(trials, scores, tmp_path):
    assess = Assessor(trials)
    both = {"encoder": scores, "encoder+mean": scores}
    write_results(tmp_path, assess, both)
    (tmp_path / "scores_mine.txt").touch()
    write_results(tmp_path, assess, {"encoder": -scores})
    assert sorted(path.name for path in tmp_path.glob("scores_*")) == [
        "scores_encoder.txt",
        "scores_mine.txt",
    ]


def test_files_and_table(trials, scores, tmp_path):
    systems = {"encoder": scores, "encoder+calibrated": scores}
    with pytest.raises(ValueError, match="replicates=-1: give 0 or more"):
        Assessor(trials, replicates=-1)
    assess = Assessor(trials, replicates=30, operating_points=[0.1])
    results = write_results(
        tmp_path, assess, systems, {"encoder": {"note": {"a": 1}}}
    )
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == [
        "det.png",
        "metrics.json",
        "scores.png",
        "scores_encoder+calibrated.txt",
        "scores_encoder.txt",
    ]
    head, header, plain, calibrated = format_results(results).splitlines()
    assert head.endswith("[95% intervals] over 3 speakers")
    for column in ["EER %", "minDCF(0.1)", "actDCF(0.1)", "Cllr", "minCllr"]:
        assert column in header
    figures = results["systems"]["encoder+calibrated"]
    low, high = figures["intervals"]["eer"]
    assert f"{figures['eer']:.2f} [{low:.1f}, {high:.1f}]" in calibrated
    assert calibrated.endswith(
        "{:.4f} [{:.3f}, {:.3f}]".format(
            figures["min_cllr"], *figures["intervals"]["min_cllr"]
        )
    ), calibrated
    # Only calibrated scores have these.
    assert plain.split()[-3:] == ["-"] * 3
    assert results["systems"]["encoder"]["note"] == {"a": 1}


def test_the_number_of_speakers_is_that_of_the_intervals(trials, tmp_path):
    """Impostors without a folder are each a speaker, and of none are there
    target trials."""
    strange = trials[~trials["target"]].copy()
    strange["test"] = [f"{row}.wav" for row in range(len(strange))]
    more = pd.concat([trials, strange], ignore_index=True)
    scores = np.random.default_rng(0).standard_normal(len(more))
    assess = Assessor(more, replicates=30)
    results = write_results(tmp_path, assess, {"encoder": scores + more.target})
    assert results["speakers"] == 3


def test_too_few_speakers_for_intervals(trials, caplog):
    two = trials[~trials["enrol"].str.startswith("id2")]
    assess = Assessor(two, replicates=30)
    assert "No intervals: Target trials of 2 speaker(s)" in caplog.text
    assert "intervals" not in assess(np.arange(len(two)))


def test_what_is_wrong_with_a_table_of_tabs_is_said_of_tabs(tmp_path):
    (tmp_path / "meta.csv").write_text("ID\tGender\nid1\tf\tm\n")
    with pytest.raises(ValueError, match=r"line 2 has 3 fields.* a tab too"):
        read_groups(tmp_path / "meta.csv")
