"""Real processes, killed at random moments and started again.

A command is what a user types. It may start others: a pipeline its script,
torchrun its ranks, a script its data workers. ``harass`` kills any of them by
any signal, starts the command again until it comes to its end, and ``compare``
looks for a difference to a run that nobody disturbed.
"""

import json
import os
import pathlib
import random
import re
import signal
import subprocess
import sys
import time
from typing import NamedTuple

import pandas as pd
import torch

# A command hangs after a signal if it says nothing for so long. To its end it
# may take its time: not every signal ends it, and the machine may have more to
# do. All that it has started must end soon after it: data workers look for
# their parent every 5 seconds.
SILENT_SECONDS = 90
ORPHAN_SECONDS = 15

SIGNALS = [signal.SIGKILL, signal.SIGTERM, signal.SIGINT]

# What is of the run rather than of its result
IGNORED = [
    "*log.txt",
    "*.log",
    "*.py",
    ".lock",
    "*hyperparams.yaml",
    "*.png",
    "*step.json",
    "*run.json",
    "*report.*",
    "*/CKPT+*",
]
SPEED = ["seconds", "data_seconds", "utts_per_second"]


class Fault(NamedTuple):
    """A kill to come.

    Arguments
    ---------
    target : str
        The process: ``command``, or a role of ``roles``, or ``all``: every
        process, as SLURM may do.
    number : signal.Signals
        The signal.
    delay : float
        Seconds after the start. The target is waited for if it is not there.
    """

    target: str
    number: signal.Signals
    delay: float

    def __str__(self):
        return f"{self.number.name} to {self.target}"


class Outcome(NamedTuple):
    """What became of a command that was struck, or not.

    Arguments
    ---------
    fault : Fault
        The kill.
    struck : bool
        Whether the fault was carried out; not if the command ended before.
    code : int
        The exit code of the command.
    output : str
        The output of the command.
    trouble : str
        The trouble, such as a process that hangs or stays behind; empty for
        none.
    """

    fault: Fault
    struck: bool
    code: int
    output: str
    trouble: str


def draw(seed, targets, seconds):
    """Endless random faults, the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        target, number = rng.choice(targets), rng.choice(SIGNALS)
        yield Fault(target, number, rng.uniform(0, seconds))


class Process(NamedTuple):
    """A process, and when it was started: numbers are used again."""

    pid: int
    parent: int
    started: str
    command: str

    def alive(self):
        now = _read_process(self.pid)
        return now is not None and now.started == self.started


def _read_process(pid):
    folder = pathlib.Path("/proc", str(pid))
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        command = (folder / "cmdline").read_bytes().decode()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if fields[0] == "Z":
        return None
    return Process(int(pid), int(fields[1]), fields[19], command)


def family(pid):
    """A process and all that it has started, directly or not."""
    everybody = [
        process
        for path in pathlib.Path("/proc").glob("[0-9]*")
        if (process := _read_process(path.name)) is not None
    ]
    found = [process for process in everybody if process.pid == pid]
    for process in found:  # grows
        found += [other for other in everybody if other.parent == process.pid]
    return found


def roles(pid):
    """Who is who in the family of a command.

    Returns
    -------
    dict of str:list of Process
        ``command``; ``torchrun``, ``rank``, ``script`` and ``worker``, a fork
        of one of these.
    """
    members = {process.pid: process for process in family(pid)}
    found = {}
    for process in members.values():
        parent = members.get(process.parent)
        if process.pid == pid:
            role = "command"
        elif parent is None:
            continue
        elif process.command == parent.command:
            role = "worker"
        elif "torch.distributed.run" in process.command:
            role = "torchrun"
        elif "torch.distributed.run" in parent.command:
            role = "rank"
        elif ".py\0" in process.command:
            role = "script"
        else:
            continue  # multiprocessing's helpers
        found.setdefault(role, []).append(process)
    return found


def start(command, output):
    """Starts a command; what it says goes to an open file."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        # Ignored if the tests run in a shell's background
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def strike(command, fault, log, rng=random, ready=lambda: True):
    """Starts a command and carries out a fault.

    Arguments
    ---------
    command : list
        The command line after ``python``.
    fault : Fault
        The kill.
    log : pathlib.Path
        The file for the output of the command.
    rng : random.Random
        The source of the choice if there are several of the target.
    ready : callable
        The condition: the fault waits until it is true.

    Returns
    -------
    Outcome
    """
    with open(log, "w") as output:
        process = start(command, output)
        time_to_strike = time.monotonic() + fault.delay
        targets = []
        while process.poll() is None and not targets:
            time.sleep(0.05)
            if time.monotonic() >= time_to_strike and ready():
                targets = _targets(process.pid, fault.target, rng)
        witnesses = family(process.pid) if targets else []
        for target in targets:
            if target.alive():
                os.kill(target.pid, fault.number)
        trouble = _wait(process, witnesses, log)
    return Outcome(
        fault, bool(targets), process.returncode, log.read_text(), trouble
    )


