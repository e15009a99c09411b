"""A step of a pipeline: a script with all its flags, from its entry in the
pipeline's YAML file."""

import datetime
import importlib.util
import json
import pathlib
from typing import NamedTuple

from hyperpyyaml import load_hyperpyyaml
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino.clustering.engines import find_engine
from speechbrain_cadino.clustering.kmeans import SphericalKMeans
from speechbrain_cadino.clustering.pseudo_labels import check_clusterer
from speechbrain_cadino.clustering.sweep import check_candidates
from speechbrain_cadino.config.calls import check_arguments
from speechbrain_cadino.config.flags import SEVERAL, did_you_mean
from speechbrain_cadino.config.overlays import (
    TOOL_OPTIONS,
    dump_yaml,
    load_merged,
    parse_arguments,
)
from speechbrain_cadino.config.settings import (
    LIMIT,
    comparable,
    own_files,
    resolve,
    tag_of,
)
from speechbrain_cadino.config.starts import check_starts
from speechbrain_cadino.config.usage import find_yaml
from speechbrain_cadino.prepare.filter import SCORES
from speechbrain_cadino.prepare.rules import rule_of
from speechbrain_cadino.verification.back_ends import (
    BackEnd,
    check_back_ends,
)
from speechbrain_cadino.verification.metrics import check_prior

# Utterances of which there are as many clusters as anybody wants
MANY = 10**9

# What a step is made of that can be tried at once
OURS = "!new:speechbrain_cadino."

# Go to each script whose YAML file knows them, unless they are null.
COMMON = [
    "seed",
    "data_folder",
    "convert_folder",
    "noise_folder",
    "rir_folder",
    "trials",
    "trials_folder",
    "precision",
    "compile_encoder",
]

# Share their work between the processes of torchrun
TORCHRUN = {
    "train_dino.py",
    "pseudo_label.py",
    "filter_manifest.py",
    "train_dlg_lc.py",
    "train_av_dlg_lc.py",
    "train_adapt.py",
    "train_speaker_with_dino.py",
    "train_dinosr.py",
}

# Where later steps look for what a training has made
PLACES = {"encoder_folder": "encoder", "save_folder": "save"}

RUN_OPTIONS = RunOptions().as_dict()

# Run options by which a training leaves no encoder, which other steps need
WITHOUT_ENCODER = ["debug", "profile_training"]


class Work(NamedTuple):
    """How much of it a training is, beside others.

    Arguments
    ---------
    seconds : float
        The seconds of speech that go through the encoder, those of a backward
        pass twice.
    of : str
        "all" of the training, or an "utterance" in all epochs, where the
        length of its manifest decides.
    """

    seconds: float
    of: str


class Step(NamedTuple):
    """One script to run.

    Arguments
    ---------
    name : str
        The name of the step, and of its folder under the output folder.
    folder : pathlib.Path
        The folder of the step.
    command : list of str
        The command line, after ``python``.
    settings : dict
        All that the result of the step depends on, as plain data.
    manifest : str, optional
        The manifest that it trains on, if it is a training.
    work : Work, optional
        The estimated work, if it is a training of voices.
    quick : bool
        Whether it takes a moment and no step needs its result: it is simply
        done again when its settings change or a step before it runs.
    values : dict
        The flags that its entry in the pipeline's YAML file sets.
    processes : int
        The number of processes that share its work.
    """

    name: str
    folder: pathlib.Path
    command: list
    settings: dict
    manifest: str | None = None
    work: Work | None = None
    quick: bool = False
    values: dict = {}
    processes: int = 1


