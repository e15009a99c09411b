"""A process killed while it saves, really killed."""

import signal
import subprocess
import sys

import torch

from speechbrain_cadino.checkpoints import AtomicCheckpointer

# Saves a good checkpoint, then dies in the middle of the next one.
DIES_WHILE_SAVING = """
import os, signal, sys, torch
from speechbrain_cadino.checkpoints import AtomicCheckpointer

model = torch.nn.Linear(2, 2)
torch.nn.init.ones_(model.weight)
checkpointer = AtomicCheckpointer(sys.argv[1], recoverables={"a": model})
checkpointer.save_checkpoint()
torch.nn.init.zeros_(model.weight)

def die(obj, path):
    path.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)

checkpointer.add_recoverable("b", model, custom_save_hook=die)
checkpointer.save_checkpoint()
"""


def test_killed_while_saving_leaves_the_checkpoint_before(tmp_path):
    process = subprocess.run(
        [sys.executable, "-c", DIES_WHILE_SAVING, tmp_path]
    )
    assert process.returncode == -signal.SIGKILL
    torsos = [p for p in tmp_path.iterdir() if not p.name.startswith("CKPT")]
    assert len(torsos) == 1

    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    assert checkpointer.recover_if_possible() is not None
    assert (model.weight == 1).all()
    assert not torsos[0].exists()


def test_keeps_only_the_newest(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    for _ in range(3):
        checkpointer.save_and_keep_only()
    assert len(list(tmp_path.iterdir())) == 1