def _targets(pid, target, rng):
    if target == "all":
        return family(pid)
    candidates = roles(pid).get(target, [])
    return [rng.choice(candidates)] if candidates else []


def _wait(process, witnesses, log):
    """Waits for the end of a command and of all that it has started."""
    trouble = ""
    said, deadline = None, None
    # A command that has not been struck may be as silent as it likes.
    while process.poll() is None and not trouble:
        time.sleep(0.05)
        if (size := log.stat().st_size) != said:
            said = size
            deadline = time.monotonic() + SILENT_SECONDS
        if witnesses and time.monotonic() > deadline:
            trouble = f"hangs: silent for {SILENT_SECONDS} s after the signal"
            process.kill()
            process.wait()
    deadline = time.monotonic() + ORPHAN_SECONDS
    while any(witness.alive() for witness in witnesses):
        if time.monotonic() > deadline:
            left = [witness for witness in witnesses if witness.alive()]
            trouble = trouble or f"left behind: {left}"
            for witness in left:
                os.kill(witness.pid, signal.SIGKILL)
            break
        time.sleep(0.05)
    return trouble


def harass(command, logs, faults, kills):
    """Kills a command again and again, then lets it come to its end.

    Arguments
    ---------
    command : list
        The command line after ``python``.
    logs : pathlib.Path
        A folder for what it says, a file for each start.
    faults : iterator of Fault
        The faults, as of ``draw``.
    kills : int
        The number of kills.

    Returns
    -------
    list of Outcome
        The outcomes of the kills, and of the last start: its code is 0 if all
        is well.
    """
    logs.mkdir(parents=True, exist_ok=True)
    outcomes = []
    for number in range(kills):
        fault = next(faults)
        rng = random.Random(repr(fault))
        outcome = strike(command, fault, logs / f"{number}.txt", rng)
        outcomes.append(outcome)
        if outcome.code == 0:
            return outcomes
    nobody = Fault("nobody", signal.SIGKILL, 0)
    return [*outcomes, strike(command, nobody, logs / "last.txt")]


def in_epoch(log, epoch):
    """Whether a training that writes this log is amid an epoch."""
    text = log.read_text()
    if epoch > 1:
        before = f"epoch {epoch - 1} of|after {epoch - 1} epochs"
        text = [*re.split(before, text, maxsplit=1), ""][1]
    return "train_loss" in text


def compare(folder, expected):
    """The names of all result files that differ, or are in one folder only."""
    names = {
        str(path.relative_to(root))
        for root in (folder, expected)
        for path in root.rglob("*")
        if path.is_file() and not _is_ignored(path.relative_to(root))
    }
    return sorted(
        name
        for name in names
        if not (folder / name).is_file()
        or not (expected / name).is_file()
        or _content(folder / name) != _content(expected / name)
    )


def _is_ignored(path):
    if path.name == "train_log.txt":
        return False
    every = [path, *path.parents]
    return any(part.match(form) for part in every for form in IGNORED)


def _content(path):
    """What a file says but for how fast it was made."""
    if path.suffix == ".ckpt":
        state = torch.load(path, weights_only=True)
        # The file itself holds the name under which it was written.
        return [
            (name, value.dtype, value.numpy().tobytes())
            if torch.is_tensor(value)
            else (name, value)
            for name, value in state.items()
        ]
    if path.name == "training.csv":
        return pd.read_csv(path, dtype=str).drop(columns=SPEED).to_csv()
    if path.name == "train_log.txt":
        return re.sub(rf"({'|'.join(SPEED)}): \S+", "", path.read_text())
    if path.name == "train.json":
        # Of when the files were converted
        return {**json.loads(path.read_text()), "converted": None}
    if path.name == "report.json":
        stages = json.loads(path.read_text())["stages"]
        return [{**stage, "seconds": None} for stage in stages]
    return path.read_bytes()


def table(rows):
    """The kinds of faults and what they did, for people.

    Arguments
    ---------
    rows : list of tuple
        The kind of each kill, whether the run survived it, and how many files
        differed at the end.

    Returns
    -------
    str
    """
    columns = ["kind of fault", "tried", "survived", "differences"]
    frame = pd.DataFrame(rows, columns=["kind", "survived", "differences"])
    groups = frame.groupby("kind").agg(
        tried=("survived", "size"),
        survived=("survived", "sum"),
        differences=("differences", "sum"),
    )
    groups.loc["all"] = groups.sum()
    return groups.reset_index().set_axis(columns, axis=1).to_string(index=False)
