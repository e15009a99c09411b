import json

from ruamel.yaml import YAML

from speechbrain_cadino.config.settings import (
    comparable,
    differences,
    own_modules,
)

SETTINGS = """
output_folder: out
lr: 1
speakers: a.csv
save: out/save
outside: output
day: 2024-05-01
data: !new:collections.Counter {speakers: b.csv, files: [out, !ref <save>/x]}
mine: !new:my_data.Set {speakers: 40, options: {device: 3}} # whatever that is
"""


def test_tags_places_and_what_is_left_out():
    settings = YAML().load(SETTINGS)
    found = comparable(settings, "out")
    assert found == {
        "output_folder": "<output_folder>",
        "lr": 1,
        "save": "<output_folder>/save",
        "outside": "output",
        "day": "2024-05-01",
        "data": {
            "!": "!new:collections.Counter",
            "files": ["<output_folder>", "!ref <save>/x"],
        },
        "mine": {
            "!": "!new:my_data.Set",
            "speakers": 40,
            "options": {"device": 3},
        },
    }
    # As a record is compared, which was written and read
    record = json.loads(json.dumps(found))
    assert comparable(record, "<output_folder>") == found
    assert comparable(settings, "out", harmless={"data", "lr"}).keys() == {
        "output_folder",
        "speakers",
        "save",
        "outside",
        "day",
        "mine",
    }


def test_modules_of_ones_own_are_named_wherever_they_are(tmp_path, monkeypatch):
    """As on PYTHONPATH, or installed."""
    (tmp_path / "my_encoder.py").write_text("class Net: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    text = """
        embedding_model: !new:my_encoder.Net
        compute_features: !new:speechbrain.lobes.features.Fbank
        more: [!new:torch.nn.Identity , !name:functools.partial {a: 1}]
    """
    settings = YAML().load(text)
    assert own_modules(settings) == ["my_encoder"]
    monkeypatch.setattr(
        "speechbrain_cadino.config.settings.OWN_FOLDERS", [tmp_path]
    )
    assert own_modules(settings) == ["my_encoder.py"]


def test_a_key_that_is_null_is_as_if_it_were_not_there():
    """As one that has come with a new version."""
    assert not differences({"a": 1, "b": None}, {"a": 1, "c": None})
    assert differences({"a": 1}, {"a": 1, "c": 0}) == "c was not there, is 0"
    # Not what is another value where it is left out
    for name in ("augment_globals", "augment_source", "filter.speech"):
        *rooms, key = name.split(".")
        new = {key: None}
        for room in rooms:
            new = {room: new}
        assert differences({"a": 1}, {"a": 1, **new})
    old = {"prepare": [{"least": 2}]}
    assert not differences(old, {"prepare": [{"least": 2, "most": None}]})


def test_many_differences_are_not_all_named():
    sentence = differences(
        {f"k{i}": 0 for i in range(30)}, {f"k{i}": 1 for i in range(30)}
    )
    assert sentence.count(" was ") == 10
    assert sentence.endswith("; and 20 more")
