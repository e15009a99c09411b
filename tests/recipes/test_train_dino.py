"""The real script as real processes: killed, resumed, fed with bad input."""

import json
import os
import re
import shutil
import signal
import time

import forked
import numpy as np
import pandas as pd
import pytest
import torch
from recipe import SPEED, TINY_STAGE_1, script

# Clusters anew before the second epoch, and before the third
CLUSTERED = {
    "yaml": "small_ca_dino.yaml",
    "first_clustering": 2,
    "clustering_every": 1,
    "num_clusters": 6,
}


def command(speech, output_folder, yaml="small_dino.yaml", **flags):
    """A tiny training as a user would start it."""
    flags = {
        **TINY_STAGE_1,
        "data_folder": speech,
        "trials": speech / "trials.txt",
        "output_folder": output_folder,
        "number_of_epochs": 3,
        "passes_per_epoch": 1,
        "piece_seconds": 0.3,
        "speeds": "[1.0, 0.9]",
        "evaluate_every": 1,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 2,
        "final_map": None,
        **flags,
    }
    return script("train_dino.py", yaml, **flags)


@pytest.fixture(scope="module")
def train(speech, run_script):
    """A function that trains into a folder: the exit code and the output."""

    def run(folder, ranks=None, **flags):
        return run_script(*command(speech, folder, **flags), ranks=ranks)

    return run


def figures(folder):
    """All that a run measured, but for its speed."""
    table = pd.read_csv(folder / "training.csv")
    return (
        table.drop(columns=SPEED),
        (folder / "metrics.json").read_text(),
    )


@pytest.fixture(scope="module")
def uninterrupted(speech, audited, tmp_path_factory):
    """The run folder, what was printed, and the files that were read."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "save").mkdir()
    (folder / "save" / "speakers.csv").write_text("ID,spk_id\n")
    code, output, files = audited(*command(speech, folder))
    assert code == 0, output
    return folder, output, files


def test_run_folder_holds_what_is_promised(uninterrupted):
    folder, output, _ = uninterrupted
    for name in (
        "hyperparams.yaml",
        "train_dino.py",
        "run.json",
        "log.txt",
        "train_log.txt",
        "env.log",
        "metrics.json",
        "plots/training.png",
        "encoder/hyperparams.yaml",
        "encoder/embedding_model.ckpt",
        "encoder/README.md",
        "save/train.csv",
    ):
        assert (folder / name).stat().st_size > 0, name
    table, _ = figures(folder)
    assert list(table["epoch"]) == [1, 2, 3]
    assert np.isfinite(table.to_numpy()).all()
    for system in ("encoder", "random_encoder", "log_mel_stats"):
        assert system in output


def test_the_console_says_where_it_is(uninterrupted):
    """And SpeechBrain's own lines are in log.txt alone."""
    folder, output, _ = uninterrupted
    table, _ = figures(folder)
    for epoch, error in enumerate(table["EER"], start=1):
        line = rf"^EER {error:5.2f} %  loss [\d.]+  epoch {epoch} of 3"
        assert re.search(line, output, re.MULTILINE)
    table = pd.read_csv(folder / "save" / "train.csv")
    minutes = table["duration"].sum() / 60
    assert (
        f"{len(table)} utterances, {minutes:.2g} min: 36 steps, 3 epochs of 12 "
        "with 48 samples in each, on cpu. That is few: the shortest"
    ) in output
    _, last = output.rsplit("The encoder is in ", 1)
    where, hint, command = last.strip().split("\n", 2)
    assert where == f"{folder}/encoder."
    assert hint == "Next, with audio of yours:"
    assert command.startswith("speechbrain-cadino verify")
    assert "Going into epoch" not in output
    assert "Going into epoch" in (folder / "log.txt").read_text()


def test_the_model_card_tells_how_much_not_what(uninterrupted, speech):
    folder, _, _ = uninterrupted
    card = (folder / "encoder" / "README.md").read_text(encoding="utf-8")
    table = pd.read_csv(folder / "save" / "train.csv")
    results = json.loads((folder / "metrics.json").read_text())
    assert f"{len(table)} recordings" in card
    assert f"EER {results['systems']['encoder']['eer']:.2f} %" in card
    assert "| number_of_epochs | 3 |" in card
    assert "hours, without speaker labels." in card
    assert "These are the weights of the teacher, which follows" in card
    assert str(speech) not in card
    assert not [name for name in table["ID"] if name in card]


def test_test_speakers_and_labels_stay_out_of_training(uninterrupted):
    folder, _, files_read = uninterrupted
    assert "train.csv" in files_read
    assert "speakers.csv" not in files_read
    manifest = pd.read_csv(folder / "save" / "train.csv")
    assert list(manifest) == ["ID", "duration", "wav", "start", "stop"]
    assert len(manifest) == 24
    assert not manifest["wav"].str.contains("test").any()


