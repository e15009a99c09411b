"""The end of a training: its encoder folder, and what it is worth."""

import contextlib
import os
import pathlib

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.settings import resolve
from speechbrain_cadino.dataio.manifest import (
    read_manifest,
    trusted_rows,
    without_labels,
)
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.card import CARD, write_card
from speechbrain_cadino.encoders.export import (
    check_entries,
    export_encoder,
    kind_of,
)
from speechbrain_cadino.encoders.fold import fold_linear
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.process.console import to_copy
from speechbrain_cadino.runs.open_run import STEP_VARIABLE
from speechbrain_cadino.verification.back_ends import Background
from speechbrain_cadino.verification.evaluate import verify
from speechbrain_cadino.verification.results import format_results
from speechbrain_cadino.verification.threshold import calibrate

logger = get_logger(__name__)

# Manifests with true speakers, and the keys of their folders
LABELLED = {
    "source_manifest": "source_folder",
    "labelled_manifest": "data_folder",
}


def finish(
    embedder, hparams, device=None, baselines=False, weights=None, labels=True
):
    """Exports a trained encoder, calibrates it without labels, and verifies
    with the encoder folder.

    Arguments
    ---------
    embedder : Embedder
        The trained encoder, such as ``brain.embedder()``.
    hparams : dict
        The hyperparameters of the training: ``output_folder``,
        ``encoder_folder``, ``train_manifest``, ``data_folder`` and
        ``evaluator``, the TrialEvaluator or None; optionally ``untrained``, see
        ``verify``, ``final_map``, see ``fold``, the keys of ``LABELLED``, and
        ``labels_alone``, whether only what they name was trained on.
    device : str, optional
        See ``load_encoder``.
    baselines : bool
        Whether to score an untrained encoder and log-mel statistics too.
    weights : str, optional
        See ``write_card``.
    labels : bool
        Whether it has learnt those of the manifest, which may have some
        anyway.
    """
    table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
    # It is for the domain without given labels, where the two are joined
    own = table[~trusted_rows(table)]
    own = own if len(own) else table
    if not labels:
        table, own = without_labels(table), without_labels(own)
    say_what_is_lost(hparams["encoder_folder"])
    logger.info("Exporting the encoder, and the mean of its embeddings.")
    export_encoder(
        hparams["encoder_folder"],
        f"{hparams['output_folder']}/hyperparams.yaml",
        {"embedding_model": embedder.weights},
        embedder.mean_embedding(own),
    )
    encoder = load_encoder(
        hparams["encoder_folder"], device, num_workers=embedder.num_workers
    )
    if hparams.get("final_map") is not None:
        encoder = fold(encoder, hparams["final_map"], own)
    calibrate_without_labels(encoder, own)
    labelled = read_labelled(hparams)
    metrics = None
    if hparams["evaluator"] is not None:
        metrics = verify(
            hparams["output_folder"],
            encoder,
            hparams["evaluator"],
            background=Background(
                hparams["train_manifest"],
                hparams["data_folder"],
                labelled=labelled,
            ),
            baselines=baselines,
            untrained=hparams.get("untrained"),
        )
        logger.info(format_results(metrics))
    write_model_card(
        hparams["output_folder"],
        hparams["encoder_folder"],
        None if hparams.get("labels_alone") else table,
        metrics,
        labelled=labelled,
        weights=weights,
    )
    logger.info(where_to_go(hparams["encoder_folder"]))


def average_last_epochs(brain, hparams):
    """Gives a Brain the mean of its last epochs, if that is wanted.

    Arguments
    ---------
    brain : EncoderBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training, optionally with ``last_epochs``
        (LastEpochs).

    Returns
    -------
    bool
        Whether it has that now.
    """
    last_epochs = hparams.get("last_epochs")
    if last_epochs is None:
        return False
    return last_epochs.average(brain.averaged(), len(brain.record.rows))


def check_exportable(hparams):
    """Raises before a training what its end would: see ``check_entries``.

    Arguments
    ---------
    hparams : dict
        The hyperparameters: ``output_folder``, and ``branches`` if there are
        several. Where there is no ``embedding_model``, nothing is looked at.

    Raises
    ------
    ValueError
        If so, or if ``final_map`` cannot learn from recordings, or does not
        keep all dimensions.
    """
    if "embedding_model" not in hparams:
        return
    final_map = hparams.get("final_map")
    if final_map is not None and not hasattr(final_map, "learn"):
        raise ValueError(
            f"final_map: {type(final_map).__name__} does not learn from "
            "recordings, which takes a method learn: give RecordingLDA, or "
            "null."
        )
    sizes = {getattr(final_map, "dimensions", None), hparams.get("emb_dim")}
    if len(sizes - {None}) > 1:
        raise ValueError(
            f"final_map: it keeps {final_map.dimensions} dimensions, and the "
            "last layer of an encoder has to keep all: leave dimensions out, "
            "or take it as a back-end of verify.py."
        )
    path = pathlib.Path(hparams["output_folder"], "hyperparams.yaml")
    branches = hparams.get("branches", {})
    for section in branches if len(branches) > 1 else [None]:
        check_entries(path, section)


