"""Picture of the loss gate: losses, decisions, gates, epoch by epoch."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from speechbrain_cadino.gate.mixture import LOWEST, SCALES
from speechbrain_cadino.losses.label_correction import DECISIONS
from speechbrain_cadino.process.plots import save_figure

# Losses that may be written at an axis, and the share of it that is left free
# between two of them.
TICKS = [0.001, 0.01, 0.1, 1, *range(5, 100, 5)]
BETWEEN_TICKS = 0.08

# Of the component of right labels, of that of wrong ones, of the gate.
LOW, HIGH, GATE = "C0", "C1", "C3"
GROUPS = {
    name: (kind, color)
    for (name, kind), color in zip(DECISIONS.items(), ["C2", "C4", "0.55"])
}
UNKNOWN = -1
KINDS = {
    "right label": (1, LOW),
    "wrong label": (0, HIGH),
    "unknown speaker": (UNKNOWN, "0.5"),
}


def right_column(group):
    """Where the table says what is right of them."""
    return "right" if group == "all" else f"{group}_right"


def plot_gate(path, table, epochs):
    """Draws the losses of some epochs with their gates, and what the gates
    decided in all.

    Arguments
    ---------
    path : str or pathlib.Path
        The PNG file.
    table : pandas.DataFrame
        ``gate.csv``, with the columns that ``report_gate`` adds or without.
    epochs : dict of int:tuple
        Losses of the epochs to show, in nats, and whether the label is right
        (1, 0 or NaN where unknown), both of shape (n,); None in place of the
        second if there are no true speakers.
    """
    panels = [_plot_decisions]
    if np.isfinite(table[["gate", "crossing"]]).any(axis=None):
        panels.append(_plot_gates)
    if "right" in table:
        panels.append(_plot_right)
    # No loss is judged where all labels are given
    epochs = {epoch: found for epoch, found in epochs.items() if len(found[0])}
    columns, rows = max(len(epochs), len(panels)), 1 + bool(epochs)
    size = 3.8 * columns, 3.2 * rows
    figure = plt.figure(figsize=size, layout="constrained")
    *top, bottom = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    if top:
        _plot_losses(top[0], table.set_index("epoch"), epochs)
    axes = bottom.subplots(1, len(panels), squeeze=False)[0]
    for panel, axis in zip(panels, axes):
        panel(axis, table)
        axis.set_xlabel("epoch")
        axis.set_xlim(*_steps(table)[[0, -1]])
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.grid(alpha=0.3)
    _legend(bottom, axes, "outside lower center")
    save_figure(figure, path, dpi=200)


def _plot_losses(figure, rows, epochs):
    """A histogram for each epoch, on the same scale of losses."""
    scale = _scale(rows)
    odds = [_odds(losses, scale) for losses, _ in epochs.values()]
    lowest = min(float(values.min()) for values in odds)
    highest = max(float(values.max()) for values in odds)
    bars = int(np.clip(len(odds[0]) ** 0.5, 20, 60))
    # Wider than nothing where all losses are the same.
    edges = np.histogram_bin_edges([lowest, highest], bars)
    axes = figure.subplots(1, len(epochs), squeeze=False, sharex=True)[0]
    for axis, epoch, values in zip(axes, epochs, odds):
        row = rows.loc[epoch]
        heights = _plot_histogram(axis, values, epochs[epoch][1], edges, scale)
        if np.isfinite(row["crossing"]):
            # They are of the losses that were fitted
            fitted = (values > scale.to(LOWEST)).mean()
            _plot_components(axis, row, edges, scale, fitted)
        if np.isfinite(row["gate"]):
            axis.axvline(row["gate"], color=GATE, label="gate in force")
        _set_scale(axis.set_xscale, scale)
        axis.set_xlim(*scale.back(edges[[0, -1]]))
        _number(axis.xaxis, *axis.get_xlim(), scale)
        axis.tick_params(axis="x", labelsize="small")
        axis.set_xlabel("loss (nats)")
        axis.set_title(f"epoch {epoch}")
        axis.grid(alpha=0.3)
        # The losses below the lowest, all in one bar, may rise above it.
        axis.set_ylim(0, 1.1 * (heights[1:].max() or heights[0]))
    axes[0].set_ylabel(f"density of the {scale.name}")
    _legend(figure, axes, "outside upper center")


def _scale(table):
    """The scale that the mixture was fitted on."""
    names = table["scale"].dropna() if "scale" in table else []
    # A mixture of somebody's may have another scale parameter
    return SCALES.get(names.iloc[0] if len(names) else "", SCALES["log_odds"])


def _set_scale(set_scale, scale):
    """Draws an axis of losses on a scale."""

    def to(losses):
        return _odds(losses, scale)

    set_scale("function", functions=(to, scale.back))


def _odds(losses, scale):
    """Lower losses than the lowest are drawn as that."""
    return scale.to(np.maximum(losses, LOWEST))


def _plot_histogram(axis, odds, right, edges, scale):
    """Stacked; gives the heights of the bars."""
    if right is None:
        parts = {"losses": (odds, "0.5")}
    else:
        codes = np.nan_to_num(right, nan=UNKNOWN)
        parts = {
            name: (odds[codes == code], colour)
            for name, (code, colour) in KINDS.items()
        }
    base = np.zeros(len(edges) - 1)
    for name, (part, colour) in parts.items():
        if len(part):
            counts = np.histogram(part, edges)[0]
            top = base + counts / (len(odds) * np.diff(edges))
            axis.stairs(
                top,
                scale.back(edges),
                baseline=base,
                fill=True,
                color=colour,
                alpha=0.4,
                label=name,
            )
            base = top
    return base


def _plot_components(axis, row, edges, scale, share):
    odds = np.linspace(edges[0], edges[-1], 400)
    losses, total = scale.back(odds), 0
    for name, colour in [("low", LOW), ("high", HIGH)]:
        variance = row[f"variance_{name}"]
        exponent = -((odds - row[f"mean_{name}"]) ** 2) / (2 * variance)
        height = row[f"weight_{name}"] / np.sqrt(2 * np.pi * variance)
        density = share * height * np.exp(exponent)
        label = f"{name} component"
        axis.plot(losses, density, color=colour, label=label)
        total = total + density
    axis.plot(losses, total, color="0.2", lw=1, zorder=1.9, label="sum")
    axis.axvline(row["crossing"], color=GATE, ls=":", label="crossing")


def _steps(table):
    """Edges of the epochs: each is as wide as one."""
    return np.append(table["epoch"] - 0.5, table["epoch"].iloc[-1] + 0.5)


def _marker(table):
    return "o" if len(table) < 40 else None


def _plot_decisions(axis, table):
    counts = table[list(GROUPS)]
    tops = counts.div(counts.sum(axis=1), axis=0).cumsum(axis=1)
    base = np.zeros(len(table))
    for name, (_, colour) in GROUPS.items():
        axis.stairs(
            tops[name],
            _steps(table),
            baseline=base,
            fill=True,
            color=colour,
            alpha=0.7,
            label=name,
        )
        base = tops[name]
    axis.set_title("decisions")
    axis.set_ylabel("share of the samples")
    _percent(axis, 1)


def _plot_gates(axis, table):
    scale = _scale(table)
    for name, colour in [("low", LOW), ("high", HIGH)]:
        mean = table[f"mean_{name}"]
        deviation = np.sqrt(table[f"variance_{name}"])
        axis.stairs(
            scale.back(mean + deviation),
            _steps(table),
            baseline=scale.back(mean - deviation),
            fill=True,
            color=colour,
            alpha=0.4,
        )
    gates = table["gate"].replace(np.inf, np.nan)
    axis.stairs(gates, _steps(table), baseline=None, color=GATE, lw=1.5)
    axis.plot(
        table["epoch"],
        table["crossing"],
        color=GATE,
        ls=":",
        marker=_marker(table),
        ms=3,
    )
    # Bands need room above and below.
    axis.use_sticky_edges = False
    _set_scale(axis.set_yscale, scale)
    _number(axis.yaxis, *axis.get_ylim(), scale)
    axis.set_title("gate and components (± deviation)")
    axis.set_ylabel("loss (nats)")


def _plot_right(axis, table):
    options = {"marker": _marker(table), "ms": 3}
    for name, (_, colour) in GROUPS.items():
        shares = table[right_column(name)]
        axis.plot(table["epoch"], shares, color=colour, **options)
    axis.plot(table["epoch"], table["right"], "--", color="0.2", label="all")
    axis.set_title("right labels (corrected: new ones)")
    axis.set_ylabel("share that is right")
    _percent(axis, 1.03)


def _percent(axis, top):
    axis.set_ylim(0, top)
    axis.yaxis.set_major_formatter(PercentFormatter(1))


def _number(axis, low, high, scale):
    """Losses between two others at an axis, in round numbers, not too near
    each other."""
    ticks = [tick for tick in TICKS if low <= tick <= high]
    if len(ticks) < 3:
        ticks = MaxNLocator(4).tick_values(low, high)
        ticks = [tick for tick in ticks if low <= tick <= high]
    nearest = BETWEEN_TICKS * (_odds(high, scale) - _odds(low, scale))
    kept = ticks[-1:]
    for tick in reversed(ticks[:-1]):
        if _odds(kept[-1], scale) - _odds(tick, scale) > nearest:
            kept.append(tick)
    axis.set_ticks(kept[::-1])
    axis.set_major_formatter("{x:g}")


def _legend(figure, axes, place):
    """One legend for all: each entry once."""
    entries = {}
    for axis in axes:
        handles, names = axis.get_legend_handles_labels()
        entries |= dict(zip(names, handles))
    width = figure.bbox.width / figure.dpi
    figure.legend(
        entries.values(),
        entries.keys(),
        loc=place,
        ncols=max(3, int(0.72 * width)),
        columnspacing=1.2,
        handlelength=1.5,
        frameon=False,
    )
