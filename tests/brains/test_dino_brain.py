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
def steps(tmp_path_factory):
    """Two steps by one process, and by two with half a batch each."""
    folder = tmp_path_factory.mktemp("steps")
    run(SCRIPT, folder / "one.pt")
    run(
        *("-m", "torch.distributed.run", "--standalone"),
        *("--nproc_per_node=2", SCRIPT, folder / "two.pt"),
        "--distributed_backend=gloo",
    )
    one, two = torch.load(folder / "one.pt"), torch.load(folder / "two.pt")
    assert (one["processes"], two["processes"]) == (1, 2)
    return one, two


@pytest.mark.parametrize(
    "name", ["loss", "centre", "gradients", "student", "teacher"]
)
def test_two_processes_equal_one_on_the_joined_batch(steps, name):
    one, two = steps
    torch.testing.assert_close(two[name], one[name], rtol=1e-4, atol=1e-6)
