"""Pictures of scores: detection error trade-off, and histograms."""

import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import norm

from speechbrain_cadino.process.plots import as_label, save_figure
from speechbrain_cadino.verification.metrics import (
    convex_hull,
    eer,
    error_rates,
)

TICKS = np.array([0.01, 0.1, 0.5, 1, 2, 5, 10, 20, 40, 60, 80])  # percent

# A curve needs no more points than its line has pixels.
POINTS = 2000

# Of a histogram, at most; fewer where there are few trials.
BINS = 80


def plot_det(path, scores, targets, hull=False):
    """Draws the detection error trade-off of several systems.

    Both axes are normal deviates (Martin et al. 1997, "The DET curve in
    assessment of detection task performance"), in which normally distributed
    scores give a straight line. Systems are listed by EER, the best first.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; its suffix tells the format, such as ``.png`` or ``.pdf``.
    scores : dict
        The systems' names, and the scores (T,) of each.
    targets : array_like
        Mask of the target trials, shape (T,), bool.
    hull : bool
        Whether to draw the ROC's convex hulls, and tell their EERs: see
        ``metrics.eer``.
    """
    curves = {}
    for system, values in scores.items():
        p_miss, p_fa, _ = error_rates(values, targets)
        if hull:
            p_miss, p_fa = convex_hull(p_miss, p_fa)
        curves[system] = eer(p_miss, p_fa), p_miss, p_fa
    figure, axis = plt.subplots(figsize=(5.6, 5.2), layout="constrained")
    lowest = _lowest(targets)
    for system, (rate, *points) in sorted(
        curves.items(), key=lambda item: item[1][0]
    ):
        miss, fa = (norm.ppf(_clip(x, lowest)) for x in _thinned(*points))
        (line,) = axis.plot(fa, miss, lw=1.6)
        line.set_label(as_label(f"{system}, EER {100 * rate:.2f}%"))
        # At no errors at all, the EER is in the corner.
        place = norm.ppf(_clip(rate, lowest))
        axis.plot(place, place, "o", ms=4, color=line.get_color())
    ticks = TICKS[TICKS >= 100 * lowest]
    axis.set_xticks(norm.ppf(ticks / 100), [f"{tick:g}" for tick in ticks])
    axis.set_yticks(norm.ppf(ticks / 100), [f"{tick:g}" for tick in ticks])
    highest = 1.2 * max(rate for rate, *_ in curves.values())
    ends = norm.ppf([lowest, np.clip(highest, 0.5, 0.99)])
    axis.plot(ends, ends, color="0.8", lw=0.8, zorder=0)
    axis.set(xlim=ends, ylim=ends, aspect="equal")
    axis.set_xlabel("false alarms (%)")
    axis.set_ylabel("misses (%)")
    axis.grid(color="0.92")
    # No curve comes below that of the best system.
    axis.legend(frameon=False, fontsize=9, loc="lower left")
    save_figure(figure, path, dpi=150)


def plot_scores(path, scores, targets):
    """Draws how far the scores of targets and non-targets lie apart.

    Arguments
    ---------
    path : str or pathlib.Path
        The file; its suffix tells the format.
    scores : dict
        The systems' names, and the scores (T,) of each: a panel for each.
    targets : array_like
        Mask of the target trials, shape (T,), bool.
    """
    targets = np.asarray(targets, bool)
    columns = min(len(scores), 3)
    rows = -(-len(scores) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(4.4 * columns, 3.2 * rows),
        layout="constrained",
        squeeze=False,
    )
    for axis in axes.flat[len(scores) :]:
        axis.remove()
    for axis, (system, values) in zip(axes.flat, scores.items()):
        _histogram(axis, np.asarray(values), targets)
        axis.set_title(as_label(system))
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=2, frameon=False
    )
    save_figure(figure, path, dpi=150)


def _histogram(axis, values, targets):
    """Both kinds in one panel, and the threshold of equal errors."""
    p_miss, p_fa, thresholds = error_rates(values, targets)
    finite = values[np.isfinite(values)]
    rarer = min(targets.sum(), (~targets).sum())
    bins = min(BINS, 20 + int(2 * np.cbrt(rarer)))
    edges = np.linspace(finite.min(), finite.max(), bins + 1)
    for kind, color, name in [
        (~targets, "C0", "non-target"),
        (targets, "C1", "target"),
    ]:
        axis.hist(
            values[kind],
            edges,
            weights=np.full(kind.sum(), 1 / kind.sum()),
            histtype="stepfilled",
            alpha=0.55,
            color=color,
            label=f"{name} ({kind.sum():,})",
        )
    middle = thresholds[np.searchsorted(p_miss - p_fa, 0)]
    axis.axvline(middle, color="0.2", ls="--", lw=1)
    axis.annotate(
        "EER",
        (middle, 1),
        xytext=(3, -3),
        xycoords=("data", "axes fraction"),
        textcoords="offset points",
        va="top",
        fontsize=8,
    )
    axis.set_xlabel("score")
    axis.set_yticks([])
    axis.set_ylabel("share of trials")
    for side in ["top", "right", "left"]:
        axis.spines[side].set_visible(False)


def _lowest(targets):
    """The smallest rate to draw: half of an error in the rarer kind."""
    targets = np.asarray(targets, bool)
    rarer = min(targets.sum(), (~targets).sum())
    return min(max(0.5 / rarer, 1e-4), 0.1)


def _clip(rates, lowest):
    return np.clip(rates, lowest / 2, 1 - lowest / 2)


def _thinned(p_miss, p_fa):
    """The curve at no more than ``POINTS`` thresholds, denser at its ends."""
    if len(p_miss) <= POINTS:
        return p_miss, p_fa
    # Evenly along the deviates of both axes.
    along = norm.ppf(_clip(p_miss, 1e-6)) - norm.ppf(_clip(p_fa, 1e-6))
    rows = np.searchsorted(along, np.linspace(along[0], along[-1], POINTS))
    rows = np.unique(np.append(rows, [0, len(along) - 1]))
    return p_miss[rows], p_fa[rows]
