"""Report of the loss gate: its picture, and with the true speakers how often it
was right."""

import pathlib
import zipfile
import zlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import DATA_ROOT, LABEL, read_manifest
from speechbrain_cadino.gate.mixture import TwoGaussians
from speechbrain_cadino.gate.plots import GROUPS, plot_gate, right_column
from speechbrain_cadino.gate.record import COLUMNS, checksum_of
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)
from speechbrain_cadino.process.tables import write_csv

# What NumPy raises of a file that is none of ours
READ_ERRORS = (
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def report_gate(output_folder, manifest, speakers=None):
    """Draws ``plots/gate.png``; with the true speakers, adds to ``gate.csv``
    how often the gate was right.

    A label is right if the utterance's speaker is the one whom most
    utterances of its cluster have (of equals the first by name); whatever
    the speed at which it is played. Samples of utterances whose speaker is
    unknown, or whose cluster has no known speaker, do not count. The columns
    of ``gate.csv`` that are added are shares, empty where there is nothing to
    share:

    * ``right``: right labels, of all drawn samples;
    * ``reliable_right``: right labels, of the reliable samples (precision);
    * ``corrected_right``: right classes to correct to, of the corrected ones;
    * ``dropped_right``: right labels, of the dropped ones;
    * ``recall``: reliable samples, of those with a right label;
    * ``wrong_recall``: samples that are not reliable, of those with a wrong
      label.

    Run again, it gives the same files.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The output folder of ``train_dlg_lc.py``.
    manifest : str or pathlib.Path
        The pseudo-labelled manifest that it trained on. Read only if there
        are speakers.
    speakers : str or pathlib.Path, optional
        The true speakers, ``speakers.csv``.

    Returns
    -------
    pandas.DataFrame
        The content of ``gate.csv``, and NaN for what another mixture lacks.

    Raises
    ------
    FileNotFoundError
        If there is no such run, or if a file of it is gone.
    ValueError
        If the manifest is not that of the run, or has no pseudo labels, if
        the speakers are those of another corpus, or a file of the run is
        damaged.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "gate.csv").write_text(
    ...     "epoch,gate,crossing,reliable,corrected,dropped\\n1,inf,,2,0,0\\n"
    ... )
    >>> (folder / "gate").mkdir()
    >>> np.savez(folder / "gate" / "epoch001.npz", losses=[0.1, 5.0])
    >>> _ = report_gate(folder, "pseudo_labels.csv")
    >>> [path.name for path in (folder / "plots").iterdir()]
    ['gate.png']
    """
    folder = pathlib.Path(output_folder)
    path = folder / "gate.csv"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}: give the output folder of a run of "
            "train_dlg_lc.py that has done an epoch."
        )
    table = _read_table(path)
    # Another mixture has figures of its own: its gates are drawn alone.
    lacking = [name for name in TwoGaussians.columns if name not in table]
    lacking = dict.fromkeys(lacking, np.nan)
    shown = _epochs_to_show(table.assign(**lacking))
    if speakers is None:
        epochs = {epoch: _drawn(_read(folder, epoch)) for epoch in shown}
    else:
        rows, epochs = _judge(folder, table["epoch"], shown, manifest, speakers)
        table[rows.columns] = rows
        write_csv(path, table)
    table = table.assign(**lacking)
    plot_gate(folder / "plots" / "gate.png", table, epochs)
    return table


def _read_table(path):
    """The content of ``gate.csv``."""
    try:
        # Else older pandas lose the last digit, and the file would change.
        table = pd.read_csv(path, float_precision="round_trip")
        drawn = [name for name in TwoGaussians.columns if name in table]
        table[["epoch", "gate", *GROUPS, *drawn]].astype(float)
    except (ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is damaged, or not of train_dlg_lc.py ({error}): give its "
            "output folder, as it left it."
        ) from error
    if table.empty:
        raise ValueError(f"{path} has no epoch: copy the run folder again.")
    return table


def _judge(folder, numbers, shown, manifest, speakers):
    """How often the gate was right in each epoch, a row; and what is drawn of
    those to show."""
    truth = _read_truth(manifest, speakers)
    rows, epochs = [], {}
    for epoch in numbers:
        record = _read(folder, epoch, COLUMNS)
        samples = len(record["losses"])
        if samples % len(truth.right):
            raise ValueError(
                f"The run in {folder} has {samples} samples, no multiple of "
                f"the {len(truth.right)} utterances in {manifest}: give the "
                "manifest that it trained on."
            )
        if record.get("labels", truth.checksum) != truth.checksum:
            raise ValueError(
                f"The run in {folder} has other labels than {manifest}: give "
                "the manifest that it trained on."
            )
        right = np.tile(truth.right, samples // len(truth.right))
        rows.append(_shares(record, right, truth))
        if epoch in shown:
            epochs[epoch] = _drawn(record, right)
    return pd.DataFrame(rows), epochs


def _epochs_to_show(table):
    """The first epoch with a fit, or the first if none has one; one between;
    the last."""
    fitted = np.flatnonzero(table["crossing"].notna())
    first = fitted[0] if len(fitted) else 0
    places = np.linspace(first, len(table) - 1, 3).astype(int)
    return table["epoch"].iloc[np.unique(places)].tolist()


def _read(folder, epoch, needed=("losses",)):
    """The arrays of an epoch, by name; those that are needed are as long as
    each other."""
    path = folder / "gate" / f"epoch{epoch:03}.npz"
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no {path}, but {folder / 'gate.csv'} has the epoch: "
            "copy the run folder with all that is in it."
        )
    try:
        with np.load(path) as arrays:
            record = dict(arrays)
        lengths = {len(record[name]) for name in needed}
        if len(lengths) > 1:
            raise ValueError("arrays of several lengths")
    except READ_ERRORS as error:
        raise ValueError(
            f"{path} is damaged ({error}): copy the run folder again."
        ) from error
    return record


