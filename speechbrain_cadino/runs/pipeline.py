"""The whole of CA-DINO + DLG-LC: the recipe scripts, one after the other.

A step is one script with one folder. What it was started with, and whether it
came to its end, is in ``step.json`` in that folder.
"""

import contextlib
import functools
import itertools
import os
import shutil
import signal
import subprocess
import sys
import time

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.settings import LIMIT, differences
from speechbrain_cadino.dataio.manifest import PSEUDO_LABELS
from speechbrain_cadino.process.console import in_minutes, to_copy
from speechbrain_cadino.process.files import read_json, write_json
from speechbrain_cadino.process.interrupts import Interrupted, interruptible
from speechbrain_cadino.process.lock import HELD
from speechbrain_cadino.process.ranks import follow_parent, own_processors
from speechbrain_cadino.runs.finish import where_to_go
from speechbrain_cadino.runs.open_run import (
    STEP_VARIABLE,
    check_same,
    record_of,
    settings_of,
)
from speechbrain_cadino.runs.plan import STEP_FILE
from speechbrain_cadino.runs.report import Stage, format_report, write_report
from speechbrain_cadino.training.checkpoints import has_checkpoint
from speechbrain_cadino.training.progress import LATER, PLACE

logger = get_logger(__name__)


# The variable for how many threads a process computes with
THREADS = "OMP_NUM_THREADS"

# The folders of the steps of one stage, in its own
PARTS = {"filter", "labels", "train", "gate"}

# A killed pipeline has counted the time of its step up to so many seconds.
UPDATE_SECONDS = 10

# So long may a script take to end when asked to: to finish a step and save a
# checkpoint. torchrun gives its processes 30 seconds.
GRACE_SECONDS = 40

# Of pseudo labels that end the iterations
SETTLED = (
    "these pseudo labels agree with those before hardly better than those had "
    "agreed with the ones before them (least_growth). No training uses them: "
    "the iteration before is the last."
)

# So long may the script of a killed pipeline take: it is asked to end, too.
LOCK_SECONDS = GRACE_SECONDS


def check(steps):
    """Makes sure that the steps go on from what is in their folders.

    Arguments
    ---------
    steps : list of Step
        The steps of ``plan``.

    Raises
    ------
    ValueError
        If a step was begun with other settings, or not by a pipeline, or was
        removed while later steps, made from it, are there.
    """
    steps = [step for step in steps if not step.quick]
    records = []
    for step in steps:
        record = _read_record(step)
        saved = has_checkpoint(step.folder / "save")
        if record is None and saved:
            raise ValueError(
                f"{step.name} was not begun by this pipeline, which cannot "
                f"tell its settings: remove {_there([step])}."
            )
        # What has failed before it made anything is no beginning
        made = record and (record["done"] or saved)
        records.append(record if made else None)
    for place, (step, record) in enumerate(zip(steps, records)):
        if record:
            there = _there(steps[place:])
            settings, done = _settings(step, record), record["done"]
            check_same(step.name, record, settings, there, done=done)
    begun = [step for step, record in zip(steps, records) if record]
    for place, (step, record) in enumerate(zip(steps, records)):
        later = [other for other in steps[place + 1 :] if other in begun]
        if later and not (record and record["done"]):
            raise ValueError(
                f"{step.name} is to be made anew, but later steps were made "
                f"from what it was: remove {_there(later)}."
            )


def _settings(step, record):
    """The settings of a step to compare with those that it was begun with: the
    number of processes counts while a training is half done, and where it ends
    once it is done."""
    free, before = "processes" if record["done"] else LIMIT, record["settings"]
    settings = {key: step.settings[key] for key in step.settings if key != free}
    return settings | {key: before[key] for key in [free] if key in before}


def _there(steps):
    """The folders of steps that are there, in words."""
    return ", ".join(str(s.folder) for s in steps if s.folder.exists())


