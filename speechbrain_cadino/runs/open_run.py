"""The begin of a run: its folder is locked, compared and recorded."""

import operator
import os
import pathlib
import platform
import secrets
import shutil
import sys
from datetime import date

import torch
from hyperpyyaml import load_hyperpyyaml

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino import __version__
from speechbrain_cadino.config.calls import check_arguments
from speechbrain_cadino.config.overlays import allow_own_classes, load_merged
from speechbrain_cadino.config.settings import (
    HARMLESS,
    OUTPUT_FOLDER,
    comparable,
    differences,
    resolve,
    resolved_text,
)
from speechbrain_cadino.encoders.export import (
    check_no_encoder,
    check_replaceable,
)
from speechbrain_cadino.process.console import LOG_CONFIG
from speechbrain_cadino.process.files import (
    HOST,
    atomic_path,
    read_json,
    wait_for,
    write_json,
    write_text,
)
from speechbrain_cadino.process.lock import claim
from speechbrain_cadino.process.ranks import launched_processes
from speechbrain_cadino.training.checkpoints import (
    has_checkpoint,
    has_ended,
)

logger = get_logger(__name__)

# In the output folder: what a run was begun with
RECORD = "run.json"

# What a training that has ended can still be given
AT_THE_END = {"processes", "final_map"}

# How the settings that a run keeps begin, as SpeechBrain's do
GENERATED = "# Generated"

# In the environment of the scripts that a pipeline starts: the step's name
STEP_VARIABLE = "SPEECHBRAIN_CADINO_STEP"


def open_run(folder, settings, resumes=True, harmless=HARMLESS):
    """Keeps other runs away from an output folder, and makes sure that what
    is in there was made of the same settings.

    It is to be called before the YAML file is loaded: that removes what a run
    that was killed has left behind. Under torchrun the main process does it,
    and the others wait for it; all have to see the folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    settings : dict
        The settings, as ``config.settings.resolve`` gives them.
    resumes : bool
        Whether the run goes on from what is there. If not, the settings are
        recorded in place of the old ones, and the folder must not be that of a
        training.
    harmless : set of str
        Settings that may change.

    Raises
    ------
    ValueError
        If another run is at work there, and stays; or the run was begun with
        other settings, or by a version that recorded none; or a process of
        torchrun does not see what the main one writes there.

    Example
    -------
    >>> folder = getfixture("tmp_path") / "run"
    >>> open_run(folder, {"output_folder": str(folder), "lr": 1})
    >>> (folder / "save" / "CKPT+1").mkdir(parents=True)
    >>> from speechbrain_cadino.process.lock import release_all
    >>> release_all()
    >>> open_run(folder, {"output_folder": str(folder), "lr": 2})
    Traceback (most recent call last):
    ...
    ValueError: ... was begun with other settings: lr was 1, is 2. ...
    >>> release_all()
    """
    run_on_main(_open, args=[pathlib.Path(folder), settings, resumes, harmless])
    check_shared(folder)


def _open(folder, settings, resumes, harmless):
    if "pretrainer" in settings:
        raise ValueError(
            "pretrainer: no script here calls it. What a training starts from "
            "is start_encoder, an encoder folder or a hub id."
        )
    check_no_encoder(folder)
    claim(folder)
    saved = pathlib.Path(settings.get("save_folder") or folder / "save")
    ended = has_ended(saved, settings.get("number_of_epochs"))
    if ended:  # the report is made again, by one process as by many
        harmless = {*harmless, *AT_THE_END}
    settings = comparable(settings, settings["output_folder"], harmless)
    # Without a checkpoint there is nothing to go on from; and a pipeline has
    # compared its steps itself, also where it was moved.
    begun = has_checkpoint(saved)
    if not resumes:
        check_no_training(folder, saved)
    if begun and STEP_VARIABLE not in os.environ:
        record = read_record(folder)
        check_same(folder, record, settings, folder, harmless)
    if not ended:
        write_json(folder / RECORD, record_of(settings))


def check_no_training(folder, save_folder=None):
    """Raises if a folder is that of a training.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of some results.
    save_folder : str or pathlib.Path, optional
        The folder of its checkpoints; its ``save`` by default.

    Raises
    ------
    ValueError
        If so.
    """
    if has_checkpoint(save_folder or pathlib.Path(folder, "save")):
        raise ValueError(
            f"{folder} is the folder of a training, whose files would be "
            "replaced: give another output folder."
        )


