"""The real script as real processes: killed, resumed, fed with bad input."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile

RECIPE = pathlib.Path(__file__).parents[2] / "recipes" / "VoxCeleb"

# Python runs it first in every process: tells of each file that is read.
AUDIT = """
import os, sys

def tell(event, args):
    if event == "open" and isinstance(args[0], str) and "r" in (args[1] or ""):
        with open(os.environ["AUDIT_LOG"], "a") as file:
            file.write(args[0] + "\\n")

sys.addaudithook(tell)
"""


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """24 files to train on and two test speakers with three files each."""
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    names = [f"train{i:02}/a/0.wav" for i in range(24)]
    names += [f"test{i}/a/{j}.wav" for i in range(2) for j in range(3)]
    for name in names:
        path = folder / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voice = np.random.default_rng(len(path.parent.as_posix()))
        wav = np.convolve(
            rng.standard_normal(12000), voice.standard_normal(16), "same"
        )
        soundfile.write(path, 0.02 * wav, 16000)
    test = [name for name in names if name.startswith("test")]
    lines = [f"{int(a[:5] == b[:5])} {a} {b}\n" for a in test for b in test]
    (folder / "trials.txt").write_text("".join(lines))
    return folder


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
        "data_folder": speech,
        "trials": speech / "trials.txt",
        "output_folder": output_folder,
        "number_of_epochs": 3,
        "warmup_epochs": 1,
        "passes_per_epoch": 1,
        "batch_size": 4,
        "evaluate_every": 1,
        "min_duration": 0.1,
        "global_seconds": 0.5,
        "local_seconds": 0.3,
        "local_crops": 2,
        "channels": 16,
        "out_dim": 32,
        "head_size": 16,
        "bottleneck_size": 8,
        "ckpt_interval_minutes": 0,
        "ckpt_interval_steps": 2,
        **flags,
    }
    return [
        str(RECIPE / "train_dino.py"),
        str(RECIPE / "hparams" / yaml),
        *(f"--{name}={value}" for name, value in flags.items()),
    ]


def train(speech, folder, launcher=(), environment=None, **flags):
    process = subprocess.run(
        [sys.executable, *launcher, *command(speech, folder, **flags)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return process.returncode, process.stdout


def figures(folder):
    """All that a run measured, but for its speed."""
    table = pd.read_csv(folder / "training.csv")
    return (
        table.drop(columns=["seconds", "utts_per_second"]),
        (folder / "metrics.json").read_text(),
    )


@pytest.fixture(scope="module")
def uninterrupted(speech, tmp_path_factory):
    """The run folder, what was printed, and the files that were read."""
    folder = tmp_path_factory.mktemp("run")
    audit = tmp_path_factory.mktemp("audit")
    (audit / "sitecustomize.py").write_text(AUDIT)
    (folder / "save").mkdir()
    (folder / "save" / "speakers.csv").write_text("ID,spk_id\n")
    environment = {"PYTHONPATH": str(audit), "AUDIT_LOG": str(audit / "log")}
    code, output = train(speech, folder, environment=environment)
    assert code == 0, output
    return folder, output, (audit / "log").read_text()


def test_run_folder_holds_what_is_promised(uninterrupted):
    folder, output, _ = uninterrupted
    for name in (
        "hyperparams.yaml",
        "log.txt",
        "train_log.txt",
        "env.log",
        "metrics.json",
        "plots/training.png",
        "encoder/hyperparams.yaml",
        "encoder/embedding_model.ckpt",
        "save/train.csv",
    ):
        assert (folder / name).stat().st_size > 0, name
    table, _ = figures(folder)
    assert list(table["epoch"]) == [1, 2, 3]
    assert np.isfinite(table.to_numpy()).all()
    for system in ("encoder", "random_encoder", "log_mel_stats"):
        assert system in output


def test_test_speakers_and_labels_stay_out_of_training(uninterrupted):
    folder, _, files_read = uninterrupted
    assert "train.csv" in files_read
    assert "speakers.csv" not in files_read
    manifest = pd.read_csv(folder / "save" / "train.csv")
    assert list(manifest) == ["ID", "duration", "wav", "start", "stop"]
    assert len(manifest) == 24
    assert not manifest["wav"].str.contains("test").any()


@pytest.mark.parametrize(("steps", "kind"), [(2, "false"), (1000, "true")])
def test_killed_ends_as_if_it_was_not(
    speech, uninterrupted, tmp_path, steps, kind
):
    """Within the second epoch, after a checkpoint of the kind given."""
    kill_when(
        lambda: newest_checkpoint_is(tmp_path / "save", kind),
        command(speech, tmp_path, ckpt_interval_steps=steps),
    )
    assert not (tmp_path / "metrics.json").exists()
    code, output = train(speech, tmp_path)
    assert code == 0, output
    assert "Loading a checkpoint from" in output
    assert_same_figures(tmp_path, uninterrupted[0])


def assert_same_figures(folder, other):
    (table, metrics), (expected, expected_metrics) = map(
        figures, (folder, other)
    )
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert metrics == expected_metrics


def kill_when(condition, arguments):
    """Starts the script and kills it as soon as a condition holds."""
    process = subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_for(condition, process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL


def newest_checkpoint_is(save_folder, kind):
    """Whether the first epoch is over, and the newest checkpoint as given."""
    metas = sorted(save_folder.glob("CKPT*/CKPT.yaml"))
    texts = [meta.read_text() for meta in metas]
    return (
        any("end-of-epoch: true" in text for text in texts)
        and f"end-of-epoch: {kind}" in texts[-1]
    )


def wait_for(condition, process):
    deadline = time.time() + 120
    while True:
        try:
            if condition():
                return
        except FileNotFoundError:  # deleted while we looked
            pass
        assert process.poll() is None, "ended before it could be killed"
        assert time.time() < deadline
        time.sleep(0.01)


def test_cluster_aware_killed_ends_as_if_it_was_not(speech, tmp_path):
    """Amid the second epoch; then while embedding for the third."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, output = train(speech, whole, **CLUSTERED)
    assert code == 0, output
    table, _ = figures(whole)
    assert table["clusters"].isna().tolist() == [True, False, False]
    assert table["agreement"].isna().tolist() == [True, True, False]
    assert (table["clusters"][1:] == 6).all()

    save = killed / "save"
    kill_when(
        lambda: newest_checkpoint_is(save, "false"),
        command(speech, killed, **CLUSTERED),
    )
    kill_when(
        lambda: (save / "embeddings").exists(),
        command(speech, killed, **CLUSTERED),
    )
    assert not (killed / "metrics.json").exists()
    code, output = train(speech, killed, **CLUSTERED)
    assert code == 0, output
    assert_same_figures(killed, whole)
    assert not (save / "embeddings").exists()


