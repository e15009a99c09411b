"""Training of voices and faces: what it leaves."""

import functools

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.audio_visual.fusion import verify_fused
from speechbrain_cadino.dataio.manifest import LABEL, read_manifest
from speechbrain_cadino.encoders.export import export_encoder
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.runs import stage_two
from speechbrain_cadino.runs.finish import (
    average_last_epochs,
    calibrate_without_labels,
    say_what_is_lost,
    where_to_go,
    write_model_card,
)
from speechbrain_cadino.verification.results import format_results

logger = get_logger(__name__)


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
    averaged = average_last_epochs(brain, hparams)
    stage_two.save_classifiers(brain)
    for (name, branch), table in zip(brain.branches.items(), tables):
        embedder = brain.embedder(branch)
        export_encoder(
            branch.encoder_folder,
            f"{hparams['output_folder']}/hyperparams.yaml",
            {"embedding_model": embedder.weights},
            embedder.mean_embedding(table),
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
            weights=stage_two.MEAN if averaged else None,
        )
    faces = hparams["face_encoder_folder"]
    logger.info(f"The encoder of faces is in {faces}.")
    logger.info(where_to_go(hparams["encoder_folder"]))


# The files at the end of a training
report = functools.partial(stage_two.report, end=finish_both)
