"""The benchmarks' experiments: hours of them must not end in a slip."""

import importlib
import pathlib
import sys

import pytest
from recipe import RECIPE
from ruamel.yaml import YAML

from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.embeddings.embedder import Embedder

BENCHMARKS = pathlib.Path(__file__).parents[1] / "benchmarks"
EXPERIMENTS = [
    (path.stem, arm)
    for path in sorted(BENCHMARKS.glob("*.yaml"))
    if path.stem != "frames"  # of another script
    for arm in YAML(typ="safe").load(path)["arms"]
]


@pytest.fixture
def arms(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("arms")


def cell_of(arms, name, arm, seed=1):
    experiment = YAML(typ="safe").load(BENCHMARKS / f"{name}.yaml")
    settings = arms.made_of(experiment, arm, [])
    place = pathlib.Path("results", "cells", name)
    return experiment, arms.Cell(arm, seed, place, settings)


@pytest.mark.parametrize(("name", "arm"), EXPERIMENTS)
def test_a_script_takes_the_flags_of_an_arm(
    name, arm, arms, tmp_path, monkeypatch
):
    (tmp_path / "hparams").symlink_to(RECIPE / "hparams")
    monkeypatch.chdir(tmp_path)
    experiment, cell = cell_of(arms, name, arm)
    *before, command = arms.commands_of(cell, experiment, [])
    words = [script for script, *_ in [*before, command]]
    assert all((RECIPE / word).is_file() for word in words)
    monkeypatch.setattr(sys, "argv", command[:1])
    parse_arguments(
        [word.replace("<", "").replace(">", "") for word in command[1:]]
    )


def test_answers_are_of_the_systems_that_are_named(arms, monkeypatch):
    """``arms`` has put the benchmarks on the import path."""
    answers = importlib.import_module("answers")
    seen = []
    monkeypatch.setattr(answers, "of_voxmulti", lambda *names: None)
    monkeypatch.setattr(answers, "read_manifest", lambda *paths: None)
    monkeypatch.setattr(answers, "report", lambda *given: seen.append(given[0]))
    monkeypatch.setattr(sys, "argv", ["answers.py", "DATA", "TRAIN", "log_mel"])
    answers.main()
    (embedder,) = seen
    assert isinstance(embedder, Embedder)


def test_what_an_arm_starts_from_is_there(arms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, start = cell_of(arms, "voxmulti", "contrastive", seed=2)
    _, cell = cell_of(arms, "voxmulti", "iteration_1_dlg_lc", seed=2)
    with pytest.raises(
        ValueError, match="--again --arms contrastive --seeds 2"
    ):
        arms.check_starts([cell], in_turn=True)
    with pytest.raises(ValueError, match="starts from results/voxmulti/contra"):
        arms.check_starts([start, cell], in_turn=False)
    arms.check_starts([start, cell], in_turn=True)
    start.run.mkdir(parents=True)
    arms.check_starts([cell], in_turn=True)


def test_cells_are_of_the_arms_of_now(arms, monkeypatch):
    monkeypatch.chdir(RECIPE)
    names = {name for name, _ in EXPERIMENTS}
    folders = [
        folder
        # But what a benchmark is about to write
        for folder in pathlib.Path("results", "cells").glob("*/[!.]*")
        if folder.parent.name in names
    ]
    assert folders
    for folder in folders:
        arm, seed = folder.name.rsplit("-", 1)
        # Raises if there is no such arm, or the cell is of another one
        _, cell = cell_of(arms, folder.parent.name, arm, int(seed))
        assert cell.done


@pytest.mark.parametrize("pair", ["trials=null", "trian=/path/to/train"])
def test_a_setting_that_no_place_takes_is_refused(
    pair, arms, monkeypatch, capsys
):
    words = ["arms.py", str(BENCHMARKS / "voxmulti.yaml"), "--set", pair]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit):
        arms.main()
    assert f"has no <{pair.split('=')[0]}>" in capsys.readouterr().err
