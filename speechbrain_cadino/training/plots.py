"""The pictures of training runs."""

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from speechbrain_cadino.process.plots import save_figure


def plot_training(rows, path, objective):
    """Draws how a training of stage I went, epoch by epoch.

    Arguments
    ---------
    rows : list of dict
        ``TrainingRecord.rows``.
    path : str or pathlib.Path
        The PNG file.
    objective : Objective
        The objective, whose terms are lines; it knows pictures of their
        figures.
    """
    table = pd.DataFrame(rows).set_index("epoch")
    panels = objective.panels()
    clustered = "clusters" in table
    adapted = "source_loss" in table
    columns = -(-(len(panels) + 4 + adapted) // 2)
    figure, axes = plt.subplots(
        2,
        columns + clustered,
        figsize=(4.4 * (columns + clustered), 7),
        layout="constrained",
    )
    loss, *others = axes[:, :columns].flat
    # That of the target is not yet weighted
    losses = ["loss", "source_loss", "target_loss"] if adapted else ["loss"]
    _lines(loss, table, [*losses, *getattr(objective, "terms", ())], "")
    loss.set_title("loss")
    if adapted:
        source, *others = others
        title = "AAM-softmax and accuracy on the source"
        _plot_accuracy(source, table, "source_loss", title, "source_accuracy")
    for axis, panel in zip(others, panels):
        _plot_panel(axis, table, panel)
    spread, rate, error, *empty = others[len(panels) :]
    _plot_spread(spread, table)
    _lines(rate, table, ["lr"], "learning rate")
    _twin(rate, table["momentum"], "momentum of the teacher")
    rate.set_title("schedules")
    _plot_error(error, table, loss.get_xlim())
    for axis in empty:
        axis.set_axis_off()
    if clustered:
        _plot_clusters(axes[:, columns], table, loss.get_xlim())
    save_figure(figure, path)


def _plot_panel(axis, table, panel):
    """A term's picture of its figures."""
    _lines(axis, table, panel.columns, panel.unit)
    axis.set_title(panel.title)
    if panel.limit is None:
        return
    axis.axhline(panel.limit, color="0.6", ls="--", lw=1)
    axis.annotate(
        panel.limit_name,
        (0.02, panel.limit),
        xycoords=("axes fraction", "data"),
        va="bottom",
        color="0.4",
    )
    axis.set_ylim(0, 1.1 * panel.limit)


def plot_stage_two(rows, path):
    """Draws how a training on pseudo labels went, epoch by epoch.

    Arguments
    ---------
    rows : list of dict
        ``TrainingRecord.rows``.
    path : str or pathlib.Path
        The PNG file.
    """
    table = pd.DataFrame(rows).set_index("epoch")
    figure, axes = plt.subplots(1, 4, figsize=(17.6, 3.5), layout="constrained")
    loss, shares, rate, error = axes

    _plot_accuracy(
        loss, table, "loss", "loss and accuracy on the pseudo labels"
    )
    _lines(shares, table, ["reliable", "corrected", "dropped"], "share")
    shares.set_title("what becomes of the labels")
    shares.set_ylim(0, 1)
    _lines(rate, table, ["lr"], "learning rate")
    rate.set_title("schedule")
    _plot_error(error, table, loss.get_xlim())
    save_figure(figure, path)


def plot_speaker(rows, path, objective):
    """Draws how a training on labels and by DINO went, epoch by epoch.

    Arguments
    ---------
    rows : list of dict
        ``TrainingRecord.rows``.
    path : str or pathlib.Path
        The PNG file.
    objective : Objective
        The objective of DINO, which knows pictures of its figures.
    """
    table = pd.DataFrame(rows).set_index("epoch")
    learnt = "dino_loss" in table  # not where its weight is 0
    panels = objective.panels() if learnt else []
    count = 3 + 2 * learnt + len(panels)
    figure, axes = plt.subplots(
        1, count, figsize=(4.4 * count, 3.5), layout="constrained"
    )
    loss, rate, error, *others = axes
    _plot_accuracy(loss, table, "aam", "AAM-softmax and accuracy on the labels")
    _lines(rate, table, ["lr"], "learning rate")
    rate.set_title("schedule")
    _plot_error(error, table, loss.get_xlim())
    for axis, panel in zip(others, panels):
        _plot_panel(axis, table, panel)
    if learnt:
        own, spread = others[-2:]
        _lines(own, table, ["dino_loss", *getattr(objective, "terms", ())], "")
        own.set_title("DINO, not yet weighted, and its terms")
        _plot_spread(spread, table)
    save_figure(figure, path)


def _plot_spread(axis, table):
    """How far the teacher's embeddings spread, and over what."""
    _lines(axis, table, ["spread"], "")
    axis.set_title("embeddings (near 0 or 1 dimension: collapse)")
    axis.set_ylim(0, 1.1)
    axis.set_ylabel("spread", color="C0")
    _twin(axis, table["dimensions"], "effective dimensions")


def plot_frame_training(rows, path):
    """Draws how a training of frames went, epoch by epoch.

    Arguments
    ---------
    rows : list of dict
        ``TrainingRecord.rows``.
    path : str or pathlib.Path
        The PNG file.
    """
    table = pd.DataFrame(rows).set_index("epoch")
    figure, axes = plt.subplots(1, 4, figsize=(17.6, 3.5), layout="constrained")
    loss, used, perplexity, rate = axes
    _plot_accuracy(loss, table, "loss", "loss and accuracy on the codes")
    for axis, name, title in (
        (used, "used", "share of codes used, by layer"),
        (perplexity, "perplexity", "perplexity of the codes, by layer"),
    ):
        columns = [each for each in table if each.startswith(f"{name}_")]
        axis.set_title(title)
        if columns:
            _lines(axis, table, columns, "")
        else:
            axis.set_axis_off()
    used.set_ylim(0, 1.05)
    _lines(rate, table, ["lr"], "learning rate")
    rate.set_title("schedules")
    if "momentum" in table:
        _twin(rate, table["momentum"], "momentum of the teacher")
    save_figure(figure, path)


def _plot_accuracy(axis, table, loss, title, accuracy="accuracy"):
    """A loss, and the accuracy beside it."""
    _lines(axis, table, [loss], "")
    axis.set_title(title)
    axis.set_ylabel("loss", color="C0")
    _twin(axis, table[accuracy], "accuracy")


def _plot_error(axis, table, epochs):
    """The EER of the epochs that were evaluated."""
    if "EER" in table:
        _lines(axis, table.dropna(subset="EER"), ["EER"], "EER (%)")
        axis.set_title("verification")
        axis.set_xlim(epochs)
        _from_zero(axis)
    else:
        axis.set_axis_off()
        axis.text(
            0.5, 0.5, "not verified while training", ha="center", color="0.4"
        )


def _from_zero(axis):
    """Begins the y axis at 0, with room above lines that are level."""
    axis.set_ylim(0, 1.05 * axis.get_ylim()[1])


def _twin(axis, values, label):
    """Another line, on an axis of its own at the right."""
    twin = axis.twinx()
    twin.plot(values.index, values, color="C1")
    twin.set_ylabel(label, color="C1")


def _plot_clusters(axes, table, epochs):
    """How far the clusters of CA-DINO change, and how well they part; how
    right they are if that is known."""
    change, numbers = axes
    known = ["ami", "partner_precision"]
    _lines(change, table, ["agreement", "silhouette", *known], "")
    change.set_title("clusters: agreement, silhouette")
    change.set_ylim(None, 1)
    _lines(numbers, table, ["clusters", "singletons"], "")
    numbers.set_title("clusters: how many")
    _from_zero(numbers)
    for axis in axes:
        axis.set_xlim(epochs)


def _lines(axis, table, columns, label):
    """One line per column that is there, with a point per epoch if few."""
    columns = [column for column in columns if column in table]
    marker = "o" if len(table) < 40 else None
    for column in columns:
        name = column.replace("_", " ")
        axis.plot(table.index, table[column], marker=marker, ms=3, label=name)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)
    if len(columns) > 1:
        axis.legend()
