"""Plan of a pipeline: its scripts in order, each with all its flags."""

import datetime
import functools
import hashlib
import importlib.util
import json
import pathlib
from typing import NamedTuple

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain.utils.run_opts import RunOptions
from speechbrain_cadino.config.flags import did_you_mean
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.config.settings import comparable, own_files, resolve
from speechbrain_cadino.config.starts import CENTROIDS, check_starts
from speechbrain_cadino.config.usage import find_yaml
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.process.files import read_json
from speechbrain_cadino.runs.report import agreements

# Go to each script whose YAML file knows them, unless they are null.
COMMON = [
    *("seed", "data_folder", "convert_folder", "noise_folder", "rir_folder"),
    *("trials", "trials_folder", "precision"),
]

# Share their work between the processes of torchrun
TORCHRUN = {
    *("train_dino.py", "pseudo_label.py", "filter_manifest.py"),
    *("train_dlg_lc.py", "train_av_dlg_lc.py"),
}

# Where later steps look for what a training has made
PLACES = {"encoder_folder": "encoder", "save_folder": "save"}

RUN_OPTIONS = RunOptions().as_dict()

# In the folder of a step: its settings, and whether it is done
STEP_FILE = "step.json"

# Files that a step of a moment reads: where one was edited, it is done anew
READ_QUICKLY = [
    *("trials", "calibration_trials", "trials_manifest"),
    *("groups", "speakers"),
]


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
    command : list of str
        The command line, after ``python``.
    settings : dict
        Plain data: all that its result depends on.
    manifest : str, optional
        The manifest that it trains on, if it is a training.
    work : Work, optional
        The estimated work, if it is a training of voices.
    quick : bool
        Whether it takes a moment and no step needs its result: it is simply
        done again when its settings change or a step before it runs.
    values : dict
        What its entry in the pipeline's YAML file sets.
    """

    name: str
    command: list
    settings: dict
    manifest: str | None = None
    work: Work | None = None
    quick: bool = False
    values: dict = {}


def plan(hparams, hparams_folder, recipe, run_opts):
    """The steps of a pipeline, with all YAML files and flags checked.

    Arguments
    ---------
    hparams : dict
        The content of ``pipeline.yaml``.
    hparams_folder : str or pathlib.Path
        The folder of that file, and of the YAML files that it names.
    recipe : str or pathlib.Path
        The folder of the scripts.
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
    least = hparams.get("least_growth")
    if least is not None and not isinstance(least, (int, float)):
        raise ValueError(
            f"least_growth is {least}: give a number such as 0.01, or null."
        )
    options = {
        name: run_opts[name]
        for name in sorted(run_opts.overridden_args)
        if name not in hparams
    }
    if hparams["processes"] > 1 and "cuda" in str(options.get("device")):
        options.pop("device")  # each process of torchrun finds its own
    make = functools.partial(_step, hparams, options, hparams_folder, recipe)
    return hparams["plan"](hparams, make).all_steps()


