import json
import shutil
import sys

import forked
import pytest

from speechbrain_cadino.process.lock import release_all
from speechbrain_cadino.runs import open_run as runs
from speechbrain_cadino.runs.open_run import (
    make_experiment,
    open_run,
    read_record,
)


@pytest.fixture
def begin(tmp_path):
    """A function that opens a run and ends it, maybe with a checkpoint."""

    def run(checkpoint=True, resumes=True, **settings):
        settings = {"output_folder": str(tmp_path), **settings}
        try:
            open_run(tmp_path, settings, resumes)
        finally:
            release_all()
        if checkpoint:
            (tmp_path / "save" / "CKPT+1").mkdir(parents=True, exist_ok=True)

    return run


def test_a_run_goes_on_with_the_same_settings_only(begin, tmp_path):
    begin(lr=1, num_workers=2)
    begin(lr=1, num_workers=4)  # which is harmless
    with pytest.raises(ValueError, match="settings: lr was 1, is 2"):
        begin(lr=2)
    assert read_record(tmp_path)["settings"]["lr"] == 1


def test_what_has_turned_out_to_be_harmless_is_not_compared(begin, tmp_path):
    """Of a run that an earlier version began, at any depth."""
    begin(lr=1)
    path = tmp_path / "run.json"
    record = json.loads(path.read_text())
    record["settings"] |= {
        "compile_encoder": True,
        "deep": [{"num_workers": 1}],
    }
    path.write_text(json.dumps(record))
    begin(lr=1, deep=[{}])
    with pytest.raises(ValueError, match="settings: lr was 1, is 2"):
        begin(lr=2, deep=[{}])


def test_what_has_ended_is_reported_by_any_number_of_processes(begin, tmp_path):
    """As where another layer is to be exported, on one machine."""
    begin(number_of_epochs=2, processes=16)
    meta = tmp_path / "save" / "CKPT+1" / "CKPT.yaml"
    within = "epoch: 1\nend-of-epoch: true\n", "epoch: 2\n"
    for text in (None, *within, "", "{["):  # the last two are damaged
        if text is not None:
            meta.write_text(text)
        with pytest.raises(ValueError, match="processes was 16, is 1"):
            begin(number_of_epochs=2, processes=1)
    meta.write_text("epoch: 2\nend-of-epoch: true\n")
    begin(number_of_epochs=2, processes=1)
    with pytest.raises(ValueError, match="lr was not there"):
        begin(number_of_epochs=2, processes=1, lr=1)


def test_the_map_at_the_end_may_change_once_a_training_has_ended(
    begin, tmp_path
):
    settings = {"number_of_epochs": 3, "final_map": "lda"}
    begin(**settings)
    with pytest.raises(ValueError, match="final_map was"):
        begin(**{**settings, "final_map": None})
    meta = tmp_path / "save" / "CKPT+1" / "CKPT.yaml"
    meta.write_text("epoch: 3\nend-of-epoch: true\n")
    begin(**{**settings, "final_map": None})


def test_another_version_is_told(begin, tmp_path, monkeypatch, caplog):
    begin(lr=1)
    monkeypatch.setattr(runs, "__version__", "99.0")
    with pytest.raises(
        ValueError, match=r"begun with version 0\.\d.* is 99\.0"
    ):
        begin(lr=2)
    begin(lr=1)
    assert "goes on with 99.0" in caplog.text
    caplog.clear()
    begin(lr=1)
    assert "version" not in caplog.text


def test_a_run_of_a_version_that_trained_otherwise_is_refused(
    begin, tmp_path, monkeypatch
):
    with monkeypatch.context() as before:
        before.setattr(runs, "__version__", "0.2.0")
        begin(lr=1)
    with pytest.raises(ValueError, match=r"0\.2\.0, whose trainings .* not go"):
        begin(lr=1)
    # What is done needs no training
    record = read_record(tmp_path)
    settings = {"output_folder": str(tmp_path), "lr": 1}
    settings = runs.comparable(settings, str(tmp_path))
    runs.check_same(tmp_path, record, settings, tmp_path, done=True)