def test_pieces_are_those_of_the_recordings(uninterrupted):
    folder, _, _ = uninterrupted
    whole = pd.read_csv(folder / "save" / "train.csv").set_index("wav")
    pieces = pd.read_csv(folder / "save" / "pieces.csv")
    assert pieces["duration"].between(0.2, 0.5).all()
    ends = pieces.groupby("wav").agg({"start": "min", "stop": "max"})
    pd.testing.assert_frame_equal(
        ends, whole[["start", "stop"]], check_like=True
    )
    samples = (pieces["stop"] - pieces["start"]).groupby(pieces["wav"]).sum()
    assert (samples == ends["stop"] - ends["start"]).all()


def test_asked_to_end_it_saves_its_step_and_goes_on(
    speech, run_script, uninterrupted, tmp_path
):
    """As SLURM asks; no other checkpoint lies within an epoch. While it is not
    running, a recording comes."""
    data = shutil.copytree(speech, tmp_path / "data")
    folder = tmp_path / "run"
    line = command(data, folder, ckpt_interval_steps=0)
    process = forked.start(*line, output=tmp_path / "output")
    deadline = time.time() + forked.LONGEST
    while not (folder / "train_log.txt").exists():
        assert process.is_alive(), forked.said(process)
        assert time.time() < deadline
        time.sleep(0.001)
    os.kill(process.pid, signal.SIGTERM)
    process.join(forked.LONGEST)
    assert process.exitcode == 128 + signal.SIGTERM, forked.said(process)
    last = forked.said(process).splitlines()[-1]
    assert "Ended by SIGTERM" in last
    assert "the same command goes on from there" in last
    first = next(data.rglob("*.wav"))
    shutil.copy(first, first.with_name("of today.wav"))
    code, output = run_script(*line)
    assert code == 0, output
    assert "goes on with its manifests as they are" in output
    assert "Resumed from a checkpoint" in output
    assert_same_figures(folder, uninterrupted[0])


