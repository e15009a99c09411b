"""Speaker verification by voice and face: each alone, and both together."""

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.labels import read_labels
from speechbrain_cadino.encoders.load import load_encoder, reader_of
from speechbrain_cadino.verification.calibration import Calibration, check_apart
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.results import (
    Assessor,
    read_groups,
    write_results,
)

logger = get_logger(__name__)


def fuse(audio, face):
    """The mean of the scores that are there.

    Arguments
    ---------
    audio : numpy.ndarray
        Shape (T,).
    face : numpy.ndarray
        Shape (T,), NaN where a face of the trial was not seen.

    Returns
    -------
    numpy.ndarray
        Shape (T,).

    Example
    -------
    >>> fuse(np.array([0.2, 0.2]), np.array([0.6, np.nan]))
    array([0.4, 0.2])
    """
    return np.where(np.isnan(face), audio, (audio + face) / 2)


def verify_fused(
    output_folder,
    encoder,
    face_encoder,
    trials,
    data_folder,
    trials_manifest,
    face_folder=None,
    calibration_trials=None,
    operating_points=(0.01, 0.05),
    convex_hull=False,
    replicates=0,
    speakers=None,
    groups=None,
    seed=0,
    device=None,
    **embed_options,
):
    """Scores a trial list by voice, by face, and by both.

    Where a face of a trial was not seen, ``face`` has nothing to say: its
    score is the mean of those that are there. ``fused`` is the mean of the two
    cosines, and the voice alone where there is no face. With calibration
    trials, ``fused+calibrated`` is the log-likelihood ratio by logistic
    regression on both scores and on whether there is a face.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        See ``write_results``.
    encoder : str or pathlib.Path
        Of voices: an encoder folder or a hub id.
    face_encoder : str or pathlib.Path
        Of faces: an encoder folder.
    trials : str or pathlib.Path
        See ``verify``.
    data_folder : str or pathlib.Path
        See ``verify``.
    trials_manifest : str or pathlib.Path
        The face tracks of the list, see ``trial_tracks``.
    face_folder : str or pathlib.Path, optional
        Its ``$data_root``; data_folder by default.
    calibration_trials : str or pathlib.Path, optional
        Trials of other files below data_folder, with their faces in the same
        manifest.
    operating_points : list of float
        See ``Assessor``, as for the next two.
    convex_hull : bool
    replicates : int
    speakers : str or pathlib.Path, optional
        See ``verify``, as for the next one.
    groups : str or pathlib.Path, optional
    seed : int
        Of the intervals.
    device : str, optional
        See ``load_encoder``.
    **embed_options
        Further arguments of ``TrialEvaluator``.

    Returns
    -------
    dict
        See ``write_results``.

    Raises
    ------
    ValueError
        If no face is there, or a trial list makes no sense.
    """
    encoders = {
        "audio": load_encoder(encoder, device),
        "face": load_encoder(face_encoder, device),
    }

    def score(path):
        """The trials of a list, and their scores by sense."""
        lists = {
            sense: TrialEvaluator(
                path,
                face_folder or data_folder if sense == "face" else data_folder,
                loaded.audio_normalizer.sample_rate,
                manifest=trials_manifest if sense == "face" else None,
                keep_unseen=True,
                reader=reader_of(loaded),
                **embed_options,
            )
            for sense, loaded in encoders.items()
        }
        scores = {
            sense: each.scores(encoders[sense].encode_batch)
            for sense, each in lists.items()
        }
        return lists["audio"].trials, scores

    trials, scores = score(trials)
    assess = Assessor(
        *(trials, operating_points, convex_hull, replicates),
        read_labels(speakers) if speakers else None,
        read_groups(groups) if groups else None,
        seed,
    )
    details = {}
    systems = {
        "audio": scores["audio"],
        "face": _filled(scores["face"]),
        "fused": fuse(**scores),
    }
    if calibration_trials is not None:
        others, other_scores = score(calibration_trials)
        check_apart(trials, others)
        calibration = Calibration(
            other_scores["audio"],
            others["target"],
            _face_columns(other_scores["face"]),
        )
        systems["fused+calibrated"] = calibration(
            scores["audio"], _face_columns(scores["face"])
        )
    unseen = int(np.isnan(scores["face"]).sum())
    if unseen:
        logger.info(f"A face is missing in {unseen} of {len(trials)} trials.")
    details["face"] = {"unseen": unseen}
    return write_results(output_folder, assess, systems, details)


def _filled(scores):
    """Scores, the mean of them where there is none."""
    return np.where(np.isnan(scores), np.nanmean(scores), scores)


def _face_columns(scores):
    """What calibration learns of faces: the score, and whether there is one."""
    unseen = np.isnan(scores)
    return np.column_stack([np.where(unseen, 0, scores), unseen])