def _drawn(record, right=None):
    """The losses that the gate is fitted to, of samples that were drawn."""
    losses = record["losses"]
    drawn = np.isfinite(losses)
    if "trusted" in record:
        drawn = drawn & ~record["trusted"]
    return losses[drawn], None if right is None else right[drawn]


class Truth(NamedTuple):
    """What is true of the N utterances and K clusters of a manifest.

    Arguments
    ---------
    speakers : numpy.ndarray
        Shape (N,): the number of each utterance's speaker, -1 if unknown.
    main : numpy.ndarray
        Shape (K,): the most frequent speaker of each cluster, the first of
        equals; -1 if none is known.
    right : numpy.ndarray
        Shape (N,): whether the one is the other in the utterance's cluster,
        see ``_is_right``.
    checksum : int
        The labels: see ``checksum_of``.
    """

    speakers: np.ndarray
    main: np.ndarray
    right: np.ndarray
    checksum: int


def _read_truth(manifest, speakers):
    utterances = read_manifest(manifest, DATA_ROOT)
    if LABEL not in utterances:
        raise ValueError(
            f"{manifest} has no column {LABEL}: give the pseudo-labelled "
            "manifest that the run trained on."
        )
    names = labels_of(speakers, utterances["ID"])
    speakers = pd.factorize(names, sort=True)[0]
    clusters, labels = pd.factorize(utterances[LABEL], sort=True)
    table = pd.DataFrame({"cluster": clusters, "speaker": speakers})
    table = table[speakers >= 0]
    sizes = table.groupby(["cluster", "speaker"], as_index=False).size()
    sizes = sizes.sort_values("size", ascending=False, kind="stable")
    best = sizes.drop_duplicates("cluster").set_index("cluster")["speaker"]
    main = best.reindex(range(len(labels)), fill_value=-1).to_numpy()
    right = _is_right(speakers, main[clusters])
    return Truth(speakers, main, right, checksum_of(clusters))


def _is_right(speakers, main):
    """1 where they are the same, 0 where not, NaN where one is unknown."""
    known = (speakers >= 0) & (main >= 0)
    return np.where(known, speakers == main, np.nan)


def _shares(record, right, truth):
    """What ``gate.csv`` gets of an epoch."""
    decisions = record["decisions"]
    reliable, drawn = decisions == RELIABLE, decisions >= 0
    moved = np.flatnonzero(decisions == CORRECTED)
    # Each speed has classes of its own, in the order of the clusters.
    clusters = record["corrected"][moved] % len(truth.main)
    speakers = truth.speakers[moved % len(truth.speakers)]
    return {
        "right": _share(right[drawn]),
        "reliable_right": _share(right[reliable]),
        "corrected_right": _share(_is_right(speakers, truth.main[clusters])),
        "dropped_right": _share(right[decisions == DROPPED]),
        "recall": _share(reliable[drawn & (right == 1)]),
        "wrong_recall": _share(~reliable[drawn & (right == 0)]),
    }


def _share(truths):
    """The share of ones among ones and zeros, whatever is NaN left out."""
    return pd.Series(truths, dtype=float).mean()


def format_gate(table):
    """The last epoch of a run as text.

    Arguments
    ---------
    table : pandas.DataFrame
        The table of ``report_gate``.

    Returns
    -------
    str
        Counts and shares, and what was right, if the table knows: of the
        corrected samples the class they were corrected to, of the others the
        label.

    Example
    -------
    >>> counts = {"reliable": 90, "corrected": 10, "dropped": 0}
    >>> row = {"epoch": 7, "gate": 0.5, "crossing": 0.25, **counts}
    >>> print(format_gate(pd.DataFrame([row])))
    epoch 7: gate 0.5, crossing 0.25
                samples   share
    reliable         90   90.0%
    corrected        10   10.0%
    dropped           0    0.0%
    all             100  100.0%
    """
    row = table.to_dict("records")[-1]
    gate = f"gate {row['gate']:.3g}" if np.isfinite(row["gate"]) else "no gate"
    crossing = f"{row['crossing']:.3g}" if row["crossing"] > 0 else "none"
    judged = "right" in row
    counts = {name: row[name] for name in GROUPS}
    counts["all"] = sum(counts.values())
    lines = [
        f"epoch {row['epoch']}: {gate}, crossing {crossing}",
        f"{'':9}  {'samples':>8}   share" + "   right" * judged,
    ]
    for name, count in counts.items():
        shares = [count / counts["all"]]
        if judged:
            shares.append(row[right_column(name)])
        lines.append(
            f"{name:9}  {count:8,}  " + "  ".join(map(_percentage, shares))
        )
    if judged:
        lines += [
            f"{_percentage(row['recall'])} of the right labels are reliable",
            f"{_percentage(row['wrong_recall'])} of the wrong labels are not",
        ]
    return "\n".join(lines)


def _percentage(share):
    return f"{'-' if np.isnan(share) else f'{share:.1%}':>6}"
