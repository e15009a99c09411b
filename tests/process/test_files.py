"""A disk that is full, a real one."""

import errno
import io
import logging
import os
import pathlib
import shutil
import signal
import stat
import subprocess
import sys
import tempfile

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.encoders.export import export_encoder
from speechbrain_cadino.prepare.convert import convert_files
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.files import (
    HOST,
    DiskFullError,
    atomic_folder,
    atomic_path,
    write_json,
    write_text,
)
from speechbrain_cadino.process.tables import write_csv

# Of which even a tenth does not fit
DISK = 256  # kB
RNG = np.random.default_rng(0)


def manifest(rows):
    return pd.DataFrame(
        {
            "ID": [f"utterance{i:06}" for i in range(rows)],
            "duration": 1.0,
            "wav": "$data_root/a.wav",
            "start": 0,
            "stop": 16000,
        }
    )


def write_array(path, size):
    with atomic_path(path) as temporary:
        np.savez_compressed(temporary, a=RNG.random(size * 20))


def write_weights(path, size):
    with atomic_path(path) as temporary:
        torch.save(torch.zeros(size * 20), temporary)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("a.csv", lambda path, n: write_csv(path, manifest(n))),
        ("a.csv", lambda path, n: write_manifest(path, manifest(n))),
        ("a.json", lambda path, n: write_json(path, list(range(n * 20)))),
        ("a.npz", write_array),
        ("a.ckpt", write_weights),
    ],
)
def test_the_file_before_stays_and_nothing_else(small_disk, name, write):
    path = small_disk(DISK) / name
    write(path, 100)
    before = path.read_bytes()
    with pytest.raises(DiskFullError, match=f"to write {path}: more is needed"):
        write(path, 50_000)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    write(path, 200)
    assert path.read_bytes() != before


def test_a_quota_is_a_full_disk(tmp_path, monkeypatch):
    """Though there is space for others, and PyTorch does not say why."""

    def write():
        with atomic_path(tmp_path / "a.ckpt"):
            raise RuntimeError("unexpected pos 64 vs 0")

    with pytest.raises(RuntimeError, match="unexpected pos"):
        write()

    class Limited(io.BytesIO):
        def write(self, content):
            raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda dir: Limited())
    with pytest.raises(DiskFullError, match="free there, or less by a quota"):
        write()
    assert list(tmp_path.iterdir()) == []


def test_embeddings(small_disk):
    folder = small_disk(DISK)
    save_embeddings(folder, ["a"], np.ones((1, 4)))
    for ids, size in [(["a", "b"], 200_000), (["b" * 300_000, "c"], 4)]:
        with pytest.raises(DiskFullError, match="No space left to write"):
            save_embeddings(folder, ids, np.ones((2, size)))
        assert len(list(folder.iterdir())) == 2
        assert load_embeddings(folder)[0] == ["a"]


def test_an_encoder_folder(small_disk, run_hyperparams, trained_modules):
    folder = small_disk(DISK) / "encoder"
    mean = torch.zeros(12)
    export_encoder(folder, run_hyperparams, trained_modules, mean)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder.parent / "filler").write_bytes(bytes(100_000))
    with pytest.raises(DiskFullError, match=f"to write {folder}: "):
        export_encoder(folder, run_hyperparams, trained_modules, mean + 1)
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    assert len(list(folder.parent.iterdir())) == 2


@pytest.mark.parametrize("free", [30_000, 70_000])
def test_an_extraction_goes_on_once_there_is_space(
    small_disk, corpus, tmp_path, free
):
    """It fails in a shard; or in the joining of all of them."""
    table = read_manifest(corpus / "train.csv", corpus)
    disk = small_disk(DISK)

    def embed(folder):
        encode = lambda wavs, lens: wavs[:, None, :1000]  # noqa: E731
        linear = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.ones_(linear.weight)
        return Embedder(encode, linear).extract(folder, table, shard_size=3)

    _, expected = embed(tmp_path / "roomy")
    filler = disk / "filler"
    filler.write_bytes(bytes(DISK * 1024 - 12_000 - free))
    with pytest.raises(DiskFullError, match="No space left to write"):
        embed(disk / "tight")
    names = [path.name for path in disk.rglob("*") if path.is_file()]
    assert "joined.npy" not in names
    assert not any(".tmp" in name for name in names)
    filler.unlink()
    _, embeddings = embed(disk / "tight")
    np.testing.assert_array_equal(embeddings, expected)


def test_what_is_not_written_by_us(small_disk, caplog):
    """Such as SpeechBrain's log."""
    path = small_disk(DISK) / "log.txt"
    with pytest.raises(SystemExit), user_errors():
        path.write_bytes(bytes(DISK * 2000))
    (record,) = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "A disk is full" in record.message