class Plan:
    """The steps of voices alone: the ``plan`` of ``pipeline.yaml``.

    Arguments
    ---------
    hparams : dict
        The content of ``pipeline.yaml``.
    make : callable
        The function that makes a Step: see ``plan``.
    """

    def __init__(self, hparams, make):
        self.hparams = hparams
        self.make = make
        self.folder = pathlib.Path(hparams["output_folder"])
        self.speakers = hparams["speakers"]
        self.steps = []
        self.iteration = None  # that is being planned

    def add(self, name, script, entry, quick=False, **own):
        """Adds a step, and returns it."""
        step = self.make(name, script, entry, self.iteration, **own)
        if quick:
            # Settings are without speakers, which change no other step
            known = {"speakers": self.speakers, **step.settings, **step.values}
            contents = {n: _contents(known.get(n)) for n in READ_QUICKLY}
            settings = {**step.settings, "contents": contents}
            step = step._replace(quick=True, settings=settings)
        self.steps.append(step)
        return step

    def add_training(
        self, name, entry, script="train_dlg_lc.py", gates=("",), **own
    ):
        """Adds a training of stage II and the reports of its gates, which are
        in these of its folders; returns its folder."""
        manifest = self.add(name, script, entry, **own).manifest
        for signal in gates if self.speakers is not None else []:
            gate = pathlib.PurePosixPath(name, signal)
            self.add(
                f"{gate}/gate",
                "report_gate.py",
                "report_gate",
                quick=True,
                run_folder=self.folder / gate,
                manifest=manifest,
                speakers=self.speakers,
            )
        return self.folder / name

    def add_iterations(self, prefix, last, label, train):
        """Adds pseudo labels and trainings in turn.

        ``label`` and ``train`` each map a name and the folder of the training
        before to a step; returns the folder of the last training and the
        manifest that it has. Pseudo labels that are there and have settled end
        them.
        """
        manifests = []
        for iteration in range(1, self.hparams["iterations"] + 1):
            self.iteration = iteration
            name = f"{prefix}iteration_{iteration}"
            labels = label(f"{name}/labels", last)
            manifests.append(self.folder / labels.name / "pseudo_labels.csv")
            if self.settled(manifests):
                manifests.pop()
                break
            last = train(f"{name}/train", last, manifests[-1])
        self.iteration = None
        return last, manifests[-1]

    def settled(self, manifests):
        """Whether the last of these pseudo labels agree with those before no
        better, by ``least_growth``, than those had agreed."""
        least, last = self.hparams.get("least_growth"), manifests[-3:]
        if least is None or len(last) < 3:
            return False
        if not all(map(_is_made, last)):
            return False
        before, now = agreements(last)
        return now - before < least

    def add_alone(self, prefix, first, entry, **train_own):
        """Adds the iterations of voices alone or of faces alone, from a
        training of stage I on; ``train_own`` is where they lie, if not where
        the pipeline says."""
        label_own = {
            key: train_own[key] for key in ["data_folder"] if key in train_own
        }

        def label(name, last):
            return self.add(
                name,
                "pseudo_label.py",
                "pseudo_label",
                encoder=last / "encoder",
                manifest=first.manifest,
                speakers=self.speakers,
                **label_own,
            )

        def train(name, last, manifest):
            return self.add_training(
                name,
                entry,
                train_manifest=manifest,
                start_encoder=last / "encoder",
                **train_own,
            )

        start = self.folder / first.name
        return self.add_iterations(prefix, start, label, train)

    def add_first(self):
        """Adds stage I, and returns it: once, or with a filter twice, on
        everything and on what the first encoder keeps."""
        own = _entry(self.hparams["pseudo_label"]).get("manifest") or []
        manifests = own if isinstance(own, list) else [own]
        kept = self.folder / "unfiltered" / "filter"
        of_filter = [_lies_in(kept, one) for one in manifests]
        if self.hparams.get("filter") is None:
            if any(of_filter):
                raise ValueError(
                    f"pseudo_label: its manifest, {own}, is what a filter "
                    "keeps, and filter is null: give the YAML file that this "
                    "one is based on."
                )
            self._check_pieces(manifests)
            return self.add("stage_1", "train_dino.py", "stage_1")
        everything = self.add("unfiltered", "train_dino.py", "unfiltered")
        self.add(
            f"{everything.name}/filter",
            "filter_manifest.py",
            "filter",
            encoder=self.folder / everything.name / "encoder",
            manifest=everything.manifest,
        )
        if not all(of_filter):
            raise ValueError(
                f"pseudo_label: its manifest, {own}, is not what the filter "
                f"keeps: give {kept}/filtered.csv; or give it to the filter as "
                f"its pieces, and give {kept}/filtered_pieces.csv here."
            )
        filtered = kept / "filtered.csv"
        again = self.add(
            "stage_1", "train_dino.py", "stage_1", train_manifest=filtered
        )
        if not _lies_in(kept, again.manifest or ""):
            raise ValueError(
                f"stage_1: its train_manifest, {again.manifest}, is not what "
                "the filter keeps: give yours to the training before it, "
                '--unfiltered="{train_manifest: MANIFEST}", or filter: null.'
            )
        return again

    def _check_pieces(self, manifests):
        """Raises if stage I trains on a manifest of its own, and what is
        labelled is made of all of the data folder."""
        own = _entry(self.hparams["stage_1"]).get("train_manifest")
        save = self.folder / "stage_1" / "save"
        if own and any(_lies_in(save, one) for one in manifests):
            raise ValueError(
                f"stage_1: its train_manifest is {own}, and pseudo_label has "
                f"pieces of all of the data folder, {manifests[0]}: give it "
                'pieces of yours, --pseudo_label="{manifest: PIECES}".'
            )

    def all_steps(self):
        """All steps, in the order in which they run."""
        first = self.add_first()
        last, manifest = self.add_alone("", first, "dlg_lc")
        if self.hparams["large_margin"] is not None:
            trained = next(s for s in reversed(self.steps) if s.manifest)
            mapped = trained.settings.get("final_map") is not None
            # The classes, and the loss, are those of the classifier
            same = {
                key: trained.settings[key]
                for key in ["speeds", "scale"]
                if key in trained.settings
            }
            last = self.add_training(
                "large_margin",
                "large_margin",
                train_manifest=manifest,
                start_encoder=last / "encoder",
                start_classifier=(
                    CENTROIDS if mapped else last / "classifier.ckpt"
                ),
                **same,
            )
        if self.hparams["trials"] is not None:
            self.add(
                "verify",
                "verify.py",
                "verify",
                quick=True,
                encoder=last / "encoder",
                data_folder=self.trials_folder(),
                # For the back-ends that learn
                train_manifest=manifest,
                train_data_folder=self.hparams["data_folder"],
            )
        return self.steps

    def trials_folder(self):
        """The folder that the names of the trial list start from."""
        return self.hparams["trials_folder"] or self.hparams["data_folder"]


