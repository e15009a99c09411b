import pytest
import torch

from speechbrain_cadino.training.compiled import Compilation


class Network(torch.nn.Module):
    mode = None

    def compile_training(self, mode):
        self.mode = mode


def test_a_training_goes_on_without_where_its_first_steps_fail(caplog):
    """CUDA graphs are recorded in the second."""
    network = Network()
    compilation = Compilation(network, graphs=True)
    compilation.started = 0
    compilation.end_step()
    assert network.mode == "reduce-overhead"
    assert compilation.give_up(RuntimeError("no graph\nat line 7"))
    assert network.mode is None
    assert not compilation
    assert "it failed. no graph" in caplog.text


def test_a_share_of_memory_is_one():
    with pytest.raises(ValueError, match="compile_memory=60: give 0 to 1"):
        Compilation(Network(), graphs=False, memory=60)


def test_what_fails_later_has_another_reason():
    network = Network()
    compilation = Compilation(network, graphs=False)
    compilation.started = 0
    for _ in range(3):
        compilation.end_step()
    assert not compilation.give_up(RuntimeError("out of memory"))
    assert network.mode == "default"
