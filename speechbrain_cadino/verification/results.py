"""Results of scored trials: figures, files and tables."""

import functools
import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.labels import read_labels
from speechbrain_cadino.dataio.names import parts_of
from speechbrain_cadino.process.console import aligned
from speechbrain_cadino.process.files import read_json, write_json
from speechbrain_cadino.process.tables import describe_columns, read_csv
from speechbrain_cadino.verification.bootstrap import (
    Bootstrap,
    count_speakers,
    trial_speakers,
    warn_of_few,
)
from speechbrain_cadino.verification.metrics import check_prior, summary
from speechbrain_cadino.verification.plots import plot_det, plot_scores
from speechbrain_cadino.verification.scoring import write_scores

logger = get_logger(__name__)

# Of trials: not for the table of figures
COUNTS = {"trials", "targets", "unseen"}


class Assessor:
    """Works out the figures of any system's scores of one trial list.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    operating_points : list of float
        Prior probabilities of a target, for the detection costs.
    convex_hull : bool
        Whether the EER is that of the ROC's convex hull.
    replicates : int
        The number of replicates of the bootstrap over speakers that gives the
        95% intervals; 0 for none. If the list has too few speakers, a warning
        says so, and there are none.
    speakers : str or pathlib.Path, optional
        A CSV with the columns ``ID,spk_id``: who speaks in each file, for the
        bootstrap. Without it see ``trial_speakers``.
    groups : str or pathlib.Path, optional
        See ``read_groups``: figures for each group too.
    seed : int
        The seed of the bootstrap.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     [(True, "a1", "a2"), (False, "a1", "b1")],
    ...     columns=["target", "enrol", "test"],
    ... )
    >>> Assessor(trials)([0.9, 0.1])["eer"]
    0.0
    """

    def __init__(
        self,
        trials,
        operating_points=(0.01, 0.05),
        convex_hull=False,
        replicates=0,
        speakers=None,
        groups=None,
        seed=0,
    ):
        self.trials = trials
        for prior in operating_points:
            check_prior(prior)
        self.options = {
            "operating_points": operating_points,
            "convex_hull": convex_hull,
        }
        groups = None if groups is None else read_groups(groups)
        speakers = None if speakers is None else read_labels(speakers)
        self.groups = trial_groups(trials, groups)
        self.speakers = None
        if replicates < 0:
            raise ValueError(f"replicates={replicates}: give 0 or more.")
        if replicates:
            enrol, test = trial_speakers(trials, speakers)
            who = {"targets": trials["target"], "enrol": enrol, "test": test}
            try:
                self.speakers = count_speakers(**who)
            except ValueError as reason:
                logger.warning(f"No intervals: {reason}")
                return
            warn_of_few(replicates, self.speakers)
            self.bootstrap = functools.partial(
                Bootstrap, **who, replicates=replicates, seed=seed
            )

    def __call__(self, scores, calibrated=False):
        """The figures of one system.

        Arguments
        ---------
        scores : array_like
            Scores, shape (T,).
        calibrated : bool
            Whether they are log-likelihood ratios.

        Returns
        -------
        dict
            ``summary``, and where asked for ``intervals`` and ``groups``.
        """
        options = {**self.options, "calibrated": calibrated}
        scores = np.asarray(scores)
        targets = self.trials["target"].to_numpy()
        if self.speakers:
            bootstrap = self.bootstrap({"system": scores}, **options)
            figures = dict(bootstrap.figures["system"])
            figures["intervals"] = bootstrap.intervals()["system"]
        else:
            figures = summary(scores, targets, **options)
        if self.groups:
            figures["groups"] = {
                name: {
                    "trials": int(rows.sum()),
                    "targets": int(targets[rows].sum()),
                    **summary(scores[rows], targets[rows], **options),
                }
                for name, rows in self.groups.items()
            }
        return figures


