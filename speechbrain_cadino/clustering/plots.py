"""Pictures of clusters and of the search for their number."""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.ticker import MaxNLocator

from speechbrain_cadino.process.plots import save_figure

TITLES = {
    "silhouette": "silhouette",
    "stability": "stability over halves (AMI)",
    "ami": "check: AMI with the speakers",
    "ari": "check: ARI with the speakers",
}

# While no cluster is larger, each size has a bar of its own.
ONE_BAR_EACH = 60


def plot_clusters(path, sizes, cosines=None, table=None):
    """Draws how large, how far apart and how pure clusters are.

    Arguments
    ---------
    path : str or pathlib.Path
        The PNG file.
    sizes : numpy.ndarray
        Shape (K,): utterances in each cluster.
    cosines : tuple of numpy.ndarray, optional
        The cosines of ``separation``.
    table : scipy.sparse.csc_matrix, optional
        Shape (speakers, clusters): utterances of each speaker in each
        cluster.
    """
    panels = 1 + (cosines is not None) + 2 * (table is not None)
    figure, axes = plt.subplots(
        1, panels, figsize=(4.5 * panels, 3.8), layout="constrained"
    )
    axes = iter(np.atleast_1d(axes))
    _sizes(next(axes), sizes)
    if cosines is not None:
        _cosines(next(axes), *cosines)
    if table is not None:
        _clusters_per_speaker(next(axes), table)
        _purity(next(axes), table)
    save_figure(figure, path)


def _sizes(axis, sizes):
    lowest, highest = sizes.min(), sizes.max()
    if highest <= ONE_BAR_EACH:
        edges = np.arange(lowest, highest + 2) - 0.5
    else:
        edges = _growing_edges(lowest, highest)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:.0f}")
    axis.hist(sizes, edges)
    axis.axvline(np.median(sizes), color="C3", label="median")
    axis.set_xlabel("utterances in the cluster")
    axis.set_ylabel("clusters")
    axis.set_title(f"{sizes.sum():,} utterances in {len(sizes):,} clusters")
    axis.legend()
    _tidy(axis)


def _growing_edges(lowest, highest):
    """Edges between whole numbers, about four to a doubling."""
    steps = np.arange(4 * np.log2(lowest) // 1, 4 * np.log2(highest) + 2) / 4
    return np.unique(np.round(2**steps)) - 0.5


def _cosines(axis, own, other):
    lowest = min(own.min(), other[np.isfinite(other)].min(initial=1))
    edges = np.linspace(lowest, 1, 60)
    axis.hist(own, edges, alpha=0.6, label="own centroid")
    if np.isfinite(other).all():
        axis.hist(other, edges, alpha=0.6, label="nearest other centroid")
    axis.set_xlabel("cosine to the centroid")
    axis.set_ylabel("utterances")
    axis.set_title("separation")
    axis.legend()
    axis.grid(alpha=0.3)


def _clusters_per_speaker(axis, table):
    counts = np.bincount(table.indices, minlength=table.shape[0])
    # So that a few scattered speakers do not squeeze all the others.
    top = max(10, int(np.quantile(counts, 0.99)))
    axis.hist(np.minimum(counts, top), np.arange(0.5, top + 1))
    axis.set_xlabel(
        "clusters with utterances of the speaker"
        + (f" ({top}: or more)" if counts.max() > top else "")
    )
    axis.set_ylabel("speakers")
    axis.set_title(f"a speaker is in {counts.mean():.1f} clusters (mean)")
    _tidy(axis)


def _purity(axis, table):
    sizes = np.asarray(table.sum(0)).ravel()
    purest = table.max(axis=0).toarray().ravel()
    axis.hist(purest / sizes, np.linspace(0, 1, 21), weights=sizes)
    axis.set_xlabel("share of the cluster's most frequent speaker")
    axis.set_ylabel("utterances in such clusters")
    axis.set_title(f"purity {purest.sum() / sizes.sum():.2f}")
    _tidy(axis)


def _tidy(axis):
    axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.3)


def plot_sweep(path, table, picks, choice):
    """Draws the criteria against the number of clusters.

    Arguments
    ---------
    path : str or pathlib.Path
        The PNG file.
    table : pandas.DataFrame
        The table of ``compare_numbers``.
    picks : dict of str:int
        The number that each of the columns picks.
    choice : int
        The number chosen.
    """
    figure, axes = plt.subplots(
        1,
        len(picks),
        figsize=(4.2 * len(picks), 3.6),
        layout="constrained",
        squeeze=False,
    )
    for axis, (name, pick) in zip(axes.flat, picks.items()):
        axis.plot(table["num_clusters"], table[name], marker="o", ms=3)
        axis.axvline(pick, color="C3", label=f"picks {pick:,}")
        axis.axvline(choice, color="0.4", ls=":", label=f"choice {choice:,}")
        axis.set_xlabel("number of clusters")
        axis.set_title(TITLES[name])
        axis.grid(alpha=0.3)
        axis.legend()
    save_figure(figure, path)
