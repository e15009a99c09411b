"""The picture of a training run."""

import math

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.ticker import MaxNLocator

from speechbrain_cadino.files import atomic_path


def plot_training(rows, path, out_dim):
    """Draws how a DINO run went, epoch by epoch.

    Arguments
    ---------
    rows : list of dict
        ``TrainingRecord.rows``.
    path : str or pathlib.Path
        The PNG file.
    out_dim : int
        K, whose logarithm is the highest possible entropy.
    """
    table = pd.DataFrame(rows).set_index("epoch")
    figure, axes = plt.subplots(2, 3, figsize=(13, 7), layout="constrained")
    loss, entropy, divergence, spread, rate, error = axes.flat

    _lines(loss, table, ["loss", "dino", "cosine"], "")
    loss.set_title("loss")
    _lines(entropy, table, ["teacher_entropy", "student_entropy"], "nats")
    entropy.axhline(math.log(out_dim), color="0.6", ls="--", lw=1)
    entropy.annotate(
        f"ln {out_dim}: uniform",
        (0.02, math.log(out_dim)),
        xycoords=("axes fraction", "data"),
        va="bottom",
        color="0.4",
    )
    entropy.set_ylim(0, 1.1 * math.log(out_dim))
    entropy.set_title("entropy")
    _lines(divergence, table, ["kl"], "nats")
    divergence.set_title("KL (teacher to student)")
    _lines(spread, table, ["spread"], "")
    spread.set_title("spread of the embeddings (0: collapse)")
    spread.set_ylim(0, 1.1)
    _lines(rate, table, ["lr"], "learning rate")
    twin = rate.twinx()
    twin.plot(table.index, table["momentum"], color="C1", label="momentum")
    twin.set_ylabel("momentum of the teacher", color="C1")
    rate.set_title("schedules")
    if "EER" in table:
        table = table.dropna(subset="EER")
        _lines(error, table, ["EER"], "EER (%)")
        error.set_title("verification")
        error.set_xlim(loss.get_xlim())
        error.set_ylim(0, None)
    else:
        error.set_axis_off()
        error.text(0.5, 0.5, "no trial list given", ha="center", color="0.4")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    plt.close(figure)


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
