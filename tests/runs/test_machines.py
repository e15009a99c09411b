"""Two machines: two torchrun with a folder of their own, on this one."""

import os
import socket
import subprocess
import sys

from recipe import TINY_STAGE_1, script


def test_machines_without_a_common_disk_are_one_sentence(speech, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for number in range(2):
        folder = tmp_path / f"machine{number}"
        folder.mkdir()
        command = [
            *(sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes=2", "--nproc_per_node=1", f"--node_rank={number}"),
            *("--master_addr=127.0.0.1", f"--master_port={port}"),
            *script(
                "train_dino.py",
                "small_dino.yaml",
                **TINY_STAGE_1,
                data_folder=speech,
                output_folder="run",
                device="cpu",
                distributed_backend="gloo",
            ),
        ]
        machine = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        machines.append(machine)
    for machine in machines:
        said, _ = machine.communicate()
        assert machine.returncode
        assert f"Process 1 writes to {tmp_path / 'machine1' / 'run'} on" in said
        assert "one output folder, on a disk that all machines see" in said
    names = [path.name for path in tmp_path.rglob("*")]
    assert not any(".tmp" in name for name in names)
    assert "train.csv" not in names
