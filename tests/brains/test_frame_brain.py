import pathlib
import subprocess
import sys

import pytest
import torch
from recipe import TORCHRUN

SCRIPT = pathlib.Path(__file__).with_name("take_frame_steps.py")


def take(output, *command):
    """Two steps: what they ended with."""
    process = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return torch.load(output)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Two steps of one process on whole batches."""
    output = tmp_path_factory.mktemp("steps") / "one.pt"
    return take(output, SCRIPT, output, 1)


@pytest.mark.parametrize("kind", ["processes", "micro-batches"])
def test_two_halves_equal_a_batch(one, tmp_path, kind):
    output = tmp_path / "two.pt"
    if kind == "processes":
        other = take(
            *(output, *TORCHRUN, SCRIPT, output, 2),
            "--distributed_backend=gloo",
        )
        assert (one["processes"], other["processes"]) == (1, 2)
    else:
        flag = "--grad_accumulation_factor=2"
        other = take(output, SCRIPT, output, 2, flag)
    assert one["used"] == pytest.approx(other["used"])
    assert 0 < one["used"]["used_3"] <= 1
    for name in ("loss", "gradients", "student", "target"):
        torch.testing.assert_close(
            other[name],
            one[name],
            rtol=1e-8,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )
