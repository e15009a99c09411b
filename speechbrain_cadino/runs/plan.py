"""Plan of a pipeline: its steps in order."""

import functools
import hashlib
import os
import pathlib

from speechbrain_cadino.config.overlays import loads_once
from speechbrain_cadino.config.starts import CENTROIDS
from speechbrain_cadino.dataio.labels import read_labels
from speechbrain_cadino.dataio.manifest import PSEUDO_LABELS
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.prepare.inputs import SPEAKERS
from speechbrain_cadino.process.files import read_json
from speechbrain_cadino.runs.report import agreements
from speechbrain_cadino.runs.steps import StepMaker, read_entry

# In the folder of a step: its settings, and whether it is done
STEP_FILE = "step.json"

# Files that a step of a moment reads: where one was edited, it is done anew
READ_QUICKLY = [
    "trials",
    "calibration_trials",
    "trials_manifest",
    "groups",
    "speakers",
]


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
        The steps, in the order in which they run.

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
    if "plan" not in hparams:
        raise ValueError(
            "The pipeline's YAML file has no plan, as those of older versions: "
            "let it have base: pipeline.yaml, and what differs from that."
        )
    make = StepMaker(hparams, hparams_folder, recipe, options)
    with loads_once():
        return hparams["plan"](hparams, make).all_steps()


# The classes, the loss and the rule of the gate, which a large margin has as
# the training that it goes on from
SAME = ["speeds", "scale", "gate_rule", "least_trusted"]


class Plan:
    """The steps of voices alone: the ``plan`` of ``pipeline.yaml``.

    Arguments
    ---------
    hparams : dict
        The content of ``pipeline.yaml``.
    make : StepMaker
        The maker of the steps.
    """

    def __init__(self, hparams, make):
        self.hparams = hparams
        self.make = make
        self.folder = pathlib.Path(hparams["output_folder"])
        self.speakers = hparams["speakers"]
        self._check_speakers()
        self.steps = []
        self.iteration = None  # that is being planned

    def _check_speakers(self):
        """Raises if the true speakers make no sense, unless the run itself
        writes them: they are of reports alone, which come late."""
        if self.speakers is None or lies_in(self.folder, self.speakers):
            return
        stage_1 = read_entry(self.hparams["stage_1"])
        # As a preparation calls it, such as that of the demo
        folders = [
            *paths_of(self.hparams["data_folder"]),
            *paths_of(stage_1.get("manifest_folder")),
        ]
        made = pathlib.Path(self.speakers).name == SPEAKERS and any(
            lies_in(folder, self.speakers) for folder in folders
        )
        if not made or os.path.isfile(self.speakers):
            _check_labels(self.speakers)

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
        training = self.add(name, script, entry, **own)
        for signal in gates if self.speakers is not None else []:
            gate = pathlib.PurePosixPath(name, signal)
            self.add(
                f"{gate}/gate",
                "report_gate.py",
                "report_gate",
                quick=True,
                run_folder=self.folder / gate,
                manifest=training.manifest,
                speakers=self.speakers,
            )
        return training.folder

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
            manifests.append(labels.folder / PSEUDO_LABELS)
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

        return self.add_iterations(prefix, first.folder, label, train)

    def add_first(self):
        """Adds stage I, and returns it: once, or with a filter twice, on
        everything and on what the first encoder keeps."""
        own = read_entry(self.hparams["pseudo_label"]).get("manifest") or []
        manifests = own if isinstance(own, list) else [own]
        kept = self.folder / "unfiltered" / "filter"
        of_filter = [lies_in(kept, one) for one in manifests]
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
            encoder=everything.folder / "encoder",
            manifest=everything.manifest,
        )
        if not all(of_filter):
            raise ValueError(
                f"pseudo_label: its manifest, {own}, is not what the filter "
                f"keeps: give {kept}/filtered.csv; or, for pieces, give "
                f"{everything.folder}/save/pieces.csv to the "
                f"filter as its pieces, and {kept}/filtered_pieces.csv here, "
                "as small_filtered.yaml does."
            )
        filtered = kept / "filtered.csv"
        again = self.add(
            "stage_1", "train_dino.py", "stage_1", train_manifest=filtered
        )
        if not lies_in(kept, again.manifest or ""):
            raise ValueError(
                f"stage_1: its train_manifest, {again.manifest}, is not what "
                "the filter keeps: give yours to the training before it, "
                '--unfiltered="{train_manifest: MANIFEST}", or filter: null.'
            )
        return again

    def _check_pieces(self, manifests):
        """Raises if stage I trains on a manifest of its own, and what is
        labelled is made of all of the data folder."""
        own = read_entry(self.hparams["stage_1"]).get("train_manifest")
        save = self.folder / "stage_1" / "save"
        if own and any(lies_in(save, one) for one in manifests):
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
            if "queue_length" in trained.settings:
                raise ValueError(
                    "large_margin: it would have the labels of the clusters, "
                    "and not those that SSRL has learnt. Give large_margin: "
                    "null."
                )
            mapped = trained.settings.get("final_map") is not None
            same = {
                key: trained.settings[key]
                for key in SAME
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


def lies_in(folder, path):
    """Whether a path is below a folder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.
    path : str or pathlib.Path
        The path.

    Returns
    -------
    bool
        Whether it is, at any depth; a folder is not below itself.

    Example
    -------
    >>> lies_in("a", "a/b/c.csv"), lies_in("a", "ab")
    (True, False)
    """
    folder, path = pathlib.Path(folder), pathlib.Path(path)
    return folder.absolute() in path.absolute().parents


@functools.cache
def _check_labels(path):
    """Raises if a table of labels makes no sense. Read once, as a pipeline is
    planned again before each step."""
    read_labels(path)


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
