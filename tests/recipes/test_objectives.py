"""Other objectives of stage I, by their YAML: killed, resumed, exported."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from recipe import SPEED, TINY_STAGE_1, script

from speechbrain.inference.classifiers import EncoderClassifier

FLAGS = {
    **TINY_STAGE_1,
    "number_of_epochs": 3,
    "passes_per_epoch": 1,
    "speeds": "[1.0]",
    "piece_seconds": 0.3,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 2,
}
# The weights of the terms beside DINO, and flags
METHODS = {
    "small_rdino.yaml": (
        {"variance": 2.0, "covariance": 0.2},
        {
            "embedding_norm": True,
            "average_epochs": 2,
            "expander_size": 12,
            "regularisation_warmup_epochs": 0,
            "final_map": None,
        },
    ),
    "small_sdpn_dr.yaml": (
        {"me_max": 1.0, "frobenius": 0.1, "off_diagonal": 0.05},
        {"off_diagonal_weight": 0.05},
    ),
}

STOCK = """
import sys
sys.modules["speechbrain_cadino"] = None
import soundfile, torch
from speechbrain.inference.classifiers import EncoderClassifier
encoder = EncoderClassifier.from_hparams(source=sys.argv[1])
wav = torch.from_numpy(soundfile.read(sys.argv[2], dtype="float32")[0])
torch.save(encoder.encode_batch(wav[None])[0, 0], sys.argv[3])
"""


def command(yaml, speech, folder):
    flags = {
        "data_folder": speech,
        "output_folder": folder,
        **FLAGS,
        **METHODS[yaml][1],
    }
    return script("train_dino.py", yaml, **flags)


def found(folder):
    """What a run has found out: figures, and the exported weights."""
    table = pd.read_csv(folder / "training.csv")
    weights = torch.load(folder / "encoder" / "embedding_model.ckpt")
    return table.drop(columns=SPEED), weights


@pytest.fixture(scope="module", params=METHODS)
def run(request, speech, run_script, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    code, output = run_script(*command(request.param, speech, folder))
    assert code == 0, output
    return request.param, folder


def test_terms_are_columns_and_part_of_the_loss(run):
    yaml, folder = run
    table, _ = found(folder)
    weights = METHODS[yaml][0]
    assert np.isfinite(table[[*weights, "dino"]].to_numpy()).all()
    parts = [weight * table[term] for term, weight in weights.items()]
    assert all((part != 0).all() for part in parts)
    # Weights that are constant: the mean of the sums is the sum of the means
    expected = table["dino"] + sum(parts)
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-5)


def test_killed_ends_as_if_it_was_not(
    run, speech, killed_and_resumed, tmp_path
):
    yaml, folder = run
    killed_and_resumed(command(yaml, speech, tmp_path), tmp_path)
    (table, weights), (expected, others) = found(tmp_path), found(folder)
    pd.testing.assert_frame_equal(table, expected)
    torch.testing.assert_close(weights, others, rtol=0, atol=0)


@pytest.mark.parametrize("run", ["small_rdino.yaml"], indirect=True)
def test_stock_speechbrain_loads_the_teacher(run, speech, tmp_path):
    """Where there is no speechbrain_cadino; the norm of the embeddings is in
    the last layer, the weights are the mean of two epochs."""
    _, folder = run
    wav = sorted(speech.rglob("*.wav"))[0]
    process = subprocess.run(
        [sys.executable, "-c", STOCK, folder / "encoder", wav, tmp_path / "e"],
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    embedding = torch.load(tmp_path / "e")
    states = [
        torch.load(folder / "save" / "last_epochs" / f"epoch00{epoch}.ckpt")
        for epoch in (2, 3)
    ]
    assert len(list((folder / "save" / "last_epochs").iterdir())) == 2
    mean = {
        name: (value + states[1][name]) / 2
        for name, value in states[0].items()
        if value.is_floating_point()
    }
    encoder = EncoderClassifier.from_hparams(source=folder / "encoder")
    model = encoder.mods.embedding_model
    trained = {
        name.removeprefix("encoder."): value
        for name, value in mean.items()
        if name.startswith("encoder.")
    }
    model.load_state_dict(trained, strict=False)
    signal, _ = soundfile.read(wav, dtype="float32")
    with torch.no_grad():
        plain = encoder.encode_batch(torch.from_numpy(signal)[None])[0, 0]
    deviation = (mean["norm.running_var"] + 1e-5).sqrt()
    expected = (plain - mean["norm.running_mean"]) / deviation
    expected = expected * mean["norm.weight"] + mean["norm.bias"]
    torch.testing.assert_close(embedding, expected, rtol=1e-3, atol=1e-4)
