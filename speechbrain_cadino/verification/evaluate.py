"""From an encoder and a trial list to scores, figures and files."""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import without_labels
from speechbrain_cadino.dataio.names import parts_of, paths_of
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.store import sameness
from speechbrain_cadino.verification.back_ends import (
    BackEnds,
    Background,
    check_back_ends,
)
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    random_encoder,
)
from speechbrain_cadino.verification.calibration import (
    Calibration,
    quality_measures,
)
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.overlap import training_overlap
from speechbrain_cadino.verification.results import Assessor, write_results
from speechbrain_cadino.verification.scoring import cosine, trial_scores
from speechbrain_cadino.verification.trial_files import (
    trial_files,
    trial_table,
)
from speechbrain_cadino.verification.trials import (
    find_trials,
    read_trials,
    trial_names,
    write_trials,
)

logger = get_logger(__name__)

# The list of what was scored, where that is not the whole list
SCORED = "scored_trials.txt"

# Systems that have learned nothing, beside an untrained encoder
UNTRAINED = {"log_mel_stats": LogMelStats}
# And one that has learnt in a minute, without a network
LEARNT = "log_mel_stats+recording_lda"


class TrialEvaluator:
    """A trial list ready to score any encoder.

    Files and list are checked once, here, so a mistake in them shows before
    a training starts and not after its first epochs.

    Arguments
    ---------
    trials : str or pathlib.Path
        The trial list, see ``read_trials``.
    data_folder : str or pathlib.Path, or a list of these, optional
        The folder that its names start from, see ``trial_files``.
    sample_rate : int
        The rate of the encoder, in Hz.
    embeddings : str or pathlib.Path, optional
        The folder of the embeddings to score. The audio is not looked for
        then.

    Attributes
    ----------
    trials : pandas.DataFrame
        The trials that can be scored: see ``read_trials``.
    files : pandas.DataFrame
        Their files: see ``find_files``.
    keep_unseen : bool
        Whether trials stay whose files are not among these, with a score of
        NaN.

    Raises
    ------
    FileNotFoundError
        If the list or an audio file is missing.
    ValueError
        If the list is none, or there is no data_folder where it is needed.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> tmp_path = getfixture("tmp_path")
    >>> for name, level in [("a1", 0.1), ("a2", 0.2), ("b1", -0.1)]:
    ...     wav = level + np.tile([0.5, -0.5], 2000)
    ...     soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    >>> _ = (tmp_path / "trials.txt").write_text(
    ...     "1 a1.wav a2.wav\\n0 a1.wav b1.wav\\n"
    ... )
    >>> from speechbrain_cadino.embeddings.embedder import Embedder
    >>> evaluate = TrialEvaluator(tmp_path / "trials.txt", tmp_path)
    >>> evaluate(Embedder(lambda wavs, lens: wavs.mean(1, keepdim=True)))
    {'eer': 0.0, 'min_dcf_0.01': 0.0, 'min_dcf_0.05': 0.0}
    """

    keep_unseen = False

    def __init__(
        self, trials, data_folder=None, sample_rate=16000, embeddings=None
    ):
        if data_folder is None and embeddings is None:
            raise ValueError(
                "Give data_folder, where the files of the trial list are."
            )
        self.sample_rate = sample_rate
        self.data_folder = data_folder
        self._source = trials
        self.trials = read_trials(find_trials(trials, data_folder))
        self.listed = len(self.trials)
        check_kinds(self.trials, trials)
        if embeddings is not None:
            self.files = trial_table(self.trials)
        else:
            self.files = self.find_files()
        if not self.keep_unseen:
            known = self.trials[["enrol", "test"]].isin(set(self.files["ID"]))
            self.trials = self.trials[known.all(axis=1)]
            check_kinds(self.trials, f"What can be used of {trials}")
        self._number()

    def find_files(self):
        """Finds the files that the trials name.

        Returns
        -------
        pandas.DataFrame
            See ``trial_files``.
        """
        return trial_files(self.trials, self.data_folder, self.sample_rate)

    def _number(self):
        """Finds the files of each trial."""
        rows = pd.Index(self.files["ID"])
        self.enrol = rows.get_indexer(self.trials["enrol"])
        self.test = rows.get_indexer(self.trials["test"])

    def overlap(self, *tables):
        """What a training set has in common with the list.

        Arguments
        ---------
        *tables : pandas.DataFrame
            The manifests of the training set; None for one that is not there.

        Returns
        -------
        dict of str:int
            See ``training_overlap``, which warns, too.
        """
        return training_overlap(
            self.trials, self.data_folder, pd.concat(tables)
        )

    def check_apart(self, others):
        """Raises if another list, to calibrate on, shares a file with this,
        however its name is spelled.

        Arguments
        ---------
        others : TrialEvaluator
            The other list.

        Raises
        ------
        ValueError
            Naming a file that is in both.
        """
        folders = [*paths_of(self.data_folder), *paths_of(others.data_folder)]
        own, theirs = (
            {tuple(parts_of(name, folders)): name for name in trial_names(each)}
            for each in (self.trials, others.trials)
        )
        both = own.keys() & theirs.keys()
        if both:
            raise ValueError(
                f"{len(both)} file(s) are in trials and in calibration_trials, "
                f"such as {own[min(both)]}: a system calibrated on what it is "
                "tested on looks better than it is. Give a list of other "
                "speakers."
            )

    def embed(self, embedder):
        """Embeds the files. One that is damaged or silent, which its header
        does not tell, is left out from now on, and so are its trials, unless
        those of the unseen are kept.

        Arguments
        ---------
        embedder : Embedder
            The encoder.

        Returns
        -------
        numpy.ndarray
            Embeddings, shape (N, D), of ``files``.

        Raises
        ------
        ValueError
            If the encoder is of another rate.
        """
        if embedder.hears and embedder.sample_rate != self.sample_rate:
            raise ValueError(
                f"The encoder takes {embedder.sample_rate} samples a second, "
                f"and sample_rate={self.sample_rate} was given for the trials."
            )
        files = self.files
        if not embedder.hears:
            names = pd.Series(embedder.own_names(files["ID"]), files.index)
            embedder.check_known(names)
            files = files.assign(ID=names)
        embeddings = embedder.embed(files, skip_unreadable=True)
        lost = np.isnan(embeddings).any(axis=1)
        if not lost.any():
            return embeddings
        names = self.files["ID"][lost]
        gone = self.trials[["enrol", "test"]].isin(set(names)).any(axis=1)
        what = "have no score" if self.keep_unseen else "are left out"
        logger.warning(
            f"{gone.sum()} of {len(self.trials)} trials {what}: "
            f"{len(names)} files cannot be used, such as {names.iloc[0]}."
        )
        self.files = self.files[~lost].reset_index(drop=True)
        if not self.keep_unseen:
            self.trials = self.trials[~gone]
            check_kinds(self.trials, f"What can be used of {self._source}")
        self._number()
        return embeddings[~lost]

    def scores(self, embedder):
        """Cosine scores of all trials.

        Arguments
        ---------
        embedder : Embedder
            The encoder.

        Returns
        -------
        numpy.ndarray
            Scores, shape (T,), float32, in the order of the trials.
        """
        sides = cosine(self.embed(embedder))
        scores = trial_scores(sides, self.enrol, self.test)
        scores[(self.enrol < 0) | (self.test < 0)] = np.nan
        return scores

    def __call__(self, embedder):
        """The error rates of an encoder.

        Arguments
        ---------
        embedder : Embedder
            The encoder.

        Returns
        -------
        dict
            ``eer`` in percent, ``min_dcf_0.01``, ``min_dcf_0.05``.
        """
        return summary(self.scores(embedder), self.trials["target"])


