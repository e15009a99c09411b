"""Fine-tuning on shares of the true labels: the draw, and the real script."""

import json
import logging
import shutil

import pandas as pd
import pytest
from hyperpyyaml import load_hyperpyyaml
from recipe import RECIPE, script

from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.runs.finetune import draw_labels, plan_shares


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    """A manifest of 111 utterances, and their speakers: three with 100, 10
    and 1 of them."""
    folder = tmp_path_factory.mktemp("tables")
    speakers = ["anna"] * 100 + ["bob"] * 10 + ["NA"]
    table = pd.DataFrame({"ID": [f"u{i:03}" for i in range(111)]})
    table["duration"], table["wav"] = 2.0, "$data_root/" + table["ID"]
    table["start"], table["stop"] = 0, 32000
    table.to_csv(folder / "train.csv", index=False)
    table = table[["ID"]].assign(spk_id=speakers)
    table.to_csv(folder / "speakers.csv", index=False)
    return folder / "train.csv", folder / "speakers.csv"


def drawn(folder, manifest, speakers, share, seed=0):
    path = folder / "labelled.csv"
    draw_labels(path, manifest, speakers, share, seed)
    return pd.read_csv(path, dtype=str, keep_default_na=False)


@pytest.mark.parametrize(
    ("share", "counts"),
    [
        (0.01, {"anna": 1, "bob": 1, "NA": 1}),
        (0.1, {"anna": 10, "bob": 1, "NA": 1}),
        (0.357, {"anna": 36, "bob": 4, "NA": 1}),
        (1, {"anna": 100, "bob": 10, "NA": 1}),
    ],
)
def test_a_share_of_each_speaker(tables, tmp_path, share, counts):
    table = drawn(tmp_path, *tables, share)
    assert table["spk_id"].value_counts().to_dict() == counts
    truth = pd.read_csv(tables[1], dtype=str, keep_default_na=False)
    truth = truth.set_index("ID")["spk_id"]
    assert (table["spk_id"] == truth[table["ID"]].to_numpy()).all()
    assert table["wav"].str.startswith("$data_root/").all()


def test_the_seed_draws_and_smaller_shares_are_parts_of_larger(
    tables, tmp_path
):
    ids = [set(drawn(tmp_path, *tables, share)["ID"]) for share in (0.1, 0.2)]
    assert ids[0] < ids[1]
    assert ids[0] != set(drawn(tmp_path, *tables, 0.1, seed=1)["ID"])
    # Not the first ones, and the same whatever the order of the rows
    assert not ids[0] <= {f"u{i:03}" for i in range(20)} | {"u110"}
    shuffled = tmp_path / "shuffled.csv"
    pd.read_csv(tables[0])[::-1].to_csv(shuffled, index=False)
    assert ids[0] == set(drawn(tmp_path, shuffled, tables[1], 0.1)["ID"])


@pytest.mark.parametrize("share", [0, -0.1, 1.5, 10, "10%", None])
def test_no_such_share(tables, tmp_path, share):
    with pytest.raises(ValueError, match=f"share={share}: .* at most 1"):
        draw_labels(tmp_path / "labelled.csv", *tables, share)
    assert not (tmp_path / "labelled.csv").exists()


def test_speakers_of_some_or_of_none(tables, tmp_path, caplog):
    manifest, speakers = tables
    table = pd.read_csv(speakers, keep_default_na=False)
    some = tmp_path / "some.csv"
    table[11:].to_csv(some, index=False)
    with caplog.at_level(logging.WARNING):
        assert len(drawn(tmp_path, manifest, some, 1)) == 100
    assert "has no label for 11 of 111" in caplog.text
    table["ID"] = "other/" + table["ID"]
    table.to_csv(some, index=False)
    with pytest.raises(ValueError, match="knows none of the 111 utterances"):
        draw_labels(tmp_path / "labelled.csv", manifest, some, 1)


