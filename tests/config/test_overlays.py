import io
import pathlib
import shutil
import sys

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_cadino.config import overlays
from speechbrain_cadino.config.overlays import (
    allow_own_classes,
    parse_arguments,
)
from speechbrain_cadino.config.settings import resolve


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """A recipe with a script and hparams, and a folder of one's own."""
    (tmp_path / "recipe" / "hparams").mkdir(parents=True)
    (tmp_path / "mine").mkdir()
    write(tmp_path / "recipe" / "hparams" / "dino.yaml", "lr: 1\nseed: 2\n")
    script = str(tmp_path / "recipe" / "train.py")
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


def write(path, text):
    path.write_text(text)
    return path


def load(path, *flags):
    merged, _, overrides = parse_arguments([str(path), *flags])
    with open(merged, encoding="utf-8") as fin:
        return load_hyperpyyaml(fin, overrides)


def test_a_base_lies_beside_the_overlay_or_among_the_recipes(recipe):
    mine = write(recipe / "mine" / "my.yaml", "base: dino.yaml\nlr: 3\n")
    assert load(mine) == {"lr": 3, "seed": 2}
    write(recipe / "mine" / "dino.yaml", "lr: 4\nseed: 5\n")
    assert load(mine) == {"lr": 3, "seed": 5}


def test_a_file_is_never_its_own_base(recipe):
    mine = write(recipe / "mine" / "dino.yaml", "base: dino.yaml\nlr: 3\n")
    assert load(mine) == {"lr": 3, "seed": 2}


def test_a_base_counts_once_however_its_path_is_spelled(recipe, monkeypatch):
    """As the recipe's own, and by its whole path from a file elsewhere."""
    hparams = recipe / "recipe" / "hparams"
    small = write(hparams / "small.yaml", "base: dino.yaml\nlr: 5\n")
    write(hparams / "curriculum.yaml", "base: dino.yaml\nseed: 7\n")
    monkeypatch.chdir(recipe / "recipe")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    for base in ("small.yaml", small, "../recipe/hparams/small.yaml"):
        text = f"base: [{base}, curriculum.yaml]\n"
        mine = write(recipe / "mine" / "both.yaml", text)
        assert load(mine) == {"lr": 5, "seed": 7}
        text = f"base: [curriculum.yaml, {base}]\n"
        mine = write(recipe / "mine" / "both.yaml", text)
        assert load(mine) == {"lr": 5, "seed": 7}
    other = write(recipe / "mine" / "b.yaml", "base: ../mine/a.yaml\n")
    write(recipe / "mine" / "a.yaml", f"base: {other}\n")
    with pytest.raises(ValueError, match="circle of YAML files"):
        load(other)


def test_files_of_one_name_are_merged_apart(recipe):
    """As a pipeline's and its step's."""
    one = write(recipe / "mine" / "dino.yaml", "base: dino.yaml\nlr: 3\n")
    first, _, _ = parse_arguments([str(one)])
    other = recipe / "recipe" / "hparams" / "dino.yaml"
    second, _, _ = parse_arguments([str(other)])
    found = [pathlib.Path(path).read_text() for path in (first, second)]
    assert ["lr: 3" in text for text in found] == [True, False]


@pytest.fixture
def calls(recipe):
    """A base of two calls, of which one has arguments."""
    text = "bare: !new:collections.Counter\nfull: !new:collections.Counter\n"
    return write(recipe / "mine" / "base.yaml", text + "    a: 1\n")


@pytest.mark.parametrize("tag", ["", "!new:collections.Counter "])
def test_a_call_without_arguments_is_given_some(calls, tag):
    """By an overlay, and by a flag on top of it or of the base."""
    text = f"base: base.yaml\nbare: {tag}{{b: 2}}\n"
    mine = write(calls.parent / "my.yaml", text)
    assert load(mine) == {"bare": {"b": 2}, "full": {"a": 1}}
    assert load(mine, "--bare={b: 3}")["bare"] == {"b": 3}
    assert load(calls, "--bare={c: 4}")["bare"] == {"c": 4}


@pytest.mark.parametrize("entry", ["{}", "!new:collections.Counter"])
def test_an_entry_without_arguments_takes_none_away(calls, entry):
    text = f"base: base.yaml\nbare: {entry}\nfull: {entry}\n"
    mine = write(calls.parent / "my.yaml", text)
    assert load(mine) == {"bare": {}, "full": {"a": 1}}


