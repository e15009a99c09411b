import io
import pathlib

import pytest
from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML

from speechbrain_cadino.config.flags import read_flags
from speechbrain_cadino.config.overlays import parse_arguments

TEXT = """\
data_folder: !PLACEHOLDER
seed: 1
output_folder: !ref results/<seed>
save_folder: !ref <output_folder>/save
trials_folder: !ref <data_folder>
trials: null
trials_manifest: !ref <data_folder>/test.csv
run_folder: !ref <output_folder>/<seed>
part: !ref <data_folder>/01
start_classifier: centroids
cut_seconds: null
max_duration: null
id_parts: null
rate: !ref <seed>
twice: !ref <seed> * 2
speeds: [1.0]
glob: "**/*"
mirrored: False
gate: 5
"""

# What YAML takes for something else, in its one version or the other
ODD = [
    "calls #2",
    "lang=de",
    "a: b",
    "2024",
    "2024-05-01",
    "0123",
    "1e3",
    "yes",
    "null",
    "*star",
    "&and",
    "!bang",
    "{y}",
    "@at",
    "%pc",
    "- dash",
    "it's",
    'say "hi"',
    "trailing ",
    "a,b",
    "$data_root",
    "1:30",
    "1_000",
    "off",
    "~x",
    "`",
    "|",
    ">",
    "? a",
    "=",
    "<<",
    "tab\there",
    "#",
    ".inf",
]