def read_groups(path):
    """Reads a table of groups.

    Arguments
    ---------
    path : str or pathlib.Path
        A CSV file, its fields apart by commas or tabs. The first column names
        files as the trial list does, or their first folder (in VoxCeleb the
        speaker: ``vox1_meta.csv`` will do); each other column is a property,
        such as ``Gender``.

    Returns
    -------
    pandas.DataFrame
        The table, indexed by the first column.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If it is no such table.

    Example
    -------
    >>> path = getfixture("tmp_path") / "groups.csv"
    >>> _ = path.write_text("ID,Gender\\nid1,f\\nid2,m\\n")
    >>> read_groups(path)["Gender"].to_dict()
    {'id1': 'f', 'id2': 'm'}
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"No table of groups at {path}: give a CSV file, whose first "
            "column names files or first folders."
        )
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        separator = "\t" if "\t" in file.readline() else ","
    table = read_csv(path, separator=separator)
    columns = describe_columns(table)
    table = table.set_index(table.columns[0])
    if not len(table.columns) or table.index.has_duplicates:
        raise ValueError(
            f"{path}: a table of groups has one line for each file or first "
            "folder, which the first column names, and at least one more "
            f"column; it has {columns}."
        )
    return table


def trial_groups(trials, table=None):
    """Which trials belong to which group.

    A trial belongs to a group of the table if both its sides do. Groups that
    have not both kinds of trials are left out.

    Arguments
    ---------
    trials : pandas.DataFrame
        The trials, as ``read_trials`` gives them.
    table : pandas.DataFrame, optional
        The table of groups, as ``read_groups`` gives it.

    Returns
    -------
    dict
        The trials of each group, a bool array (T,), by names such as
        ``Gender=f``, or what the list itself says.

    Raises
    ------
    ValueError
        If the table knows no file of the list.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     [(True, "a/1", "a/2"), (False, "a/1", "b/1"), (True, "c/1", "c/2")],
    ...     columns=["target", "enrol", "test"],
    ... )
    >>> table = pd.DataFrame({"Gender": list("ffm")}, index=list("abc"))
    >>> trial_groups(trials, table)
    {'Gender=f': array([ True,  True, False])}
    """
    groups, target = {}, trials["target"].to_numpy()
    if "group" in trials:
        groups = {
            name: (trials["group"] == name).to_numpy()
            for name in sorted(trials["group"].unique())
        }
    if table is not None:
        enrol, test = (_keys(trials[side], table) for side in ["enrol", "test"])
        for column in table:
            codes, values = pd.factorize(table[column], sort=True)
            place = pd.Series(codes, table.index)[table[column] != ""]
            one, other = (
                keys.map(place).fillna(-1).to_numpy(int)
                for keys in (enrol, test)
            )
            both = np.where(one == other, one, -1)
            # Of the values, which may be thousands, those of trials of both
            # kinds
            kinds = [set(both[target == kind]) for kind in (True, False)]
            for code in sorted(set.intersection(*kinds) - {-1}):
                groups[f"{column}={values[code]}"] = both == code
    return {
        name: rows
        for name, rows in groups.items()
        if len(set(target[rows])) == 2
    }


def _keys(names, table):
    """What the table calls each file: its name or its first folder."""
    parts = {name: parts_of(name) for name in names.unique()}
    own = {tuple(parts_of(name)): name for name in table.index}
    known = {name: own.get(tuple(words)) for name, words in parts.items()}
    if any(known.values()):
        return names.map(known)
    folders = names.map({name: words[0] for name, words in parts.items()})
    spelled = {words[0]: n for words, n in own.items() if len(words) == 1}
    found = folders.map(spelled)
    if found.isna().all():
        raise ValueError(
            f"The table of groups knows neither {names.iloc[0]} nor "
            f"{folders.iloc[0]}: its first column has to name the files of "
            "the trial list or their first folders."
        )
    return found


def write_results(folder, assess, scores, details=None, overlap=None):
    """Writes ``scores_<system>.txt``, ``metrics.json`` and the plots.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write to.
    assess : Assessor
        The Assessor of the trial list.
    scores : dict
        The systems' names, and the scores (T,) of each. Those whose name ends
        in ``calibrated`` are log-likelihood ratios.
    details : dict of dict, optional
        The details to keep of some of the systems.
    overlap : dict, optional
        The result of ``training_overlap``.

    Returns
    -------
    dict
        The content of ``metrics.json``: the counts ``trials``, ``targets``
        and, if there are intervals, ``speakers``; ``training_overlap``, if the
        training set is known; and ``systems`` with the figures of each.

    Example
    -------
    >>> trials = pd.DataFrame(
    ...     [(True, "a1", "a2"), (False, "a1", "b1")],
    ...     columns=["target", "enrol", "test"],
    ... )
    >>> folder = getfixture("tmp_path")
    >>> scores = {"encoder": [0.9, 0.1]}
    >>> results = write_results(folder, Assessor(trials), scores)
    >>> results["trials"], results["systems"]["encoder"]["eer"]
    (2, 0.0)
    >>> sorted(file.name for file in folder.iterdir())
    ['metrics.json', 'plots', 'scores_encoder.txt']
    """
    folder = pathlib.Path(folder)
    trials, details = assess.trials, details or {}
    results = {"trials": len(trials), "targets": int(trials["target"].sum())}
    if assess.speakers:
        results["speakers"] = assess.speakers
    if overlap is not None:
        results["training_overlap"] = overlap
    results["systems"] = {
        system: {
            **assess(values, system.endswith("calibrated")),
            **details.get(system, {}),
        }
        for system, values in scores.items()
    }
    # Those of another run would stand beside these
    before = read_json(folder / "metrics.json") or {}
    for system in before.get("systems", {}).keys() - scores.keys():
        (folder / f"scores_{system}.txt").unlink(missing_ok=True)
    for system, values in scores.items():
        write_scores(folder / f"scores_{system}.txt", trials, values)
    plot_det(
        folder / "plots" / "det.png",
        scores,
        trials["target"],
        assess.options["convex_hull"],
    )
    plot_scores(folder / "plots" / "scores.png", scores, trials["target"])
    write_json(folder / "metrics.json", results)
    return results


def format_results(results):
    """The results of several systems side by side.

    Arguments
    ---------
    results : dict
        The results of ``write_results``.

    Returns
    -------
    str
        A table of one line for each system and, below it, for its groups.

    Example
    -------
    >>> figures = {"eer": 9.12, "min_dcf_0.01": 0.71, "min_dcf_0.05": 0.5}
    >>> results = {"trials": 20, "targets": 5, "systems": {"encoder": figures}}
    >>> print(format_results(results))
    20 trials, 5 of them targets
    system   EER %  minDCF(0.01)  minDCF(0.05)
    encoder   9.12        0.7100        0.5000
    """
    first = f"{results['trials']} trials, {results['targets']} of them targets"
    if "speakers" in results:
        first += f"; [95% intervals] over {results['speakers']} speakers"
    lines = []
    for system, figures in results["systems"].items():
        lines.append((system, figures))
        for group, part in figures.get("groups", {}).items():
            lines.append((f"  {group} ({part['trials']})", part))
    keys = dict.fromkeys(
        key
        for _, figures in lines
        for key, value in figures.items()
        if isinstance(value, (int, float)) and key not in COUNTS
    )
    rows = [["system", *map(_title, keys)]]
    for name, figures in lines:
        rows.append([name, *(_cell(figures, key) for key in keys)])
    return "\n".join([first, *aligned(rows)])


def _title(key):
    """The heading of a figure."""
    titles = {"eer": "EER %", "cllr": "Cllr", "min_cllr": "minCllr"}
    if key in titles:
        return titles[key]
    kind, point = key.rsplit("_", 1)
    return f"{kind.replace('_dcf', 'DCF')}({point})"


def _cell(figures, key):
    """A figure, with its interval if there is one."""
    if key not in figures:
        return "-"
    digits = 2 if key == "eer" else 4
    text = f"{figures[key]:.{digits}f}"
    if "intervals" in figures:
        low, high = figures["intervals"][key]
        text += f" [{low:.{digits - 1}f}, {high:.{digits - 1}f}]"
    return text
