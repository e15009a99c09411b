import pathlib
import subprocess
import sys
import types

import pytest
import torch
from recipe import TORCHRUN

from speechbrain_cadino.brains.dino import DINOBrain

SCRIPT = pathlib.Path(__file__).with_name("take_steps.py")


def run(*command):
    process = subprocess.run(
        [sys.executable, *map(str, command)], capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.fixture(scope="module", params=["dino", "rdino", "sdpn", "contrastive"])
def steps(tmp_path_factory, request):
    """A method, and a folder with one.pt: two steps of one process on whole
    batches."""
    folder = tmp_path_factory.mktemp("steps")
    run(SCRIPT, folder / "one.pt", 1, request.param)
    return request.param, folder


def assert_same_steps(folder, other):
    one, other = torch.load(folder / "one.pt"), torch.load(folder / other)
    for name in ("loss", "centre", "gradients", "student", "teacher"):
        torch.testing.assert_close(
            other[name],
            one[name],
            rtol=1e-8,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return one["processes"], other["processes"]


def test_two_processes_equal_one_on_the_joined_batch(steps):
    method, folder = steps
    run(
        *(*TORCHRUN, SCRIPT, folder / "two.pt", 2, method),
        "--distributed_backend=gloo",
    )
    assert assert_same_steps(folder, "two.pt") == (1, 2)


@pytest.mark.parametrize("steps", ["dino"], indirect=True)
def test_two_micro_batches_equal_one_batch(steps):
    """But for terms that are statistics of a batch."""
    method, folder = steps
    run(SCRIPT, folder / "micro.pt", 2, method, "--grad_accumulation_factor=2")
    assert_same_steps(folder, "micro.pt")


def test_each_gradient_is_clipped_by_its_own_norm():
    """Against PyTorch's function, a parameter at a time."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(n, 2)) for n in (1, 7, 300, 5)]
    for param, size in zip(params, (0.1, 10.0, 1.0, 0.0)):
        param.grad = size * torch.randn(param.shape)
    params.append(torch.nn.Parameter(torch.zeros(3)))  # without a gradient
    expected = []
    for param in params[:-1]:
        other = torch.nn.Parameter(param.detach().clone())
        other.grad = param.grad.clone()
        torch.nn.utils.clip_grad_norm_(other, 3.0)
        expected.append(other.grad)
    brain = types.SimpleNamespace(max_grad_norm=3.0)
    DINOBrain.clip_gradients(brain, params)
    clipped = [param.grad for param in params[:-1]]
    torch.testing.assert_close(clipped, expected)
    assert [g.norm() < 3.0001 for g in clipped] == [True] * 4


def test_an_order_of_its_own_is_dealt_out_to_processes(tmp_path):
    """Not shuffled: three passes would meet in a batch."""
    order = pathlib.Path(__file__).with_name("order.py")
    run(*TORCHRUN, order, tmp_path)
    ranks = [
        [line.split() for line in path.read_text().splitlines()]
        for path in sorted(tmp_path.glob("?.txt"))
    ]
    assert [len(batches) for batches in ranks] == [6, 6]
    drawn = [
        name
        for step in zip(*ranks, strict=True)
        for pair in zip(*step, strict=True)
        for name in pair
    ]
    assert drawn == [str(i % 12) for i in range(36)]
