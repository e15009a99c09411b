"""The commands in the READMEs are ones that the scripts take."""

import pathlib
import re
import shlex

import pytest
import yaml
from recipe import RECIPE
from ruamel.yaml import YAML

from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino.commands.main import make_parser
from speechbrain_cadino.config.overlays import parse_arguments

ROOT = pathlib.Path(__file__).parents[2]
FLAGS = re.MULTILINE | re.DOTALL


def commands():
    """Each command of the code blocks in the READMEs, as a list of words."""
    for readme in [ROOT / "README.md", RECIPE / "README.md"]:
        text = readme.read_text(encoding="utf-8")
        for kind, block in re.findall(r"^```(.*?)\n(.*?)^```", text, FLAGS):
            if kind:
                continue
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    if words and words[0] in ("python", "torchrun"):
                        yield words


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_names_what_is_there(words, monkeypatch):
    monkeypatch.chdir(RECIPE)
    if words[:3] == ["python", "-m", "speechbrain_cadino"]:
        make_parser().parse_args(words[3:])
        return
    # What torchrun takes comes before the script.
    while not words[0].endswith(".py"):
        words = words[1:]
    script, *arguments = words
    assert (RECIPE / script).is_file()
    path, _, overrides = parse_arguments(arguments)
    known = YAML().load(pathlib.Path(path)).keys() | vars(RunOptions).keys()
    given = yaml.safe_load(overrides) or {}
    assert set(given) <= known
