"""The guides' commands are ones that the scripts take, their links lead."""

import ast
import builtins
import importlib
import inspect
import itertools
import pathlib
import re
import shlex
import sys

import pytest
import yaml
from recipe import RECIPE
from ruamel.yaml import YAML

from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino import __version__
from speechbrain_cadino.commands.main import make_parser
from speechbrain_cadino.config.overlays import parse_arguments

ROOT = pathlib.Path(__file__).parents[2]
GUIDES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *RECIPE.glob("*.md")]
FLAGS = re.MULTILINE | re.DOTALL

# Where METHODS.md puts the files that it shows
OWN_FOLDER = "/path/to/my"


def code_blocks(guide):
    """Pairs of what stands behind the opening of a block, and its text."""
    text = guide.read_text(encoding="utf-8")
    return re.findall(r"^```(.*?)\n(.*?)^```", text, FLAGS)


def commands():
    """Each command of the code blocks in the guides, as a list of words."""
    for guide in GUIDES:
        for kind, block in code_blocks(guide):
            if kind:
                continue
            for line in block.replace("\\\n", " ").splitlines():
                for part in line.split("&&"):
                    words = shlex.split(part, comments=True)
                    programs = ("python", "torchrun", "speechbrain-cadino")
                    if words and words[0] in programs:
                        yield words


def python_blocks():
    """The code of the guides, but of METHODS.md, whose blocks are run."""
    for guide in [ROOT / "README.md", RECIPE / "README.md"]:
        for kind, block in code_blocks(guide):
            if kind == "python":
                yield block


@pytest.mark.parametrize("block", python_blocks())
def test_code_calls_what_is_there_with_what_it_takes(block):
    tree, known = ast.parse(block), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            room = importlib.import_module(node.module)
            known |= {a.name: getattr(room, a.name) for a in node.names}
    assert known
    called = 0
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            *above, name = ast.unparse(node.func).split(".")
            if above and above[0] not in known:
                continue  # of what a call has given
            if not above and hasattr(builtins, name):
                continue
            function = known[above[0] if above else name]
            function = getattr(function, name) if above else function
            words = [word.arg for word in node.keywords]
            inspect.signature(function).bind(*node.args, **dict.fromkeys(words))
            called += 1
    assert called


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_a_command_names_what_is_there(words, monkeypatch, tmp_path):
    monkeypatch.chdir(RECIPE)
    if words[0] == "speechbrain-cadino":
        make_parser().parse_args(words[1:])
        return
    # What torchrun takes comes before the script.
    while not words[0].endswith(".py"):
        words = words[1:]
    if "tests/" in words[0]:
        folder = RECIPE if words[0].startswith("..") else ROOT
        check_flags_of_its_own(folder / words[0], words[1:])
        return
    script, path, *flags = words
    assert (RECIPE / script).is_file()
    if script == "join_manifests.py":  # of two manifests
        check_flags_of_its_own(RECIPE / script, words[1:])
        return
    if path.startswith(OWN_FOLDER):
        for _, block in code_blocks(RECIPE / "METHODS.md"):
            name, _, text = block.removeprefix("# ").partition("\n")
            if name == pathlib.Path(path).name:
                path = tmp_path / name
                path.write_text(text)
    monkeypatch.setattr(sys, "argv", [script])
    merged, _, overrides = parse_arguments([str(path), *flags])
    known = YAML().load(pathlib.Path(merged)).keys() | vars(RunOptions).keys()
    given = yaml.safe_load(overrides) or {}
    assert set(given) <= known


def check_flags_of_its_own(script, words):
    """Of a script without a YAML file: each flag stands in it, or in what it
    shares with others; and the arms are there."""
    if "--" in words:  # what comes then is for others
        words = words[: words.index("--")]
    shared = script.with_name("common.py")
    text = script.read_text("utf-8")
    text += shared.read_text("utf-8") if shared.is_file() else ""
    flags = [word.partition("=")[0] for word in words if word[:2] == "--"]
    assert [flag for flag in flags if f'"{flag}"' not in text] == []
    if "--arms" in words:
        experiment = YAML(typ="safe").load(RECIPE / words[0])
        arms = words[words.index("--arms") + 1 :]
        for arm in itertools.takewhile(lambda word: word[:2] != "--", arms):
            assert arm in experiment["arms"]


def anchors(guide):
    """The headings of a guide, as links to them are written."""
    prose = re.sub(r"^```.*?^```", "", guide.read_text("utf-8"), flags=FLAGS)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    return [
        re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    ]


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.name)
def test_links_lead_somewhere(guide):
    links = re.findall(r"\]\(([^)\s]+)\)", guide.read_text(encoding="utf-8"))
    for link in links:
        if link.startswith("http"):
            continue
        path, _, anchor = link.partition("#")
        target = guide.parent / path if path else guide
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["version"] == __version__
