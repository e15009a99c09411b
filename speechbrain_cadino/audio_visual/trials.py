"""A trial list whose files are seen: face tracks in the place of audio."""

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.dataio.names import match, paths_of, spelling
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.trials import either, trial_names

logger = get_logger(__name__)

# The rate of face tracks: start and stop of theirs count frames
FRAMES = 1


class FaceTrialEvaluator(TrialEvaluator):
    """A trial list ready to score any encoder of faces.

    Arguments
    ---------
    trials : str or pathlib.Path
        See TrialEvaluator.
    data_folder : str or pathlib.Path
        The folder that ``$data_root`` in the manifest stands for.
    sample_rate : int
        1, as start and stop of face tracks count frames.
    manifest : str or pathlib.Path
        The face tracks of the files, see ``face_tracks``. Trials of which a
        face was not seen are left out.
    keep_unseen : bool
        Whether to keep them: their score is NaN.

    Raises
    ------
    ValueError
        If there is no manifest. See TrialEvaluator and ``face_tracks`` for
        others.
    """

    def __init__(
        self,
        trials,
        data_folder=None,
        sample_rate=FRAMES,
        manifest=None,
        keep_unseen=False,
    ):
        if manifest is None:
            raise ValueError(
                f"No manifest of the face tracks of {trials}: give one, "
                "trials_manifest or, beside voices, face_trials_manifest "
                "(prepare_faces makes one of a trial list), or trials: null."
            )
        self.manifest = manifest
        self.keep_unseen = keep_unseen
        super().__init__(trials, data_folder, sample_rate)

    def find_files(self):
        """See TrialEvaluator: those whose face was seen."""
        return face_tracks(self.trials, self.manifest, self.data_folder)


def face_evaluator_if_any(trials, data_folder, sample_rate=FRAMES, **options):
    """A trial list of faces, where there may be none.

    Arguments
    ---------
    trials : str or pathlib.Path, optional
        The trial list; None if there is none.
    data_folder, sample_rate, **options
        See FaceTrialEvaluator.

    Returns
    -------
    FaceTrialEvaluator
        The evaluator; None if ``trials`` is None.
    """
    if trials is None:
        return None
    return FaceTrialEvaluator(trials, data_folder, sample_rate, **options)


def face_tracks(trials, manifest, data_folder):
    """Finds the face tracks of a trial list in a manifest, each once.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    manifest : str or pathlib.Path
        A face manifest, whose IDs are the names in the list without suffix:
        see ``audio_visual.prepare``.
    data_folder : str or pathlib.Path
        The folder that ``$data_root`` in the manifest stands for.

    Returns
    -------
    pandas.DataFrame
        The manifest, as of ``trial_files``, less the files whose face was not
        seen.

    Raises
    ------
    ValueError
        If no face of the list is there, or there are several folders.
    """
    folders = paths_of(data_folder)
    if len(folders) > 1:
        raise ValueError(
            f"The faces of {manifest} are below one folder, not "
            f"{either(folders)}."
        )
    table = read_manifest(manifest, data_folder).set_index("ID")
    names = trial_names(trials)
    rows = match(names, table.index)
    seen = [name for name, row in zip(names, rows) if row >= 0]
    if not seen:
        raise ValueError(
            f"{manifest} has the face of none of the {len(names)} files of the "
            f"trial list: it has no ID {spelling(names[0])}, of {names[0]}."
        )
    if len(seen) < len(names):
        logger.info(
            f"{len(names) - len(seen)} of {len(names)} files of the trial list "
            f"have no face in {manifest}."
        )
    found = table.iloc[rows[rows >= 0]]
    return pd.DataFrame(
        {
            "ID": seen,
            **{
                name: found[name].to_numpy()
                for name in ["wav", "start", "stop"]
            },
        }
    )
