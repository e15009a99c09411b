"""From an encoder and a trial list to scores, figures and files."""

import pathlib

import pandas as pd

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings import (
    embed,
    load_encoder,
    mean_embedding,
    stored_mean,
)
from speechbrain_cadino.files import write_json
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    random_encoder,
)
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.scoring import cosine_scores, write_scores
from speechbrain_cadino.verification.trials import read_trials, trial_files


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

    def __init__(self, trials, data_folder, sample_rate=16000, **embed_options):
        self.trials = read_trials(trials)
        kinds = self.trials["target"].unique()
        if len(kinds) == 1:
            kind = "target" if kinds[0] else "non-target"
            raise ValueError(
                f"{trials} holds {kind} trials only: error rates need both "
                "target and non-target trials."
            )
        self.files = trial_files(self.trials, data_folder, sample_rate)
        self.sample_rate = sample_rate
        self.embed_options = embed_options
        rows = pd.Index(self.files["ID"])
        self.enrol = rows.get_indexer(self.trials["enrol"])
        self.test = rows.get_indexer(self.trials["test"])

    def scores(self, encode_batch, mean=None):
        """Cosine scores of all trials; each file is embedded once.

        Arguments
        ---------
        encode_batch : callable
            See ``embed``.
        mean : numpy.ndarray, optional
            Shape (D,): subtracted from every embedding first.

        Returns
        -------
        numpy.ndarray
            Shape (T,), float32, in the order of the trials.
        """
        embeddings = embed(
            encode_batch, self.files, self.sample_rate, **self.embed_options
        )
        return cosine_scores(embeddings, self.enrol, self.test, mean)

    def __call__(self, encode_batch, mean=None):
        """The error rates of an encoder.

        Arguments
        ---------
        encode_batch : callable
            See ``embed``.
        mean : numpy.ndarray, optional
            Shape (D,): subtracted from every embedding first.

        Returns
        -------
        dict
            ``eer`` in percent, ``min_dcf_0.01``, ``min_dcf_0.05``.
        """
        return summary(self.scores(encode_batch, mean), self.trials["target"])


def verify(
    output_folder,
    encoder,
    trials,
    data_folder,
    mean_subtraction=False,
    baselines=False,
    train_manifest=None,
    train_data_folder=None,
    seed=0,
    device=None,
    **embed_options,
):
    """Scores a trial list with an encoder, and with the baselines.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Where ``write_results`` writes.
    encoder : str or pathlib.Path
        An encoder folder or a hub id.
    trials : str or pathlib.Path
        The trial list.
    data_folder : str or pathlib.Path
        The folder that its names start from.
    mean_subtraction : bool
        Subtract the mean embedding of the training set: the one stored with
        the encoder, or else, and for the baselines, that of train_manifest.
    baselines : bool
        Score ``random_encoder`` and ``log_mel_stats`` beside the encoder.
    train_manifest : str or pathlib.Path, optional
        The training set.
    train_data_folder : str or pathlib.Path, optional
        What ``$data_root`` in train_manifest stands for.
    seed : int
        Of the untrained encoder.
    device : str, optional
        See ``load_encoder``.
    **embed_options
        Further arguments of ``embed``.

    Returns
    -------
    dict
        See ``write_results``.

    Raises
    ------
    ValueError
        If train_manifest is needed and not given.
    """
    loaded = load_encoder(encoder, device)
    rate = loaded.audio_normalizer.sample_rate
    evaluator = TrialEvaluator(trials, data_folder, rate, **embed_options)
    table = None
    if train_manifest is not None:
        table = read_manifest(train_manifest, train_data_folder)
    systems = {"encoder": (loaded.encode_batch, stored_mean(loaded))}
    if baselines:
        _require(table, "The baselines need training data", "baselines")
        untrained = random_encoder(encoder, table, seed, device)
        systems["random_encoder"] = (untrained.encode_batch, None)
        systems["log_mel_stats"] = (LogMelStats(rate), None)
    scores = {}
    for system, (encode_batch, mean) in systems.items():
        if not mean_subtraction:
            mean = None
        elif mean is None:
            _require(
                table,
                f"{encoder} comes without the mean embedding of its training "
                "set",
                "mean_subtraction",
            )
            mean = mean_embedding(encode_batch, table, rate, **embed_options)
        scores[system] = evaluator.scores(encode_batch, mean)
    return write_results(output_folder, evaluator.trials, scores)


def _require(table, why, option):
    """Raises if there is no training manifest."""
    if table is None:
        raise ValueError(f"{why}: give train_manifest, or set {option}=False.")


def write_results(folder, trials, scores):
    """Writes ``scores_<system>.txt`` and ``metrics.json``.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to write.
    trials : pandas.DataFrame
        Of ``read_trials``.
    scores : dict
        The systems' names, and the scores (T,) of each.

    Returns
    -------
    dict
        What is in ``metrics.json``: the counts ``trials`` and ``targets``,
        and ``systems`` with the ``summary`` of each.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     [(True, "a1", "a2"), (False, "a1", "b1")],
    ...     columns=["target", "enrol", "test"],
    ... )
    >>> folder = getfixture("tmp_path")
    >>> results = write_results(folder, trials, {"encoder": [0.9, 0.1]})
    >>> results["trials"], results["systems"]["encoder"]["eer"]
    (2, 0.0)
    >>> sorted(file.name for file in folder.iterdir())
    ['metrics.json', 'scores_encoder.txt']
    """
    folder = pathlib.Path(folder)
    results = {
        "trials": len(trials),
        "targets": int(trials["target"].sum()),
        "systems": {
            system: summary(values, trials["target"])
            for system, values in scores.items()
        },
    }
    for system, values in scores.items():
        write_scores(folder / f"scores_{system}.txt", trials, values)
    write_json(folder / "metrics.json", results)
    return results


def format_results(results):
    """The results of several systems side by side.

    Arguments
    ---------
    results : dict
        Of ``write_results``.

    Returns
    -------
    str
        A table of one line for each system.

    Example
    -------
    >>> figures = {"eer": 9.12, "min_dcf_0.01": 0.71, "min_dcf_0.05": 0.5}
    >>> results = {"trials": 20, "targets": 5, "systems": {"encoder": figures}}
    >>> print(format_results(results))
    20 trials, 5 of them targets
    system    EER %  minDCF(0.01)  minDCF(0.05)
    encoder    9.12        0.7100        0.5000
    """
    width = max(map(len, ["system", *results["systems"]]))
    lines = [
        f"{results['trials']} trials, {results['targets']} of them targets",
        f"{'system':{width}}  {'EER %':>6}  minDCF(0.01)  minDCF(0.05)",
    ]
    lines += [
        f"{system:{width}}  {figures['eer']:6.2f}  "
        f"{figures['min_dcf_0.01']:12.4f}  {figures['min_dcf_0.05']:12.4f}"
        for system, figures in results["systems"].items()
    ]
    return "\n".join(lines)
