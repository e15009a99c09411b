"""Speaker verification by voice and face: each alone, and both together."""

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.encoders.load import check_kind
from speechbrain_cadino.verification.calibration import Calibration
from speechbrain_cadino.verification.evaluate import leave_out_unscored
from speechbrain_cadino.verification.results import Assessor, write_results

logger = get_logger(__name__)


def fuse(audio, face):
    """The mean of the scores that are there.

    Arguments
    ---------
    audio : numpy.ndarray
        Scores by voice, shape (T,).
    face : numpy.ndarray
        Scores by face, shape (T,), NaN where a face of the trial was not
        seen.

    Returns
    -------
    numpy.ndarray
        Scores, shape (T,).

    Example
    -------
    >>> fuse(np.array([0.2, 0.2]), np.array([0.6, np.nan]))
    array([0.4, 0.2])
    """
    return np.where(np.isnan(face), audio, (audio + face) / 2)


def verify_fused(
    output_folder,
    embedder,
    face_embedder,
    trials,
    face_trials,
    calibration_trials=None,
    face_calibration_trials=None,
    assessor=Assessor,
    trained=None,
):
    """Scores a trial list by voice, by face, and by both.

    Where a face of a trial was not seen, ``face`` has nothing to say: its
    score is the mean of those that are there. ``fused`` is the mean of the two
    cosines, and the voice alone where there is no face. With calibration
    trials, ``fused+calibrated`` is the log-likelihood ratio by logistic
    regression on both scores, and on that of the voice where there is no face.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        See ``write_results``.
    embedder : Embedder
        The encoder of voices.
    face_embedder : Embedder
        The encoder of faces.
    trials : TrialEvaluator
        The trial list.
    face_trials : TrialEvaluator
        The same list with the face tracks of its files, and ``keep_unseen``.
    calibration_trials : TrialEvaluator, optional
        Trials of other files.
    face_calibration_trials : TrialEvaluator, optional
        The same list with faces.
    assessor : callable
        The function from trials to an Assessor.
    trained : pandas.DataFrame, optional
        The manifest that the encoders were trained on, which must not share
        speakers with the trials: see ``training_overlap``.

    Returns
    -------
    dict
        See ``write_results``.

    Raises
    ------
    ValueError
        If the encoder of faces is one of voices, no face is there, or a trial
        list makes no sense.
    """

    def score(heard, seen):
        voices = heard.scores(embedder)
        faces = pd.Series(seen.scores(face_embedder), seen.trials.index)
        # A voice that cannot be read takes its trials along
        faces = faces.loc[heard.trials.index].to_numpy()
        return {"audio": voices, "face": faces}

    if calibration_trials is not None:
        trials.check_apart(calibration_trials)
    overlap = None
    if trained is not None:
        overlap = trials.overlap(trained)
    assess = assessor(trials.trials)
    check_kind(face_embedder, "faces")
    scores = score(trials, face_trials)
    if leave_out_unscored(output_folder, trials):
        assess = assessor(trials.trials)
    if np.isnan(scores["face"]).all():
        raise ValueError(
            f"None of the {len(trials.trials)} trials has a face on both "
            "sides: verify voices alone, by verify.yaml."
        )
    systems = {
        "audio": scores["audio"],
        "face": _filled(scores["face"]),
        "fused": fuse(**scores),
    }
    if calibration_trials is not None:
        others = score(calibration_trials, face_calibration_trials)
        targets = calibration_trials.trials["target"].to_numpy()
        systems["fused+calibrated"] = _calibrated(scores, others, targets)
    unseen = int(np.isnan(scores["face"]).sum())
    if unseen:
        count = len(trials.trials)
        logger.info(f"A face is missing in {unseen} of {count} trials.")
    details = {"face": {"unseen": unseen}}
    return write_results(output_folder, assess, systems, details, overlap)


def _filled(scores):
    """Scores, the mean of them where there is none."""
    return np.where(np.isnan(scores), np.nanmean(scores), scores)


def _calibrated(scores, others, targets):
    """The log-likelihood ratios of trials, learnt from other trials: from both
    scores, and where a face was not seen from the voice alone."""
    found = Calibration(others["audio"], targets)(scores["audio"])
    seen, learnt = ~np.isnan(scores["face"]), ~np.isnan(others["face"])
    if len(set(targets[learnt])) < 2:
        raise ValueError(
            f"{learnt.sum()} of {len(targets)} calibration trials have a face "
            "on both sides: some targets and some non-targets are needed."
        )
    both = Calibration(
        others["audio"][learnt], targets[learnt], others["face"][learnt, None]
    )
    found[seen] = both(scores["audio"][seen], scores["face"][seen, None])
    return found