def test_a_file_that_breaks_after_prepare_is_replaced_and_named(
    speech, tmp_path
):
    broken = speech / "wav" / "train05" / "a" / "0.wav"
    good = broken.read_bytes()
    assert train(speech, tmp_path, number_of_epochs=2)[0] == 0
    try:
        broken.write_bytes(good[:100])
        code, output = train(speech, tmp_path, skip_prep=True)
    finally:
        broken.write_bytes(good)
    assert code == 0, output
    assert "Replaced by another utterance" in output
    assert "train05" in output


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
        ({**CLUSTERED, "first_clustering": 4}, "never happens in 3 epochs"),
        ({"bach_size": 2}, "bach_size"),
    ],
)
def test_mistakes_are_one_sentence(speech, tmp_path, flags, sentence):
    code, output = train(speech, tmp_path, **flags)
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


def test_cluster_aware_on_two_processes_in_half_precision(speech, tmp_path):
    code, output = train(
        *(speech, tmp_path),
        launcher=["-m", "torch.distributed.run", "--nproc_per_node=2"],
        device="cpu",
        distributed_backend="gloo",
        batch_size=2,
        precision="bf16",
        **CLUSTERED,
    )
    assert code == 0, output
    assert "BatchNorm per process" in output
    table, _ = figures(tmp_path)
    assert list(table["epoch"]) == [1, 2, 3]
    assert table["clusters"].tolist()[1:] == [6, 6]
    assert np.isfinite(table["agreement"][2])
    assert (tmp_path / "encoder" / "embedding_model.ckpt").is_file()
