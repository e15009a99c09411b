"""From an encoder and a trial list to scores, figures and files."""

import pathlib

import numpy as np
import pandas as pd

from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.labels import read_labels
from speechbrain_cadino.dataio.manifest import pseudo_labels, read_manifest
from speechbrain_cadino.embeddings.embedder import MEAN_UTTERANCES, embed
from speechbrain_cadino.embeddings.extract import extract
from speechbrain_cadino.embeddings.segments import Segments
from speechbrain_cadino.encoders.load import (
    load_encoder,
    reader_of,
    stored_mean,
)
from speechbrain_cadino.verification.back_ends import (
    BackEnd,
    BackEnds,
    background_rows,
)
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    Pixels,
    random_encoder,
)
from speechbrain_cadino.verification.calibration import (
    Calibration,
    check_apart,
    quality_measures,
)
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.results import (
    Assessor,
    read_groups,
    write_results,
)
from speechbrain_cadino.verification.scoring import cosine, trial_scores
from speechbrain_cadino.verification.trials import (
    find_trials,
    read_trials,
    trial_files,
    trial_tracks,
)


class TrialEvaluator:
    """A trial list ready to score any encoder.

    Files and list are checked once, here, so a mistake in them shows before
    a training starts and not after its first epochs.

    Arguments
    ---------
    trials : str or pathlib.Path
        The trial list, see ``read_trials``.
    data_folder : str or pathlib.Path
        The folder that its names start from, see ``trial_files``.
    sample_rate : int
        The encoder's, in Hz.
    segment_seconds : float, optional
        Embed segments instead of whole files, see ``Segments``.
    max_segments : int
        Of a file.
    manifest : str or pathlib.Path, optional
        Where the face tracks of the files are, see ``trial_tracks``;
        data_folder is its ``$data_root``. Trials of which a face was not seen
        are left out.
    keep_unseen : bool
        Keep them: their score is NaN.
    **embed_options
        Further arguments of ``embed``, e.g. ``num_workers``.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> tmp_path = getfixture("tmp_path")
    >>> for name, level in [("a1", 0.1), ("a2", 0.2), ("b1", -0.1)]:
    ...     wav = np.full(4000, level)
    ...     soundfile.write(tmp_path / f"{name}.wav", wav, 16000)
    >>> _ = (tmp_path / "trials.txt").write_text(
    ...     "1 a1.wav a2.wav\\n0 a1.wav b1.wav\\n"
    ... )
    >>> evaluate = TrialEvaluator(tmp_path / "trials.txt", tmp_path)
    >>> evaluate(lambda wavs, lens: wavs.mean(1, keepdim=True))
    {'eer': 0.0, 'min_dcf_0.01': 0.0, 'min_dcf_0.05': 0.0}
    """

    def __init__(
        self,
        trials,
        data_folder,
        sample_rate=16000,
        segment_seconds=None,
        max_segments=10,
        manifest=None,
        keep_unseen=False,
        **embed_options,
    ):
        self.segments = Segments(sample_rate, segment_seconds, max_segments)
        self.trials = read_trials(find_trials(trials, data_folder))
        _check_kinds(self.trials, trials)
        if manifest is None:
            self.files = trial_files(self.trials, data_folder, sample_rate)
        else:
            self.files = trial_tracks(self.trials, manifest, data_folder)
        if not keep_unseen:
            known = self.trials[["enrol", "test"]].isin(set(self.files["ID"]))
            self.trials = self.trials[known.all(axis=1)]
            _check_kinds(self.trials, trials)
        self.sample_rate = sample_rate
        self.embed_options = embed_options
        rows = pd.Index(self.files["ID"])
        self.enrol = rows.get_indexer(self.trials["enrol"])
        self.test = rows.get_indexer(self.trials["test"])

    def embed(self, encode_batch):
        """Embeds each file of the list once.

        Arguments
        ---------
        encode_batch : callable
            See ``embed``.

        Returns
        -------
        numpy.ndarray
            Shape (N, D), in the order of ``files``.
        """
        table, counts = self.files, None
        if self.segments.length:
            counts = self.segments.counts(table)
            table = self.segments.cut(table, counts)
        embeddings = embed(
            encode_batch, table, self.sample_rate, **self.embed_options
        )
        return self.segments.mean(embeddings, counts)

    def scores(self, encode_batch):
        """Cosine scores of all trials.

        Arguments
        ---------
        encode_batch : callable
            See ``embed``.

        Returns
        -------
        numpy.ndarray
            Shape (T,), float32, in the order of the trials.
        """
        sides = cosine(self.embed(encode_batch))
        scores = trial_scores(sides, self.enrol, self.test)
        scores[(self.enrol < 0) | (self.test < 0)] = np.nan
        return scores

    def __call__(self, encode_batch):
        """The error rates of an encoder.

        Arguments
        ---------
        encode_batch : callable
            See ``embed``.

        Returns
        -------
        dict
            ``eer`` in percent, ``min_dcf_0.01``, ``min_dcf_0.05``.
        """
        return summary(self.scores(encode_batch), self.trials["target"])