def calibrate_without_labels(encoder, table):
    """Writes a calibration into an encoder folder; a warning where there can be
    none.

    Arguments
    ---------
    encoder : Embedder
        The encoder of the folder.
    table : pandas.DataFrame
        The manifest of the training set.
    """
    logger.info("Finding the encoder's threshold, without labels.")
    try:
        write_calibration(encoder.source, calibrate(encoder, table))
    except ValueError as error:
        logger.warning(f"The encoder has no threshold: {error}")


def say_what_is_lost(encoder_folder):
    """Warns where a user has calibrated an encoder that is made anew.

    Arguments
    ---------
    encoder_folder : str or pathlib.Path
        The folder of the encoder.
    """
    with contextlib.suppress(ValueError):  # a damaged file is no loss
        before = read_calibration(encoder_folder)
        if before is not None and before.method == "trials":
            logger.warning(
                f"{encoder_folder} had a threshold by trials. The encoder is "
                "written anew, with one that was made without labels: make "
                "yours again by speechbrain-cadino calibrate."
            )


def read_labelled(hparams):
    """What a training has learnt the labels of, beside its training set.

    Arguments
    ---------
    hparams : dict
        The hyperparameters of the training: see ``LABELLED``.

    Returns
    -------
    pandas.DataFrame
        The manifest; None if there is no other than the training set.
    """
    for key, folder in LABELLED.items():
        manifest = hparams.get(key)
        if manifest not in (None, hparams["train_manifest"]):
            return read_manifest(manifest, hparams[folder])
    return None


def fold(encoder, final_map, table):
    """Folds a linear map, learnt from recordings, into an encoder folder.

    Arguments
    ---------
    encoder : Embedder
        The encoder of the folder, which is written anew: as a whole, or not at
        all where it does not end in a linear layer or the recordings are too
        few. The log says so.
    final_map : LinearMap
        The map, with ``learn``, such as RecordingLDA.
    table : pandas.DataFrame
        The manifest to learn from.

    Returns
    -------
    Embedder
        The encoder of the folder as it is now.
    """
    folder = encoder.source
    try:
        found = final_map.learn(encoder, table)
        fold_linear(folder, found.linear(), folder)
    except ValueError as error:
        logger.warning(f"The encoder has no final_map: {error}")
        return encoder
    return load_encoder(folder, encoder.device, num_workers=encoder.num_workers)


def where_to_go(encoder_folder):
    """The last lines of a training: where its encoder is, and what to do next.

    Arguments
    ---------
    encoder_folder : str or pathlib.Path
        The encoder folder.

    Returns
    -------
    str
        The lines; of a step of a pipeline, which goes on by itself, only where
        the encoder is; and so of an encoder that has been moved since.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("sample_rate: 16000")
    >>> where_to_go(folder).splitlines()[1]
    'Next, with audio of yours:'
    """
    where = f"The encoder is in {encoder_folder}."
    there = pathlib.Path(encoder_folder, "hyperparams.yaml").is_file()
    if STEP_VARIABLE in os.environ or not there:
        return where
    if kind_of(encoder_folder) != "voices":
        return f"{where} {CARD} in it tells how to load it."
    command = ["speechbrain-cadino", "verify", encoder_folder]
    command = to_copy([*command, "ONE.wav", "OTHER.wav"])
    return f"{where}\nNext, with audio of yours:\n{command}"


def write_model_card(
    output_folder,
    encoder_folder,
    table,
    metrics=None,
    system="encoder",
    labelled=None,
    weights=None,
):
    """Writes the model card of an encoder folder.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The output folder of the training, with its ``hyperparams.yaml``.
    encoder_folder : str or pathlib.Path
        The folder to write into.
    table : pandas.DataFrame or None
        The manifest that it was trained on, see ``write_card``.
    metrics : dict, optional
        The figures of ``verify``, if there are trials.
    system : str
        The name of the encoder there.
    labelled : pandas.DataFrame, optional
        See ``read_labelled``.
    weights : str, optional
        See ``write_card``.
    """
    results = metrics and {**metrics, **metrics["systems"][system]}
    settings = resolve(f"{output_folder}/hyperparams.yaml")
    if system == "face":  # beside voices
        settings["start_encoder"] = settings.get("start_face_encoder")
    write_card(
        encoder_folder,
        settings,
        table,
        results,
        labelled,
        weights,
    )