def _lies_in(folder, path):
    return folder.absolute() in pathlib.Path(path).absolute().parents


def _step(
    hparams,
    options,
    hparams_folder,
    recipe,
    name,
    script,
    entry,
    iteration=None,
    **own,
):
    """A step, from its entry in ``pipeline.yaml``, which has the last word,
    and what the pipeline knows of its own."""
    whole = pathlib.Path(hparams["output_folder"])
    folder = whole / name
    yaml_file, known, values = _read_entry(
        hparams, entry, iteration, hparams_folder, recipe
    )
    if "output_folder" in values:
        raise ValueError(f"{entry}: its output_folder is {folder}.")
    if "output_folder" in known:
        own["output_folder"] = folder
    common = {key: hparams[key] for key in COMMON if key in known}
    flags = {
        **{
            key: value
            for key, value in {**common, **own, **options}.items()
            if value is not None
        },
        **values,
    }
    for key in flags:
        if key not in known and key not in RUN_OPTIONS:
            raise ValueError(
                f"{entry}: {yaml_file} has no {key}.{did_you_mean(key, known)}"
            )
    command = [_from_here(yaml_file)]
    command += [_flag(key, value) for key, value in flags.items()]
    resolved = _checked(entry, command, folder)
    settings = comparable(resolved, str(whole))
    manifest = work = None
    if script.startswith("train_"):
        settings["processes"] = hparams["processes"]
        manifest = resolved["train_manifest"]
        work = _work(resolved)
    command.insert(0, _from_here(pathlib.Path(recipe, script)))
    if hparams["processes"] > 1 and script in TORCHRUN:
        count = f"--nproc_per_node={hparams['processes']}"
        command[:0] = ["-m", "torch.distributed.run", "--standalone", count]
    return Step(name, command, settings, manifest, work, values=values)


def _read_entry(hparams, entry, iteration, hparams_folder, recipe):
    """The YAML file that an entry names, what that has, and what the entry sets
    in it in an iteration."""
    flags = _entry(hparams[entry])
    if entry == "unfiltered":
        first = _entry(hparams["stage_1"])
        first.pop("train_manifest", None)  # of what is kept
        flags = {**first, **flags}
    if "hparams" not in flags:
        raise ValueError(f"{entry}: give a YAML file, hparams: NAME.")
    yaml_file = flags.pop("hparams")
    yaml_file = _value(hparams, entry, "hparams", yaml_file, None, iteration)
    yaml_file = find_yaml(yaml_file, hparams_folder, recipe)
    known = _defaults(yaml_file)
    values = {
        key: _value(hparams, entry, key, value, known.get(key), iteration)
        for key, value in flags.items()
    }
    return yaml_file, known, values


def _checked(entry, command, folder):
    """The settings of a command; raises where they do not fit its step."""
    try:
        resolved = _resolve(command)
        check_starts(resolved)
    except ValueError as error:
        raise ValueError(f"{entry}: {error}") from error
    _check_encoder(entry, resolved)
    for key, place in PLACES.items():
        if key in resolved and pathlib.Path(resolved[key]) != folder / place:
            raise ValueError(f"{entry}: its {key} is {folder / place}.")
    return resolved


def _is_made(manifest):
    """Whether a step has made a manifest, and will not make it anew."""
    record = read_json(manifest.with_name(STEP_FILE))
    return bool(record) and record["done"] and manifest.is_file()


def _contents(files):
    """A hash of each file that is there."""
    return [
        hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()
        for path in paths_of(files)
        if pathlib.Path(path).is_file()  # not so vox1-o
    ]


def _value(hparams, entry, key, value, default, iteration):
    """What a key of an entry is in an iteration: a list is one value for each,
    unless the script itself takes a list."""
    if iteration is None or not isinstance(value, list):
        return value
    if isinstance(default, list):
        return value
    if len(value) != hparams["iterations"]:
        raise ValueError(
            f"{entry}: {key} has {len(value)} values, one for each iteration, "
            f"and iterations is {hparams['iterations']}: give as many, or one "
            "value for all."
        )
    return value[iteration - 1]


def _entry(value):
    """A YAML file and flags; where it is null by default, the command line has
    them as a text, or the file alone."""
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


def _defaults(yaml_file):
    """The keys of a YAML file and of its bases, with their values there."""
    merged, _, _ = parse_arguments([str(yaml_file)])
    return YAML().load(pathlib.Path(merged))


def _resolve(command):
    """The settings that a YAML file and flags make, references resolved."""
    merged, run_opts, overrides = parse_arguments(command)
    return resolve(merged, overrides, run_opts)


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