def run(folder, steps, lock, replan):
    """Runs the steps that are not done, and writes the report after each.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    steps : list of Step
        The steps of ``plan``, checked.
    lock : int
        The lock of ``locked``.
    replan : callable
        The function that plans again: new pseudo labels may have settled, and
        end the iterations, and somebody may have changed a YAML file.

    Raises
    ------
    ValueError
        If a script fails, or the YAML file of one has changed meanwhile.
    Interrupted
        If the pipeline is asked to end, by SIGTERM, Ctrl-C or SIGHUP. The
        script was asked too, and has ended.
    """
    logger.info(f"\n{outline(steps)}\n")
    steps = list(steps)
    place, step = 0, steps[0]
    try:
        with interruptible():
            while place < len(steps):
                step = steps[place]
                if _is_done(step):
                    logger.info(f"{step.name}: done before.")
                else:
                    now = replan()[place]
                    if step.quick:  # its files may be of the steps before
                        steps[place] = step = now
                    else:
                        _check_unchanged(step, now)
                    _run_needed(folder, steps, step, lock)
                    if step.name.endswith("labels"):
                        now = replan()
                        steps = now if len(now) < len(steps) else steps
                if step.name in _settled(steps):
                    logger.info(f"{step.name}: {SETTLED}")
                place += 1
    except Interrupted as end:
        end.place = f" in {step.name}"
        raise
    ends = "verify" if any(step.name == "verify" for step in steps) else None
    rows = write_report(folder, _stages(steps), ends)
    logger.info(f"\nAll done: {folder}/report.html\n\n{format_report(rows)}\n")
    *_, last = (step for step in steps if step.manifest)
    logger.info(where_to_go(last.folder / "encoder"))


def _check_unchanged(step, now):
    """Raises if a step is not any more what was planned: its script would read
    the files of now, and the settings of then would be recorded."""
    changes = differences(step.settings, now.settings)
    if changes:
        raise ValueError(
            f"{step.name}: its settings have changed while the pipeline ran "
            f"({changes}). Start the same command again: it takes the new "
            "values, or says what was made with the old ones."
        )


def outline(steps):
    """The steps in order, and what the pipeline's YAML file sets in each.

    Arguments
    ---------
    steps : list of Step
        The steps of ``plan``.

    Returns
    -------
    str
        A line for each.
    """
    width = max(len(step.name) for step in steps)
    lines = ["The steps:"]
    for step in steps:
        values = [f"{key}={value}" for key, value in step.values.items()]
        lines.append(f"  {step.name:{width}}  {' '.join(values)}".rstrip())
    return "\n".join(lines)


def _settled(steps):
    """The names of the pseudo labels that end iterations: no training has
    them."""
    trained = {_stage_name(step) for step in steps if step.manifest}
    return [
        step.name
        for step in steps
        if step.name.endswith("labels") and _stage_name(step) not in trained
    ]


def _is_done(step):
    """Whether nothing is left to do of a step."""
    record = _read_record(step)
    if not (record and record["done"]):
        return False
    now = _settings(step, record)
    if step.quick:  # what it reads counts, harmless or not
        return record["settings"] == now
    return not differences(settings_of(record), now)


def _run_needed(folder, steps, step, lock):
    """Runs a step, and writes the report."""
    if not step.quick:
        for later in steps[steps.index(step) :]:
            if later.quick:
                _record_file(later).unlink(missing_ok=True)
    _run_step(folder, steps, step, lock)
    write_report(folder, _stages(steps))


def _number(steps, step):
    """Which of how many steps it is, those that take a moment left out."""
    heavy = [other for other in steps if not other.quick]
    if step in heavy:
        return f"{heavy.index(step) + 1} of {len(heavy)}"
    return ""


def _where(steps, step):
    """Where a step is, in words: its number, and how long the trainings from
    here on take, as far as those before tell."""
    number = _number(steps, step)
    if not number:
        return []
    done = [
        (record["seconds"], other.work)
        for other in steps
        if other.work and (record := _read_record(other)) and record["done"]
    ]
    coming = [o.work for o in steps[steps.index(step) :] if o.manifest]
    seconds = [seconds for seconds, _ in done]
    share = _share(coming, [work for _, work in done])
    if share is None:
        return [number]
    own = _read_record(step)
    spent = own["seconds"] if own and step.manifest else 0
    return [number, in_minutes(max(0, sum(seconds) * share - spent))]