class StepMaker:
    """Makes the steps of a pipeline.

    Arguments
    ---------
    hparams : dict
        The content of ``pipeline.yaml``.
    hparams_folder : str or pathlib.Path
        The folder of that file, and of the YAML files that it names.
    recipe : str or pathlib.Path
        The folder of the scripts.
    options : dict
        Run options of SpeechBrain, which go to every script.
    """

    def __init__(self, hparams, hparams_folder, recipe, options):
        self.hparams = hparams
        self.hparams_folder = hparams_folder
        self.recipe = recipe
        self.options = options

    def __call__(self, name, script, entry, iteration=None, **own):
        """A step, from its entry in ``pipeline.yaml``, which has the last word,
        and what the pipeline knows of its own.

        Arguments
        ---------
        name : str
            The name of the step.
        script : str
            The script that it runs.
        entry : str
            The key of its entry.
        iteration : int, optional
            The number of the iteration that it belongs to.
        **own
            The settings that the pipeline knows of its own.

        Returns
        -------
        Step
            The step, with its command, its folder and its settings.

        Raises
        ------
        ValueError
            If its YAML file is missing, or does not have a key that is given.
        """
        trains = script.startswith("train_")
        whole = pathlib.Path(self.hparams["output_folder"])
        folder = whole / name
        yaml_file, flags, values = self._flags(
            entry, iteration, folder, own, trains
        )
        command = [_from_here(yaml_file)]
        command += [_flag(key, value) for key, value in flags.items()]
        resolved = _checked(entry, command, folder, trains)
        settings = comparable(resolved, str(whole))
        manifest = work = None
        if trains:
            settings["processes"] = self.hparams["processes"]
            manifest = resolved["train_manifest"]
            work = _work(resolved)
        processes = self.hparams["processes"] if script in TORCHRUN else 1
        command = [*self._started(script, processes), *command]
        return Step(
            name=name,
            folder=folder,
            command=command,
            settings=settings,
            manifest=manifest,
            work=work,
            values=values,
            processes=processes,
        )

    def _flags(self, entry, iteration, folder, own, trains):
        """The YAML file of a step, all its flags, and those of its entry."""
        yaml_file, known, values = self._read_entry(entry, iteration)
        if "output_folder" in values:
            raise ValueError(f"{entry}: its output_folder is {folder}.")
        if "output_folder" in known:
            own = {**own, "output_folder": folder}
        common = {key: self.hparams.get(key) for key in COMMON if key in known}
        options = self.options
        if not trains:
            options = {k: v for k, v in options.items() if k in TOOL_OPTIONS}
        given = {**common, **own, **options}
        given = {k: v for k, v in given.items() if v not in (None, "")}
        flags = given | values
        for key in set(flags) - set(known):
            if key not in RUN_OPTIONS:
                raise ValueError(
                    f"{entry}: {yaml_file} has no {key}."
                    f"{did_you_mean(key, known)}"
                )
            if flags[key] is None:  # as it is without it
                del flags[key]
        for key in WITHOUT_ENCODER:
            if flags.get(key):
                raise ValueError(
                    f"{entry}: with {key} a training leaves no encoder: give "
                    "it to the script itself."
                )
        return yaml_file, flags, values

    def _started(self, script, processes):
        """How a script is started: maybe by torchrun."""
        script_file = _from_here(pathlib.Path(self.recipe, script))
        if processes == 1:
            return [script_file]
        count = f"--nproc_per_node={processes}"
        return [
            "-m",
            "torch.distributed.run",
            "--standalone",
            count,
            script_file,
        ]

    def _read_entry(self, entry, iteration):
        """The YAML file that an entry names, what that has, and what the entry
        sets in it in an iteration."""
        flags = read_entry(self.hparams[entry])
        if entry == "unfiltered":
            first = read_entry(self.hparams["stage_1"])
            for key in ("train_manifest", LIMIT):  # its own
                first.pop(key, None)
            flags = {**first, **flags}
        if "hparams" not in flags:
            raise ValueError(f"{entry}: give a YAML file, hparams: NAME.")

        def value_of(key, default=None):
            return self._value(entry, key, flags[key], default, iteration)

        yaml_file = find_yaml(
            value_of("hparams"), self.hparams_folder, self.recipe
        )
        known, _ = load_merged(yaml_file)
        values = {
            key: value_of(key, known.get(key))
            for key in flags
            if key != "hparams"
        }
        return yaml_file, known, values

    def _value(self, entry, key, value, default, iteration):
        """What a key of an entry is in an iteration: a list is one value for
        each, unless the script itself takes a list."""
        if iteration is None or not isinstance(value, list):
            return value
        if isinstance(default, list) or key in SEVERAL:
            return value
        iterations = self.hparams["iterations"]
        if len(value) != iterations:
            raise ValueError(
                f"{entry}: {key} has {len(value)} values, one for each "
                f"iteration, and iterations is {iterations}: give as many, or "
                "one value for all."
            )
        return value[iteration - 1]


def read_entry(value):
    """A YAML file and flags, of an entry of a pipeline.

    Arguments
    ---------
    value : dict or str, optional
        The entry. Where it is null by default, the command line has a text, or
        the file alone.

    Returns
    -------
    dict
        The keys of the entry; ``hparams`` is the file.

    Raises
    ------
    ValueError
        If it is neither.

    Example
    -------
    >>> read_entry("{hparams: dlg_lc.yaml, lr: 0.1}"), read_entry("a.yaml")
    ({'hparams': 'dlg_lc.yaml', 'lr': 0.1}, {'hparams': 'a.yaml'})
    """
    given = value
    try:
        if isinstance(value, str):
            value = YAML(typ="safe").load(value)
    except YAMLError as error:
        raise ValueError(f"'{given}' is not YAML: {error}") from error
    if isinstance(value, str):
        value = {"hparams": value}
    value = {} if value is None else value
    if not isinstance(value, dict) or isinstance(value.get("hparams"), int):
        raise ValueError(
            f"'{given}': a step of a pipeline is a YAML file, or its flags, "
            "{hparams: FILE, KEY: VALUE}."
        )
    return dict(value)


