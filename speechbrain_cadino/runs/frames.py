"""The end of a training of frames: its encoder folder, and what it is worth."""

import copy
import os
import pathlib

from hyperpyyaml import load_hyperpyyaml

from speechbrain.utils.distributed import infer_device
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.settings import resolve
from speechbrain_cadino.dataio.manifest import read_manifest, without_labels
from speechbrain_cadino.encoders.card import replace_figures, write_card
from speechbrain_cadino.encoders.export_frames import export_frame_encoder
from speechbrain_cadino.frames.features import (
    kmeans_codes,
    network_features,
    spectral_features,
)
from speechbrain_cadino.frames.report import report_frames
from speechbrain_cadino.runs.finish import where_to_go
from speechbrain_cadino.training.checkpoints import has_checkpoint
from speechbrain_cadino.training.plots import plot_frame_training

logger = get_logger(__name__)

NOT_EVALUATED = "Not evaluated: no phones were given."


def finish_frames(brain, hparams):
    """Exports a trained encoder of frames, draws the plot, and evaluates.

    Arguments
    ---------
    brain : FrameBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training: ``frame_evaluator``, the phones, or
        None; and ``untrained``, the network before training, to compare with.
    """
    student, folder = hparams["student"], hparams["output_folder"]
    plot_frame_training(brain.record.rows, f"{folder}/plots/training.png")
    export_frame_encoder(
        hparams["encoder_folder"],
        f"{folder}/hyperparams.yaml",
        student.front_end,
        student.context.transformer,
        hparams["export_layer"],
    )
    evaluator, figures = hparams["frame_evaluator"], NOT_EVALUATED
    if evaluator is not None:
        untrained = hparams["untrained"]
        table = evaluate_frames(hparams, evaluator, folder, student, untrained)
        logger.info(table)
        figures = f"```\n{table}\n```"
    write_card(
        hparams["encoder_folder"],
        resolve(f"{folder}/hyperparams.yaml"),
        without_labels(
            read_manifest(hparams["train_manifest"], hparams["data_folder"])
        ),
    )
    replace_figures(hparams["encoder_folder"], figures)
    logger.info(where_to_go(hparams["encoder_folder"]))


def evaluate_run(folder, evaluator, output_folder, baselines, device=None):
    """Evaluates the last checkpoint of a training of frames.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder of the training.
    evaluator : callable
        The function that reads the phones, a FrameEvaluator.
    output_folder : str or pathlib.Path
        The folder of tables and plot.
    baselines : bool
        Whether to compare with the untrained network, log-mel bands, MFCC and
        k-means on MFCC.
    device : str, optional
        The device of the network; a GPU where there is one.

    Returns
    -------
    str
        The table, and how the best layer compares.

    Raises
    ------
    ValueError
        If there is no training of frames, or no checkpoint.
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    if not path.is_file() or not has_checkpoint(path.parent / "save"):
        raise ValueError(
            f"{folder} holds no training of frames with a checkpoint: give "
            "the output folder of train_dinosr.py as run_folder."
        )
    # Where it is now, which may be another place
    there = {"checkpointer": {"checkpoints_dir": str(path.parent / "save")}}
    with open(path, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, there)
    if not {"student", "frame_hop"} <= hparams.keys():
        raise ValueError(f"{path} is not of train_dinosr.py.")
    made_in = pathlib.Path(hparams["output_folder"])
    manifest = pathlib.Path(hparams["train_manifest"])
    if manifest.is_relative_to(made_in):
        hparams["train_manifest"] = path.parent / manifest.relative_to(made_in)
    evaluator = evaluator()
    evaluator.sample_rate = hparams["sample_rate"]
    student = hparams["student"].to(device or infer_device())
    untrained = copy.deepcopy(student) if baselines else None
    if baselines:
        # That it is there shows before an evaluation of minutes
        read_manifest(hparams["train_manifest"], hparams["data_folder"])
    if hparams["checkpointer"].load_newest() is None:
        raise ValueError(f"No checkpoint in {folder}/save can be loaded.")
    return evaluate_frames(
        hparams, evaluator, output_folder, student, untrained
    )


def evaluate_frames(hparams, evaluator, folder, student, untrained=None):
    """Evaluates an encoder of frames, and what it is compared with.

    Arguments
    ---------
    hparams : dict
        The hyperparameters of the training: ``frame_hop``, ``frame_offset``,
        ``train_manifest``, ``data_folder``, ``codes``, ``sample_rate``.
    evaluator : FrameEvaluator
        The phones.
    folder : str or pathlib.Path
        The folder of tables and plot.
    student : FrameStudent
        The encoder.
    untrained : FrameStudent, optional
        The network before training. If it is given, log-mel bands, MFCC and
        k-means on MFCC are compared with, too.

    Returns
    -------
    str
        The table, and how the best layer compares.
    """
    _warn_of_trained(hparams, evaluator)
    times = hparams["frame_hop"], hparams["frame_offset"]
    rows = evaluator("trained", network_features(student, *times))
    if untrained is not None:
        untrained = untrained.to(next(student.parameters()).device)
        # Its heads know of no codes
        features = network_features(untrained, *times, heads=False)
        rows += evaluator("untrained", features)
        rate = hparams["sample_rate"]
        rows += evaluator("spectral", spectral_features(rate))
        codes = kmeans_codes(
            hparams["train_manifest"],
            hparams["data_folder"],
            hparams["codes"],
            rate,
            evaluator.seed,
        )
        rows.append(
            evaluator.units("k-means", "of mfcc", codes, hparams["codes"])
        )
    return report_frames(rows, folder)


def _warn_of_trained(hparams, evaluator):
    """Says if files of the phones were trained on."""
    try:
        table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    except FileNotFoundError:  # of a training that was moved without it
        return
    trained = set(map(os.path.realpath, table["wav"].unique()))
    files = evaluator.table["wav"].unique()
    known = [
        wav
        for wav in files
        if os.path.realpath(evaluator.folder / wav) in trained
    ]
    if known:
        logger.warning(
            f"{len(known)} of the {len(files)} files of the phones were "
            f"trained on, such as {known[0]}: the figures say little of others."
        )
