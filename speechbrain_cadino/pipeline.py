"""The whole of CA-DINO + DLG-LC: the recipe scripts, one after the other.

A step is one script with one folder. What it was started with, and whether it
came to its end, is in ``step.json`` in that folder.
"""

import contextlib
import ctypes
import functools
import json
import os
import pathlib
import shlex
import shutil
import signal
import subprocess
import sys
import time
from typing import NamedTuple

from hyperpyyaml import resolve_references
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain.utils.logger import get_logger
from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino.cli import parse_arguments
from speechbrain_cadino.files import write_json
from speechbrain_cadino.pipeline_report import (
    Stage,
    format_report,
    write_report,
)
from speechbrain_cadino.settings import differences, plain

logger = get_logger(__name__)

# Go to each script whose YAML file knows them, unless they are null.
COMMON = [
    *("seed", "data_folder", "convert_folder", "noise_folder", "rir_folder"),
    *("trials", "trials_folder", "precision"),
]

# Share their work between the processes of torchrun
TORCHRUN = {"train_dino.py", "pseudo_label.py", "train_dlg_lc.py"}

RUN_OPTIONS = RunOptions().as_dict()

# A killed pipeline has counted the time of its step up to so many seconds.
UPDATE_SECONDS = 10

# So long may a script take to end when asked to; torchrun gives its processes
# 30 seconds.
GRACE_SECONDS = 40

# So long may the script of a killed pipeline take to end.
LOCK_SECONDS = 10

# prctl: which signal a process gets when its parent dies (Linux)
PR_SET_PDEATHSIG = 1


class Step(NamedTuple):
    """One script to run.

    Arguments
    ---------
    name : str
        What it is called, and its folder under the output folder.
    command : list of str
        The command line, after ``python``.
    settings : dict
        Plain data: all that its result depends on.
    manifest : str, optional
        What it trains on, if it is a training.
    light : bool
        It takes a moment and no step needs its result: it is simply done
        again when its settings change or a step before it runs.
    """

    name: str
    command: list
    settings: dict
    manifest: str | None = None
    light: bool = False


def plan(hparams, hparams_folder, recipe, run_opts):
    """The steps of a pipeline, with all YAML files and flags checked.

    Arguments
    ---------
    hparams : dict
        What is in ``pipeline.yaml``.
    hparams_folder : str or pathlib.Path
        Where it lies, and the YAML files that it names.
    recipe : str or pathlib.Path
        Where the scripts are.
    run_opts : RunOptions
        SpeechBrain's. Those on the command line go to every script.

    Returns
    -------
    list of Step

    Raises
    ------
    ValueError
        If a number makes no sense, a YAML file is missing, or it does not
        have a key that is given.
    """
    for name in ["iterations", "processes"]:
        if not isinstance(hparams[name], int) or hparams[name] < 1:
            raise ValueError(f"{name} is {hparams[name]}: give 1 or more.")
    options = {
        name: run_opts[name]
        for name in sorted(run_opts.overridden_args)
        if name not in hparams
    }
    step = functools.partial(_step, hparams, options, hparams_folder, recipe)
    folder = pathlib.Path(hparams["output_folder"])
    speakers = hparams["speakers"]
    steps = [step("stage_1", "train_dino.py", "stage_1")]
    last = folder / "stage_1"

    def add_training(name, entry, **own):
        training = step(name, "train_dlg_lc.py", entry, **own)
        steps.append(training)
        if speakers is not None:
            report = step(
                f"{name}/gate",
                *("report_gate.py", "report_gate"),
                run_folder=folder / name,
                manifest=training.manifest,
                speakers=speakers,
            )
            steps.append(report._replace(light=True))
        return folder / name

    for iteration in range(1, hparams["iterations"] + 1):
        labels = step(
            f"iteration_{iteration}/labels",
            *("pseudo_label.py", "pseudo_label"),
            encoder=last / "encoder",
            manifest=steps[0].manifest,
            speakers=speakers,
        )
        steps.append(labels)
        manifest = folder / labels.name / "pseudo_labels.csv"
        last = add_training(
            *(f"iteration_{iteration}/train", "dlg_lc"),
            train_manifest=manifest,
            start_encoder=last / "encoder",
        )
    if hparams["large_margin"] is not None:
        last = add_training(
            *("large_margin", "large_margin"),
            train_manifest=manifest,
            start_encoder=last / "encoder",
            start_classifier=last / "classifier.ckpt",
        )
    if hparams["trials"] is not None:
        verification = step(
            *("verify", "verify.py", "verify"),
            encoder=last / "encoder",
            data_folder=hparams["trials_folder"] or hparams["data_folder"],
        )
        steps.append(verification._replace(light=True))
    return steps


