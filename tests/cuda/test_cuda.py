"""Decisions of a GPU, on a GPU: each test is a process that sees it."""

import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from recipe import TINY_STAGE_1, script

JOBS = pathlib.Path(__file__).with_name("on_gpu.py")


def run(gpu, *command):
    """The output of a process that sees the GPU, and ends well."""
    process = subprocess.run(
        [sys.executable, *map(str, command)],
        env=gpu,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    return process.stdout


@pytest.mark.parametrize("job", ["compiled_encoder", "kmeans", "augmentation"])
def test_same_as_on_a_cpu(gpu, job):
    assert run(gpu, JOBS, job).endswith("right\n")


def test_embeddings_are_those_of_a_cpu(gpu, encoder_folder):
    assert run(gpu, JOBS, "embedding", encoder_folder).endswith("right\n")


def train(speech, folder, **flags):
    """The command line of a tiny training."""
    return script(
        "train_dino.py",
        "small_dino.yaml",
        **{
            **TINY_STAGE_1,
            "data_folder": speech,
            "trials": speech / "trials.txt",
            "output_folder": folder,
            "device": "cuda",
            "number_of_epochs": 2,
            "passes_per_epoch": 1,
            "piece_seconds": 0.3,
            "compile_encoder": False,
            **flags,
        },
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_trains_in_any_precision(gpu, speech, tmp_path, precision):
    output = run(gpu, *train(speech, tmp_path / "run", precision=precision))
    assert "cuda:0" not in output  # SpeechBrain's warning
    table = pd.read_csv(tmp_path / "run" / "training.csv")
    assert np.isfinite(table["loss"]).all()
    assert (table["device_seconds"] > 0).all()


def test_killed_and_resumed(gpu, speech, tmp_path):
    flags = {"number_of_epochs": 6, "ckpt_interval_steps": 1}
    run(gpu, *train(speech, tmp_path / "whole", **flags))
    command = train(speech, tmp_path / "killed", **flags)
    process = subprocess.Popen([sys.executable, *command], env=gpu)
    while not list((tmp_path / "killed" / "save").glob("CKPT*")):
        assert process.poll() is None
        time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    run(gpu, *command)
    whole, killed = (
        pd.read_csv(tmp_path / name / "training.csv")["loss"]
        for name in ("whole", "killed")
    )
    assert np.allclose(whole, killed, rtol=1e-3)


def test_compiled_and_what_fails_to_compile(gpu, speech, tmp_path):
    flags = {"compile_encoder": True, "number_of_epochs": 1}
    output = run(gpu, *train(speech, tmp_path / "compiled", **flags))
    assert "Compiled, and the first step taken" in output
    broken = gpu | {"TORCHINDUCTOR_CACHE_DIR": "/proc/no/such/folder"}
    output = run(broken, *train(speech, tmp_path / "eager", **flags))
    assert "The encoder is not compiled" in output