@pytest.fixture
def load(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(TEXT)

    def load(*flags):
        merged, _, overrides = parse_arguments([str(path), *flags])
        with open(merged, encoding="utf-8") as fin:
            return load_hyperpyyaml(fin, overrides)

    return load


@pytest.mark.parametrize("name", ODD)
def test_a_path_is_what_the_shell_handed_over(load, name):
    found = load(f"--data_folder={name}", "--trials", name)
    for key in ["data_folder", "trials_folder"]:
        assert pathlib.Path(found[key]) == pathlib.Path(name), found[key]
    if name != "null":  # its own value
        assert pathlib.Path(found["trials"]) == pathlib.Path(name)
    found = load("--data_folder=x", f"--output_folder={name}")
    assert pathlib.Path(found["save_folder"]) == pathlib.Path(name, "save")


def test_a_text_made_of_references_is_a_text(load):
    found = load("--data_folder=x", "--run_folder=mine", "--part=02")
    assert (found["run_folder"], found["part"]) == ("mine", "02")
    assert load("--data_folder=x", "--part=")["part"] == ""


def test_a_home_is_expanded(load, monkeypatch):
    monkeypatch.setenv("HOME", "/home/anna")
    assert load("--data_folder=~/speech")["data_folder"] == "/home/anna/speech"


def test_several_folders_are_a_list_unless_one_is_called_so(
    load, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    flag = "--data_folder=[2023, 'b #1']"
    assert load(flag)["data_folder"] == ["./2023", "b #1"]
    (tmp_path / "[x]").mkdir()
    assert pathlib.Path(load("--data_folder=[x]")["data_folder"]).is_dir()


def test_a_list_of_one_folder_is_that_folder(load):
    """As $data_root stands for one."""
    assert load("--data_folder=[/data/calls]")["data_folder"] == "/data/calls"


def test_other_values_are_yaml(load):
    found = load(
        "--data_folder=x",
        "--seed=3",
        "--speeds=[0.9, 1.1]",
        "--glob=*.wav",
        "--cut_seconds=2.5",
        "--trials=null",
    )
    assert (found["seed"], found["rate"], found["twice"]) == (3, 3, 6)
    assert (found["speeds"], found["glob"]) == ([0.9, 1.1], "*.wav")
    assert (found["cut_seconds"], found["trials"]) == (2.5, None)
    assert load("--data_folder=x", "--speeds=0.9")["speeds"] == [0.9]
    assert load("--data_folder=x", "--seed=1e2")["seed"] == 100
    assert load("--data_folder=x", "--rate=7", "--twice=1")["rate"] == 7
    found = load("--data_folder=x", "--mirrored=True", "--gate=dynamic")
    assert (found["mirrored"], found["gate"]) == (True, "dynamic")
    assert load("--mirrored", "--data_folder=x")["mirrored"] is True
    assert load("--data_folder=x", "--rate=null")["rate"] is None


def test_a_file_that_a_training_can_do_without_is_left_out(load):
    found = load("--data_folder=x")
    assert found["trials_manifest"] == "x/test.csv"
    assert found["start_classifier"] == "centroids"
    names = ["trials_manifest", "start_classifier"]
    found = load("--data_folder=x", *(f"--{name}=null" for name in names))
    assert [found[name] for name in names] == [None, None]
    found = load("--data_folder=x", "--trials_manifest=./null")
    assert found["trials_manifest"] == "./null"


def test_the_last_of_a_flag_given_twice_counts(load):
    assert load("--data_folder=x", "--seed=3", "--seed=4")["seed"] == 4


def test_an_entry_of_several_keys_is_given_once(load):
    """The second would take all of the first with it."""
    twice = [f"--seed={{hparams: {name}.yaml}}" for name in "ab"]
    with pytest.raises(ValueError, match="--seed is given twice, and the sec"):
        load(*twice)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--data_folder=<seed>"], "takes <seed> for a reference"),
        (["--data_folder=calls", "2"], "'2' belongs to no flag: quote"),
        (["--speeds=[1.0"], "--speeds=.* is not YAML"),
        (["--n_seed=1"], "Did you mean seed?"),
        (["--device=cuda:99"], "No device cuda:99: "),
        (["--seed=many"], "--seed=many: give a number"),
        (["--rate=1 000"], "--rate=1 000: give a number"),
        (["--cut_seconds=ten"], "--cut_seconds=ten: give a number"),
        (["--max_duration=30s"], "--max_duration=30s: give a number"),
        (["--id_parts=two"], "--id_parts=two: give a number"),
        (["--twice=0,5"], "--twice=0,5: give a number"),
        (["--seed=null"], "--seed=null: give a number"),
        (["--rate=2024-05-01"], "--rate=2024-05-01: give a number"),
        (["--rate=True"], "--rate=True: give a number"),
        (["--seed=[1]"], r"--seed=\[1\]: give a number"),
        (["--mirrored=no"], "--mirrored=no: give True or False"),
        (["--seed=2.5"], "--seed=2.5: give a whole number, 0 or more"),
        (["--seed=-1"], "--seed=-1: give a whole number, 0 or more"),
        (["--cut_seconds=[1, 2]"], "give a number"),
        (["--cut_seconds=-1"], "--cut_seconds=-1: give a number, 0 or more"),
        (["--rate=.nan"], "--rate=.nan: give a number, 0 or more"),
        (["--speeds=null"], "--speeds=null: give a list"),
        (["--output_folder=[a, b]"], "give one path"),
        (["--trials_manifest=[a]"], "give one path"),
        (["--seed"], "--seed has no value: --seed=VALUE."),
        (["--twice"], "--twice has no value: --twice=VALUE, or --twice=null"),
        (["--trials", "--seed=3"], "--trials has no value"),
        (["--output_folder="], "no value: --output_folder=VALUE. Is a variab"),
        (["--data_folder="], "no value: --data_folder=VALUE. Is a variable"),
        (["--speeds="], "no value: --speeds=VALUE. Is a variable unset"),
        (["--trials="], "--trials has no value: .*, or --trials=null for none"),
        (["--id_parts="], "--id_parts has no value: .* or --id_parts=null for"),
        (["--seed="], "--seed has no value: --seed=VALUE. Is a variable"),
        (["--mirrored="], "--mirrored has no value: .* Is a variable unset"),
        (["--data_folder=[a, '']"], "--data_folder: one of the names is empty"),
    ],
)
def test_mistakes_are_one_sentence(load, flags, message):
    with pytest.raises(ValueError, match=message):
        load(*flags)


def test_a_file_that_is_no_yaml_is_named(tmp_path):
    path = tmp_path / "a.yaml"
    for text in ["a: 1\n  b: 2\n", "- 1\n", "\tx"]:
        path.write_text(text)
        with pytest.raises(ValueError, match=r"a\.yaml (is not|holds no)"):
            parse_arguments([str(path)])


def test_flags_for_others_are_left_to_them():
    settings = YAML().load(io.StringIO("a: 1\n"))
    words = ["--device", "cpu", "--a", "2", "--debug", "--keys", "x", "y"]
    assert read_flags(words, settings, ["device", "debug", "keys"]) == {"a": 2}
