"""Report of what features of frames know of phones: table, answer, picture."""

import pathlib

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from speechbrain_cadino.process.console import aligned
from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.process.plots import save_figure
from speechbrain_cadino.process.tables import write_csv

# How a plot names them
SPECTRAL = {"log_mel": "log-mel", "mfcc": "MFCC"}


def report_frames(rows, folder):
    """Writes ``frames.csv``, ``frames.json`` and ``plots/frames.png``.

    Arguments
    ---------
    rows : list of dict
        The rows of FrameEvaluator.
    folder : str or pathlib.Path
        The output folder.

    Returns
    -------
    str
        The table, and in a sentence how the best layer compares.
    """
    folder = pathlib.Path(folder)
    table = pd.DataFrame(rows)
    draws = [name for name in table if name.endswith("_draws")]
    shown = table.drop(columns=draws)
    write_csv(folder / "frames.csv", shown)
    answer = compare_layers(table)
    write_json(folder / "frames.json", answer)
    _plot(shown, folder / "plots" / "frames.png")
    return f"{_format(shown)}\n{_say(answer)}"


def compare_layers(table):
    """The best trained layer, across voices, against what it is to beat.

    Arguments
    ---------
    table : pandas.DataFrame
        The rows of FrameEvaluator, ``trained``, ``untrained`` and
        ``spectral`` among the systems, as far as there.

    Returns
    -------
    dict
        ``layer``, ``across``; and for ``mfcc``, ``log_mel`` and
        ``untrained``, its best layer, the ``difference`` of the errors in
        points, ``relative``, the difference as a share of the error to beat,
        and ``low`` and ``high``, the 95% interval over voices, if they are
        enough.
    """
    if "across" not in table:  # a single voice
        return {}
    layers = table[table["features"].str.startswith("layer")]
    layers = layers.dropna(subset="across")
    trained = layers[layers["system"] == "trained"]
    if not len(trained):
        return {}
    best = trained.loc[trained["across"].idxmin()]
    answer = {"layer": best["features"], "across": float(best["across"])}
    others = {
        "mfcc": table[table["features"] == "mfcc"],
        "log_mel": table[table["features"] == "log_mel"],
        "untrained": layers[layers["system"] == "untrained"],
    }
    for name, rows in others.items():
        if not len(rows):
            continue
        other = rows.loc[rows["across"].idxmin()]
        difference = best["across"] - other["across"]
        answer[name] = {
            "across": float(other["across"]),
            "difference": float(difference),
            "relative": float(difference / other["across"]),
        }
        if len(drawn := best["across_draws"] - other["across_draws"]):
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            answer[name] |= {"low": float(low), "high": float(high)}
    return answer


def _say(answer):
    """The comparison, in a sentence or two."""
    if not answer:
        return ""
    parts = []
    for name, other in answer.items():
        if not isinstance(other, dict):
            continue
        part = f"{name.replace('_', '-')} {other['across']:.1f}% "
        part += f"({other['relative']:+.0%}; {other['difference']:+.1f} points"
        if "low" in other:
            part += f", [{other['low']:+.1f}, {other['high']:+.1f}]"
        parts.append(f"{part})")
    layer = answer["layer"].replace("_", " ")
    others = f"; against {'; '.join(parts)}" if parts else ""
    return (
        f"Across voices, the best is {layer} with an ABX error of "
        f"{answer['across']:.1f}%{others}."
    )


def _format(table):
    """The table in text."""
    heads = ["", "ABX within (%)", "ABX across (%)", "PNMI", "purity", "used"]
    rows = [heads]
    for row in table.to_dict("records"):
        errors = [_error(row, kind) for kind in ("within", "across")]
        shares = [row.get(kind, np.nan) for kind in ("pnmi", "purity", "used")]
        rows.append(
            [
                f"{row['system']} {row['features']}",
                *errors,
                *("-" if np.isnan(x) else f"{x:.2f}" for x in shares),
            ]
        )
    return "\n".join(aligned(rows))


def _error(row, kind):
    """An ABX error, with its interval if there is one."""
    if np.isnan(row.get(kind, np.nan)):
        return "-"
    low, high = row[f"{kind}_low"], row[f"{kind}_high"]
    text = f"{row[kind]:.1f}"
    return text if np.isnan(low) else f"{text} [{low:.1f}, {high:.1f}]"


def _plot(table, path):
    """ABX by layer, and the units."""
    figure, (errors, units) = plt.subplots(
        1, 2, figsize=(11, 5), layout="constrained"
    )
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    _plot_errors(errors, table)
    errors.legend(fontsize=8, ncols=4, **below)
    codes = table.dropna(subset="pnmi") if "pnmi" in table else table[:0]
    _plot_units(units, codes)
    if len(codes):
        units.legend(fontsize=8, ncols=3, **below)
    save_figure(figure, path)


def _plot_errors(axis, table):
    """The errors of the layers, and of what they are compared with."""
    styles = [("across", "-"), ("within", ":")]
    styles = [(kind, style) for kind, style in styles if kind in table]
    layers = table[table["features"].str.startswith("layer")]
    for color, (system, rows) in enumerate(layers.groupby("system")):
        numbers = rows["features"].str.removeprefix("layer_").astype(int)
        for kind, style in styles:
            label = f"{system}, {kind}"
            axis.plot(
                numbers, rows[kind], style, color=f"C{color}", label=label
            )
            axis.fill_between(
                numbers,
                rows[f"{kind}_low"],
                rows[f"{kind}_high"],
                color=f"C{color}",
                alpha=0.1,
            )
    spectral = table[table["system"] == "spectral"].to_dict("records")
    for color, row in enumerate(spectral, 2):
        for kind, style in styles:
            label = f"{SPECTRAL[row['features']]}, {kind}"
            axis.axhline(row[kind], color=f"C{color}", ls=style, label=label)
    axis.set_xlabel("layer")
    axis.set_ylabel("ABX error (%); chance: 50")
    axis.set_title("phones, within and across voices")
    axis.set_ylim(0, None)
    axis.xaxis.get_major_locator().set_params(integer=True)


def _plot_units(axis, codes):
    """What the codes are as units."""
    names = codes["system"] + " " + codes["features"].str.replace("_", " ")
    for place, name in enumerate(("pnmi", "purity", "used")):
        if len(codes):
            axis.barh(
                np.arange(len(codes)) + 0.27 * (place - 1),
                codes[name],
                height=0.25,
                label=name.replace("pnmi", "PNMI"),
            )
    axis.set_yticks(range(len(codes)), names)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_title("codes as units")