def check_shared(folder):
    """Raises, in all processes of torchrun, unless all see one folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.

    Raises
    ------
    ValueError
        Naming the first process that does not.

    Example
    -------
    >>> check_shared(getfixture("tmp_path"))
    """
    if not torch.distributed.is_initialized():
        return
    folder = pathlib.Path(folder).absolute()
    # As that of a file that is written: the next run removes it
    name = f".seen.{secrets.token_hex(4)}.{HOST}-{os.getpid()}.tmp"
    name = run_on_main(_leave, args=[folder, name])
    seen = wait_for(folder / name)
    views = [None] * torch.distributed.get_world_size()
    view = seen, f"{folder} on {platform.node()}"
    torch.distributed.all_gather_object(views, view)
    run_on_main((folder / name).unlink, kwargs={"missing_ok": True})
    for rank, (seen, where) in enumerate(views):
        if not seen:
            raise ValueError(
                f"Process {rank} writes to {where}, and does not see there "
                f"what the main process writes to {views[0][1]}: all processes "
                "of torchrun need one output folder, on a disk that all "
                "machines see, and the same --output_folder. The data may be "
                "on a disk of each machine."
            )


def _leave(folder, name):
    (folder / name).touch()
    return name


def record_of(settings):
    """What is kept of the settings of a run, to be compared later.

    Arguments
    ---------
    settings : dict
        The settings, as ``config.settings.comparable`` gives them.

    Returns
    -------
    dict
        The record, fit for JSON.
    """
    return {"version": __version__, "settings": settings}


def read_record(folder):
    """What a run was begun with.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.

    Returns
    -------
    dict
        ``version`` and ``settings``; None if there was no run.

    Raises
    ------
    ValueError
        If it is damaged.
    """
    path = pathlib.Path(folder) / RECORD
    record = read_json(path)
    if record is None and path.is_file():
        raise ValueError(
            f"{path} is damaged, such as by a power cut: what the run was "
            "begun with cannot be told. Remove it, and its checkpoints, to "
            "begin anew."
        )
    return record


def settings_of(record, harmless=HARMLESS):
    """What of the settings of a record a result depends on: since it was
    written, more may have turned out to be harmless.

    Arguments
    ---------
    record : dict
        The record of ``record_of``.
    harmless : set of str
        See ``open_run``.

    Returns
    -------
    dict
        The settings, less those that are harmless.

    Example
    -------
    >>> settings_of(record_of({"lr": 1, "num_workers": 4}))
    {'lr': 1}
    """
    return comparable(record["settings"], OUTPUT_FOLDER, harmless)


def check_same(name, record, settings, remove, harmless=HARMLESS, done=False):
    """Raises if a run cannot go on from what is there.

    Arguments
    ---------
    name : str or pathlib.Path
        The name of what was begun.
    record : dict
        The record of ``record_of``; None if there is none.
    settings : dict
        The settings of now, as ``config.settings.comparable`` gives them.
    remove : str or pathlib.Path
        The folders to remove to begin anew.
    harmless : set of str
        See ``open_run``.
    done : bool
        Whether nothing is left to do: the version does not matter then.

    Raises
    ------
    ValueError
        Naming what has changed; or if there was no record yet when it began.
    """
    begun = (record or {}).get("version")
    if begun is None or (begun.startswith("0.2.") and not done):
        when = f"with version {begun}" if begun else "before version 0.2.0"
        raise ValueError(
            f"{name} was begun {when}, whose trainings {__version__} does not "
            "go on with: if it has not ended, let it end with the version "
            "that began it, or give another output_folder, or remove what is "
            f"to be made anew: {remove}. Encoder folders can be loaded as "
            "ever."
        )
    updated = begun != __version__
    changes = differences(settings_of(record, harmless), settings)
    if changes:
        moved = "_folder was " in changes
        raise ValueError(
            f"{name} was begun with other settings: {changes}. Take the old "
            "ones, or give another --output_folder, or remove what is to be "
            f"made anew: {remove}."
            + " If a folder has moved, put a link at its old place."
            * moved
            + f" It was begun with version {begun}, and this is {__version__}: "
            "the one before goes on with it." * updated
        )
    if updated and not done:
        logger.warning(
            f"{name} was begun with version {begun}, and goes on with "
            f"{__version__}."
        )


