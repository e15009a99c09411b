import pytest

from speechbrain_cadino.process.lock import locked


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