def training_evaluator(hparams):
    """What follows the error rates of a training.

    Arguments
    ---------
    hparams : dict
        ``trials``, ``trials_folder``, ``sample_rate``; for an encoder of faces
        ``reader`` and ``trials_manifest``.

    Returns
    -------
    TrialEvaluator
        None if there are no trials.
    """
    if hparams["trials"] is None:
        return None
    return TrialEvaluator(
        *(hparams["trials"], hparams["trials_folder"], hparams["sample_rate"]),
        manifest=hparams.get("trials_manifest"),
        reader=hparams.get("reader", AudioReader),
    )


def _check_kinds(trials, path):
    """Raises unless there are both kinds of trials."""
    kinds = trials["target"].unique()
    if len(kinds) < 2:
        kind = "target" if kinds.any() else "non-target"
        raise ValueError(
            f"{path} holds {kind} trials only: error rates need both target "
            "and non-target trials."
        )


def verify(
    output_folder,
    encoder,
    trials,
    data_folder,
    back_ends=("cosine",),
    baselines=False,
    train_manifest=None,
    train_data_folder=None,
    utterances_per_cluster=10,
    whitening=0.75,
    top_cohort=300,
    plda_rank=100,
    calibration_trials=None,
    operating_points=(0.01, 0.05),
    convex_hull=False,
    replicates=0,
    speakers=None,
    groups=None,
    seed=0,
    device=None,
    trials_manifest=None,
    **embed_options,
):
    """Scores a trial list with an encoder, and with the baselines.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Where ``write_results`` writes, and the embeddings of the training
        set go to ``training_set``.
    encoder : str or pathlib.Path
        An encoder folder or a hub id.
    trials : str or pathlib.Path
        The trial list, see ``find_trials``.
    data_folder : str or pathlib.Path
        The folder that its names start from.
    back_ends : list of str
        See ``BackEnd``: a row of the results each, called ``encoder`` for
        ``cosine`` and ``encoder+...`` for others.
    baselines : bool
        Score ``random_encoder`` and ``log_mel_stats`` (of faces: ``pixels``),
        by cosine, too.
    train_manifest : str or pathlib.Path, optional
        The training set, which most back-ends and the baselines need; with
        pseudo labels for PLDA and for the cohort of score normalisation.
    train_data_folder : str or pathlib.Path, optional
        What ``$data_root`` in train_manifest stands for.
    utterances_per_cluster : int
        Of the training set, at most.
    whitening : float
        See ``BackEnds``, as for the next two.
    top_cohort : int
    plda_rank : int
    calibration_trials : str or pathlib.Path, optional
        Trials of other files below data_folder, for back-ends that end in
        ``calibrated``.
    operating_points : list of float
        See ``Assessor``, as for the next two.
    convex_hull : bool
    replicates : int
    speakers : str or pathlib.Path, optional
        A CSV with the columns ``ID,spk_id``: who speaks in each file of the
        list, for the bootstrap. Without it see ``trial_speakers``.
    groups : str or pathlib.Path, optional
        See ``read_groups``.
    seed : int
        Of the untrained encoder, the bootstrap and the choice of utterances.
    device : str, optional
        See ``load_encoder``.
    trials_manifest : str or pathlib.Path, optional
        For an encoder of faces, where the face tracks of the list are: see
        ``TrialEvaluator``.
    **embed_options
        Further arguments of ``TrialEvaluator``.

    Returns
    -------
    dict
        See ``write_results``.

    Raises
    ------
    ValueError
        If an option makes no sense, or something needed is not given.
    """
    back_ends = [BackEnd(name) for name in back_ends]
    loaded = load_encoder(encoder, device)
    rate = loaded.audio_normalizer.sample_rate
    embed_options["reader"] = reader_of(loaded)
    evaluator = TrialEvaluator(
        *(trials, data_folder, rate), manifest=trials_manifest, **embed_options
    )
    assess = Assessor(
        *(evaluator.trials, operating_points, convex_hull, replicates),
        read_labels(speakers) if speakers else None,
        read_groups(groups) if groups else None,
        seed,
    )
    calibrator = None
    if any("calibrated" in back_end for back_end in back_ends):
        _require(calibration_trials, "calibration_trials", "calibrated")
        calibrator = TrialEvaluator(
            *(calibration_trials, data_folder, rate),
            manifest=trials_manifest,
            **embed_options,
        )
        check_apart(evaluator.trials, calibrator.trials)
    table = None
    if train_manifest is not None:
        table = read_manifest(train_manifest, train_data_folder)
    training = _training_set(
        back_ends,
        *(loaded, table, train_manifest, utterances_per_cluster, seed),
        pathlib.Path(output_folder) / "training_set",
    )
    scorer = BackEnds(
        **training,
        whitening=whitening,
        top_cohort=top_cohort,
        plda_rank=plda_rank,
    )
    scores, details = _score(loaded, back_ends, scorer, evaluator, calibrator)
    if baselines:
        _require(table, "train_manifest", "baselines=True")
        untrained = random_encoder(encoder, table, seed, device)
        scores["random_encoder"] = evaluator.scores(untrained.encode_batch)
        if trials_manifest is None:
            scores["log_mel_stats"] = evaluator.scores(LogMelStats(rate))
        else:
            scores["pixels"] = evaluator.scores(Pixels())
    return write_results(output_folder, assess, scores, details)


