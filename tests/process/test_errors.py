import logging
import re
import subprocess
import sys

import pytest
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain_cadino.config.overlays import change_overrides
from speechbrain_cadino.dataio.audio import AudioError
from speechbrain_cadino.process.errors import user_errors

YAML = "encoder: !PLACEHOLDER\nrate: 16000"


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        (lambda: load_hyperpyyaml(YAML), "'encoder' is a !PLACEHOLDER .*flag"),
        (lambda: load_hyperpyyaml(YAML, "rat: 8000"), "No such flag.*'rat'"),
        (lambda: open("nowhere.yaml"), "nowhere.yaml"),
    ],
)
def test_a_mistake_becomes_one_sentence(mistake, sentence, caplog):
    with pytest.raises(SystemExit) as error, user_errors():
        mistake()
    assert error.value.code == 1
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert re.search(sentence, record.message)
    assert not record.exc_info


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
    ],
)
def test_a_lost_data_worker_is_no_bug(error, caplog):
    with pytest.raises(SystemExit), user_errors():
        raise error
    assert "Another process of this run has ended" in caplog.text


@pytest.mark.parametrize(
    "bug", [KeyError("wav"), RuntimeError("shapes"), EOFError("no data left")]
)
def test_a_bug_keeps_its_traceback(bug):
    with pytest.raises(type(bug)), user_errors():
        raise bug


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory.\nMore"), "memory."),
        (MemoryError("Unable to allocate 9 GiB"), "allocate 9 GiB"),
        (RuntimeError("[enforce fail] can't allocate memory: 7"), "memory: 7"),
        (RuntimeError("CUDA error: out of memory\nMore"), "out of memory)"),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when"), "ALLOC_FAILED"),
    ],
)
def test_what_is_missing_is_said(error, sentence, caplog):
    with pytest.raises(SystemExit), user_errors():
        raise error
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert sentence in record.message
    assert "lower batch_size" in record.message


def test_fewer_gpus_than_processes(caplog):
    with pytest.raises(SystemExit), user_errors():
        raise ValueError("Killing process \nNot enough GPUs available!")
    assert "--device=cpu --distributed_backend=gloo" in caplog.text


def test_a_reader_that_has_gone_is_no_lost_process(tmp_path):
    """As of ``train_dino.py ... 2>&1 | head``, while a bar moves."""
    program = (
        "import logging, sys\n"
        "from tqdm import tqdm\n"
        "from speechbrain_cadino.process.errors import user_errors\n"
        f"logging.basicConfig(filename={str(tmp_path / 'log.txt')!r})\n"
        "with user_errors():\n"
        "    for _ in tqdm(range(10**9), mininterval=0):\n"
        "        pass\n"
    )
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        process.stderr.read(1)
        process.stderr.close()
        assert process.wait(60) == 1
    text = (tmp_path / "log.txt").read_text()
    assert "Whoever read this output has gone" in text
    assert "Another process" not in text


def test_as_a_decorator(caplog):
    @user_errors()
    def main():
        raise ValueError("No utterances.")

    with pytest.raises(SystemExit):
        main()
    assert "No utterances." in caplog.text


def test_flags_keep_what_yaml_makes_of_them():
    flags = "a: 1\nname: '1986'\nb: !ref <a>\n"
    changed = change_overrides(flags, without=["a", "gone"], c=[0.1, 1])
    assert changed == "name: '1986'\nb: !ref <a>\nc:\n- 0.1\n- 1\n"
    assert change_overrides("", share=0.1) == "share: 0.1\n"


class Unreadable(torch.utils.data.Dataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise AudioError("a.wav: no such file. Was it moved?")


def test_a_mistake_in_a_worker_is_one_sentence_too(caplog):
    loader = torch.utils.data.DataLoader(Unreadable(), num_workers=1)
    with pytest.raises(SystemExit), user_errors():
        next(iter(loader))
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert record.message.endswith("a.wav: no such file. Was it moved?")
    assert "Traceback" not in record.message
