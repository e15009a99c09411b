"""Supervised fine-tuning on shares of the true labels: one training each."""

import hashlib
import json
import os
import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.config.overlays import change_overrides
from speechbrain_cadino.config.settings import HARMLESS, comparable, resolve
from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.process.console import aligned
from speechbrain_cadino.process.files import read_json, write_json
from speechbrain_cadino.runs import steps
from speechbrain_cadino.runs.open_run import (
    check_same,
    read_record,
    run_settings,
)
from speechbrain_cadino.training.checkpoints import (
    has_checkpoint,
    has_ended,
)

# Where labels are trained on; elsewhere they are for reports only
MAY_CHANGE = HARMLESS - {"speakers"}

# Where what a training makes is looked for
PLACES = {**steps.PLACES, "labelled_manifest": "save/labelled.csv"}

# Headings and forms of the table
COLUMNS = {
    "share": ("share", "{:g}"),
    "utterances": ("utterances", "{:d}"),
    "speakers": ("speakers", "{:d}"),
    "eer": ("EER %", "{:.2f}"),
    "min_dcf_0.01": ("minDCF(0.01)", "{:.4f}"),
    "min_dcf_0.05": ("minDCF(0.05)", "{:.4f}"),
}


def draw_labels(path, manifest, speakers, share, seed=0):
    """Writes a manifest with the true labels of a share of the utterances.

    Of each speaker, the share of the utterances is drawn, rounded, but at
    least one: the classes are the same for all shares. With the same seed, a
    smaller share is a part of a larger one.

    Under torchrun the main process writes, and the others wait for it.

    Arguments
    ---------
    path : str or pathlib.Path
        The labelled manifest.
    manifest : str or pathlib.Path
        The manifest to draw from.
    speakers : str or pathlib.Path
        The true speakers, ``speakers.csv``. Utterances that it does not know
        are left out, and counted in the log.
    share : float
        The share of the labels, above 0 and at most 1.
    seed : int
        The random seed of the draw.

    Returns
    -------
    str
        The path of the labelled manifest.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the share makes no sense, or the speakers are of other utterances.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> rows = [f"u{i},2.0,u{i}.wav,0,32000\\n" for i in range(8)]
    >>> header = "ID,duration,wav,start,stop\\n"
    >>> _ = (folder / "train.csv").write_text(header + "".join(rows))
    >>> rows = [f"u{i},{'anna' if i < 6 else 'bob'}\\n" for i in range(8)]
    >>> _ = (folder / "speakers.csv").write_text("ID,spk_id\\n" + "".join(rows))
    >>> files = folder / "train.csv", folder / "speakers.csv"
    >>> path = draw_labels(folder / "labelled.csv", *files, share=0.3)
    >>> pd.read_csv(path)["spk_id"].tolist()
    ['anna', 'anna', 'bob']
    """
    drawn = _draw(manifest, speakers, share, seed)
    run_on_main(write_manifest, args=[path, drawn])
    return str(path)


def _draw(manifest, speakers, share, seed):
    """The table that ``draw_labels`` writes."""
    check_share(share)
    table = read_manifest(manifest, DATA_ROOT)
    table[LABEL] = labels_of(speakers, table["ID"])
    table = table.dropna(subset=LABEL).sort_values("ID", ignore_index=True)
    order = np.random.default_rng(seed).permutation(len(table))
    by_speaker = pd.Series(order).groupby(table[LABEL])
    wanted = (share * by_speaker.transform("size")).round().clip(lower=1)
    return table[by_speaker.rank() <= wanted]


def check_share(share):
    """Raises if a share of the labels makes no sense.

    Arguments
    ---------
    share : float
        The share of the labels, above 0 and at most 1.

    Raises
    ------
    ValueError
        If it is not.
    """
    number = isinstance(share, (int, float)) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise ValueError(
            f"share={share}: give the share of each speaker's utterances whose "
            "labels are used, above 0 and at most 1, or a list of such shares."
        )


class Training(NamedTuple):
    """The training on one share.

    Arguments
    ---------
    share : float
        The share of the labels.
    folder : pathlib.Path
        The output folder of the training.
    overrides : str
        The flags of the training.
    start : str, optional
        A hash of the encoder that it starts from.
    """

    share: float
    folder: pathlib.Path
    overrides: str
    start: str | None = None

    @property
    def done(self):
        """Whether it has come to its end."""
        return read_json(self.result) is not None

    @property
    def result(self):
        """The row of the table."""
        return self.folder / "result.json"

    @property
    def begun(self):
        """Whether there is something to go on from."""
        return self.done or has_checkpoint(self.folder / "save")

    @property
    def origin(self):
        """The record of the encoder that it began as."""
        return self.folder / "start.json"

    @property
    def labelled(self):
        """The manifest of the labels that it has drawn."""
        return self.folder / PLACES["labelled_manifest"]

    def begin(self):
        """Notes which encoder it begins as."""
        if not self.begun:
            write_json(self.origin, {"start_encoder": self.start})

    def finish(self):
        """Writes the row of the table.

        A debugging run makes no encoder, and has no row.
        """
        if not (self.folder / PLACES["encoder_folder"]).is_dir():
            return
        labels = read_manifest(self.labelled, DATA_ROOT)
        row = {
            "share": self.share,
            "utterances": len(labels),
            "speakers": labels[LABEL].nunique(),
        }
        metrics = self.folder / "metrics.json"
        if metrics.is_file():
            row |= read_json(metrics)["systems"]["encoder"]
        write_json(self.result, row)