def _later(steps, step):
    """The work of the trainings after a step, as a multiple of its own; None
    if nobody knows."""
    later = steps[steps.index(step) + 1 :]
    return _share([o.work for o in later if o.manifest], [step.work])


def _share(works, others):
    """The work of trainings as a multiple of that of others; None if nobody
    knows, as one counts steps and another utterances."""
    both = [*works, *others]
    if not others or None in both or len({work.of for work in both}) > 1:
        return None
    return sum(w.seconds for w in works) / sum(w.seconds for w in others)


def _run_step(folder, steps, step, lock):
    """Runs a step to its end, or goes on with it."""
    path = _record_file(step)
    record = _read_record(step)
    half_done = record and not record["done"]
    start = time.monotonic() - (record["seconds"] if half_done else 0)

    def save(done=False):
        """Writes what is known of the step."""
        seconds = round(time.monotonic() - start, 1)
        record = {"done": done, "seconds": seconds}
        write_json(path, record | record_of(step.settings))

    command = _for_people(step.command)
    where = ", ".join([step.name, *_where(steps, step)])
    logger.info(f"\n{where}:\n{command}")
    save()
    process = _start(folder, steps, step, lock)
    # A disk that is full for a moment does no harm to a training
    unwritten = contextlib.suppress(OSError)
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(UPDATE_SECONDS)
            with unwritten:
                save()
    finally:
        _end(process)
        with unwritten:
            save()
    if process.returncode:
        raise ValueError(
            f"{step.name} failed ({_how(process.returncode, step)}): see "
            f"above and, if it got so far, {path.with_name('log.txt')}. The "
            f"command was: {command}"
        )
    save(done=True)


def _how(code, step):
    """How the script of a step has ended, by its exit code."""
    how = f"exit code {code}"
    if code < 0:
        how = f"killed by {signal.Signals(-code).name}"
    advice = "lower num_workers; or, in another output_folder, batch_size or "
    advice += "processes"
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        how += f", most likely because memory ran out: {advice}"
    elif step.processes > 1 and code == 1:
        how += f"; if torchrun names SIGKILL, memory ran out: {advice}"
    return how


def _for_people(command):
    """A command line of Python to copy."""
    names = {shutil.which(name): name for name in ["python3", "python"]}
    return to_copy([names.get(sys.executable, sys.executable), *command])


def _start(folder, steps, step, lock):
    """Starts a script that ends with this process, even if that is killed."""
    number = _number(steps, step)
    known = {
        HELD: os.path.realpath(folder),
        STEP_VARIABLE: step.name,
        PLACE: f"{_stage_name(step)}, {number}",
    }
    later = _later(steps, step)
    if later is not None:
        known[LATER] = str(later)
    if step.processes > 1 and THREADS not in os.environ:
        # Else torchrun gives each process one
        known[THREADS] = str(own_processors(step.processes))
    return subprocess.Popen(
        [sys.executable, *step.command],
        env={**os.environ, **known},
        pass_fds=[lock],
        # Ctrl-C reaches it through us only: once, and without a traceback.
        start_new_session=True,
        preexec_fn=functools.partial(
            follow_parent, signal.SIGTERM, os.getpid()
        ),
    )


def _end(process):
    """Makes sure that a script and what it has started are at their end."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _record_file(step):
    return step.folder / STEP_FILE


def _read_record(step):
    """What ``step.json`` says; None if the step was never begun."""
    return read_json(_record_file(step))


def _stages(steps):
    """The trainings, and pseudo labels that have none, with the time of all
    steps of their stage."""
    seconds, settled = {}, _settled(steps)
    for step in steps:
        record = _read_record(step)
        if record:
            name = _stage_name(step)
            seconds[name] = seconds.get(name, 0) + record["seconds"]
    return [
        Stage(
            name=_stage_name(step),
            folder=step.folder,
            manifest=step.manifest or str(step.folder / PSEUDO_LABELS),
            seconds=seconds.get(_stage_name(step)),
        )
        for step in steps
        if step.manifest or step.name in settled
    ]


def _stage_name(step):
    """``iteration_1`` of ``iteration_1/labels``."""
    parts = step.name.split("/")
    kept = itertools.takewhile(lambda part: part not in PARTS, parts)
    return "/".join(kept)
