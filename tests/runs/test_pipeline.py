"""Stand-ins for the scripts, as real processes, chained, killed, resumed."""

import base64
import contextlib
import errno
import fcntl
import html
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import forked
import pytest
from hyperpyyaml import load_hyperpyyaml
from PIL import Image
from recipe import RECIPE

import speechbrain as sb
from speechbrain_cadino.config.flags import read_flags
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.runs import pipeline
from speechbrain_cadino.runs import plan as pipeline_plan
from speechbrain_cadino.runs import steps as pipeline_steps
from speechbrain_cadino.runs.page import PLOT_MEANINGS
from speechbrain_cadino.runs.report import Stage, format_report, write_report

ROOT = pathlib.Path(__file__).parents[2]
NAMES = ["chromium", "chromium-browser", "google-chrome"]
BROWSER = next(filter(None, map(shutil.which, NAMES)), None)

# Notes how it was called; writes the files that the next one needs. In the
# data folder, a file hold_<stage> makes it wait, fail_<stage> makes it fail.
STAND_IN = """
import json, os, pathlib, signal, sys, time

flags = dict(flag[2:].split("=", 1) for flag in sys.argv[2:])
folder = pathlib.Path(flags.get("output_folder") or flags["run_folder"])
folder.mkdir(parents=True, exist_ok=True)
data = pathlib.Path(flags.get("data_folder", "."))
if (data / "stubborn").exists():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
script = pathlib.Path(sys.argv[0]).stem
with open(folder / f"{script}.calls", "a") as file:
    rank = os.environ.get("RANK")
    call = {"flags": flags, "pid": os.getpid(), "rank": rank}
    call["held"] = os.environ.get("SPEECHBRAIN_CADINO_HELD")
    call["threads"] = os.environ.get("OMP_NUM_THREADS")
    print(json.dumps(call), file=file, flush=True)
(folder / "log.txt").touch()
while (data / f"hold_{folder.name}").exists():
    time.sleep(0.01)
if (data / f"fail_{folder.name}").exists():
    sys.exit(3)
if script == "pseudo_label":
    labels = "ID,duration,wav,start,stop,spk_id\\na,1,a.wav,0,16000,0\\n"
    (folder / "pseudo_labels.csv").write_text(labels)
"""

YAMLS = {
    "dino.yaml": """
        seed: 1
        data_folder: !PLACEHOLDER
        output_folder: !PLACEHOLDER
        train_manifest: !ref <output_folder>/save/train.csv
        number_of_epochs: 2
        schedule: !new:collections.Counter {epochs: !ref <number_of_epochs>}
        num_workers: 4
        precision: fp32
        convert_folder: null
        trials: null
        trials_folder: !ref <data_folder>
        """,
    "label.yaml": """
        seed: 1
        data_folder: null
        output_folder: !PLACEHOLDER
        encoder: !PLACEHOLDER
        manifest: !PLACEHOLDER
        speakers: null
        num_clusters: 7
        """,
    "gated.yaml": """
        seed: 1
        data_folder: !PLACEHOLDER
        output_folder: !PLACEHOLDER
        train_manifest: !PLACEHOLDER
        start_encoder: null
        start_classifier: null
        lr: 0.1
        trials: null
        trials_folder: !ref <data_folder>
        """,
    "report_gate.yaml": """
        run_folder: !PLACEHOLDER
        manifest: !PLACEHOLDER
        speakers: !PLACEHOLDER
        """,
    "filter.yaml": """
        data_folder: null
        output_folder: !PLACEHOLDER
        encoder: !PLACEHOLDER
        manifest: !PLACEHOLDER
        """,
    "verify.yaml": """
        encoder: !PLACEHOLDER
        trials: !PLACEHOLDER
        data_folder: !PLACEHOLDER
        output_folder: !PLACEHOLDER
        train_manifest: null
        train_data_folder: null
        speakers: null
        """,
    "full.yaml": """
        seed: 5
        output_folder: !PLACEHOLDER
        data_folder: !PLACEHOLDER
        convert_folder: null
        noise_folder: null
        rir_folder: null
        trials: null
        trials_folder: null
        precision: fp32
        speakers: null
        processes: 1
        iterations: 1
        least_growth: null
        stage_1: {hparams: dino.yaml}
        filter: null
        unfiltered: null
        pseudo_label: {hparams: label.yaml}
        dlg_lc: {hparams: gated.yaml, lr: 0.2}
        large_margin: null
        report_gate: {hparams: report_gate.yaml}
        verify: {hparams: verify.yaml}
        plan: !name:speechbrain_cadino.runs.plan.Plan
        """,
}


@pytest.fixture
def recipe(tmp_path):
    """A folder of stand-ins, with data, and with the real run_pipeline.py."""
    folder = tmp_path / "recipe"
    (folder / "hparams").mkdir(parents=True)
    (folder / "data").mkdir()
    for script in [
        "train_dino",
        "pseudo_label",
        "train_dlg_lc",
        "report_gate",
        "verify",
        "filter_manifest",
    ]:
        (folder / f"{script}.py").write_text(STAND_IN)
    for name, text in YAMLS.items():
        (folder / "hparams" / name).write_text(textwrap.dedent(text))
    shutil.copy(RECIPE / "run_pipeline.py", folder)
    return folder