@pytest.fixture(scope="module")
def command(speech, tmp_path_factory):
    """A function that gives the command line of two tiny trainings."""
    folder = tmp_path_factory.mktemp("manifest")
    names = [f"train{i % 4}/{i:02}/0" for i in range(24)]
    table = pd.DataFrame({"ID": [f"wav/{name}" for name in names]})
    table["duration"] = 0.75
    table["wav"] = [f"$data_root/wav/{name}.wav" for name in names]
    table["start"], table["stop"] = 0, 12000
    table.to_csv(folder / "train.csv", index=False)

    def make(output_folder, **flags):
        flags = {
            "data_folder": speech,
            "train_manifest": folder / "train.csv",
            "speakers": speech / "speakers.csv",
            "trials": speech / "trials.txt",
            "output_folder": output_folder,
            "share": "[0.3, 1]",
            "number_of_epochs": 2,
            "batch_size": 4,
            "evaluate_every": 1,
            "crop_seconds": 0.4,
            "channels": 16,
            "speeds": "[1.0]",
            **flags,
        }
        return script("finetune.py", "small_finetune.yaml", **flags)

    return make


@pytest.fixture(scope="module")
def finished(command, audited, tmp_path_factory):
    """The run folder, what was printed, and the files that were read."""
    folder = tmp_path_factory.mktemp("run")
    code, output, files = audited(*command(folder))
    assert code == 0, output
    return folder, output, files


def test_one_command_gives_the_table(finished, speech):
    folder, output, files = finished
    assert str(speech / "speakers.csv") in files
    rows = json.loads((folder / "results.json").read_text())["shares"]
    assert [row["share"] for row in rows] == [0.3, 1]
    assert [row["utterances"] for row in rows] == [8, 24]
    assert [row["speakers"] for row in rows] == [4, 4]
    for row in rows:
        share = folder / f"share_{row['share']}"
        metrics = json.loads((share / "metrics.json").read_text())
        for name in ["eer", "min_dcf_0.01"]:
            assert row[name] == metrics["systems"]["encoder"][name]
        assert (share / "encoder" / "embedding_model.ckpt").is_file()
        # No label was doubted
        assert (pd.read_csv(share / "training.csv")["reliable"] == 1).all()
        line = f"{row['share']:g} +{row['utterances']} +4 +{row['eer']:.2f}"
        assert len(pd.Series([output]).str.extract(f"({line})").dropna())


def test_goes_on_with_the_shares_that_are_not_done(
    command, run_script, finished, tmp_path
):
    folder = tmp_path / "moved"
    shutil.copytree(finished[0], folder)
    shutil.rmtree(folder / "share_1")
    (folder / "results.json").unlink()
    done = folder / "share_0.3" / "metrics.json"
    stamp = done.stat().st_mtime_ns
    code, output = run_script(*command(folder))
    assert code == 0, output
    assert "share_0.3: done before" in output
    assert done.stat().st_mtime_ns == stamp
    before = (finished[0] / "results.json").read_bytes()
    assert (folder / "results.json").read_bytes() == before


def plan_of(script, *arguments):
    """The trainings that a command line plans."""
    path, run_opts, overrides = parse_arguments(
        [str(word) for word in arguments]
    )
    return plan_shares(path, run_opts, overrides)[1]


def test_other_settings_do_not_mix(command, finished):
    def plan_with(**flags):
        return plan_of(*command(finished[0], **flags))

    assert [training.done for training in plan_with()] == [True, True]
    assert [t.done for t in plan_with(share=0.4, lr=0.5)] == [False]
    plan_with(num_workers=2)
    for name, value in [("lr", 0.5), ("speakers", "others.csv")]:
        with pytest.raises(ValueError, match=rf"share_0\.3 .*: {name} was "):
            plan_with(**{name: value})


