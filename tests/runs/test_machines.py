"""Two machines: two processes with a folder of their own, on this one."""

import socket

import forked
from recipe import TINY_STAGE_1, script

# A script, which waits for a second where it waits for ten
PROGRAM = """
import runpy, sys
from speechbrain_cadino.process import files

files.SIGHT = 1
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_machines_without_a_common_disk_are_one_sentence(speech, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    machines = []
    for number in range(2):
        folder = tmp_path / f"machine{number}"
        folder.mkdir()
        flags = {
            **TINY_STAGE_1,
            "data_folder": speech,
            "output_folder": "run",
            "device": "cpu",
            "distributed_backend": "gloo",
        }
        # What torchrun tells them
        environment = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "1",
            "RANK": str(number),
            "LOCAL_RANK": "0",
        }
        machine = forked.start(
            "-c",
            PROGRAM,
            *script("train_dino.py", "small_dino.yaml", **flags),
            cwd=folder,
            output=tmp_path / f"output{number}",
            environment=environment,
        )
        machines.append(machine)
    for machine in machines:
        machine.join()
        said = forked.said(machine)
        assert machine.exitcode
        assert f"Process 1 writes to {tmp_path / 'machine1' / 'run'} on" in said
        assert "one output folder, on a disk that all machines see" in said
    names = [path.name for path in tmp_path.rglob("*")]
    assert not any(".tmp" in name for name in names)
    assert "train.csv" not in names
