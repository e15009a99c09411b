import pathlib
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from recipe import TORCHRUN

SCRIPT = pathlib.Path(__file__).with_name("label_epochs.py")


def run(*command):
    """The gates that were printed."""
    process = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    lines = process.stdout.splitlines()
    return [float(line[5:]) for line in lines if line.startswith("gate ")]


def arrays(folder, epoch):
    with np.load(folder / "gate" / f"epoch00{epoch}.npz") as file:
        return dict(file)


def test_two_processes_have_the_gates_and_counts_of_one(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    gates = run(SCRIPT, one, 1)
    both = run(
        *(*TORCHRUN, SCRIPT, two, 2),
        "--distributed_backend=gloo",
    )
    table, other = (pd.read_csv(folder / "gate.csv") for folder in (one, two))
    pd.testing.assert_frame_equal(table, other, rtol=1e-4)
    # Each process had the gate of gate.csv, which is a real one from epoch 2
    assert np.isinf(table["gate"][0])
    assert np.isfinite(table["gate"][1:]).all()
    assert gates == pytest.approx(table["gate"].tolist())
    assert sorted(both) == pytest.approx(sorted([*gates, *gates]), rel=1e-4)
    # and all three kinds of decisions occurred
    counts = table[["reliable", "corrected", "dropped"]]
    assert (counts.sum(axis=1) == 48).all()
    assert (counts[1:].sum() > 0).all()
    for epoch in (1, 2, 3):
        for name, column in arrays(one, epoch).items():
            np.testing.assert_allclose(
                arrays(two, epoch)[name], column, rtol=1e-3, err_msg=name
            )


def test_the_gate_is_where_the_components_of_the_epoch_before_cross(tmp_path):
    run(SCRIPT, tmp_path, 1)
    table = pd.read_csv(tmp_path / "gate.csv")
    assert table["gate"][1:].tolist() == pytest.approx(
        table["crossing"][:-1].tolist()
    )
    for epoch, gate in zip((2, 3), table["gate"][1:]):
        epoch = arrays(tmp_path, epoch)
        assert ((epoch["losses"] < gate) == (epoch["decisions"] == 1)).all()
        assert ((epoch["corrected"] >= 0) == (epoch["decisions"] == 2)).all()