def test_shares_of_corrected_labels_do_not_stand_beside_those_before(
    command, finished, speech
):
    speakers = speech / "speakers.csv"
    text = speakers.read_text()
    table = pd.read_csv(speakers)
    plan_of(*command(finished[0]))
    try:
        table.assign(spk_id=table["spk_id"].iloc[::-1].to_numpy()).to_csv(
            speakers, index=False
        )
        with pytest.raises(ValueError, match="was trained on other labels"):
            plan_of(*command(finished[0]))
    finally:
        speakers.write_text(text)


def test_a_share_is_one_training_however_it_is_written(command, finished):
    trainings = plan_of(*command(finished[0], share="[0.3, 0.30, 1, 1.0]"))
    assert [training.share for training in trainings] == [0.3, 1.0]
    assert all(training.done for training in trainings)
    with pytest.raises(ValueError, match="give the share"):
        plan_of(*command(finished[0], share="[]"))


@pytest.mark.parametrize(
    "key", ["save_folder", "encoder_folder", "labelled_manifest"]
)
@pytest.mark.parametrize(
    "place", ["elsewhere", "run/encoder", "run/share_1/mine"]
)
def test_shares_do_not_share_a_folder(command, tmp_path, key, place):
    with pytest.raises(ValueError, match=f"{key}=.*Give output_folder"):
        plan_of(*command(tmp_path / "run", **{key: tmp_path / place}))


def test_goes_on_from_an_encoder(command, run_script, finished, tmp_path):
    start = tmp_path / "start"
    shutil.copytree(finished[0] / "share_1" / "encoder", start)
    words = command(
        tmp_path,
        start_encoder=start,
        share=0.5,
        number_of_epochs=1,
        warmup_epochs=0,
    )
    code, output = run_script(*words)
    assert code == 0, output
    (row,) = json.loads((tmp_path / "results.json").read_text())["shares"]
    assert (row["share"], row["utterances"]) == (0.5, 12)
    card = (tmp_path / "share_0.5" / "encoder" / "README.md").read_text()
    assert "\nWith speaker labels: 12 recordings of" in card
    # A share that is done is no neighbour of those of an encoder made since
    with open(start / "embedding_model.ckpt", "ab") as file:
        file.write(b"0")
    code, output = run_script(*words)
    assert code == 1
    assert "share_0.5 began as another encoder" in output


@pytest.mark.parametrize("script", ["finetune.py", "run_pipeline.py"])
def test_the_folder_of_a_training_stays(command, run_script, tmp_path, script):
    (tmp_path / "save" / "CKPT+1").mkdir(parents=True)
    (tmp_path / "hyperparams.yaml").write_text("of the training")
    words = command(tmp_path)
    if script == "run_pipeline.py":
        yaml = RECIPE / "hparams" / "demo.yaml"
        words = [RECIPE / script, yaml, f"--output_folder={tmp_path}"]
    code, output = run_script(*words)
    assert code == 1, output
    assert f"{tmp_path} is the folder of a training" in output
    assert (tmp_path / "hyperparams.yaml").read_text() == "of the training"


def test_a_mistake_is_one_sentence(command, run_script, tmp_path):
    code, output = run_script(*command(tmp_path, share="[0.3, 2]"))
    assert code == 1, output
    assert "share=2: give the share of each speaker's utterances" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    "name", ["finetune", "small_finetune", "demo_finetune"]
)
def test_yaml_loads(tables, tmp_path, name):
    manifest, speakers = tables
    path, _, overrides = parse_arguments(
        [
            str(RECIPE / "hparams" / f"{name}.yaml"),
            f"--data_folder={tmp_path}",
            f"--output_folder={tmp_path}",
            f"--train_manifest={manifest}",
            f"--speakers={speakers}",
            "--share=0.1",
            "--channels=16",
        ]
    )
    with open(path, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    data = hparams["train_data"]()
    speeds = len(hparams["speeds"])
    assert (len(data), data.classes) == (12 * speeds, 3 * speeds)
    assert len(hparams["classifier"].weight) == data.classes
    assert hparams.get("final_map") is None  # labels are true
    hparams["loss_gate"].start_epoch(20)
    assert hparams["loss_gate"].threshold == float("inf")
