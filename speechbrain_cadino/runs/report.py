"""Report of a pipeline: its figures from stage to stage."""

import functools
import itertools
import pathlib
import re
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import adjusted_rand_score

from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    PSEUDO_LABELS,
    read_manifest,
)
from speechbrain_cadino.process.console import aligned
from speechbrain_cadino.process.files import (
    read_json,
    state_of,
    write_json,
    write_text,
)
from speechbrain_cadino.process.plots import save_figure
from speechbrain_cadino.runs.page import TITLE, write_page
from speechbrain_cadino.verification.results import format_results

# Figure, heading of its column, format, how many of its unit make one
COLUMNS = [
    ("eer", "EER %", ".2f", 1),
    ("eer_audio", "voice", ".2f", 1),
    ("eer_face", "face", ".2f", 1),
    ("min_dcf_0.01", "minDCF", ".4f", 1),
    ("agreement", "agreement", ".3f", 1),
    ("reliable", "reliable", ".3f", 1),
    ("ami", "AMI", ".3f", 1),
    ("clusters", "clusters", ".0f", 1),
    ("utterances", "utts", ".0f", 1),
    ("seconds", "min", ".1f", 60),
]

# What only a stage that hears and sees has
OPTIONAL = ["eer_audio", "eer_face"]

# Shares from 0 to 1 whose course over the iterations is drawn
COURSES = {
    "agreement": "agreement with the labels before",
    "reliable": "reliable, last epoch",
    "ami": "AMI with the true speakers",
}

NOTE = """
Two figures need no true speaker, and tell when to stop. *Agreement*: how far
the pseudo labels of an iteration agree with those of the one before (adjusted
Rand index). Near 1 they have settled: another iteration would train on the same
labels again. *Reliable*: the share of the samples that the loss gate let
through in the last epoch. It does not always follow the error rate: stop when
the agreement grows no more, or let `least_growth` do it.
"""


class Stage(NamedTuple):
    """A training of the pipeline.

    Arguments
    ---------
    name : str
        The name of the training.
    folder : pathlib.Path
        The output folder of the training.
    manifest : str
        The manifest that it trains on.
    seconds : float, optional
        The seconds that it took so far; None if it was never begun.
    """

    name: str
    folder: pathlib.Path
    manifest: str
    seconds: float | None


def write_report(folder, stages, last=None):
    """Writes ``report.json``, ``report.md``, ``report.html`` and
    ``plots/pipeline.png``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write to.
    stages : list of Stage
        All stages of the pipeline; those still to come, too.
    last : str, optional
        The name of the verification at the end, and of its folder, if there is
        one: its table and plots stand below those of the stages.

    Returns
    -------
    list of dict
        A row for the untrained encoder and one for each stage, as in
        ``report.json``: ``name``; ``seconds``; ``utterances`` and pseudo
        speakers (``clusters``) that it trained on; how the pseudo labels
        compare with the true speakers (``nmi``, ``ami``); ``eer`` in percent
        and ``min_dcf_0.01``; ``agreement``, the adjusted Rand index of its
        pseudo labels and those before, over the utterances of both;
        ``reliable``, the share of the drawn samples that the loss gate let
        through in the last epoch. None where nobody knows. Of a stage that
        hears and sees, ``eer`` is that of both, and there are ``eer_audio``
        and ``eer_face``.
    """
    folder = pathlib.Path(folder)
    rows = [_row("random_encoder", **_errors(stages[0], "random_encoder"))]
    labels = {}
    for stage in stages:
        # Voices, faces and both have iterations of their own
        system = stage.name.rpartition("/")[0]
        rows.append(
            _row(
                stage.name,
                seconds=stage.seconds,
                reliable=_reliable(stage.folder),
                **_labels(stage.manifest, labels.setdefault(system, {})),
                **_errors(stage, "encoder"),
            )
        )
    write_json(folder / "report.json", {"stages": rows})
    _plot(folder / "plots" / "pipeline.png", rows)
    names = [row["name"] for row in rows] + ([last] if last else [])
    plots = _plots(folder, names)
    tables = _tables(folder, last)
    cells = _cells(rows)
    write_text(folder / "report.md", _markdown(folder, cells, plots, tables))
    write_page(folder, cells, plots, tables)
    return rows


