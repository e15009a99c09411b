import os
import subprocess
import sys

import pytest
from recipe import RECIPE

# Those that take a YAML file
SCRIPTS = sorted(
    path.name
    for path in RECIPE.glob("*.py")
    if path.name != "join_manifests.py"
)


def show(tmp_path, *command, stdout=subprocess.PIPE):
    """Starts a script where torch and SpeechBrain cannot be imported."""
    for name in ["torch", "speechbrain"]:
        (tmp_path / f"{name}.py").write_text("raise ImportError('too early')")
    plain = {"COLUMNS": "80", "NO_COLOR": "1", "PYTHONPATH": str(tmp_path)}
    return subprocess.run(
        [sys.executable, *command],
        cwd=RECIPE,
        env={**os.environ, **plain},
        stdout=stdout,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_waits_for_no_library(script, tmp_path):
    shown = show(tmp_path, script, "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith(f"usage: python {script} FILE")
    assert "hparams/" in shown.stdout.partition("FILE is one of these")[2]
    # Lines of more than a terminal's width are broken anywhere
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_help_without_a_yaml_file_waits_for_none_either(tmp_path):
    shown = show(tmp_path, "join_manifests.py", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage: join_manifests.py")
    assert max(map(len, shown.stdout.splitlines())) <= 80


def test_no_argument_is_a_mistake(tmp_path):
    assert show(tmp_path, "train_dino.py").returncode == 2


def test_a_yaml_file_tells_what_it_is(tmp_path):
    command = ["train_dino.py", "hparams/dino.yaml", "--help"]
    shown = show(tmp_path, *command).stdout
    assert shown.startswith("usage: python train_dino.py hparams/dino.yaml")
    assert "DINO on an ECAPA-TDNN of 1024 channels" in shown
    assert "> torchrun --nproc_per_node=8 train_dino.py" in shown


@pytest.mark.parametrize(
    ("script", "file", "right"),
    [
        ("verify.py", "hparams/small.yaml", "run_pipeline.py"),
        ("train_dlg_lc.py", "hparams/small_dino.yaml", "train_dino.py"),
        ("train_dino.py", "MINE", "train_adapt.py"),
    ],
)
def test_a_file_of_another_script_is_refused(script, file, right, tmp_path):
    """Also one of one's own, by its bases."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("base: [between.yaml, dino.yaml]\n")
    (tmp_path / "between.yaml").write_text("base: small_adapt.yaml\n")
    file = mine if file == "MINE" else file
    shown = show(tmp_path, script, file)
    sentence = f"{file} is for {right}, not for {script}: "
    assert (shown.returncode, shown.stdout) == (1, "")
    assert shown.stderr.startswith(sentence)


@pytest.mark.parametrize("script", SCRIPTS)
def test_its_own_files_are_not_refused(script, tmp_path):
    """They come to the imports."""
    listed = show(tmp_path, script, "--help").stdout
    files = [w for w in listed.split() if w.startswith("hparams/")]
    shown = show(tmp_path, script, files[0])
    assert "too early" in shown.stderr


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    """As with ``| head``."""
    reads, writes = os.pipe()
    os.close(reads)
    shown = show(tmp_path, "train_dino.py", "--help", stdout=writes)
    os.close(writes)
    assert (shown.returncode, shown.stderr) == (0, "")