def run_settings(hparams_file, run_opts, overrides):
    """All that the result of a run depends on.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``.
    run_opts : dict
        The run options of ``parse_arguments``.
    overrides : str
        The overrides of ``parse_arguments``.

    Returns
    -------
    dict
        See ``config.settings.resolve``; ``processes``, on which the learning
        rate and the batches depend, is among them.
    """
    settings = resolve(hparams_file, overrides, run_opts)
    settings["processes"] = launched_processes()
    return settings


def load_run(
    hparams_file,
    run_opts,
    overrides,
    resumes=True,
    harmless=HARMLESS,
    run_folder=operator.itemgetter("output_folder"),
):
    """Opens a run, and loads its YAML file.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``.
    run_opts : dict
        The run options of ``parse_arguments``.
    overrides : str
        The overrides of ``parse_arguments``.
    resumes : bool
        See ``open_run``, also for the errors.
    harmless : set of str
        See ``open_run``.
    run_folder : callable
        The function from the settings to the folder of the run.

    Returns
    -------
    dict
        The hyperparameters.
    """
    settings = run_settings(hparams_file, run_opts, overrides)
    folder = run_folder(settings)
    _check_encoder_folders(folder, settings)
    check_yaml_stays(folder, run_opts)
    allow_own_classes()
    check_arguments(settings)
    open_run(folder, settings, resumes, harmless)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    make_experiment(folder, hparams_file, overrides)
    return hparams


def _check_encoder_folders(folder, settings):
    """Raises if an encoder would take the place of anything else."""
    for key in ["encoder_folder", "face_encoder_folder"]:
        if key not in settings:
            continue
        place = pathlib.Path(settings[key]).absolute()
        if place in [own := pathlib.Path(folder).absolute(), *own.parents]:
            raise ValueError(
                f"{key}={settings[key]} is the folder of the training, or "
                "around it, and would be replaced as a whole by the encoder: "
                "give a folder for it alone."
            )
        check_replaceable(place)


def check_yaml_stays(folder, run_opts):
    """Raises if the YAML file that was given, or one that it is based on, would
    be replaced by its resolved settings.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    run_opts : dict
        The run options of ``parse_arguments``, which name the file.

    Raises
    ------
    ValueError
        If so, unless these are such settings themselves.
    """
    kept = pathlib.Path(folder, "hyperparams.yaml")
    if not kept.is_file():
        return
    text = kept.read_text("utf-8-sig", errors="replace")
    if text.startswith(GENERATED):  # which most are: nothing is parsed
        return
    _, given = load_merged(pathlib.Path(run_opts["param_file"]))
    if kept.resolve() in [file.resolve() for file in given]:
        raise ValueError(
            f"{kept} is your YAML file, and would be replaced by its resolved "
            "settings: give it another name, or another output_folder."
        )


def make_experiment(folder, hparams_file, overrides):
    """As SpeechBrain's ``create_experiment_directory``, whose
    ``hyperparams.yaml`` is half there if it is killed: this one is whole.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder.
    hparams_file : str
        The YAML file of ``parse_arguments``.
    overrides : str
        The overrides of ``parse_arguments``.

    Raises
    ------
    ValueError
        If an encoder lies there, whose ``hyperparams.yaml`` would be lost.
    """
    run_on_main(check_no_encoder, args=[folder])
    run_on_main(_remove_copy, args=[folder])
    sb.create_experiment_directory(
        experiment_directory=folder, log_config=LOG_CONFIG
    )
    run_on_main(_keep, args=[folder, hparams_file, overrides])


def _keep(folder, hparams_file, overrides):
    """Keeps the settings, references resolved, and the script."""
    resolved = resolved_text(hparams_file, overrides)
    head = f"{GENERATED} {date.today()} from:\n# {hparams_file}\n"
    write_text(
        pathlib.Path(folder, "hyperparams.yaml"),
        f"{head}# yamllint disable\n{resolved}",
    )
    _keep_script(folder)


def _remove_copy(folder):
    """Removes what SpeechBrain puts into the folder: the file that it was
    called from, which is this one, with its permissions."""
    pathlib.Path(folder, pathlib.Path(__file__).name).unlink(missing_ok=True)


def _keep_script(folder):
    """Puts the script into the folder, unless it lies there, where SpeechBrain
    has put this file."""
    script = pathlib.Path(sys.argv[0])
    if script.suffix != ".py" or not script.is_file():
        return
    _remove_copy(folder)
    if script.resolve().parent != pathlib.Path(folder).resolve():
        # Without its permissions: it may be read-only
        with atomic_path(pathlib.Path(folder, script.name)) as temporary:
            shutil.copyfile(script, temporary)