def _checked(entry, command, folder, trains):
    """The settings of a command; raises where they do not fit its step."""
    try:
        merged, run_opts, overrides = parse_arguments(command, trains)
        resolved = resolve(merged, overrides, run_opts)
        check_starts(resolved)
        check_arguments(resolved)
        _check_parts(resolved)
        _check_values(resolved)
    except (ValueError, ImportError) as error:
        raise ValueError(f"{entry}: {error}") from error
    _check_encoder(entry, resolved)
    for key, place in PLACES.items():
        if key in resolved and pathlib.Path(resolved[key]) != folder / place:
            raise ValueError(f"{entry}: its {key} is {folder / place}.")
    return resolved


def _check_parts(settings):
    """Raises what a step would only when its turn comes: by its gate, its loss,
    its learning rates, the mixture of a filter or its clusterer, if these are
    of our classes alone."""
    keys = ("loss_gate", "label_loss", "lr_schedule", "mixture")
    parts = {key: _part(settings, key) for key in keys}
    for part in parts.values():
        if hasattr(part, "check"):
            part.check(settings["number_of_epochs"])
    gate, loss = parts["loss_gate"], parts["label_loss"]
    if gate is not None and loss is not None:
        gate.check_margin(loss.margin, settings["number_of_epochs"])
    if "sweep" in settings:
        _part(settings, "transform")
        clusterer = _part(settings, "clusterer")
        if isinstance(clusterer, SphericalKMeans):
            _check_numbers(clusterer, settings["sweep"])


def _part(settings, key):
    """A part of our classes alone; None if it is another."""
    ours = tag_of(settings.get(key)).startswith(OURS)
    if not ours or own_files([settings[key]]):
        return None
    return load_hyperpyyaml(dump_yaml({key: settings[key]}))[key]


def _check_numbers(clusterer, sweep):
    """Raises what pseudo labels would, of however many utterances."""
    given = {
        "num_clusters": clusterer.n_clusters,
        "merge_to": clusterer.merge_to,
    }
    given = {name: given[name] for name in given if given[name] is not None}
    for name, number in given.items():
        if number <= 0:
            raise ValueError(
                f"{name} is {number}: give a number of clusters, or a share of "
                "the utterances."
            )
    if all(number >= 1 for number in given.values()):
        check_clusterer(clusterer, sweep, MANY)
        return
    find_engine(clusterer.engine, "cpu")
    if sweep:
        check_candidates(sweep)


def _check_values(settings):
    """Raises what a filter or a verification would only after trainings."""
    back_ends = [*map(BackEnd, settings.get("back_ends") or [])]
    if back_ends:
        check_back_ends(
            back_ends,
            settings.get("calibration_trials"),
            settings.get("source_manifest"),
        )
    for prior in settings.get("operating_points") or []:
        check_prior(prior)
    for name in SCORES if "filter_manifest" in settings else ():
        value = settings.get(name)
        if isinstance(value, (str, int, float)):  # no rule of one's own
            rule_of(name, value)


def _work(settings):
    """See Work: forward and backward are three times a forward."""
    if settings.get("sample_rate") == 1 or "face_manifest" in settings:
        return None
    try:
        epochs = settings["number_of_epochs"]
        if "crop_seconds" in settings:
            # And half of the clean crops, for label correction
            seconds = epochs * 3.5 * settings["crop_seconds"]
        else:
            long = settings["global_crops"] * settings["global_seconds"]
            short = settings["local_crops"] * settings["local_seconds"]
            # The teacher sees the long ones, forward alone
            seconds = epochs * (4 * long + 3 * short)
        steps = settings["steps_per_epoch"]
        if steps is not None:
            batch = settings["batch_size"]
            batch *= settings["grad_accumulation_factor"]
            return Work(seconds * steps * batch, "all")
        passes = settings.get("passes_per_epoch", 1) * len(settings["speeds"])
        return Work(seconds * passes, "utterance")
    except KeyError:
        return None


def _check_encoder(entry, resolved):
    """Raises if later steps could not load the encoder of a training."""
    model = resolved.get("embedding_model")
    for file in own_files([model]) if model is not None else []:
        if importlib.util.find_spec(file.split("/")[0].removesuffix(".py")):
            continue
        raise ValueError(
            f"{entry}: the encoder is a class in {file}, which the steps "
            "that load it have to find: put its folder on PYTHONPATH."
        )


def _flag(name, value):
    """A flag as ``config.flags`` reads it: a text as it is, else YAML."""
    if RUN_OPTIONS.get(name) is False and value is True:
        return f"--{name}"
    if isinstance(value, datetime.date):  # 2024-05-01, a folder's name
        value = value.isoformat()
    if not isinstance(value, (str, pathlib.Path)):
        value = json.dumps(value, ensure_ascii=False)
    return f"--{name}={value}"


def _from_here(path):
    """A path, relative if it lies in the working folder."""
    path, here = path.absolute(), pathlib.Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