def _require(given, option, what):
    """Raises if an option is missing that something needs."""
    if given is None:
        raise ValueError(f"{what} needs {option}: give it, or leave that out.")


def _training_set(back_ends, loaded, table, path, most, seed, folder):
    """What the back-ends have to know of the training set."""
    mean = stored_mean(loaded)
    hungry = [b for b in back_ends if b.needs_embeddings]
    hungry += [b for b in back_ends if "mean" in b and mean is None]
    if not hungry:
        return {"mean": mean}
    _require(table, "train_manifest", f"The back-end {hungry[0].name}")
    if any(back_end.needs_clusters for back_end in back_ends):
        labels = pseudo_labels(table, path)
        rows = background_rows(labels, most, seed)
        labels = labels.to_numpy()[rows]
    else:
        count = min(len(table), MEAN_UTTERANCES)
        rows = np.linspace(0, len(table) - 1, count).astype(int)
        labels = np.zeros(count)
    _, embeddings = extract(
        folder,
        loaded.encode_batch,
        table.iloc[rows],
        loaded.mods,
        loaded.audio_normalizer.sample_rate,
        reader=reader_of(loaded),
    )
    readable = np.isfinite(embeddings[:, 0])
    embeddings = embeddings[readable]
    if mean is None:
        mean = embeddings.mean(0, dtype=np.float64)
    return {"mean": mean, "embeddings": embeddings, "labels": labels[readable]}


def _score(loaded, back_ends, scorer, evaluator, calibrator):
    """The scores of all back-ends, and what calibration has learned."""
    sides = {
        lists: (lists.embed(loaded.encode_batch), lists.enrol, lists.test)
        for lists in (evaluator, calibrator)
        if lists is not None
    }
    scores, details = {}, {}
    for back_end in back_ends:
        system = back_end.system
        scores[system] = scorer.scores(back_end, *sides[evaluator])
        if "calibrated" in back_end:
            qualities = {
                lists: quality_measures(lists.files, *found, lists.sample_rate)
                for lists, found in sides.items()
            }
            calibration = Calibration(
                scorer.scores(back_end, *sides[calibrator]),
                calibrator.trials["target"],
                qualities[calibrator],
            )
            scores[system] = calibration(scores[system], qualities[evaluator])
            details[system] = {"calibration": calibration.weights()}
    return scores, details
