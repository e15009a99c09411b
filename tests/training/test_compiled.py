import weakref

import pytest
import torch

from speechbrain_cadino.training.compiled import Compilation
from speechbrain_cadino.training.guard import Diverged


class Network(torch.nn.Module):
    mode = None

    def compile_training(self, mode):
        self.mode = mode


def test_a_training_goes_on_without_where_its_first_steps_fail(caplog):
    """CUDA graphs are recorded in the second."""
    network = Network()
    compilation = Compilation(network, graphs=True)
    done = []

    held = []

    def step():
        done.append(network.mode)
        if network.mode and len(done) == 2:
            activations = torch.nn.Identity()
            activations.itself = activations  # as in a graph of autograd
            held.append(weakref.ref(activations))
            raise RuntimeError("no graph\nat line 7")
        # What the failed step held has made room
        assert not any(one() for one in held)
        return len(done)

    assert compilation.take(step, undo=None) == 1
    assert compilation.take(step, lambda: done.append("undone")) == 4
    assert done == ["reduce-overhead", "reduce-overhead", "undone", None]
    assert not compilation
    assert "torch.compile failed" in caplog.text
    assert "no graph" in caplog.text


def test_a_refusal_is_no_failure_to_compile(caplog):
    network = Network()
    compilation = Compilation(network, graphs=False)
    done = []

    def step():
        done.append(1)
        raise Diverged("The loss was not finite")

    with pytest.raises(Diverged, match="not finite"):
        compilation.take(step, undo=None)
    assert (done, network.mode) == ([1], "default")
    assert "torch.compile failed" not in caplog.text


def test_what_fails_without_it_too_is_no_fault_of_its(caplog):
    compilation = Compilation(Network(), graphs=False)

    def step():
        raise ValueError("A crop is longer than the noise")

    with pytest.raises(ValueError, match="longer than the noise"):
        compilation.take(step, lambda: None)
    assert "torch.compile failed" not in caplog.text


def test_a_share_of_memory_is_one():
    with pytest.raises(ValueError, match="compile_memory=60: give 0 to 1"):
        Compilation(Network(), graphs=False, memory=60)


def test_what_fails_later_has_another_reason():
    network = Network()
    compilation = Compilation(network, graphs=False)
    for _ in range(3):
        assert compilation.take(lambda: 1, undo=None) == 1

    def step():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        compilation.take(step, undo=None)
    assert network.mode == "default"