@pytest.mark.parametrize("given", ["hyperparams.yaml", "over.yaml"])
@pytest.mark.parametrize("head", ["", "# Generated 2026-01-01 from:\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_yaml_file_in_the_output_folder_is_not_replaced(
    tmp_path, given, head, encoding
):
    """Nor a base there; but by settings of this kind, which were written
    there."""
    (tmp_path / "hyperparams.yaml").write_text(f"{head}lr: 1\n", encoding)
    (tmp_path / "over.yaml").write_text("base: hyperparams.yaml\nlr: 2\n")
    options = {"param_file": str(tmp_path / given)}
    runs.check_yaml_stays(tmp_path / "run", options)
    if head:
        runs.check_yaml_stays(tmp_path, options)
        return
    with pytest.raises(ValueError, match="is your YAML file, and would be"):
        runs.check_yaml_stays(tmp_path, options)


def test_a_pretrainer_that_nobody_would_call_is_refused(begin):
    with pytest.raises(ValueError, match="pretrainer: no script here calls it"):
        begin(pretrainer={"loadables": {}})


def test_what_has_trained_nothing_locks_nothing(begin, tmp_path):
    """Such as a run that ended with a mistake in a path."""
    begin(checkpoint=False, data_folder="/nowhere")
    begin(checkpoint=False, data_folder="/here")
    assert read_record(tmp_path)["settings"]["data_folder"] == "/here"


def test_a_tool_may_be_run_again_with_other_flags(begin):
    begin(resumes=False, checkpoint=False, num_clusters=7)
    begin(resumes=False, checkpoint=False, num_clusters=8)


def test_a_tool_leaves_the_folder_of_a_training_alone(begin, tmp_path):
    begin(lr=1)
    with pytest.raises(ValueError, match="is the folder of a training"):
        begin(resumes=False, num_clusters=7)
    assert read_record(tmp_path)["settings"]["lr"] == 1


def test_a_run_in_the_folder_of_its_script(tmp_path):
    """It gets a copy of the script, which is there. In a process of its own:
    SpeechBrain sets up the logging of all that comes after it."""
    program = (
        "from speechbrain_cadino.runs.open_run import make_experiment\n"
        "make_experiment('.', 'a.yaml', '')\n"
    )
    (tmp_path / "verify.py").write_text(program)
    (tmp_path / "a.yaml").write_text("lr: 1\n")
    code, output = forked.run(tmp_path / "verify.py", cwd=tmp_path)
    assert code == 0, output
    assert (tmp_path / "verify.py").read_text() == program
    assert [path.name for path in tmp_path.glob("*.py")] == ["verify.py"]
    assert (tmp_path / "hyperparams.yaml").is_file()


def test_a_script_that_is_read_only_is_kept_to_be_replaced(tmp_path):
    """Its copy may be written by the next start, whoever owns the script."""
    (tmp_path / "out").mkdir()
    program = (
        "from speechbrain_cadino.runs.open_run import make_experiment\n"
        "make_experiment('out', 'a.yaml', '')\n"
    )
    script = tmp_path / "verify.py"
    script.write_text(program)
    script.chmod(0o444)
    (tmp_path / "a.yaml").write_text("lr: 1\n")
    code, output = forked.run(script, cwd=tmp_path)
    assert code == 0, output
    copy = tmp_path / "out" / "verify.py"
    assert copy.read_text() == program
    assert copy.stat().st_mode & 0o200


def test_a_run_of_before_there_were_records_is_refused(begin, tmp_path):
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"begun before version 0\.2\.0"):
        begin(lr=1)


def test_a_run_that_was_moved_goes_on(begin, tmp_path):
    begin(save=f"{tmp_path}/save")
    record = (tmp_path / "run.json").read_text()
    assert str(tmp_path) not in record


def test_an_encoder_is_not_made_a_run(encoder_folder, tmp_path, monkeypatch):
    """Its hyperparams.yaml would be replaced by that of the run."""
    monkeypatch.setattr(sys, "argv", ["mine.py"])
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(ValueError, match="is the folder of an encoder"):
        open_run(folder, {"output_folder": str(folder)}, False)
    (tmp_path / "a.yaml").write_text("lr: 1\n")
    with pytest.raises(ValueError, match="is the folder of an encoder"):
        make_experiment(folder, tmp_path / "a.yaml", "")
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before
