"""Rows that are spread over the processes of torchrun."""

import pathlib

import forked
import numpy as np
import torch

SCRIPT = pathlib.Path(__file__).with_name("share.py")


def run(folder, *options, ranks=None):
    folder.mkdir()
    code, output = forked.run(SCRIPT, folder, *options, ranks=ranks)
    assert code == 0, output
    return torch.load(folder / "found.pt")


def test_three_processes_find_what_one_does_to_the_bit(tmp_path):
    one = run(tmp_path / "one")
    three = run(tmp_path / "three", "--distributed_backend=gloo", ranks=3)
    assert one.pop("sweep") == three.pop("sweep")
    assert one.keys() == three.keys()
    for name, clusters in one.items():
        for key, expected in clusters.items():
            found = three[name][key]
            assert found.dtype == expected.dtype, (name, key)
            assert torch.equal(found, expected), (name, key)
    assert len(one["empty"]["labels"].unique()) == 50
    # Each has had a third, of 2 utterances the main process both
    held = [
        np.loadtxt(tmp_path / "three" / f"held_{rank}.txt").tolist()
        for rank in range(3)
    ]
    assert held[0][:6] == [334] * 4 + [69, 2]
    assert held[1][:5] == [334] * 4 + [69]
    assert held[2][:5] == [335] * 4 + [69]
