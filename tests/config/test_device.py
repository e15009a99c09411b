import pytest
import torch

from speechbrain_cadino.config.device import check_device, number_gpu


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert number_gpu() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert number_gpu() == number_gpu("cuda") == "cuda:3"
    assert number_gpu("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert number_gpu() is None


def test_nothing_is_put_on_a_gpu_to_know_that_it_is_there(monkeypatch):
    """A pipeline would hold its memory for days, and torchrun's processes that
    of the first one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)

    def zeros(*args, **options):
        raise RuntimeError("invalid device ordinal")

    monkeypatch.setattr(torch, "zeros", zeros)
    check_device("cuda:1")
    check_device("cuda")
    with pytest.raises(ValueError, match="No device cuda:2: invalid device"):
        check_device("cuda:2")
