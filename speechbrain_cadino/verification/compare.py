"""Several systems on one trial list: which one is better, and how surely."""

import pathlib

import numpy as np

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.verification.bootstrap import Bootstrap, trial_speakers
from speechbrain_cadino.verification.evaluate import TrialEvaluator, check_kinds
from speechbrain_cadino.verification.plots import plot_det
from speechbrain_cadino.verification.results import format_results
from speechbrain_cadino.verification.scoring import read_scores
from speechbrain_cadino.verification.trials import read_trials

logger = get_logger(__name__)


def compare(
    trials, score_files, speakers=None, replicates=1000, seed=0, folder=None
):
    """Compares systems by their score files.

    Arguments
    ---------
    trials : str or pathlib.Path
        The trial list.
    score_files : dict
        The systems' names, and the score file of each, see ``read_scores``,
        or a folder of embeddings, whose cosines are scored. All others are
        compared with the first.
    speakers : dict or pandas.Series, optional
        See ``trial_speakers``.
    replicates : int
        The number of replicates of the bootstrap over speakers.
    seed : int
        The seed of the bootstrap.
    folder : str or pathlib.Path, optional
        The folder of ``comparison.json`` and ``det.png``.

    Returns
    -------
    dict
        The counts ``trials``, ``targets`` and ``speakers``; ``systems`` with
        the figures of each and their 95% intervals; and ``differences`` to
        the first system, see ``Bootstrap.compare``.

    Raises
    ------
    ValueError
        If a list or score file is none, or does not fit.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> lines = [
    ...     (int(a == b), f"{a}/1.wav", f"{b}/2.wav")
    ...     for a in range(9)
    ...     for b in range(9)
    ... ]
    >>> for name, sign in [("trials", 0), ("good", 1), ("bad", -1)]:
    ...     text = [
    ...         f"{e} {t} {sign * same}\\n" if sign else f"{same} {e} {t}\\n"
    ...         for same, e, t in lines
    ...     ]
    ...     _ = (folder / name).write_text("".join(text))
    >>> files = {name: folder / name for name in ["good", "bad"]}
    >>> results = compare(folder / "trials", files)
    >>> results["differences"]["bad"]["eer"]["difference"]
    100.0
    """
    table = read_trials(trials)
    check_kinds(table, trials)
    scores = {
        name: _scores(path, trials, table) for name, path in score_files.items()
    }
    enrol, test = trial_speakers(table, speakers)
    bootstrap = Bootstrap(
        scores, table["target"], enrol, test, replicates, seed
    )
    intervals = bootstrap.intervals()
    first, *others = scores
    results = {
        "trials": len(table),
        "targets": int(table["target"].sum()),
        "speakers": bootstrap.speakers,
        "systems": {
            name: {**figures, "intervals": intervals[name]}
            for name, figures in bootstrap.figures.items()
        },
        "differences": {
            name: bootstrap.compare(name, first) for name in others
        },
    }
    if folder is not None:
        write_json(pathlib.Path(folder) / "comparison.json", results)
        plot_det(pathlib.Path(folder) / "det.png", scores, table["target"])
    return results


def _scores(path, trials, table):
    """The scores in a file, or of a folder of embeddings."""
    if not pathlib.Path(path).is_dir():
        scores = read_scores(path, table)
        target = table["target"].to_numpy()
        if np.median(scores[target]) < np.median(scores[~target]):
            logger.warning(
                f"In {path} targets score lower than non-targets: are these "
                "distances? The higher a score, the more alike the voices."
            )
        return scores
    evaluate = TrialEvaluator(trials, embeddings=path)
    scores = evaluate.scores(StoredEmbeddings(path))
    if len(scores) < evaluate.listed:
        raise ValueError(
            f"{path} has no embedding of files in "
            f"{evaluate.listed - len(scores)} of {evaluate.listed} trials: all "
            "systems are to have the same trials, so give a list without these."
        )
    return scores


def format_comparison(results):
    """The comparison as two tables.

    Arguments
    ---------
    results : dict
        The results of ``compare``.

    Returns
    -------
    str
        The figures of each system, and the differences in EER.

    Example
    -------
    >>> difference = {"difference": -1.5, "interval": (-2.5, 0.5)}
    >>> difference["p_value"] = 0.125
    >>> figures = {"eer": 3.0, "intervals": {"eer": (2.0, 4.0)}}
    >>> results = {
    ...     "trials": 20,
    ...     "targets": 5,
    ...     "speakers": 10,
    ...     "systems": {"old": figures, "new": figures},
    ...     "differences": {"new": {"eer": difference}},
    ... }
    >>> print(format_comparison(results).split("\\n\\n")[1])
    EER minus that of old
    new   -1.50 [-2.50, 0.50]  p = 0.125  not sure
    """
    first, *others = results["systems"]
    text = format_results(results)
    if not others:
        return text
    width = max(map(len, others))
    lines = [f"EER minus that of {first}"]
    for name in others:
        found = results["differences"][name]["eer"]
        low, high = found["interval"]
        lines.append(
            f"{name:{width}}  {found['difference']:+6.2f} "
            f"[{low:.2f}, {high:.2f}]  p = {found['p_value']:.3f}  "
            + _answer(low, high)
        )
    return "\n".join([text, "", *lines])


def _answer(low, high):
    """What an interval of a difference says."""
    if low <= 0 <= high:
        return "not sure"
    return "surely better" if high < 0 else "surely worse"