KILLED_WRITER = """
import os, signal, sys
from speechbrain_cadino.process.files import (atomic_path)
with atomic_path(sys.argv[1]) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_killed_while_writing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("whole")
    process = subprocess.run([sys.executable, "-c", KILLED_WRITER, path])
    assert process.returncode == -signal.SIGKILL
    assert path.read_text() == "whole"


def test_a_planted_link_is_not_followed(tmp_path, monkeypatch):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    name = f".a.{HOST}-{os.getpid()}.tmp.txt"
    (tmp_path / name).symlink_to(victim)
    write_text(tmp_path / "a.txt", "mine")
    assert victim.read_text() == "precious"
    # Nor one that is planted after the look
    (tmp_path / name).symlink_to(victim)
    monkeypatch.setattr(pathlib.Path, "unlink", lambda *_, **__: None)
    with pytest.raises(FileExistsError):
        write_text(tmp_path / "a.txt", "mine")
    assert victim.read_text() == "precious"
    assert (tmp_path / "a.txt").read_text() == "mine"


def leave(disk, pages):
    """Fills a disk, but for some pages of memory, of which it is made."""
    filler = disk / "filler"
    filler.write_bytes(b"")
    free = shutil.disk_usage(disk).free
    filler.write_bytes(bytes(free - pages * os.sysconf("SC_PAGE_SIZE")))


def test_the_last_bytes_of_embeddings_find_no_room(small_disk):
    """Of these, NumPy's own writing says nothing."""
    disk, ids = small_disk(DISK), [f"u{number}" for number in range(425)]
    embeddings = np.ones((425, 12), np.float32)  # 20528 bytes with their head
    leave(disk, 1 + 5)
    with pytest.raises(DiskFullError, match="No space left to write"):
        save_embeddings(disk, ids, embeddings)
    assert [path.name for path in disk.iterdir()] == ["filler"]
    leave(disk, 1 + 6)
    save_embeddings(disk, ids, embeddings)
    assert len(load_embeddings(disk)[1]) == 425


def test_the_last_samples_of_a_copy_find_no_room(small_disk, tmp_path):
    """Of these, libsndfile says nothing."""
    disk, source = small_disk(DISK), tmp_path / "a.wav"
    soundfile.write(source, RNG.uniform(-1, 1, 32000), 16000)
    assert convert_files([source], [tmp_path / "a.flac"]) == [""]
    size = (tmp_path / "a.flac").stat().st_size
    leave(disk, size // os.sysconf("SC_PAGE_SIZE"))
    with pytest.raises(DiskFullError, match="No space left to write"):
        convert_files([source], [disk / "a.flac"])
    assert [path.name for path in disk.iterdir()] == ["filler"]


def test_a_file_of_the_largest_size_is_one_sentence(tmp_path):
    code = (
        "import resource, sys, torch\n"
        "from speechbrain_cadino.process.files import atomic_path\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        "try:\n"
        "    with atomic_path(sys.argv[1]) as path:\n"
        "        torch.save(torch.zeros(9999), path)\n"
        "except OSError as error:\n"
        "    print(error)\n"
    )
    _, output = forked.run("-c", code, tmp_path / "a.pt")
    assert "No space left to write" in output
    assert not list(tmp_path.iterdir())


def test_what_is_no_plain_file_stays(tmp_path):
    """As root, /dev/null would become a file for all."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match="pipe is no plain file"):
        write_csv(pipe, pd.DataFrame({"a": [1]}))
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert os.listdir(tmp_path) == ["pipe"]


def test_what_is_replaced_keeps_its_permissions(tmp_path):
    """Who may not read the one may not read the other."""
    (tmp_path / "a.csv").touch(0o600)
    write_csv(tmp_path / "a.csv", pd.DataFrame({"a": [1]}))
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder").chmod(0o750)  # whatever the umask
    (tmp_path / "folder" / "a").touch()
    with atomic_folder(tmp_path / "folder"):
        pass
    write_csv(tmp_path / "new.csv", pd.DataFrame({"a": [1]}))
    modes = [stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()]
    umask = os.umask(0o22)
    os.umask(umask)
    assert sorted(modes) == sorted([0o600, 0o750, 0o666 & ~umask])


def test_a_link_is_written_through(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "a.csv").write_text("old")
    link = tmp_path / "link.csv"
    link.symlink_to("there/a.csv")
    write_csv(link, pd.DataFrame({"a": [1]}))
    assert link.is_symlink()
    assert (tmp_path / "there" / "a.csv").read_text() == "a\n1\n"


@pytest.mark.parametrize("name", ["~", "~root"])
def test_a_folder_that_is_called_like_a_home_is_none(name, tmp_path):
    path = tmp_path / name / "a.csv"
    write_csv(path, pd.DataFrame({"a": [1]}))
    assert path.read_text() == "a\n1\n"


def test_a_name_as_long_as_names_can_be(tmp_path):
    path = tmp_path / ("é" * 125 + ".csv")
    write_csv(path, pd.DataFrame({"a": [1]}))
    assert path.read_text() == "a\n1\n"


def test_ended_between_two_names_the_folder_before_is_there(
    tmp_path, monkeypatch
):
    folder = tmp_path / "encoder"
    folder.mkdir()
    (folder / "a.txt").write_text("before")
    rename = pathlib.Path.rename

    def ended(path, target):
        if path.suffix == ".tmp":
            raise KeyboardInterrupt
        return rename(path, target)

    monkeypatch.setattr(pathlib.Path, "rename", ended)
    with pytest.raises(KeyboardInterrupt), atomic_folder(folder) as temporary:
        (temporary / "a.txt").write_text("after")
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    assert (folder / "a.txt").read_text() == "before"