def arguments(recipe, **flags):
    flags = {
        "output_folder": recipe / "out",
        "data_folder": recipe / "data",
        **flags,
    }
    return [
        str(recipe / "hparams" / "full.yaml"),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def plan(recipe, **flags):
    path, run_opts, overrides = parse_arguments(arguments(recipe, **flags))
    with open(path, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    return pipeline_plan.plan(hparams, recipe / "hparams", recipe, run_opts)


def run(recipe, **flags):
    """As run_pipeline.py does, in this process."""
    folder = flags.get("output_folder", recipe / "out")
    steps = plan(recipe, **flags)
    with locked(folder, pipeline.LOCK_SECONDS) as lock:
        pipeline.check(steps)
        pipeline.run(folder, steps, lock, lambda: plan(recipe, **flags))


def calls(folder):
    """How often each script was called in each folder, and with what."""
    return {
        str(path.relative_to(folder).with_suffix("")): [
            json.loads(line) for line in path.read_text().splitlines()
        ]
        for path in sorted(folder.rglob("*.calls"))
    }


def counts(folder):
    return {name: len(found) for name, found in calls(folder).items()}


@pytest.fixture
def full(recipe):
    """Flags for a pipeline of all steps; its YAML has large_margin."""
    path = recipe / "hparams" / "full.yaml"
    entry = "large_margin: {hparams: gated.yaml}"
    path.write_text(path.read_text().replace("large_margin: null", entry))
    (recipe / "true.csv").write_text("ID,spk_id\na,anna\n")
    return {
        "iterations": 2,
        "trials": "list.txt",
        "trials_folder": "/test",
        "speakers": f"{recipe}/true.csv",
    }


def test_each_script_gets_what_the_one_before_made(recipe, full):
    run(recipe, **full)
    out = recipe / "out"
    found = calls(out)
    flags = {name: calls_[0]["flags"] for name, calls_ in found.items()}
    common = {"seed": "5", "data_folder": str(recipe / "data")}
    trials = {"trials": "list.txt", "trials_folder": "/test"}
    first, second = out / "iteration_1", out / "iteration_2"
    assert flags == {
        "stage_1/train_dino": {
            **common,
            **trials,
            "precision": "fp32",
            "output_folder": str(out / "stage_1"),
        },
        "iteration_1/labels/pseudo_label": {
            **common,
            "encoder": str(out / "stage_1" / "encoder"),
            "manifest": str(out / "stage_1" / "save" / "train.csv"),
            "speakers": f"{recipe}/true.csv",
            "output_folder": str(first / "labels"),
        },
        "iteration_1/train/train_dlg_lc": {
            **common,
            **trials,
            "train_manifest": str(first / "labels" / "pseudo_labels.csv"),
            "start_encoder": str(out / "stage_1" / "encoder"),
            "output_folder": str(first / "train"),
            "lr": "0.2",
        },
        "iteration_1/train/report_gate": {
            "run_folder": str(first / "train"),
            "manifest": str(first / "labels" / "pseudo_labels.csv"),
            "speakers": f"{recipe}/true.csv",
        },
        "iteration_2/labels/pseudo_label": {
            **common,
            "encoder": str(first / "train" / "encoder"),
            "manifest": str(out / "stage_1" / "save" / "train.csv"),
            "speakers": f"{recipe}/true.csv",
            "output_folder": str(second / "labels"),
        },
        "iteration_2/train/train_dlg_lc": {
            **common,
            **trials,
            "train_manifest": str(second / "labels" / "pseudo_labels.csv"),
            "start_encoder": str(first / "train" / "encoder"),
            "output_folder": str(second / "train"),
            "lr": "0.2",
        },
        "iteration_2/train/report_gate": {
            "run_folder": str(second / "train"),
            "manifest": str(second / "labels" / "pseudo_labels.csv"),
            "speakers": f"{recipe}/true.csv",
        },
        "large_margin/train_dlg_lc": {
            **common,
            **trials,
            "train_manifest": str(second / "labels" / "pseudo_labels.csv"),
            "start_encoder": str(second / "train" / "encoder"),
            "start_classifier": str(second / "train" / "classifier.ckpt"),
            "output_folder": str(out / "large_margin"),
        },
        "large_margin/report_gate": {
            "run_folder": str(out / "large_margin"),
            "manifest": str(second / "labels" / "pseudo_labels.csv"),
            "speakers": f"{recipe}/true.csv",
        },
        "verify/verify": {
            "data_folder": "/test",
            "trials": "list.txt",
            "encoder": str(out / "large_margin" / "encoder"),
            "output_folder": str(out / "verify"),
            "train_manifest": str(second / "labels" / "pseudo_labels.csv"),
            "train_data_folder": str(recipe / "data"),
        },
    }
    # Nothing twice
    run(recipe, **full)
    assert calls(out) == found


def test_an_entry_has_the_last_word(recipe):
    run(
        recipe,
        dlg_lc="{start_encoder: null}",
        stage_1='{schedule: {"a b": "**"}, ckpt_interval_steps: 3}',
        device="cpu",
    )
    found = calls(recipe / "out")
    (call,) = found["iteration_1/train/train_dlg_lc"]
    assert call["flags"]["start_encoder"] == "null"
    (call,) = found["stage_1/train_dino"]
    assert call["flags"]["schedule"] == '{"a b": "**"}'
    assert call["flags"]["ckpt_interval_steps"] == "3"
    # A run option of the pipeline goes to every script.
    assert {call["flags"]["device"] for (call,) in found.values()} == {"cpu"}


@pytest.mark.parametrize(
    "value",
    [
        "a/b c.txt",
        "**/*",
        "null",
        "12",
        "",
        "a: b",
        "#",
        "!x",
        "*a",
        "\U0001f600",
        ["/data/\U0001f600", "/data/é"],
        None,
        True,
        12,
        0.00001,
        [1.0, None, "*"],
        {"a": {"b": "?"}},
    ],
)
def test_flags_arrive_as_they_were(value):
    flag = pipeline_steps._flag("name", value)
    # In the place of a value of its kind
    defaults = {str: "a text", bool: False, list: [], dict: {}}
    settings = {"name": defaults.get(type(value), 0)}
    assert read_flags([flag], settings) == {"name": value}


def test_switches_of_speechbrain_are_flags_without_a_value():
    flag = pipeline_steps._flag("noprogressbar", True)
    _, run_opts, overrides = sb.parse_arguments(["some.yaml", flag])
    assert run_opts["noprogressbar"] is True
    assert overrides == ""


def test_commands_can_be_copied(recipe, monkeypatch, capfd, caplog):
    """Relative to the working folder, if that is the recipe's."""
    monkeypatch.chdir(recipe)
    caplog.set_level("INFO")
    run(recipe, output_folder="out", data_folder="data")
    (line,) = [
        record.message
        for record in caplog.records
        if record.message.strip().startswith("iteration_1/labels, 2 of 3")
    ]
    _, _, command = line.strip().partition(":\n")
    assert max(map(len, command.splitlines())) <= 80
    words = " ".join(command.replace(" \\\n", " ").split())
    assert " pseudo_label.py hparams/label.yaml --seed=5 " in words
    subprocess.run(command, shell=True, check=True)
    first, second = calls(recipe / "out")["iteration_1/labels/pseudo_label"]
    assert first["flags"] == second["flags"]


def test_a_list_that_a_step_makes_is_the_one_that_is_verified_by(recipe, full):
    """As stage I of the demo does: the next start knows it."""
    made = recipe / "out" / "stage_1" / "log.txt"
    flags = {**full, "trials": made, "speakers": made, "iterations": 1}
    run(recipe, **flags)
    before = counts(recipe / "out")
    run(recipe, **flags)
    assert counts(recipe / "out") == before
    made.write_text("edited")
    run(recipe, **flags)
    assert counts(recipe / "out")["verify/verify"] == 2


def test_pseudo_labels_that_have_settled_end_the_iterations(
    recipe, full, caplog
):
    def why():
        """What is said of it, since the last time."""
        said = [record.message for record in caplog.records]
        caplog.clear()
        return [text for text in said if "(least_growth)" in text]

    caplog.set_level("INFO")
    # The stand-in's never change: those of the third agree no better
    flags = {**full, "iterations": 5, "least_growth": 0.01}
    run(recipe, **flags)
    first = why()
    assert len(first) == 1
    assert first[0].startswith("iteration_3/labels: these pseudo labels agree")
    out = recipe / "out"
    made = calls(out)
    assert "iteration_3/labels/pseudo_label" in made
    assert not any("iteration_3/train" in name for name in made)
    (last,) = made["large_margin/train_dlg_lc"]
    assert last["flags"]["start_encoder"] == f"{out}/iteration_2/train/encoder"
    labels = f"{out}/iteration_2/labels/pseudo_labels.csv"
    assert last["flags"]["train_manifest"] == labels
    rows = json.loads((out / "report.json").read_text())["stages"]
    agreed = {row["name"]: row["agreement"] for row in rows}
    assert agreed["iteration_2"] == agreed["iteration_3"] == 1
    (last,) = made["verify/verify"]
    assert last["flags"]["train_manifest"] == labels
    # The same command does nothing again, and says why it is at its end
    before = counts(out)
    run(recipe, **flags)
    assert counts(out) == before
    assert why() == first


def test_torchrun_starts_the_processes(recipe, monkeypatch):
    """Which share the processors; torchrun by itself gives each of them one."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(
        pipeline, "own_processors", lambda processes: 10 * processes
    )
    run(recipe, processes=2, trials="list.txt")
    ranks = {
        name: sorted(call["rank"] or "none" for call in found)
        for name, found in calls(recipe / "out").items()
    }
    assert ranks == {
        "iteration_1/labels/pseudo_label": ["0", "1"],
        "iteration_1/train/train_dlg_lc": ["0", "1"],
        "stage_1/train_dino": ["0", "1"],
        "verify/verify": ["none"],
    }
    threads = {
        call["threads"] for call in calls(recipe / "out")["stage_1/train_dino"]
    }
    assert threads == {"20"}


def test_a_step_that_fails_is_gone_on_with(recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "UPDATE_SECONDS", 0.1)
    fail = recipe / "data" / "fail_labels"
    fail.touch()
    log = re.escape(str(recipe / "out" / "iteration_1" / "labels" / "log.txt"))
    with pytest.raises(
        ValueError, match=rf"^iteration_1/labels failed \(exit code 3\).* {log}"
    ) as error:
        run(recipe)
    assert "pseudo_label.py" in str(error.value)
    record = recipe / "out" / "iteration_1" / "labels" / "step.json"
    content = json.loads(record.read_text())
    assert content["done"] is False
    # The time of the first attempt counts.
    record.write_text(json.dumps({**content, "seconds": 1000}))
    fail.unlink()
    run(recipe)
    assert json.loads(record.read_text())["done"] is True
    assert 1000 <= json.loads(record.read_text())["seconds"] < 1060
    assert counts(recipe / "out") == {
        "iteration_1/labels/pseudo_label": 2,
        "iteration_1/train/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
    }
    stages = json.loads((recipe / "out" / "report.json").read_text())["stages"]
    assert stages[2]["name"] == "iteration_1"
    assert 1000 <= stages[2]["seconds"] < 1060


def test_a_killed_script_is_named_so(recipe):
    (recipe / "verify.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ValueError, match=r"verify failed \(killed by SIGKILL"):
        run(recipe, trials="list.txt")


def test_a_process_of_torchrun_that_is_killed_is_named_so(recipe):
    """torchrun itself ends with 1, whatever ended its processes."""
    (recipe / "train_dino.py").write_text("import os; os.kill(os.getpid(), 9)")
    with pytest.raises(ValueError, match="names SIGKILL, memory ran out"):
        run(recipe, processes=2)


def test_other_settings_in_flags_are_refused(recipe):
    run(recipe)
    before = counts(recipe / "out")
    for flags, sentence in [
        ({"seed": 6}, "stage_1 was begun with other .* seed was 5, is 6"),
        (
            {"stage_1": "{number_of_epochs: 9}"},
            r"settings: number_of_epochs was 2, is 9\. Take",
        ),
        (
            {"dlg_lc": "{lr: 0.3}"},
            r"^iteration_1/train was .*settings: lr was 0\.2, is 0\.3\. .*"
            r"made anew: \S+/out/iteration_1/train\.$",
        ),
        (
            {"stage_1": "{max_grad_norm: 9}"},
            "max_grad_norm was not there, is 9",
        ),
    ]:
        with pytest.raises(ValueError, match=sentence):
            run(recipe, **flags)
        assert counts(recipe / "out") == before
    run(recipe)


def test_processes_count_while_a_training_is_half_done(recipe):
    fail = recipe / "data" / "fail_train"
    fail.touch()
    with pytest.raises(ValueError, match="iteration_1/train failed"):
        run(recipe)
    (recipe / "out" / "iteration_1" / "train" / "save" / "CKPT+now").mkdir(
        parents=True
    )
    fail.unlink()
    sentence = "^iteration_1/train was .* processes was 1, is 2"
    with pytest.raises(ValueError, match=sentence):
        run(recipe, processes=2)
    run(recipe)
    before = counts(recipe / "out")
    run(recipe, processes=2)
    assert counts(recipe / "out") == before
    assert before["stage_1/train_dino"] == 1


def test_a_disk_that_is_full_for_a_moment_ends_no_step(recipe, monkeypatch):
    """Nor does it hide how a step ended."""
    monkeypatch.setattr(pipeline, "UPDATE_SECONDS", 0.05)
    write = pipeline.write_json
    hold = recipe / "data" / "hold_labels"
    hold.touch()
    full = []

    def write_or_not(path, content):
        if path.parent.name == "labels" and path.is_file() and len(full) < 2:
            full.append(path)
            hold.unlink(missing_ok=True)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(pipeline, "write_json", write_or_not)
    run(recipe)
    assert len(full) == 2
    assert counts(recipe / "out")["iteration_1/labels/pseudo_label"] == 1


def test_a_step_that_was_tried_by_hand_is_refused(recipe):
    """Its settings are not known."""
    checkpoint = recipe / "out" / "stage_1" / "save" / "CKPT+now"
    checkpoint.mkdir(parents=True)
    sentence = r"stage_1 was not begun by this .*: remove \S+/stage_1\."
    with pytest.raises(ValueError, match=sentence):
        run(recipe)
    shutil.rmtree(recipe / "out" / "stage_1")
    run(recipe)


def test_a_labels_step_that_failed_may_be_put_right(recipe):
    """As one that cannot make so many clusters."""
    hold = recipe / "data" / "fail_labels"
    hold.touch()
    with pytest.raises(ValueError, match="iteration_1/labels failed"):
        run(recipe)
    hold.unlink()
    run(recipe, pseudo_label="{num_clusters: 3}")
    made = calls(recipe / "out")["iteration_1/labels/pseudo_label"]
    assert "3" in made[-1]["flags"]["num_clusters"]


def test_other_settings_in_a_yaml_file_are_refused(recipe):
    run(recipe)
    path = recipe / "hparams" / "dino.yaml"
    path.write_text(
        path.read_text().replace(
            "{epochs: !ref <number_of_epochs>}", "{epochs: 3, more: 1}"
        )
    )
    with pytest.raises(
        ValueError,
        match=r"settings: schedule\.epochs was 2, is 3; schedule\.more was not "
        r"there, is 1\. .*stage_1, \S+/iteration_1/labels, \S+/train\.$",
    ):
        run(recipe)


def test_a_pipeline_of_before_there_were_versions_is_refused(recipe):
    run(recipe)
    path = recipe / "out" / "stage_1" / "step.json"
    record = json.loads(path.read_text())
    del record["version"]
    path.write_text(json.dumps(record))
    with pytest.raises(
        ValueError, match=r"stage_1 was begun before .* 0\.2\.0"
    ):
        run(recipe)


def test_settings_that_change_no_result_may_differ(recipe):
    run(recipe)
    before = counts(recipe / "out")
    run(
        recipe,
        stage_1="{num_workers: 0, ckpt_interval_minutes: 1}",
        device="cpu",
    )
    assert counts(recipe / "out") == before


def test_a_key_that_has_come_since_and_is_null_makes_nothing_anew(recipe):
    run(recipe)
    before = counts(recipe / "out")
    for path in (recipe / "out").rglob("step.json"):
        record = json.loads(path.read_text())
        settings = record["settings"]
        gone = [key for key, value in settings.items() if value is None]
        for key in gone:
            del settings[key]
        path.write_text(json.dumps(record))
    assert gone
    run(recipe)
    assert counts(recipe / "out") == before


def test_a_moved_output_folder_goes_on(recipe):
    run(recipe)
    moved = recipe / "elsewhere" / "moved"
    moved.parent.mkdir()
    (recipe / "out").rename(moved)
    run(recipe, output_folder=f"{moved}/", iterations=2)
    assert counts(moved) == {
        "iteration_1/labels/pseudo_label": 1,
        "iteration_1/train/train_dlg_lc": 1,
        "iteration_2/labels/pseudo_label": 1,
        "iteration_2/train/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
    }
    (call,) = calls(moved)["iteration_2/labels/pseudo_label"]
    assert call["flags"]["encoder"] == str(
        moved / "iteration_1" / "train" / "encoder"
    )


def test_a_folder_that_was_removed_is_made_anew_with_all_after_it(recipe, full):
    flags = {**full, "iterations": 1}
    run(recipe, **flags)
    out = recipe / "out"
    shutil.rmtree(out / "iteration_1" / "labels")
    later = [out / "iteration_1" / "train", out / "large_margin"]
    with pytest.raises(
        ValueError,
        match=r"^iteration_1/labels is to be made anew.*: remove "
        rf"{later[0]}, {later[1]}\.$",
    ):
        run(recipe, **flags)
    for folder in later:
        shutil.rmtree(folder)
    run(recipe, **flags)
    assert counts(out) == {
        "iteration_1/labels/pseudo_label": 1,
        "iteration_1/train/report_gate": 1,
        "iteration_1/train/train_dlg_lc": 1,
        "large_margin/report_gate": 1,
        "large_margin/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
        # Scores another encoder now, though of the same path
        "verify/verify": 2,
    }


def test_one_more_iteration_and_another_trial_list(recipe):
    run(recipe, trials="list.txt")
    run(recipe, trials="list.txt", iterations=2)
    found = calls(recipe / "out")
    assert counts(recipe / "out") == {
        "iteration_1/labels/pseudo_label": 1,
        "iteration_1/train/train_dlg_lc": 1,
        "iteration_2/labels/pseudo_label": 1,
        "iteration_2/train/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
        "verify/verify": 2,
    }
    assert "iteration_2" in found["verify/verify"][1]["flags"]["encoder"]
    # Verified anew only; the trainings followed the list, too, so they differ.
    run(recipe, trials="list.txt", iterations=2, verify="{trials: hard.txt}")
    assert counts(recipe / "out")["verify/verify"] == 3
    with pytest.raises(ValueError, match=r"trials was .*list.*hard"):
        run(recipe, trials="hard.txt", iterations=2)


def test_an_edited_trial_list_is_verified_by_anew(recipe, tmp_path):
    trials = tmp_path / "mine.txt"
    for lines, times in [("1 a b\n", 1), ("1 a b\n", 1), ("0 a c\n", 2)]:
        trials.write_text(lines)
        run(recipe, trials=str(trials))
        done = counts(recipe / "out")
        assert done["verify/verify"] == times
        assert done["stage_1/train_dino"] == 1


def test_other_speakers_are_verified_by_anew(recipe, tmp_path):
    speakers = tmp_path / "who.csv"
    for text, times in [(None, 1), ("ID,spk_id\n", 2), ("ID,spk_id\na,b\n", 3)]:
        own = {}
        if text is not None:
            speakers.write_text(text)
            own = {"verify": f"{{speakers: {speakers}}}"}
        run(recipe, trials="list.txt", **own)
        assert counts(recipe / "out")["verify/verify"] == times


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (
            {"stage_1": "{number_of_epochs: 0}"},
            "number_of_epochs=0: give a whole number, 1 or more",
        ),
        ({"iterations": 0}, "iterations=0: give a whole number, 1 or more"),
        ({"processes": "two"}, "processes=two: give a number"),
        ({"processes": 1.5}, "processes is 1.5"),
        (
            {"dlg_lc": "{hparams: gone.yaml}"},
            r"No hyperparameter file \S+/hparams/gone\.yaml",
        ),
        ({"dlg_lc": "{rl: 1}"}, r"dlg_lc: \S+/gated\.yaml has no rl\."),
        ({"dlg_lc": "null"}, "dlg_lc: give a YAML file"),
        ({"verify": "{output_folder: x}"}, "verify: its output_folder is"),
    ],
)
def test_mistakes_show_before_anything_is_done(recipe, flags, sentence):
    with pytest.raises(ValueError, match=sentence):
        run(recipe, trials="list.txt", **flags)
    assert not (recipe / "out").exists()


def test_two_pipelines_in_one_folder(recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "LOCK_SECONDS", 0.3)
    with locked(recipe / "out"):
        start = time.monotonic()
        with pytest.raises(ValueError, match=r"at work in .*/out: wait"):
            run(recipe)
        assert time.monotonic() - start > 0.3
    run(recipe)
    assert counts(recipe / "out")["stage_1/train_dino"] == 1


def test_a_folder_that_cannot_be_locked(recipe, monkeypatch, caplog):
    def flock(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", flock)
    run(recipe)
    assert "cannot be locked (Function not implemented)" in caplog.text
    assert counts(recipe / "out")["stage_1/train_dino"] == 1


def test_a_yaml_file_that_changes_meanwhile_is_said(recipe, monkeypatch):
    """And not read by the script, and recorded as it was."""
    run_step = pipeline._run_step

    def run_and_pull(folder, steps, step, lock):
        run_step(folder, steps, step, lock)
        if step.name == "iteration_1/train":
            file = recipe / "hparams" / "label.yaml"
            file.write_text(file.read_text().replace("s: 7", "s: 8"))

    flags = {"iterations": 2}
    with monkeypatch.context() as patches:
        patches.setattr(pipeline, "_run_step", run_and_pull)
        with pytest.raises(ValueError, match=r"_2/labels: .*s was 7, is 8"):
            run(recipe, **flags)
    assert "iteration_2/labels/pseudo_label" not in counts(recipe / "out")
    with pytest.raises(ValueError, match=r"_1/labels was begun with other"):
        run(recipe, **flags)


def start(recipe, **flags):
    """The real script, as a process of its own."""
    return forked.start(
        recipe / "run_pipeline.py",
        *arguments(recipe, **flags),
        output=recipe / "output",
    )


def end_of(process):
    """The exit code of a process, and what it said."""
    process.join()
    return process.exitcode, forked.said(process)


def wait_for(condition):
    deadline = time.monotonic() + forked.LONGEST
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_alive(pid):
    """Whether a process runs; one that nobody waits for may be a zombie."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return state.rpartition(")")[2].split()[0] != "Z"


def started_and_held(recipe, name, **flags):
    """A pipeline whose script of this name waits, and that script's pid."""
    (recipe / "data" / f"hold_{name}").touch()
    process = start(recipe, **flags)
    wait_for(lambda: list(recipe.glob(f"out/**/{name}/*.calls")))
    (path,) = recipe.glob(f"out/**/{name}/*.calls")
    wait_for(lambda: path.read_text().endswith("\n"))
    return process, json.loads(path.read_text())["pid"]


def release(recipe):
    for path in (recipe / "data").glob("hold_*"):
        path.unlink()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_killed_it_takes_its_script_along_and_goes_on(recipe):
    process, pid = started_and_held(recipe, "labels")
    process.kill()
    process.join()
    wait_for(lambda: not is_alive(pid))
    release(recipe)
    code, output = end_of(start(recipe))
    assert code == 0, output
    assert counts(recipe / "out") == {
        "iteration_1/labels/pseudo_label": 2,
        "iteration_1/train/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
    }
    assert "stage_1: done before." in output
    assert "report.html" in output
    assert re.search(r"^iteration_1 +1 +1 +\d+\.\d$", output, re.M)
    assert (recipe / "out" / "hyperparams.yaml").is_file()


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_killed_between_two_trainings_the_filter_goes_on(recipe):
    """Stage I on everything, the filter, stage I on what is kept."""
    flags = {"filter": "{hparams: filter.yaml}"}
    process, pid = started_and_held(recipe, "filter", **flags)
    process.kill()
    process.join()
    wait_for(lambda: not is_alive(pid))
    release(recipe)
    code, output = end_of(start(recipe, **flags))
    assert code == 0, output
    out = recipe / "out"
    assert counts(out) == {
        "iteration_1/labels/pseudo_label": 1,
        "iteration_1/train/train_dlg_lc": 1,
        "stage_1/train_dino": 1,
        "unfiltered/filter/filter_manifest": 2,
        "unfiltered/train_dino": 1,
    }
    found = {name: last["flags"] for name, (*_, last) in calls(out).items()}
    assert {c["held"] for cs in calls(out).values() for c in cs} == {
        os.path.realpath(out)
    }
    asked = found["unfiltered/filter/filter_manifest"]
    assert asked["encoder"] == str(out / "unfiltered" / "encoder")
    assert asked["manifest"] == str(out / "unfiltered" / "save" / "train.csv")
    kept = str(out / "unfiltered" / "filter" / "filtered.csv")
    assert found["stage_1/train_dino"]["train_manifest"] == kept
    assert found["iteration_1/labels/pseudo_label"]["manifest"] == kept


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)]
)
def test_asked_to_end_it_ends_with_its_script(recipe, number, code):
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("ignored here, as in a job in a shell's background")
    process, pid = started_and_held(recipe, "labels")
    os.kill(process.pid, number)
    assert end_of(process)[0] == code
    assert not is_alive(pid)
    output = forked.said(process)
    assert "Traceback" not in output
    assert output.splitlines()[-1].endswith(
        f"Ended by {number.name} in iteration_1/labels: the same command goes "
        "on from there."
    )


