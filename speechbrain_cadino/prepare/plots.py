"""Pictures of a filter."""

import matplotlib.pyplot as plt
import numpy as np

from speechbrain_cadino.process.plots import save_figure


def plot_filter(path, scores, kept, report):
    """Draws the scores of what is kept and of what is dropped.

    Arguments
    ---------
    path : pathlib.Path
        The PNG file.
    scores : pandas.DataFrame
        The scores of N utterances.
    kept : numpy.ndarray
        The utterances that are kept, (N,), bool.
    report : dict
        The report of ``filter.decide``: it says which scores are drawn.
    """
    names = list(report["scores"])
    figure, axes = plt.subplots(
        1,
        len(names),
        figsize=(4.5 * len(names), 3.8),
        layout="constrained",
        squeeze=False,
    )
    for axis, name in zip(axes[0], names):
        found = report["scores"][name]
        values = scores[name].to_numpy()
        there = np.isfinite(values)
        parts = [values[there & kept], values[there & ~kept]]
        axis.hist(
            parts,
            60,
            stacked=True,
            color=["C0", "C3"],
            label=[f"kept: {len(parts[0]):,}", f"dropped: {len(parts[1]):,}"],
        )
        title = "no threshold"
        if found["threshold"] is not None:
            axis.axvline(found["threshold"], color="0.2", ls="--")
            title = f"{found['dropped']:,} dropped by it"
        axis.set_title(title)
        axis.set_xlabel(name)
        axis.set_ylabel("utterances")
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)