def evaluator_if_any(trials, data_folder, sample_rate=16000, **options):
    """A trial list, where there may be none.

    Arguments
    ---------
    trials : str or pathlib.Path, optional
        The trial list; None if there is none. See TrialEvaluator, also for the
        errors.
    data_folder : str or pathlib.Path
        The folder that its names start from.
    sample_rate : int
        The rate of the encoder, in Hz.
    **options
        Further arguments of TrialEvaluator.

    Returns
    -------
    TrialEvaluator
        The evaluator; None if ``trials`` is None.
    """
    if trials is None:
        return None
    return TrialEvaluator(trials, data_folder, sample_rate, **options)


def check_kinds(trials, what):
    """Raises unless there are both kinds of trials.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, with a column ``target``, bool.
    what : str or pathlib.Path
        The name of what holds them, for the error.

    Raises
    ------
    ValueError
        If all are of one kind.

    Example
    -------
    >>> check_kinds(pd.DataFrame({"target": [True, False]}), "trials.txt")
    """
    kinds = trials["target"].unique()
    if len(kinds) < 2:
        kind = "target" if kinds.any() else "non-target"
        raise ValueError(
            f"{what} holds {kind} trials only: error rates need both target "
            "and non-target trials."
        )


def verify(
    output_folder,
    embedder,
    trials,
    back_ends=None,
    background=None,
    calibration_trials=None,
    baselines=False,
    untrained=None,
    assessor=Assessor,
    source=None,
):
    """Scores a trial list with an encoder, and with the baselines.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The folder that ``write_results`` writes into; the embeddings of the
        training set go to its ``training_set``, those of the source to its
        ``source_set``.
    embedder : Embedder
        The encoder.
    trials : TrialEvaluator
        The trial list.
    back_ends : BackEnds, optional
        The steps between embeddings and scores; cosine by default.
    background : Background, optional
        The training set, which most back-ends and the baselines need.
    calibration_trials : TrialEvaluator, optional
        Trials of other files, for back-ends that end in ``calibrated``.
    baselines : bool
        Whether to score ``random_encoder`` and the untrained systems too, by
        cosine, and log-mel statistics after ``RecordingLDA``: what a network
        has to beat.
    untrained : dict of str:callable, optional
        Other systems in the place of those of log-mel statistics, by name:
        from a sample rate to a module such as ``LogMelStats``.
    assessor : callable
        The function from trials to an Assessor.
    source : Background, optional
        The labelled voices of another domain, for ``coral``.

    Returns
    -------
    dict
        See ``write_results``.

    Raises
    ------
    ValueError
        If an option makes no sense, or something needed is not given.
    """
    back_ends = BackEnds() if back_ends is None else back_ends
    background = Background() if background is None else background
    source = Background(name="source") if source is None else source
    assess = assessor(trials.trials)
    lists = trials, calibration_trials
    if any(each is not None and each.keep_unseen for each in lists):
        raise ValueError(
            "keep_unseen is for scores of voices and faces: leave it out."
        )
    check_back_ends(back_ends, calibration_trials, source.manifest)
    if calibration_trials is not None:
        trials.check_apart(calibration_trials)
    table = background.table("baselines=True") if baselines else None
    overlap = None
    if background.manifest is not None:
        overlap = trials.overlap(
            background.table("train_manifest"), background.labelled
        )
    folder = pathlib.Path(output_folder)
    back_ends.prepare(embedder, background, folder / "training_set", source)
    scores, details = _score(embedder, back_ends, trials, calibration_trials)
    if leave_out_unscored(folder, trials):
        assess = assessor(trials.trials)
    if baselines:
        logger.info("For comparison, what has learnt nothing:")
        scores["random_encoder"] = trials.scores(
            random_encoder(embedder, table, background.seed)
        )
        rate = embedder.sample_rate
        for name, make in (untrained or UNTRAINED).items():
            system = embedder.replace(encode_batch=make(rate), weights=None)
            scores[name] = trials.scores(system)
        if untrained is None:
            system = embedder.replace(encode_batch=LogMelStats(rate))
            try:
                lda = RecordingLDA(seed=background.seed)
                lda = lda.learn(system, without_labels(table))
                scores[LEARNT] = trials.scores(lda.after(system))
            except ValueError as error:  # of one recording, say
                logger.warning(f"There is no {LEARNT}: {error}")
    return write_results(output_folder, assess, scores, details, overlap)


