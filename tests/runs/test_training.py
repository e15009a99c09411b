"""A training of any kind, as its processes see it."""

import pathlib
import types

import forked
import pytest

from speechbrain.nnet.schedulers import LinearScheduler, NoamScheduler
from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.runs import training
from speechbrain_cadino.training.schedules import CosineSchedule
from speechbrain_cadino.verification.evaluate import TrialEvaluator

LATE = pathlib.Path(__file__).with_name("late.py")


def test_preparation_and_report_may_take_as_long_as_they_take(tmp_path):
    """As that of a long list, whose files one process looks at, though all know
    that there is a list."""
    code, output = forked.run(LATE, tmp_path, ranks=2)
    assert code == 0, output
    assert (tmp_path / "prepared").exists()
    assert (tmp_path / "reported").read_text() == "the list"


@pytest.mark.parametrize("key", ["noise_folder", "rir_folder", "trials_folder"])
def test_noises_are_looked_for_before_a_corpus_is_converted(tmp_path, key):
    hparams = {
        "checkpointer": types.SimpleNamespace(checkpoints_dir=tmp_path),
        "prepare": [lambda: pytest.fail("hours")],
        "data_folder": "made/now",
        "trials": "trials.txt",
        "trials_folder": "made/now",
        key: [str(tmp_path), str(tmp_path / "typo")],
    }
    with pytest.raises(FileNotFoundError, match=f"typo: {key} is where your"):
        training._prepare(hparams)


def test_a_schedule_of_speechbrain_is_refused_at_once():
    training._check_schedule({"lr_schedule": CosineSchedule(0.1, 0.0, 3)})
    for schedule in [NoamScheduler(0.1, 2), LinearScheduler(0.1, 0.0, 3)]:
        with pytest.raises(ValueError, match="such as CosineSchedule; Speech"):
            training._check_schedule({"lr_schedule": schedule})
    for none in [{}, {"lr_schedule": None}]:
        training._check_schedule(none)


def test_speakers_that_are_trained_on_and_tested_show_before(
    corpus, tmp_path, caplog
):
    """Of a manifest that the recipe has not prepared itself, nobody is left
    out."""
    table = read_manifest(corpus / "train.csv", "$data_root")
    write_manifest(tmp_path / "own.csv", table[table["ID"].str[0] > "b"])
    hparams = {
        "train_manifest": tmp_path / "own.csv",
        "data_folder": corpus,
        "evaluator": TrialEvaluator(corpus / "trials.txt", corpus),
    }
    training._warn_of_tested(hparams)
    assert "2 of the 4 speakers of the trial list are in the" in caplog.text
    labelled = {"source_manifest": corpus / "train.csv"}
    training._warn_of_tested(hparams | labelled | {"source_folder": corpus})
    assert "4 of the 4 speakers of the trial list are in the" in caplog.text
