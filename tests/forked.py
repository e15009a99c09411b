"""Scripts as processes of their own, without the seconds that imports take.

Each process is a fork of a server that has imported what scripts import.
"""

import atexit
import multiprocessing
import multiprocessing.connection
import os
import pathlib
import runpy
import socket
import sys
import tempfile
import time

import torch

# Seconds: processes that take longer wait for each other
LONGEST = 600

SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    [
        "torch._dynamo",  # which optimisers import
        "speechbrain_cadino.brains.auxiliary",
        "speechbrain_cadino.brains.dino",
        "speechbrain_cadino.brains.frames",
        "speechbrain_cadino.runs.finetune",
        "speechbrain_cadino.runs.pipeline",
        "speechbrain_cadino.runs.plan",
        "speechbrain_cadino.runs.stage_two",
        "speechbrain_cadino.clustering.pseudo_labels",
        "speechbrain_cadino.prepare.filter",
        "speechbrain_cadino.gate.report",
        # What their YAML files name
        "matplotlib.backends.backend_agg",
        "speechbrain.nnet.containers",
        "speechbrain.utils.epoch_loop",
        "speechbrain.utils.parameter_transfer",
        "speechbrain.utils.train_logger",
        "speechbrain_cadino.encoders.adopt",
        "speechbrain_cadino.lobes.ecapa",
        "speechbrain_cadino.losses.chunked",
        "speechbrain_cadino.losses.dino",
        "speechbrain_cadino.prepare.noise",
        "speechbrain_cadino.prepare.voxceleb",
        "speechbrain_cadino.runs.stage_one",
        "speechbrain_cadino.runs.training",
        "speechbrain_cadino.training.average",
    ]
)


def run(*command, cwd=None, ranks=None, audit=None):
    """Runs a command line.

    Arguments
    ---------
    *command
        The words after ``python``: a script, ``-m`` and a module, or ``-c``
        and a program, and its arguments.
    cwd : str or pathlib.Path, optional
        The working folder.
    ranks : int, optional
        The number of processes, which find each other as those of torchrun do;
        if one fails, the others end. By default one, which is alone.
    audit : str or pathlib.Path, optional
        The file for the name of each file that is read, a line each.

    Returns
    -------
    int
        The exit code, negative for a signal; of several, that of the first one
        that failed.
    str
        The output of all processes.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = [{}] if ranks is None else environments(ranks)
        outputs = [pathlib.Path(folder, str(n)) for n in range(ranks or 1)]
        processes = [
            start(*command, cwd=cwd, output=o, environment=e, audit=audit)
            for o, e in zip(outputs, variables)
        ]
        code = _join(processes)
        output = "".join(map(said, processes))
        # The port of ``environments`` was free, and another one took it
        if ranks and "address already in use" in output.lower():
            return run(*command, cwd=cwd, ranks=ranks, audit=audit)
        return code, output


def start(*command, cwd=None, output=os.devnull, environment=None, audit=None):
    """Starts a command line.

    Arguments
    ---------
    *command
        See ``run``.
    cwd : str or pathlib.Path, optional
        The working folder.
    output : str or pathlib.Path
        The file for all that it says.
    environment : dict, optional
        Variables beside those of this process.
    audit : str or pathlib.Path, optional
        See ``run``.

    Returns
    -------
    multiprocessing.Process
        The process; for what it says, see ``said``.
    """
    process = SERVER.Process(
        target=_main,
        args=(
            [str(word) for word in command],
            str(cwd or os.getcwd()),
            multiprocessing.get_start_method(),
            {**os.environ, **(environment or {})},
            str(output),
            audit and str(audit),
        ),
    )
    process.output = pathlib.Path(output)
    process.start()
    # Else Python's end would wait for one that a failed test has left
    atexit.register(process.kill)
    return process


def said(process):
    """What a process that was started has said."""
    return process.output.read_text(encoding="utf-8")


def environments(ranks):
    """What torchrun tells each process.

    Arguments
    ---------
    ranks : int
        The number of processes.

    Returns
    -------
    list of dict
        The variables of each.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    both = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    both |= {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    return [
        {**both, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        for rank in range(ranks)
    ]


def _join(processes):
    """Waits for processes; the first exit code that is not 0, or 0. Those that
    wait for each other are killed."""
    running = {process.sentinel: process for process in processes}
    code, end = 0, time.monotonic() + LONGEST
    while running:
        ended = multiprocessing.connection.wait(running, end - time.monotonic())
        if not ended:
            for process in running.values():
                process.kill()
            raise TimeoutError(f"{len(running)} processes did not end.")
        for sentinel in ended:
            process = running.pop(sentinel)
            process.join()
            if process.exitcode and not code:
                code = process.exitcode
                for other in running.values():
                    other.terminate()
    return code


class Numbers(torch.utils.data.Dataset):
    """Each item tells in which process it was made: in a module of its own, as
    that process has to find the class."""

    def __len__(self):
        return 60

    def __getitem__(self, index):
        return os.getpid()


def _main(command, cwd, method, environment, output, audit):
    """The process."""
    if audit:
        sys.addaudithook(lambda *event: _tell(audit, *event))
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
        elif command[0] == "-c":
            sys.argv = ["-c", *command[2:]]
            main = vars(sys.modules["__main__"])
            main["__name__"] = "__main__"
            exec(command[1], main)
        else:
            sys.argv = command
            sys.path.insert(0, str(pathlib.Path(command[0]).parent))
            runpy.run_path(command[0], run_name="__main__")
    finally:
        # Forks of multiprocessing leave without them
        atexit._run_exitfuncs()
        sys.stdout.flush()


def _tell(audit, event, args):
    """Writes the name of a file that is read."""
    if event == "open" and isinstance(args[0], str) and "r" in (args[1] or ""):
        with open(audit, "a", encoding="utf-8") as file:
            file.write(args[0] + "\n")
