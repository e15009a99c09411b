"""How a training of voices and faces starts, and what it leaves."""

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.audio_visual.fusion import verify_fused
from speechbrain_cadino.dataio.manifest import LABEL, read_manifest
from speechbrain_cadino.encoders.load import load_encoder, start_from_encoder
from speechbrain_cadino.runs import stage_two
from speechbrain_cadino.runs.finish import (
    calibrate_without_labels,
    export,
    say_what_is_lost,
    where_to_go,
    write_model_card,
)
from speechbrain_cadino.runs.training import start_from
from speechbrain_cadino.verification.results import format_results

logger = get_logger(__name__)

FACE_START = {
    "start_face_encoder": (start_from_encoder, "face_embedding_model")
}


def start(hparams):
    """Loads weights to start from.

    Arguments
    ---------
    hparams : dict
        See ``start_from``, and ``start_face_encoder``.
    """
    start_from(hparams, {**stage_two.STARTS, **FACE_START})


def report(brain, hparams):
    """The files at the end of a training: see ``stage_two.report``.

    Arguments
    ---------
    brain : AudioVisualBrain
        The Brain, trained.
    hparams : dict
        See ``finish_both``.
    """
    stage_two.report(brain, hparams, finish_both)


def finish_both(brain, hparams):
    """Exports both encoders, and verifies by voice, by face and by both.

    Arguments
    ---------
    brain : AudioVisualBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training, with ``evaluator`` and
        ``face_evaluator``: the trial list, and the same with faces; None if
        there are no trials.
    """
    tables = [
        read_manifest(branch.manifest, branch.data_folder)
        for branch in brain.branches.values()
    ]
    for branch in brain.branches.values():
        say_what_is_lost(branch.encoder_folder)
    stage_two.save_classifiers(brain)
    for (name, branch), table in zip(brain.branches.items(), tables):
        export(
            brain.embedder(branch),
            hparams["output_folder"],
            branch.encoder_folder,
            table,
            section=name,
        )
    encoders = [
        load_encoder(
            branch.encoder_folder,
            brain.device,
            num_workers=brain.embedder(branch).num_workers,
        )
        for branch in brain.branches.values()
    ]
    for encoder, table in zip(encoders, tables):
        calibrate_without_labels(encoder, table)
    metrics = None
    if hparams["evaluator"] is not None:
        metrics = verify_fused(
            hparams["output_folder"],
            *encoders,
            hparams["evaluator"],
            hparams["face_evaluator"],
            trained=tables[0],
        )
        logger.info(format_results(metrics))
    # Faces were trained on by the labels of their voices
    tables[1] = tables[1].merge(tables[0][["ID", LABEL]], on="ID")
    for (name, branch), table in zip(brain.branches.items(), tables):
        write_model_card(
            hparams["output_folder"],
            branch.encoder_folder,
            table,
            metrics,
            name,
        )
    faces = hparams["face_encoder_folder"]
    logger.info(f"The encoder of faces is in {faces}.")
    logger.info(where_to_go(hparams["encoder_folder"]))
