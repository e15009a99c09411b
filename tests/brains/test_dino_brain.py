import pathlib
import subprocess
import sys

import pytest
import torch

SCRIPT = pathlib.Path(__file__).with_name("take_steps.py")


def run(*command):
    process = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """one.pt: two steps of one process on whole batches."""
    folder = tmp_path_factory.mktemp("steps")
    run(SCRIPT, folder / "one.pt", 1)
    return folder


def assert_same_steps(folder, other):
    one, other = torch.load(folder / "one.pt"), torch.load(folder / other)
    for name in ("loss", "centre", "gradients", "student", "teacher"):
        torch.testing.assert_close(
            other[name],
            one[name],
            rtol=1e-4,
            atol=1e-6,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return one["processes"], other["processes"]


def test_two_processes_equal_one_on_the_joined_batch(folder):
    run(
        *("-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node=2", SCRIPT, folder / "two.pt", 2),
        "--distributed_backend=gloo",
    )
    assert assert_same_steps(folder, "two.pt") == (1, 2)


def test_two_micro_batches_equal_one_batch(folder):
    run(SCRIPT, folder / "micro.pt", 2, "--grad_accumulation_factor=2")
    assert_same_steps(folder, "micro.pt")
