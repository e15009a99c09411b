"""A process killed while it saves, really killed; a disk that is full; files
that are damaged."""

import itertools
import pathlib
import shutil
import signal

import forked
import pytest
import torch

from speechbrain_cadino.process.files import DiskFullError
from speechbrain_cadino.training.checkpoints import (
    AtomicCheckpointer,
    SameData,
)

# Saves a good checkpoint, then dies in the middle of the next one.
DIES_WHILE_SAVING = """
import os, signal, sys, torch
from speechbrain_cadino.training.checkpoints import (AtomicCheckpointer)

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
    code, output = forked.run("-c", DIES_WHILE_SAVING, tmp_path)
    assert code == -signal.SIGKILL, output
    torsos = [p for p in tmp_path.iterdir() if not p.name.startswith("CKPT")]
    assert len(torsos) == 1

    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    assert checkpointer.recover_if_possible() is not None
    assert (model.weight == 1).all()
    # Not before, as it might be that of a training which still runs
    checkpointer.save_checkpoint()
    assert not torsos[0].exists()


def test_a_process_that_sees_a_checkpoint_later_takes_the_same(tmp_path):
    script = pathlib.Path(__file__).with_name("lag.py")
    code, output = forked.run(script, tmp_path, ranks=2)
    assert code == 0, output
    found = [(tmp_path / f"{rank}.txt").read_text() for rank in range(2)]
    assert found == ["3.0", "3.0"]
    assert len(list((tmp_path / "save").iterdir())) == 2


def test_a_checkpoint_of_other_data_is_refused(tmp_path):
    def checkpointer(fingerprint):
        return AtomicCheckpointer(tmp_path, {"data": SameData(fingerprint)})

    checkpointer(1).save_checkpoint()
    assert checkpointer(1).recover_if_possible()
    with pytest.raises(ValueError, match="is of another training set: utter"):
        checkpointer(2).recover_if_possible()


def test_keeps_only_the_newest_and_the_one_before(tmp_path):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    saved = [checkpointer.save_checkpoint().path for _ in range(3)]
    checkpointer.save_and_keep_only()
    left = sorted(tmp_path.iterdir())
    assert len(left) == 2
    assert left[0] == saved[-1]


def save_two(folder, **options):
    """Two checkpoints: of ones, then of twos."""
    model = torch.nn.Linear(64, 64)
    checkpointer = AtomicCheckpointer(folder, recoverables={"a": model})
    for value in (1.0, 2.0):
        torch.nn.init.constant_(model.weight, value)
        checkpointer.save_and_keep_only(**options)
    return sorted(folder.glob("CKPT+*"))


def recover(folder):
    """The weight that is loaded into a new model."""
    model = torch.nn.Linear(64, 64)
    checkpointer = AtomicCheckpointer(folder, recoverables={"a": model})
    checkpointer.recover_if_possible()
    assert (model.weight == model.weight[0, 0]).all()
    return model.weight[0, 0].item(), checkpointer


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def zero_the_middle(path):
    content = bytearray(path.read_bytes())
    content[2000:6000] = bytes(4000)
    path.write_bytes(content)


def scribble(path):
    path.write_text("{[")


DAMAGES = [
    ("a.ckpt", truncate),
    ("a.ckpt", zero),
    ("a.ckpt", zero_the_middle),
    ("a.ckpt", pathlib.Path.unlink),
    ("CKPT.yaml", scribble),
    ("checksums.json", scribble),
    ("checksums.json", pathlib.Path.unlink),
]


@pytest.mark.parametrize(("name", "damage"), DAMAGES)
def test_of_a_damaged_checkpoint_the_one_before_is_used(
    tmp_path, caplog, name, damage
):
    _, newest = save_two(tmp_path)
    damage(newest / name)
    value, checkpointer = recover(tmp_path)
    assert value == 1.0
    assert f"{newest} is damaged" in caplog.text
    # It counts no longer: the next ones are kept, and the newest is used
    checkpointer.save_and_keep_only()
    checkpointer.recoverables["a"].weight.data.fill_(3.0)
    checkpointer.save_and_keep_only()
    assert len(list(tmp_path.glob("CKPT+*"))) == 2
    assert recover(tmp_path)[0] == 3.0


def test_with_all_checkpoints_damaged_nothing_starts_from_scratch(tmp_path):
    for folder in save_two(tmp_path):
        truncate(folder / "a.ckpt")
    for _ in range(2):  # nor does it the second time
        with pytest.raises(ValueError, match=r"No .* is whole.* a\.ckpt is"):
            recover(tmp_path)
    assert len(list(tmp_path.glob("CKPT+*"))) == 2


def test_a_last_checkpoint_without_its_meta_file_is_no_fresh_start(tmp_path):
    oldest, newest = save_two(tmp_path)
    shutil.rmtree(oldest)
    (newest / "CKPT.yaml").unlink()
    with pytest.raises(ValueError, match=r"No .* is whole.* CKPT\.yaml: No"):
        recover(tmp_path)


def test_what_is_left_of_a_deleted_checkpoint_is_no_cause_for_alarm(
    tmp_path, caplog
):
    oldest, _ = save_two(tmp_path)
    (oldest / "CKPT.yaml").unlink()
    assert recover(tmp_path)[0] == 2.0
    assert not oldest.exists()
    assert "damaged" not in caplog.text


def test_a_full_disk_leaves_the_checkpoints_before(small_disk):
    """Two of 17 kB, and the third, which has 100 kB, does not fit."""
    folder = small_disk(256)
    before = save_two(folder)
    model = torch.nn.Linear(64, 64)
    checkpointer = AtomicCheckpointer(folder, recoverables={"a": model})
    checkpointer.add_recoverable("large", torch.nn.Linear(400, 400))
    with pytest.raises(DiskFullError, match=r"about 0\.0 MB are needed, and 0"):
        checkpointer.save_and_keep_only()
    assert sorted(folder.iterdir()) == before
    assert recover(folder)[0] == 2.0
    checkpointer.recoverables.pop("large")
    checkpointer.save_and_keep_only()
    assert len(list(folder.iterdir())) == 2


def test_the_newest_is_the_last_also_if_the_clock_goes_back(
    tmp_path, monkeypatch
):
    times = itertools.count(1e9, -3600)
    monkeypatch.setattr("time.time", lambda: next(times))
    save_two(tmp_path)
    assert recover(tmp_path)[0] == 2.0
    model = torch.nn.Linear(64, 64)
    torch.nn.init.constant_(model.weight, 3.0)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    checkpointer.save_and_keep_only()
    assert len(list(tmp_path.glob("CKPT+*"))) == 2
    assert recover(tmp_path)[0] == 3.0
