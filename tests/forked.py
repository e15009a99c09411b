"""Scripts as processes of their own, without the seconds that imports take.

Each process is a fork of a server that has imported what scripts import.
"""

import atexit
import multiprocessing
import os
import pathlib
import runpy
import sys
import tempfile

import torch

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "speechbrain_cadino.brains.dino",
        "speechbrain_cadino.runs.finetune",
        "speechbrain_cadino.runs.pipeline",
        "speechbrain_cadino.runs.plan",
        "speechbrain_cadino.runs.stage_two",
        "speechbrain_cadino.clustering.pseudo_labels",
        "speechbrain_cadino.gate.filter",
        "speechbrain_cadino.gate.report",
    ]
)


def run(*command, cwd=None):
    """Runs a command line.

    Arguments
    ---------
    *command
        After ``python``: a script or ``-m`` and a module, and its arguments.
    cwd : str or pathlib.Path, optional
        The working folder.

    Returns
    -------
    int
        The exit code, negative for a signal.
    str
        All that it said.
    """
    with tempfile.TemporaryDirectory() as folder:
        output = pathlib.Path(folder, "output")
        process = SERVER.Process(
            target=_main,
            args=(
                [str(word) for word in command],
                str(cwd or os.getcwd()),
                dict(os.environ),
                multiprocessing.get_start_method(),
                str(output),
            ),
        )
        process.start()
        process.join()
        return process.exitcode, output.read_text(encoding="utf-8")


class Numbers(torch.utils.data.Dataset):
    """Each item tells in which process it was made: in a module of its own, as
    that process has to find the class."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return os.getpid()


def _main(command, cwd, environment, method, output):
    """The process."""
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    # As where there is no server
    multiprocessing.set_start_method(method, force=True)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    try:
        if command[0] == "-m":
            sys.argv = command[1:]
            sys.path.insert(0, cwd)
            runpy.run_module(command[1], run_name="__main__", alter_sys=True)
        else:
            sys.argv = command
            sys.path.insert(0, str(pathlib.Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    finally:
        # Forks of multiprocessing leave without them
        atexit._run_exitfuncs()
        sys.stdout.flush()