@pytest.mark.skipif(sys.platform != "linux", reason="prctl is Linux's")
def test_a_script_that_lives_on_keeps_others_away(recipe, monkeypatch):
    monkeypatch.setattr(pipeline, "LOCK_SECONDS", 0.3)
    (recipe / "data" / "stubborn").touch()
    process, pid = started_and_held(recipe, "stage_1")
    process.kill()
    process.join()
    assert is_alive(pid)
    with pytest.raises(ValueError, match="a script that it has started"):
        run(recipe)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    release(recipe)
    run(recipe)
    assert counts(recipe / "out")["stage_1/train_dino"] == 2


def test_the_script_says_what_is_wrong_in_one_sentence(recipe):
    code, output = end_of(start(recipe, dlg_lc="{rl: 1}"))
    assert code == 1
    assert "has no rl" in output
    assert "Traceback" not in output
    assert not (recipe / "out").exists()


def labels(folder, **clusters):
    """A folder of pseudo labels: a string of IDs for each cluster."""
    rows = [
        f"{name},1,{name}.wav,0,16000,{cluster}\n"
        for cluster, names in clusters.items()
        for name in names
    ]
    folder.mkdir(parents=True)
    path = folder / "pseudo_labels.csv"
    path.write_text("ID,duration,wav,start,stop,spk_id\n" + "".join(rows))
    return str(path)