def agreements(manifests):
    """How far the pseudo labels of each manifest agree with those before.

    Arguments
    ---------
    manifests : list of pathlib.Path
        The manifests with pseudo labels, in the order in which they were made.

    Returns
    -------
    list of float
        The adjusted Rand index of each but the first and the one before it,
        over the utterances of both.
    """
    return [
        _agreement(*pair) for pair in itertools.pairwise(map(_known, manifests))
    ]


def _known(path):
    """A manifest as it is now."""
    return path, state_of(path)


# A pipeline asks again and again, and millions of rows take a minute
@functools.cache
def _agreement(before, now):
    """See ``agreements``: of two manifests as of ``_known``."""
    labels = [
        read_manifest(path, DATA_ROOT).set_index("ID")[LABEL]
        for path, _ in (before, now)
    ]
    both = pd.concat(labels, axis=1, join="inner")
    return float(adjusted_rand_score(both.iloc[:, 0], both.iloc[:, 1]))


@functools.cache
def _sizes(known):
    """The utterances and pseudo labels of a manifest as of ``_known``."""
    path, _ = known
    table = read_manifest(path, DATA_ROOT)
    # Stage I may have a manifest with labels, and trains on none of them
    if LABEL not in table or pathlib.Path(path).name != PSEUDO_LABELS:
        return len(table), None
    return len(table), table[LABEL].nunique()


def _row(name, **figures):
    names = [
        "seconds",
        "utterances",
        "clusters",
        "nmi",
        "ami",
        "eer",
        "min_dcf_0.01",
        "agreement",
        "reliable",
    ]
    names += [name for name in OPTIONAL if name in figures]
    return {"name": name} | {key: figures.get(key) for key in names}


def _errors(stage, system):
    """The error rates of a system, if trials were given."""
    metrics = read_json(stage.folder / "metrics.json") or {}
    systems = metrics.get("systems", {})
    if "fused" not in systems:
        return systems.get(system, {})
    alone = {f"eer_{name}": systems[name]["eer"] for name in ("audio", "face")}
    return systems["fused"] | alone


def _labels(manifest, seen):
    """What is known of a manifest and its pseudo labels.

    Each manifest is put into ``seen``.
    """
    if not pathlib.Path(manifest).is_file():
        return {}
    known = _known(manifest)
    utterances, clusters = _sizes(known)
    figures = {"utterances": utterances}
    if clusters is None:
        return figures
    path = pathlib.Path(manifest).with_name("clusters.json")
    report = read_json(path) or {}
    figures["clusters"] = clusters
    figures |= {name: report.get(name) for name in ("nmi", "ami")}
    if seen and manifest not in seen:
        *_, before = seen.values()
        figures["agreement"] = _agreement(before, known)
    seen[manifest] = known
    return figures


def _reliable(folder):
    """The share of the samples that the gate let through in the last epoch;
    None where there was no gate."""
    # That of voices speaks for a stage that sees too
    paths = [folder / "gate.csv", folder / "audio" / "gate.csv"]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        return None
    row = pd.read_csv(path).iloc[-1]
    if not np.isfinite(row["gate"]):
        return None
    drawn = row[["reliable", "corrected", "dropped"]].sum()
    return float(row["reliable"] / drawn)


def format_report(rows):
    """The stages side by side.

    Arguments
    ---------
    rows : list of dict
        The rows of ``write_report``.

    Returns
    -------
    str
        A table of one line for each stage that has begun, and of the columns
        of which something is known.

    Example
    -------
    >>> rows = [_row("stage_1", seconds=90, utterances=500, eer=4.567)]
    >>> print(format_report(rows))
    stage    EER %  utts  min
    stage_1   4.57   500  1.5
    """
    return "\n".join(aligned(_cells(rows)))


