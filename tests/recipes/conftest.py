"""Fixtures of the tests of the real scripts: ways to run and to kill them."""

import signal
import time

import forked
import pandas as pd
import pytest

from speechbrain_cadino.dataio.manifest import write_manifest


@pytest.fixture(scope="session")
def labels(speech, tmp_path_factory):
    """A manifest of the 24 files to train on; every fifth label is wrong."""
    folder = tmp_path_factory.mktemp("labels")
    rows = []
    for number in range(24):
        name = f"train{number % 4}/{number:02}/0"
        label = f"{(number + (number % 5 == 0)) % 4:02}"
        wav = f"$data_root/wav/{name}.wav"
        rows.append((f"wav/{name}", 0.75, wav, 0, 12000, label))
    columns = ["ID", "duration", "wav", "start", "stop", "spk_id"]
    table = pd.DataFrame(rows, columns=columns)
    write_manifest(folder / "pseudo_labels.csv", table)
    return folder / "pseudo_labels.csv"


@pytest.fixture(scope="session")
def run_script():
    """A function that runs a command line: its exit code and its output."""
    return forked.run


@pytest.fixture(scope="session")
def audited(tmp_path_factory):
    """As run_script; returns the names of all files that were read too."""

    def run(*command):
        log = tmp_path_factory.mktemp("audit") / "log"
        code, output = forked.run(*command, audit=log)
        return code, output, log.read_text(encoding="utf-8")

    return run


@pytest.fixture(scope="session")
def kill_when():
    """A function that starts a command line and kills it once a condition
    holds: all of its processes if there are ranks."""

    def kill(condition, *command, ranks=None):
        variables = [{}] if ranks is None else forked.environments(ranks)
        processes = [forked.start(*command, environment=e) for e in variables]
        deadline = time.time() + forked.LONGEST
        while not _holds(condition):
            for process in processes:
                assert process.is_alive(), "ended before it could be killed"
            assert time.time() < deadline
            time.sleep(0.01)
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
            assert process.exitcode == -signal.SIGKILL

    return kill


def _holds(condition):
    try:
        return condition()
    except FileNotFoundError:  # deleted while we looked
        return False


@pytest.fixture(scope="session")
def newest_checkpoint_is():
    """A function that tells whether the first epoch is over, and the newest
    checkpoint in a folder is of the end of an epoch, or of its midst."""

    def check(save_folder, end_of_epoch):
        metas = sorted(save_folder.glob("CKPT*/CKPT.yaml"))
        texts = [meta.read_text() for meta in metas]
        kind = f"end-of-epoch: {str(end_of_epoch).lower()}"
        return (
            any("end-of-epoch: true" in text for text in texts)
            and kind in texts[-1]
        )

    return check


@pytest.fixture(scope="session")
def killed_and_resumed(run_script, kill_when, newest_checkpoint_is):
    """A function that kills a training after its first epoch, and starts it
    again, maybe by another command line; gives the output of that."""

    def run(line, folder, end_of_epoch=False, again=None, ranks=None):
        kill_when(
            lambda: newest_checkpoint_is(folder / "save", end_of_epoch),
            *line,
            ranks=ranks,
        )
        assert not (folder / "encoder").exists()
        code, output = run_script(*(again or line), ranks=ranks)
        assert code == 0, output
        assert "Resumed from a checkpoint" in output
        return output

    return run