def metrics(folder, **systems):
    folder.mkdir(parents=True, exist_ok=True)
    figures = {
        name: {"eer": eer, "min_dcf_0.01": eer / 20, "min_dcf_0.05": 0}
        for name, eer in systems.items()
    }
    content = {"trials": 9, "targets": 2, "systems": figures}
    (folder / "metrics.json").write_text(json.dumps(content))


@pytest.fixture
def stages(tmp_path):
    """Stage I, two iterations and a fine-tuning that is still to come."""
    metrics(tmp_path / "stage_1", random_encoder=40.0, encoder=10.0)
    (tmp_path / "stage_1" / "train.csv").write_text(
        # With labels of one's own, which stage I trains on none of
        "ID,duration,wav,start,stop,spk_id\n"
        + "".join(f"{name},1,{name}.wav,0,16000,{name}\n" for name in "abcdef")
    )
    first = labels(tmp_path / "iteration_1" / "labels", x="abc", y="def")
    second = labels(tmp_path / "iteration_2" / "labels", p="abcd", q="e")
    report = {"nmi": 0.75, "ami": 0.5, "utterances": 6}
    (tmp_path / "iteration_1" / "labels" / "clusters.json").write_text(
        json.dumps(report)
    )
    plots = tmp_path / "iteration_1" / "labels" / "plots"
    plots.mkdir()
    (plots / "clusters.png").touch()
    metrics(tmp_path / "iteration_1" / "train", encoder=8.0)
    metrics(tmp_path / "iteration_2" / "train", encoder=7.0)
    (tmp_path / "iteration_1" / "train" / "gate.csv").write_text(
        "epoch,gate,reliable,corrected,dropped\n1,inf,9,0,0\n2,0.5,6,1,1\n"
    )
    (tmp_path / "iteration_2" / "train" / "gate.csv").write_text(
        "epoch,gate,reliable,corrected,dropped\n1,inf,9,0,0\n"
    )
    return [
        Stage(
            "stage_1",
            tmp_path / "stage_1",
            str(tmp_path / "stage_1" / "train.csv"),
            60,
        ),
        Stage("iteration_1", tmp_path / "iteration_1" / "train", first, 90),
        Stage("iteration_2", tmp_path / "iteration_2" / "train", second, 30),
        Stage("large_margin", tmp_path / "large_margin", second, None),
    ]