def leave_out_unscored(folder, trials):
    """Tells of the trials without a score, which are left out, and writes the
    others to ``scored_trials.txt``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of the scores.
    trials : TrialEvaluator
        The trials, scored.

    Returns
    -------
    bool
        Whether there are such trials.
    """
    scored = pathlib.Path(folder, SCORED)
    scored.unlink(missing_ok=True)
    if len(trials.trials) == trials.listed:
        return False
    scored.parent.mkdir(parents=True, exist_ok=True)
    write_trials(scored, trials.trials)
    logger.warning(f"The trials that have a score are in {scored}.")
    return True


def _timed(trials, embedder):
    """The files of a list; where there are embeddings alone, as long as these
    tell."""
    files = trials.files
    if embedder.hears:
        return files
    seconds = embedder.durations(embedder.own_names(files["ID"]))
    if not np.isfinite(seconds).all():
        logger.warning(
            f"{embedder.source} does not tell how long files are: calibration "
            "is by scores and norms."
        )
        return files
    return files.assign(stop=seconds * trials.sample_rate)


def _score(embedder, back_ends, trials, calibration_trials):
    """The scores of all back-ends, and what calibration has learned."""
    sides = {
        lists: (lists.embed(embedder), lists.enrol, lists.test)
        for lists in (trials, calibration_trials)
        if lists is not None
    }
    if same := sameness(sides[trials][0]):
        logger.warning(f"{same} Then error rates tell nothing.")
    scores, details, qualities = {}, {}, {}
    if any("calibrated" in back_end for back_end in back_ends):
        qualities = {
            lists: quality_measures(
                _timed(lists, embedder), *found, lists.sample_rate
            )
            for lists, found in sides.items()
        }
    for back_end in back_ends:
        system = back_end.system
        scores[system] = back_ends.scores(back_end, *sides[trials])
        if "calibrated" in back_end:
            calibration = Calibration(
                back_ends.scores(back_end, *sides[calibration_trials]),
                calibration_trials.trials["target"],
                qualities[calibration_trials],
            )
            scores[system] = calibration(scores[system], qualities[trials])
            details[system] = {"calibration": calibration.weights()}
    return scores, details