def test_a_folder_that_the_system_has_cleared_is_made_anew(recipe):
    """By a step of a pipeline that took longer than /tmp keeps files."""
    arguments = [str(recipe / "recipe" / "hparams" / "dino.yaml")]
    first, _, _ = parse_arguments(arguments)
    shutil.rmtree(pathlib.Path(first).parents[1])
    second, _, _ = parse_arguments(arguments)
    assert pathlib.Path(second).read_text() == "lr: 1\nseed: 2\n"


def test_a_circle_and_a_missing_base_are_one_sentence(recipe):
    first = write(recipe / "mine" / "a.yaml", "base: b.yaml\n")
    write(recipe / "mine" / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ValueError, match=r"circle of YAML files: .*a\.yaml is"):
        load(first)
    lost = write(recipe / "mine" / "c.yaml", "base: gone.yaml\n")
    with pytest.raises(ValueError, match=r"c.yaml: its base gone.yaml is nei"):
        load(lost)


@pytest.mark.parametrize("value", ["2024", "2024-05-01", "1.5", "[a, 2023]"])
def test_a_folder_that_yaml_takes_for_a_number(recipe, value):
    write(recipe / "mine" / "base.yaml", "data_folder: null\nlr: 1\n")
    text = f"base: base.yaml\ndata_folder: {value}\n"
    path = write(recipe / "mine" / "a.yaml", text)
    number = value.strip("[]a, ")
    sentence = rf"a.yaml: data_folder is {number}, .*in quotes"
    with pytest.raises(ValueError, match=sentence):
        load(path)
    write(path, text.replace(number, f'"{number}"'))
    assert number in load(path)["data_folder"]
    whole = write(recipe / "mine" / "whole.yaml", f"data_folder: {value}\n")
    with pytest.raises(ValueError, match=r"whole\.yaml: data_folder is"):
        load(whole)
    # One's own keys may be called as they are
    text = "base: base.yaml\nown_keys: all\nfreeze_encoder: True\n"
    write(path, text + "number_of_trials: 100\n")
    assert load(path)["number_of_trials"] == 100


def test_an_overlay_in_utf_16_is_named(recipe):
    path = recipe / "mine" / "a.yaml"
    path.write_text("base: dino.yaml\nlr: 3\n", "utf-16")
    with pytest.raises(ValueError, match=r"a.yaml is not in UTF-8: save it"):
        load(path)


def test_names_that_are_nearly_right_get_a_hint(recipe):
    path = write(recipe / "mine" / "a.yaml", "center_momentum: 0.9\nlr: 1\n")
    with pytest.raises(ValueError, match=r"mean center_momentum\?"):
        load(path, "--centre_momentum=0.5")
    typo = write(recipe / "mine" / "b.yaml", "base: a.yaml\ncentre_momentum: 1")
    with pytest.raises(ValueError, match=r"mean center_momentum\?"):
        load(typo)