def test_the_report_has_the_figures_of_each_stage(stages, tmp_path):
    rows = write_report(tmp_path, stages)
    assert json.loads((tmp_path / "report.json").read_text()) == {
        "stages": rows
    }
    names = [
        "name",
        "seconds",
        "utterances",
        "clusters",
        "nmi",
        "ami",
        "eer",
        "min_dcf_0.01",
        "agreement",
        "reliable",
    ]
    assert [list(row) for row in rows] == [names] * 5
    # Of a, b, c, d and e: abc de against abcd e. Pairs together in one, in
    # the other and in both, of all: (4, 6, 3, 10).
    expected = 4 * 6 / 10
    agreement = (3 - expected) / ((4 + 6) / 2 - expected)
    unknown = [None] * 5
    assert [list(row.values()) for row in rows] == [
        ["random_encoder", *unknown, 40.0, 2.0, None, None],
        ["stage_1", 60, 6, None, None, None, 10.0, 0.5, None, None],
        ["iteration_1", 90, 6, 2, 0.75, 0.5, 8.0, 0.4, None, 0.75],
        [
            "iteration_2",
            30,
            5,
            2,
            None,
            None,
            7.0,
            0.35,
            pytest.approx(agreement),
            None,
        ],
        ["large_margin", None, 5, 2, None, None, None, None, None, None],
    ]