def _cells(rows):
    """The table as text: a heading and one line for each stage begun."""
    columns = [
        column
        for column in COLUMNS
        if any(row.get(column[0]) is not None for row in rows)
    ]
    lines = [["stage", *(heading for _, heading, _, _ in columns)]]
    for row in rows:
        if row["seconds"] is None and row["eer"] is None:
            continue
        values = [
            "-" if row.get(key) is None else f"{row[key] / unit:{form}}"
            for key, _, form, unit in columns
        ]
        lines.append([row["name"], *values])
    return lines


def _plots(folder, names):
    """The plots there are, by section: that of the whole, those of stages."""
    plots = {"Overview": sorted(folder.glob("plots/pipeline.png"))}
    for name in names:
        plots[name] = [
            path
            for depth in ["", "*/", "*/*/"]
            for path in sorted(folder.glob(f"{name}/{depth}plots/*"))
        ]
    return plots


def _tables(folder, last):
    """The table of the verification at the end, by its name."""
    metrics = last and read_json(folder / last / "metrics.json")
    return {last: format_results(metrics)} if metrics else {}


def _markdown(folder, cells, plots, tables):
    """``report.md``."""
    heading, *lines = cells
    rule = ["---", *["---:"] * (len(heading) - 1)]
    table = [f"| {' | '.join(line)} |" for line in [heading, rule, *lines]]
    picture, *stages = plots.values()
    links = [
        path.relative_to(folder).as_posix()
        for paths in stages
        for path in paths
    ]
    parts = [
        f"# {TITLE}",
        "\n".join(table),
        *(["![](plots/pipeline.png)"] if picture else []),
        NOTE,
        *(f"## {name}\n\n```\n{text}\n```" for name, text in tables.items()),
        "\n".join(f"* [{link}]({link})" for link in links),
    ]
    return "\n\n".join(part.strip() for part in parts).strip() + "\n"


def _plot(path, rows):
    """Draws the error rate by stage, and what changes over the iterations."""
    errors = {row["name"]: row["eer"] for row in rows if row["eer"] is not None}
    table = pd.DataFrame(rows).set_index("name")
    # The last system's, if there are several
    last = rows[-1]["name"].rpartition("iteration")[0]
    iterations = table[table.index.str.startswith(f"{last}iteration")]
    iterations = iterations[list(COURSES)].astype(float).reset_index(drop=True)
    iterations.index += 1
    draw_courses = iterations["agreement"].notna().any()
    panels = bool(errors) + int(draw_courses)
    if not panels:
        return
    figure, axes = plt.subplots(
        1,
        panels,
        figsize=(max(5.5, 0.9 * len(errors)) * panels, 3.6),
        squeeze=False,
        layout="constrained",
    )
    if errors:
        _plot_errors(axes[0, 0], errors)
    if draw_courses:
        _plot_courses(axes[0, -1], iterations.dropna(axis=1, how="all"))
    save_figure(figure, path, dpi=150)


def _plot_errors(axis, errors):
    names = [re.sub("[_/]", "\n", name) for name in errors]
    bars = axis.bar(names, errors.values(), width=0.7)
    bars[0].set_color("0.7" if "random_encoder" in errors else "C0")
    axis.bar_label(bars, fmt="{:.2f}", padding=2)
    axis.margins(y=0.12)
    axis.set_ylabel("EER (%)")
    axis.set_title("error rate by stage")
    axis.spines[["top", "right"]].set_visible(False)


def _plot_courses(axis, iterations):
    for column in iterations:
        axis.plot(iterations[column], marker="o", label=COURSES[column])
    axis.set_ylim(0, 1.02)
    axis.set_xlabel("iteration")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_title("pseudo labels by iteration")
    axis.grid(alpha=0.3)
    axis.legend(loc="lower right")