def _step(hparams, options, hparams_folder, recipe, name, script, entry, **own):
    """A step, from its entry in ``pipeline.yaml``, which has the last word,
    and what the pipeline knows of its own."""
    folder = pathlib.Path(hparams["output_folder"])
    if "hparams" not in (hparams[entry] or {}):
        raise ValueError(f"{entry}: give a YAML file, hparams: NAME.")
    flags = dict(hparams[entry])
    yaml_file = pathlib.Path(hparams_folder, flags.pop("hparams"))
    if "output_folder" in flags:
        raise ValueError(f"{entry}: its output_folder is {folder / name}.")
    known = _keys(yaml_file)
    if "output_folder" in known:
        own["output_folder"] = folder / name
    common = {key: hparams[key] for key in COMMON if key in known}
    flags = {
        **{
            key: value
            for key, value in {**common, **own, **options}.items()
            if value is not None
        },
        **flags,
    }
    for key in flags:
        if key not in known and key not in RUN_OPTIONS:
            raise ValueError(f"{entry}: {yaml_file} has no {key}.")
    command = [_from_here(yaml_file)]
    command += [_flag(key, value) for key, value in flags.items()]
    try:
        resolved = _resolve(command)
    except ValueError as error:
        raise ValueError(f"{entry}: {error}") from error
    settings = plain(resolved, str(folder))
    manifest = None
    if script.startswith("train_"):
        settings["processes"] = hparams["processes"]
        manifest = resolved["train_manifest"]
    command.insert(0, _from_here(pathlib.Path(recipe, script)))
    if hparams["processes"] > 1 and script in TORCHRUN:
        count = f"--nproc_per_node={hparams['processes']}"
        command[:0] = ["-m", "torch.distributed.run", "--standalone", count]
    return Step(name, command, settings, manifest)


def _keys(yaml_file):
    """The keys of a YAML file and of its bases."""
    merged, _, _ = parse_arguments([str(yaml_file)])
    return set(YAML().load(pathlib.Path(merged)))


def _resolve(command):
    """The settings that a YAML file and flags make, references resolved."""
    merged, run_opts, overrides = parse_arguments(command)
    with open(merged, encoding="utf-8") as fin:
        settings = YAML().load(resolve_references(fin, overrides))
    for name in run_opts.overridden_args:
        settings[name] = run_opts[name]
    return settings


def _flag(name, value):
    """A flag as SpeechBrain reads it: its value is YAML."""
    if RUN_OPTIONS.get(name) is False and value is True:
        return f"--{name}"
    if isinstance(value, pathlib.Path):
        value = str(value)
    if not (isinstance(value, str) and _is_plain(value)):
        value = json.dumps(value)
    return f"--{name}={value}"


def _is_plain(text):
    """Whether YAML reads a text as itself, without quotes."""
    try:
        return YAML(typ="safe").load(f"x: {text}") == {"x": text}
    except YAMLError:
        return False


def _from_here(path):
    """A path, relative if it lies in the working folder."""
    path, here = path.absolute(), pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def check(folder, steps):
    """Makes sure that the steps go on from what is in the output folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    steps : list of Step
        Of ``plan``.

    Raises
    ------
    ValueError
        If a step was begun with other settings, or was removed while later
        steps, made from it, are there.
    """
    steps = [step for step in steps if not step.light]
    records = [_read_record(folder, step) for step in steps]
    for place, (step, record) in enumerate(zip(steps, records)):
        if record and record["settings"] != step.settings:
            changes = differences(record["settings"], step.settings)
            raise ValueError(
                f"{step.name} was begun with other settings: {changes}. Take "
                "the old ones, or give another --output_folder, or remove what "
                f"is to be made anew: {_there(folder, steps[place:])}."
            )
    begun = [step for step, record in zip(steps, records) if record]
    for place, (step, record) in enumerate(zip(steps, records)):
        later = [other for other in steps[place + 1 :] if other in begun]
        if later and not (record and record["done"]):
            raise ValueError(
                f"{step.name} is to be made anew, but later steps were made "
                f"from what it was: remove {_there(folder, later)}."
            )


