"""A map of embeddings: each utterance a point, near those that sound alike."""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.backend_bases import FigureCanvasBase
from sklearn.manifold import TSNE

from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.store import sameness
from speechbrain_cadino.process.plots import as_label, save_figure

# More take minutes, and hide each other.
MOST_POINTS = 3000

# t-SNE's own recommendation, where there are enough points for it.
PERPLEXITY = 30

# Grey is for points without a label.
COLOURS = ["C0", "C1", "C2", "C3", "C4", "C5", "C6", "C8", "C9", "black"]
MARKERS = ["o", "^"]

# Fewer have no neighbourhood.
FEWEST_POINTS = 4


def plot_map(embeddings, labels, path, seed=0):
    """Draws embeddings in two dimensions, by t-SNE.

    t-SNE (van der Maaten and Hinton, 2008) keeps neighbours together; sizes
    and distances of groups mean little. It looks at embeddings of L2 norm 1,
    whose squared distance is 2 - 2 cos.

    Up to twenty labels have a colour and marker each, and a legend. More
    share ten colours: labels of one colour lie far apart on the map.

    Arguments
    ---------
    embeddings : numpy.ndarray
        Shape (N, D), 4 rows or more. Of more than ``MOST_POINTS`` as many are
        drawn, evenly spread over the rows, which the picture then says. Rows
        that are zero or not finite are left out.
    labels : array_like, optional
        Shape (N,): the speakers or clusters. Points whose label is NaN or
        None are grey; without labels, all points are blue.
    path : str or pathlib.Path
        The file; its suffix tells the format: ``.png``, ``.pdf`` or ``.svg``.
    seed : int
        The seed of t-SNE. The same seed gives the same map on the same machine.

    Raises
    ------
    ValueError
        If there are too few points or all are the same, not as many labels as
        embeddings, or no such format.

    Example
    -------
    >>> path = getfixture("tmp_path") / "map.pdf"
    >>> embeddings = np.random.default_rng(0).standard_normal((20, 8))
    >>> plot_map(embeddings, ["anne", "bob"] * 10, path)
    >>> path.is_file()
    True
    """
    if labels is None:
        labels = np.full(len(embeddings), np.nan)
    if len(labels) != len(embeddings):
        raise ValueError(
            f"{len(labels)} labels for {len(embeddings)} embeddings: give each "
            "its own."
        )
    formats = FigureCanvasBase.get_supported_filetypes()
    if pathlib.Path(path).suffix[1:].lower() not in formats:
        raise ValueError(f"{path}: end the name in .png, .pdf or .svg.")
    total, rows = len(embeddings), _evenly_drawn(embeddings)
    places = _places(np.asarray(embeddings[rows]), seed)
    labels = pd.Series(labels, dtype=object).iloc[rows]
    labels = labels.map(str, na_action="ignore").to_numpy(object)
    # Fonts that journals accept, and that can be searched.
    with plt.rc_context({"pdf.fonttype": 42}):
        figure, axis = plt.subplots(figsize=(4.4, 4.4))
        notes = _draw(axis, places, labels)
        if len(rows) < total:
            notes.insert(0, f"{len(rows):,} of {total:,}, evenly drawn")
        axis.set_xlabel("; ".join(notes), fontsize=9, color="0.3")
        axis.set(xticks=[], yticks=[], aspect="equal", adjustable="datalim")
        axis.set_box_aspect(1)
        for side in axis.spines.values():
            side.set_color("0.8")
        save_figure(figure, path, dpi=200, bbox_inches="tight")


def _evenly_drawn(embeddings):
    """The rows to draw: those that are zero or not finite are left out."""
    rows = spread_rows(len(embeddings), MOST_POINTS)
    drawn = np.asarray(embeddings[rows])
    rows = rows[np.isfinite(drawn).all(1) & drawn.any(1)]
    if len(rows) < FEWEST_POINTS:
        raise ValueError(
            f"A map of {len(rows)} embeddings shows nothing: give "
            f"{FEWEST_POINTS} or more."
        )
    return rows


def _places(embeddings, seed):
    """Shape (n, 2): where the points are on the map."""
    points = unit_rows(embeddings)
    if same := sameness(points):  # on which t-SNE crashes
        raise ValueError(same)
    perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
    tsne = TSNE(perplexity=perplexity, init="pca", random_state=seed)
    return tsne.fit_transform(points)


def _draw(axis, places, labels):
    """Draws the points; returns what has to be said about them."""
    size = np.clip(12_000 / len(places), 6, 40)
    options = {"s": size, "linewidths": 0, "alpha": 0.8}
    known = ~pd.isna(labels)
    # On their own, grey points would be hard to see in print.
    colour = "0.8" if known.any() else "C0"
    axis.scatter(*places[~known].T, c=colour, **options)
    names, counts = np.unique(labels[known].astype(str), return_counts=True)
    if len(names) > len(COLOURS) * len(MARKERS):
        names = names[np.argsort(-counts, kind="stable")]
        middles = [np.median(places[labels == name], axis=0) for name in names]
        colours = dict(zip(names, _far_apart(np.array(middles), len(COLOURS))))
        axis.scatter(
            *places[known].T,
            c=[COLOURS[colours[name]] for name in labels[known]],
            **options,
        )
        notes = [f"{len(names):,} labels, whose colours repeat"]
    else:
        if all(map(str.isdecimal, names)):
            names = sorted(names, key=int)
        for number, name in enumerate(names):
            axis.scatter(
                *places[labels == name].T,
                c=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number // len(COLOURS)],
                label=as_label(name),
                **options,
            )
        notes = []
        if len(names):
            _legend(axis)
    if len(names) and not known.all():
        notes.append("grey: no label")
    return notes


def _legend(axis):
    """A legend to the right of the axis."""
    legend = axis.legend(
        loc="upper left",
        bbox_to_anchor=(1, 1),
        frameon=False,
        fontsize=9,
        handletextpad=0.2,
        scatteryoffsets=[0.5],
    )
    for handle in legend.legend_handles:
        handle.set(sizes=[30], alpha=1)


def _far_apart(places, count):
    """Gives each place one of ``count`` colours, in order: the one whose
    nearest place so far is the farthest away."""
    colours = np.zeros(len(places), int)
    for i, place in enumerate(places):
        nearest = np.full(count, np.inf)
        distances = np.linalg.norm(places[:i] - place, axis=1)
        np.minimum.at(nearest, colours[:i], distances)
        colours[i] = nearest.argmax()
    return colours
