import errno
import os
import signal
import tempfile
import time

import pytest

from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.files import HOST
from speechbrain_cadino.process.lock import (
    HELD,
    claim,
    locked,
    release_all,
)


def test_deleting_a_file_does_not_lift_a_lock(tmp_path):
    with locked(tmp_path):
        (tmp_path / ".lock").unlink(missing_ok=True)
        for path in tmp_path.iterdir():
            path.unlink()
        with (
            pytest.raises(ValueError, match="Another run"),
            locked(tmp_path, patience=0.1),
        ):
            pass


def test_a_place_where_nothing_can_be_written_is_named(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=r"Nothing can be written into .*file"),
        locked(tmp_path / "file"),
    ):
        pass


def test_a_full_disk_is_no_wrong_place(tmp_path, monkeypatch):
    """It has a sentence of its own: see process.errors."""

    def write(**_):
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(tempfile, "TemporaryFile", write)
    with pytest.raises(OSError, match="quota") as found, locked(tmp_path):
        pass
    assert found.value.errno == errno.EDQUOT


def test_a_folder_that_cannot_be_locked_has_a_file_that_can(
    tmp_path, monkeypatch
):
    import fcntl
    import os
    import stat

    flock = fcntl.flock

    def of_files(descriptor, operation):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(9, "Bad file descriptor")
        flock(descriptor, operation)

    monkeypatch.setattr("fcntl.flock", of_files)
    with (
        locked(tmp_path),
        pytest.raises(ValueError, match="Another run"),
        locked(tmp_path, patience=0.1),
    ):
        pass
    # The group whose folder it is may lock it, too
    assert stat.S_IMODE((tmp_path / ".lock").stat().st_mode) == 0o666


def test_the_folder_of_its_pipeline_is_a_steps_own(tmp_path, monkeypatch):
    monkeypatch.setenv(HELD, os.path.realpath(tmp_path))
    with locked(tmp_path, patience=0.1):
        claim(tmp_path)
        with locked(tmp_path, patience=0.1):
            release_all(well=True)
        child = os.fork()  # closes what it has inherited
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    with (
        locked(tmp_path / "other"),
        pytest.raises(ValueError, match="Another run"),
        locked(tmp_path / "other", patience=0.1),
    ):
        pass


def test_what_this_process_has_claimed_is_its_own(tmp_path, monkeypatch):
    """However it is spelled; another process is kept away."""
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    monkeypatch.chdir(tmp_path)
    try:
        claim("run")
        for name in ["run", tmp_path / "run", "link"]:
            with locked(name, patience=0.1):
                claim(name)
        child = os.fork()  # closes what it has inherited
        if not child:
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        release_all()
    with locked("run", patience=0.1):
        pass


def test_who_outlives_a_killed_run_has_no_part_in_its_lock(tmp_path):
    """As a data worker does, for seconds."""
    ends = list(os.pipe())
    run = os.fork()
    if not run:
        try:
            claim(tmp_path)
            if not os.fork():  # its hooks have run
                os.write(ends[1], str(os.getpid()).encode())
            time.sleep(60)
        finally:  # never on as another pytest
            os._exit(0)
    os.close(ends.pop())  # else nothing would end the next line
    worker = int(os.read(*ends, 20))
    try:
        with (
            pytest.raises(ValueError, match="Another run"),
            locked(tmp_path, patience=0.1),
        ):
            pass
        os.kill(run, signal.SIGKILL)
        os.waitpid(run, 0)
        os.kill(worker, 0)  # it lives
        with locked(tmp_path, patience=0.1):
            pass
    finally:
        os.kill(worker, signal.SIGKILL)
        for end in ends:
            os.close(end)


def test_folders_below_are_searched_if_the_last_run_did_not_end_well(tmp_path):
    """Whatever it died of; a large folder takes long to search."""
    left = tmp_path / "deep" / "down" / f".a.{HOST}-{2**22 + 1}.tmp.csv"
    left.parent.mkdir(parents=True)

    def run(error=None):
        with user_errors():
            claim(tmp_path)
            if error:
                raise error

    run()
    left.touch()
    with pytest.raises(SystemExit):
        run(ValueError("a mistake"))
    assert left.exists()
    run()
    assert not left.exists()
    # A killed one tells nobody
    pid = os.fork()
    if not pid:
        try:
            claim(tmp_path)
            left.touch()
        finally:
            os._exit(9)
    os.waitpid(pid, 0)
    run()
    assert not left.exists()
    left.touch()
    run()
    assert left.exists()
    assert sorted(os.listdir(tmp_path)) == ["deep"]


def test_what_a_killed_command_left_half_written_goes(tmp_path):
    left = tmp_path / f".train.{HOST}-{2**22 + 1}.tmp.csv"
    left.touch()
    with locked(tmp_path):
        assert not left.exists()
