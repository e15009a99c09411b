import torch

from speechbrain_cadino.config.device import number_gpu


def test_each_process_of_torchrun_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert number_gpu() == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert number_gpu() == number_gpu("cuda") == "cuda:3"
    assert number_gpu("cuda:1") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert number_gpu() is None