def test_the_report_for_people(stages, tmp_path):
    rows = write_report(tmp_path, stages)
    text = (tmp_path / "report.md").read_text()
    assert [line for line in text.splitlines() if line[0:1] == "|"] == [
        "| stage | EER % | minDCF | agreement | reliable | AMI | clusters "
        "| utts | min |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| random_encoder | 40.00 | 2.0000 | - | - | - | - | - | - |",
        "| stage_1 | 10.00 | 0.5000 | - | - | - | - | 6 | 1.0 |",
        "| iteration_1 | 8.00 | 0.4000 | - | 0.750 | 0.500 | 2 | 6 | 1.5 |",
        "| iteration_2 | 7.00 | 0.3500 | 0.231 | - | - | 2 | 5 | 0.5 |",
    ]
    links = re.findall(r"\]\((.*?)\)", text)
    assert links == [
        "plots/pipeline.png",
        "iteration_1/labels/plots/clusters.png",
    ]
    assert (tmp_path / "plots" / "pipeline.png").stat().st_size > 10_000
    widths = {len(line) for line in format_report(rows).splitlines()}
    assert len(widths) == 1
    assert max(widths) <= 80


def test_the_report_as_a_page(stages, tmp_path):
    """One file that needs no other, with everything escaped."""
    odd = stages[0]._replace(name="a<script>&amp;")
    write_report(tmp_path, [odd, *stages[1:]])
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "a&lt;script&gt;&amp;amp;" in text
    assert "<script" not in text
    sources = re.findall(r'(?:src|href)="(.*?)[,"]', text)
    assert sources == ["data:image/png;base64"] * 2
    for path in tmp_path.rglob("plots/*.png"):
        assert base64.b64encode(path.read_bytes()).decode() in text
    assert PLOT_MEANINGS["clusters"] in html.unescape(text)


