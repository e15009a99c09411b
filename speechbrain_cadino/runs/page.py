"""The report of a pipeline as one HTML file, with its plots inside."""

import base64
import pathlib

import jinja2

from speechbrain_cadino.process.files import write_text

TITLE = "From stage to stage"

# What the columns of the table mean, by their headings
COLUMN_MEANINGS = {
    "EER %": "Equal error rate on the trial list: the share of wrong answers "
    "at the threshold at which both kinds of error are equally frequent. Of a "
    "stage that hears and sees, by both.",
    "voice": "The equal error rate by voice alone.",
    "face": "The equal error rate by face alone.",
    "minDCF": "Detection cost where one trial in a hundred is of the same "
    "speaker, at the best threshold. 1 is what saying no to everything costs.",
    "agreement": "How far the pseudo labels agree with those of the iteration "
    "before (adjusted Rand index). No true label is needed: stop when it "
    "grows no more.",
    "reliable": "The share of the samples that the loss gate let through in "
    "the last epoch. It does not always follow the error rate.",
    "AMI": "Agreement of the pseudo labels with the true speakers, corrected "
    "for chance; 1 if they are the same up to their names.",
    "clusters": "Pseudo speakers, each trained on as a class.",
    "utts": "Utterances that the stage trained on.",
    "min": "Minutes that the stage took, its pseudo labels included.",
}

# What a plot shows and how to read it, by the name of its file
PLOT_MEANINGS = {
    "pipeline": "The error rate of each stage beside the untrained encoder's, "
    "and how the pseudo labels change over the iterations: when agreement "
    "grows no more, another iteration would train on the same labels again.",
    "confidence": "The scores of the utterances of the first training: what "
    "is right of a dashed line passes that rule, and what passes all is kept. "
    "Listen to the examples in filter.json.",
    "sweep": "The numbers of clusters that were compared without labels: "
    "silhouette and stability, higher is better.",
    "clusters": "How large the clusters are, and how well utterances fit into "
    "their own compared with the nearest other one. A few huge clusters, or "
    "many of one utterance, make poor pseudo labels.",
    "training": "The course of the training, epoch by epoch. In stage I the "
    "loss may rise again while the EER falls. The teacher's entropy should "
    "stay well between 0 and the logarithm of the number of prototypes, and "
    "the effective dimensions well above 1.",
    "gate": "The losses of the labels in some epochs, the two components "
    "fitted to them, and the gate where they cross: labels on its left are "
    "trusted. Two hills with the gate between them are what it needs; with "
    "one hill there is nothing to tell right from wrong by.",
    "det": "Misses against false alarms over all thresholds: the closer to "
    "the lower left corner, the better. The EER is where a curve meets the "
    "diagonal.",
    "scores": "Scores of pairs of the same and of different speakers: the "
    "less they overlap, the better.",
}


def write_page(folder, cells, plots, tables):
    """Writes ``report.html``.

    Arguments
    ---------
    folder : str or pathlib.Path
        The output folder of the pipeline.
    cells : list of list of str
        The table: a heading, and a line for each stage.
    plots : dict of str:list
        The paths of the plots, by the name of their section; what is no PNG
        file is left out.
    tables : dict of str:str
        The text above the plots of some sections, by their name.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> write_page(folder, [["stage", "EER %"], ["<1>", "4.57"]], {}, {})
    >>> text = (folder / "report.html").read_text()
    >>> "<td>&lt;1&gt;</td><td>4.57</td>" in text
    True
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("speechbrain_cadino.runs", ""),
        autoescape=True,
    )
    sections = []
    for name, paths in plots.items():
        pictures = sorted((p for p in paths if p.suffix == ".png"), key=_place)
        if pictures or name in tables:
            shown = [_plot(path, pictures) for path in pictures]
            sections.append((name, shown))
    text = environment.get_template("report.html.j2").render(
        title=TITLE,
        folder=folder,
        cells=cells,
        columns=[
            (heading, COLUMN_MEANINGS[heading])
            for heading in cells[0]
            if heading in COLUMN_MEANINGS
        ],
        tables=tables,
        sections=sections,
    )
    write_text(pathlib.Path(folder, "report.html"), text)


def _place(path):
    """Plots in the order above: from labels and training to scores."""
    known = list(PLOT_MEANINGS)
    return known.index(path.stem) if path.stem in known else len(known)


def _plot(path, others):
    """A plot of a section; of two of one name, with the folder of each."""
    twice = [other.stem for other in others].count(path.stem) > 1
    return {
        "name": path.stem + twice * f", {path.parents[1].name}",
        "meaning": PLOT_MEANINGS.get(path.stem, ""),
        "data": base64.b64encode(path.read_bytes()).decode(),
    }