def test_the_merged_file_is_shown_and_stock_hyperpyyaml_loads_it(
    recipe, capsys
):
    write(
        recipe / "mine" / "a.yaml",
        "# Of a\nsize: 3\nmodel: !new:collections.Counter {a: !ref <size>}\n",
    )
    path = write(
        recipe / "mine" / "b.yaml",
        "# Of b\nbase: a.yaml\nmodel: !new:collections.Counter {b: 2}\n",
    )
    with pytest.raises(SystemExit) as end:
        parse_arguments([str(path), "--show"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert "# Of b" in text
    assert "# Of a" not in text
    shown = load_hyperpyyaml(io.StringIO(text))
    assert shown["model"] == {"a": 3, "b": 2}


def test_own_classes_come_last_on_the_import_path(recipe, monkeypatch):
    monkeypatch.chdir(recipe)
    write(recipe / "mine" / "my_thing.py", "class Mine:\n    pass\n")
    # Not a class that everybody has, even if a file here is called so
    write(recipe / "mine" / "json.py", "raise RuntimeError\n")
    path = write(
        recipe / "mine" / "a.yaml",
        "thing: !new:my_thing.Mine\nother: !name:json.dumps\n",
    )
    before = list(sys.path)
    merged, _, overrides = parse_arguments([str(path)])
    allow_own_classes()
    assert sys.path[: len(before)] == before
    assert sys.path[len(before) :] == [str(recipe / "mine"), str(recipe)]
    with open(merged, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    assert hparams["thing"].__class__.__name__ == "Mine"
    assert hparams["other"]({}) == "{}"
    files = resolve(merged, overrides)["own_files"]
    assert list(files) == ["my_thing.py"]
    write(recipe / "mine" / "my_thing.py", "class Mine:\n    x = 1\n")
    assert files["my_thing.py"] != resolve(merged)["own_files"]["my_thing.py"]
    # One based on it, in another folder, finds them too
    (recipe / "more").mkdir()
    text = "base: ../mine/a.yaml\nother: null\n"
    merged, _, overrides = parse_arguments(
        [str(write(recipe / "more" / "b.yaml", text))]
    )
    allow_own_classes()
    assert set(sys.path) >= {str(recipe / n) for n in ("mine", "more")}
    assert list(resolve(merged)["own_files"]) == ["my_thing.py"]
    del sys.modules["my_thing"]


def test_an_overlay_switches_on_what_its_base_declares(recipe):
    write(recipe / "mine" / "a.yaml", "logger: null\n")
    text = "base: a.yaml\nlogger: !new:collections.Counter {a: 1}\n"
    assert load(write(recipe / "mine" / "b.yaml", text))["logger"] == {"a": 1}


@pytest.mark.parametrize(
    ("words", "trains", "sentence"),
    [
        (["--test_only"], True, "--test_only: an encoder is verified by ver"),
        (["--jit"], False, "--jit: leave it out"),
        (["--log_config=a"], True, "--log_config: leave it out"),
        (["--skip_nonfinite_grads"], True, "grads: leave it out: a step"),
        (["--precision=bf16"], False, "--precision is for trainings"),
        (["--debug"], False, "--debug is for trainings"),
        (["--precision=bf16", "--debug"], True, None),
        (["--device=cpu"], False, None),
    ],
)
def test_a_run_option_that_does_nothing_is_refused(
    words, trains, sentence, recipe
):
    file = str(write(recipe / "mine" / "a.yaml", "lr: 1\n"))
    if sentence is None:
        parse_arguments([file, *words], trains)
        return
    with pytest.raises(ValueError, match=sentence):
        parse_arguments([file, *words], trains)


def test_checkpoints_by_steps_take_the_place_of_those_by_minutes(recipe):
    """SpeechBrain ends with both, though the YAML file has the one."""
    text = "ckpt_interval_minutes: 30\n"
    file = write(recipe / "mine" / "a.yaml", text)
    steps = "--ckpt_interval_steps=5"
    assert load(file, steps)["ckpt_interval_minutes"] == 0
    both = load(file, steps, "--ckpt_interval_minutes=2")
    assert both["ckpt_interval_minutes"] == 2


def test_keys_without_a_value_are_as_if_they_were_not_there(recipe):
    text = "base:\nown_keys:\nlr: 3\n"
    assert load(write(recipe / "mine" / "a.yaml", text)) == {
        "own_keys": None,
        "lr": 3,
    }
    text = "base: dino.yaml\nown_keys:\nlr: 3\n"
    mine = write(recipe / "mine" / "b.yaml", text)
    assert load(mine) == {"lr": 3, "seed": 2}


def test_one_key_of_its_own_needs_no_brackets(recipe):
    text = "base: dino.yaml\nown_keys: my_key\nmy_key: 4\n"
    mine = write(recipe / "mine" / "a.yaml", text)
    assert load(mine) == {"lr": 1, "seed": 2, "my_key": 4}
    mine = write(recipe / "mine" / "a.yaml", f"{text}m: 4\n")
    with pytest.raises(ValueError, match=r"its base has no m.* in own_keys:"):
        load(mine)


def test_what_an_overlay_adds_is_made_of_the_seed(recipe):
    """Also where it stands first."""
    seeded = (
        "seed: 1\n__set_seed: !apply:torch.manual_seed [!ref <seed>]\nlr: 1\n"
    )
    write(recipe / "mine" / "a.yaml", seeded)
    for before in ("", "seed: 1\n"):
        text = (
            f"base: a.yaml\nown_keys: all\n{before}"
            "mine: !new:torch.nn.Linear [2, 2]\nlr: 2\n"
        )
        overlay = write(recipe / "mine" / "b.yaml", text)
        one, other = load(overlay)["mine"], load(overlay)["mine"]
        assert torch.equal(one.weight, other.weight)


def test_each_process_of_torchrun_gets_a_gpu_of_its_own(tmp_path, monkeypatch):
    (tmp_path / "one.yaml").write_text("lr: 1\n")
    monkeypatch.setattr(overlays, "check_device", lambda name: None)
    monkeypatch.setenv("LOCAL_RANK", "2")
    arguments = [str(tmp_path / "one.yaml"), "--device=cuda"]
    _, run_opts, _ = parse_arguments(arguments)
    assert run_opts["device"] == "cuda:2"
    assert "device" in run_opts.overridden_args