def test_the_report_ends_in_the_last_verification(stages, tmp_path):
    """Which may be by other back-ends than the stages have."""
    plots = tmp_path / "verify" / "plots"
    plots.mkdir(parents=True)
    (plots / "det.png").write_bytes(b"curves")
    figures = {"eer": 3.21, "min_dcf_0.01": 0.5}
    results = {"trials": 20, "targets": 5, "systems": {"as_norm<b>": figures}}
    (tmp_path / "verify" / "metrics.json").write_text(json.dumps(results))
    for last in (None, "verify"):
        write_report(tmp_path, stages, last)
        page = (tmp_path / "report.html").read_text(encoding="utf-8")
        text = (tmp_path / "report.md").read_text(encoding="utf-8")
        assert ("as_norm&lt;b&gt;" in page) == bool(last)
        curves = base64.b64encode(b"curves").decode()
        assert (curves in page) == bool(last)
        assert ("\n## verify\n\n```\n20 trials, 5" in text) == bool(last)
        assert ("as_norm<b>   3.21" in text) == bool(last)
        assert ("(verify/plots/det.png)" in text) == bool(last)


@pytest.fixture
def screenshot(tmp_path):
    """A function that gives the picture of a page; skips where there is no
    browser, or one that may write none."""

    def draw(page):
        shot = tmp_path / "page.png"
        command = [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={tmp_path / 'browser'}",
            "--window-size=1200,1600",
            f"--screenshot={shot}",
            page,
        ]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, capture_output=True, timeout=60)
        return shot

    if BROWSER is None or not draw("about:blank").exists():
        pytest.skip("There is no Chromium that draws here.")
    return draw


def test_a_browser_draws_the_page(stages, tmp_path, screenshot):
    write_report(tmp_path, stages)
    shot = screenshot(f"file://{tmp_path}/report.html")
    with Image.open(shot) as picture:
        # More than a white page with some words: the plots have colours
        assert len(picture.convert("RGB").getcolors(1 << 24)) > 100


def test_a_report_of_nothing_yet(tmp_path):
    stage = Stage("stage_1", tmp_path / "stage_1", "/gone.csv", None)
    rows = write_report(tmp_path, [stage])
    assert [row["name"] for row in rows] == ["random_encoder", "stage_1"]
    assert {value for row in rows for value in list(row.values())[1:]} == {None}
    assert not (tmp_path / "plots").exists()
