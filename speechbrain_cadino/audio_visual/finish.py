"""The end of a training of voices and faces."""

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.audio_visual.fusion import verify_fused
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.encoders.load import load_encoder, start_from_encoder
from speechbrain_cadino.runs.finish import where_to_go, write_model_card
from speechbrain_cadino.runs.stage_two import export_branches
from speechbrain_cadino.verification.results import format_results

logger = get_logger(__name__)

# What else a training may start from: see ``runs.stage_two.train``
FACE_STARTS = {
    "start_face_encoder": (start_from_encoder, "face_embedding_model")
}


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
    export_branches(brain, hparams)
    metrics = None
    if hparams["evaluator"] is not None:
        encoders = [
            load_encoder(branch.encoder_folder, brain.device)
            for branch in brain.branches.values()
        ]
        metrics = verify_fused(
            hparams["output_folder"],
            *encoders,
            hparams["evaluator"],
            hparams["face_evaluator"],
        )
        logger.info(format_results(metrics))
    for name, branch in brain.branches.items():
        write_model_card(
            hparams["output_folder"],
            branch.encoder_folder,
            read_manifest(branch.manifest, branch.data_folder),
            metrics,
            name,
        )
    logger.info(where_to_go(hparams["encoder_folder"]))