def _there(folder, steps):
    """The folders of steps that are there, in words."""
    paths = [pathlib.Path(folder) / step.name for step in steps]
    return ", ".join(str(path) for path in paths if path.exists())


def run(folder, steps, lock):
    """Runs the steps that are not done, and writes the report after each.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    steps : list of Step
        Of ``plan``, and checked.
    lock : int
        Of ``locked``.

    Raises
    ------
    ValueError
        If a script fails.
    SystemExit
        If the pipeline is asked to end, by SIGTERM or Ctrl-C. The script has
        ended then, too.
    """
    handler = signal.signal(signal.SIGTERM, _exit)
    step = steps[0]
    try:
        for place, step in enumerate(steps):
            record = _read_record(folder, step)
            if (
                record
                and record["done"]
                and record["settings"] == step.settings
            ):
                logger.info(f"{step.name}: done before.")
                continue
            if not step.light:
                for later in steps[place:]:
                    if later.light:
                        _record_file(folder, later).unlink(missing_ok=True)
            _run_step(folder, step, lock)
            write_report(folder, _stages(folder, steps))
        rows = write_report(folder, _stages(folder, steps))
    except (KeyboardInterrupt, SystemExit) as end:
        logger.error(
            f"Ended in {step.name}: the same command goes on from there."
        )
        sys.exit(getattr(end, "code", 128 + signal.SIGINT))
    finally:
        signal.signal(signal.SIGTERM, handler)
    logger.info(f"All done: {folder}/report.md\n{format_report(rows)}")


def _exit(number, frame):
    sys.exit(128 + number)


def _run_step(folder, step, lock):
    """Runs a step to its end, or goes on with it."""
    path = _record_file(folder, step)
    record = _read_record(folder, step)
    half_done = record and not record["done"]
    start = time.monotonic() - (record["seconds"] if half_done else 0)

    def save(done=False):
        seconds = round(time.monotonic() - start, 1)
        record = {"done": done, "seconds": seconds, "settings": step.settings}
        write_json(path, record)

    command = _for_people(step.command)
    logger.info(f"{step.name}: {command}")
    save()
    process = _start(step.command, lock)
    try:
        while process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(UPDATE_SECONDS)
            save()
    finally:
        _end(process)
        save()
    code = process.returncode
    if code:
        how = f"exit code {code}"
        if code < 0:
            how = f"killed by {signal.Signals(-code).name}"
        raise ValueError(
            f"{step.name} failed ({how}): see above and, if it got so far, "
            f"{path.with_name('log.txt')}. The command was: {command}"
        )
    save(done=True)


def _for_people(command):
    """A command line to copy."""
    names = {shutil.which(name): name for name in ["python3", "python"]}
    python = names.get(sys.executable, sys.executable)
    return shlex.join([python, *command])


def _start(command, lock):
    """Starts a script that ends with this process, even if that is killed."""
    return subprocess.Popen(
        [sys.executable, *command],
        pass_fds=[lock],
        # Ctrl-C reaches it through us only: once, and without a traceback.
        start_new_session=True,
        preexec_fn=_follower(),
    )


def _follower():
    """What a child runs first to be asked to end when this process dies."""
    if sys.platform != "linux":
        return None
    prctl, parent = ctypes.CDLL(None).prctl, os.getpid()

    def follow():
        prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)

    return follow


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


def _record_file(folder, step):
    return pathlib.Path(folder, step.name, "step.json")


def _read_record(folder, step):
    """What ``step.json`` says; None if the step was never begun."""
    path = _record_file(folder, step)
    return json.loads(path.read_text("utf-8")) if path.is_file() else None


def _stages(folder, steps):
    """The trainings, with the time of all steps of their stage."""
    seconds = {}
    for step in steps:
        record = _read_record(folder, step)
        if record:
            name = _stage_name(step)
            seconds[name] = seconds.get(name, 0) + record["seconds"]
    return [
        Stage(
            name=_stage_name(step),
            folder=pathlib.Path(folder, step.name),
            manifest=step.manifest,
            seconds=seconds.get(_stage_name(step)),
        )
        for step in steps
        if step.manifest
    ]


def _stage_name(step):
    """``iteration_1`` of ``iteration_1/labels``."""
    return step.name.split("/")[0]