def plan_shares(hparams_file, run_opts, overrides):
    """The trainings of a fine-tuning, checked.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``, with ``share`` and
        ``output_folder``.
    run_opts : dict
        The run options of ``parse_arguments``.
    overrides : str
        The overrides of ``parse_arguments``.

    Returns
    -------
    output_folder : pathlib.Path
        The folder for the table.
    trainings : list of Training
        The trainings, one for each share.

    Raises
    ------
    ValueError
        If a share makes no sense, a training was begun with other settings or
        had other labels or another encoder to start from, or a flag would put
        the files of all of them into one folder.
    """
    settings = resolve(hparams_file, overrides)
    output_folder = pathlib.Path(settings["output_folder"])
    start = _hash_encoder(settings.get("start_encoder"))
    trainings = []
    for share in _shares(settings["share"]):
        folder = output_folder / f"share_{share:g}"
        flags = {"share": share, "output_folder": str(folder)}
        own = change_overrides(overrides, **flags)
        training = Training(share, folder, own, start)
        _check_folders(training, hparams_file)
        _check_settings(training, hparams_file, run_opts)
        _check_start(training)
        _check_labels(training, settings)
        trainings.append(training)
    return output_folder, trainings


def _shares(shares):
    """The shares to train on, each once."""
    shares = shares if isinstance(shares, list) else [shares]
    for share in shares or [None]:
        check_share(share)
    # As their folders are called: 1 and 1.0 are the same training
    return list(dict.fromkeys(json.loads(f"{share:g}") for share in shares))


def _check_folders(training, hparams_file):
    """Raises unless what a training writes is where it is looked for."""
    settings = resolve(hparams_file, training.overrides)
    for key, place in PLACES.items():
        path = settings[key]
        # The last may be a call, which tells by itself where it writes
        if (
            isinstance(path, str)
            and pathlib.Path(path) != training.folder / place
        ):
            raise ValueError(
                f"{key}={path}: each share has a folder of its own. Give "
                "output_folder instead, and they are made in there."
            )


def _check_settings(training, hparams_file, run_opts):
    """Raises if a training was begun with settings other than now."""
    # Without a checkpoint there is nothing to go on from
    record = read_record(training.folder) if training.begun else None
    if record is not None:
        new = run_settings(hparams_file, run_opts, training.overrides)
        folder, may_change = training.folder, MAY_CHANGE
        if has_ended(folder / "save", new.get("number_of_epochs")):
            may_change = may_change | {"processes"}
        new = comparable(new, new["output_folder"], may_change)
        check_same(folder, record, new, folder, may_change, training.done)


def _hash_encoder(source):
    """A hash of the weights in an encoder folder; None if it is none."""
    if source is None or not os.path.isdir(source):
        return None
    digest = hashlib.sha256()
    for path in sorted(pathlib.Path(source).glob("*.ckpt")):
        if path.name != "mean_var_norm_emb.ckpt":  # a mean, made anew at times
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _check_start(training):
    """Raises if a training has begun as another encoder than there is now: it
    would stand beside those that are still to come."""
    if not training.begun:
        return
    before = (read_json(training.origin) or {}).get("start_encoder")
    if None not in (before, training.start) and before != training.start:
        raise ValueError(
            f"{training.folder} began as another encoder than is in "
            "start_encoder now: remove it, or give another output_folder."
        )


def _check_labels(training, settings):
    """Raises if a training that is done had other labels than there are now:
    it would stand beside those that are still to come."""
    path = training.labelled
    files = settings["train_manifest"], settings["speakers"]
    if not training.done or not all(map(os.path.isfile, [path, *files])):
        return
    now = _draw(*files, training.share, settings["seed"])
    before = read_manifest(path, DATA_ROOT)
    columns = ["ID", LABEL]
    if not before[columns].equals(now[columns].reset_index(drop=True)):
        raise ValueError(
            f"{training.folder} was trained on other labels than {files[1]} "
            "has now: remove it, or give another output_folder."
        )


def write_shares(output_folder, trainings):
    """Writes ``results.json``: the rows of all trainings that are done.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The folder to write to.
    trainings : list of Training
        The trainings of ``plan_shares``.

    Returns
    -------
    list of dict
        The ``shares`` of ``results.json``: ``share``, ``utterances``,
        ``speakers`` and, if there are trials, the error rates.
    """
    rows = [
        read_json(training.result) for training in trainings if training.done
    ]
    write_json(pathlib.Path(output_folder) / "results.json", {"shares": rows})
    return rows


def format_shares(rows):
    """The shares side by side.

    Arguments
    ---------
    rows : list of dict
        The rows of ``write_shares``.

    Returns
    -------
    str
        A table of one line for each share.

    Example
    -------
    >>> row = {"share": 0.1, "utterances": 60, "speakers": 60, "eer": 4.567}
    >>> print(format_shares([row, {**row, "share": 1, "utterances": 720}]))
    share  utterances  speakers  EER %
    0.1            60        60   4.57
    1             720        60   4.57
    """
    keys = [key for key in COLUMNS if key in rows[0]]
    lines = [[COLUMNS[key][0] for key in keys]]
    for row in rows:
        lines.append([COLUMNS[key][1].format(row[key]) for key in keys])
    return "\n".join(aligned(lines))