def assert_same_figures(folder, other):
    (table, metrics), (expected, expected_metrics) = map(
        figures, (folder, other)
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert metrics == expected_metrics


def test_cluster_aware_by_a_curriculum_killed_ends_as_if_it_was_not(
    speech, train, kill_when, newest_checkpoint_is, uninterrupted, tmp_path
):
    """Amid the second epoch; then while embedding for the third. The share of
    recordings and the augmentation grow until the midst of the second. Partners
    are of other recordings, and it is told how many of them are right."""
    overlay = tmp_path / "both.yaml"
    overlay.write_text("base: [small_ca_dino.yaml, curriculum.yaml]\n")
    names = pd.read_csv(uninterrupted[0] / "save" / "train.csv")[["ID"]]
    names["spk_id"] = names["ID"].str.extract(r"(train\d+)", expand=False)
    assert names["spk_id"].nunique() > 1
    names.to_csv(tmp_path / "speakers.csv", index=False)
    both = {
        **CLUSTERED,
        "yaml": overlay,
        "other_recordings": True,
        "speeds": "[1.0]",
        "speakers": tmp_path / "speakers.csv",
    }
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # To be told who speaks changes nothing
    code, output = train(whole, **{**both, "speakers": None})
    assert code == 0, output
    table, _ = figures(whole)
    assert table["clusters"].isna().tolist() == [True, False, False]
    assert table["agreement"].isna().tolist() == [True, True, False]
    assert (table["clusters"][1:] == 6).all()

    save = killed / "save"
    kill_when(
        lambda: newest_checkpoint_is(save, False),
        *command(speech, killed, **both),
    )
    kill_when(
        lambda: (save / "embeddings").exists(),
        *command(speech, killed, **both),
    )
    assert not (killed / "metrics.json").exists()
    code, output = train(killed, **both)
    assert code == 0, output
    assert "Resumed from a checkpoint" in output
    assert not (save / "embeddings").exists()
    told, metrics = figures(killed)
    assert told.pop("ami")[1:].between(-1, 1).all()
    assert told.pop("partners")[1:].between(0.1, 1).all()
    assert told.pop("partner_precision")[1:].between(0, 1).all()
    pd.testing.assert_frame_equal(told, table, check_exact=True)
    assert metrics == figures(whole)[1]


def test_a_training_ends_where_one_wants_and_goes_on(
    train, uninterrupted, tmp_path
):
    """Started again with a limit that it is beyond, as an epoch that was ended
    counts as a whole one, it ends at once, with an encoder; without one, it
    goes on, and its schedules come to their end."""
    for limit, epochs in [(3, 1), (4, 1), (None, 3)]:
        flags = {"average_epochs": 2, "evaluate_every": 0, "trials": None}
        # Those that are to be tested left out, as in the one to compare with
        known = uninterrupted[0] / "save" / "train.csv"
        flags |= {"prepare": "[]", "train_manifest": known}
        if limit is not None:
            flags["optimizer_step_limit"] = limit
        code, output = train(tmp_path, **flags)
        assert code == 0, output
        assert len(pd.read_csv(tmp_path / "training.csv")) == epochs
        encoder = tmp_path / "encoder"
        assert (encoder / "hyperparams.yaml").is_file()
        shutil.rmtree(encoder)
    last, whole = (
        pd.read_csv(folder / "training.csv").iloc[-1]
        for folder in (tmp_path, uninterrupted[0])
    )
    assert (last.lr, last.momentum) == (whole.lr, whole.momentum)


def test_a_training_does_not_go_on_with_other_settings(train, uninterrupted):
    code, output = train(uninterrupted[0], lr=0.01)
    assert code == 1
    assert "begun with other settings: lr was 0.001, is 0.01" in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"data_folder": "/nowhere"}, "No folder /nowhere"),
        ({"batch_size": 128}, "do not make one batch of 128"),
        ({"trials": "/nowhere.txt"}, "/nowhere.txt"),
        ({"warmup_epochs": 9}, "does not fit"),
        (
            {**CLUSTERED, "num_clusters": 25},
            "24 utterances cannot make 25 clusters",
        ),
        ({**CLUSTERED, "speakers": "/nowhere.csv"}, "no file /nowhere.csv"),
        ({"bach_size": 2}, "bach_size"),
        ({"optimizer_step_limit": "few"}, "give a whole number of steps"),
        ({"sample_rate": 24000}, "leave sample_rate at 16000, files of any"),
    ],
)
def test_mistakes_are_one_sentence(train, tmp_path, flags, sentence):
    code, output = train(tmp_path, **flags)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("encoder", "sentence"),
    [
        ("mine.Lengthless", "Lengthless.forward takes features alone"),
        (
            "speechbrain_cadino.lobes.views.UtteranceEncoder",
            "names a class of speechbrain_cadino",
        ),
    ],
)
def test_an_encoder_that_would_be_of_no_use_is_refused_before_training(
    train, tmp_path, encoder, sentence
):
    (tmp_path / "mine.py").write_text(
        "import torch\n\n\nclass Lengthless(torch.nn.Module):\n"
        "    def __init__(self, **_):\n        super().__init__()\n"
        "        self.last = torch.nn.Linear(80, 8)\n\n"
        "    def forward(self, feats):\n"
        "        return self.last(feats.mean(1, keepdim=True))\n"
    )
    overlay = tmp_path / "own.yaml"
    overlay.write_text(
        f"base: small_dino.yaml\nembedding_model: !new:{encoder}\n"
        + "    encoder: !new:torch.nn.Identity\n" * ("views" in encoder)
    )
    code, output = train(tmp_path / "run", yaml=overlay, emb_dim=8)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output
    assert not (tmp_path / "run" / "training.csv").exists()
    assert not list((tmp_path / "run" / "save").glob("CKPT*"))


@pytest.mark.parametrize("place", ["models", "run"])
def test_an_encoder_takes_the_place_of_nothing_else(train, tmp_path, place):
    folder = tmp_path / place
    folder.mkdir()
    if place == "models":
        (folder / "thesis.txt").write_text("years of work")
    before = sorted(tmp_path.rglob("*"))
    code, output = train(tmp_path / "run", encoder_folder=folder)
    assert code == 1
    assert "replaced as a whole" in output
    assert "Traceback" not in output
    assert sorted(tmp_path.rglob("*")) == before


def test_two_processes_killed_end_as_if_they_were_not(
    speech, run_script, killed_and_resumed, tmp_path
):
    """Cluster-aware, in half precision."""

    def line(name):
        return command(
            speech,
            tmp_path / name,
            trials=None,
            speeds="[1.0]",
            device="cpu",
            distributed_backend="gloo",
            batch_size=2,
            precision="bf16",
            **CLUSTERED,
        )

    code, output = run_script(*line("whole"), ranks=2)
    assert code == 0, output
    assert "BatchNorm per process" in output
    killed_and_resumed(line("killed"), tmp_path / "killed", ranks=2)
    table, expected = (
        pd.read_csv(tmp_path / name / "training.csv").drop(columns=SPEED)
        for name in ("killed", "whole")
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert list(table["epoch"]) == [1, 2, 3]
    assert table["clusters"].tolist()[1:] == [6, 6]
    assert np.isfinite(table["agreement"][2])
    weights, others = (
        torch.load(tmp_path / name / "encoder" / "embedding_model.ckpt")
        for name in ("killed", "whole")
    )
    torch.testing.assert_close(weights, others, rtol=0, atol=0)
