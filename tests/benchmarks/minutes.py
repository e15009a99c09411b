"""Gain of adaptation in minutes, and whether its criteria are right.

> python tests/benchmarks/minutes.py ENCODER [ENCODER ...] \\
    --list NAME LIST FOLDER [--list ...] [--output FOLDER]

For each trial list, the recordings that it names are the archive, without
labels: the maps of ``speechbrain-cadino adapt`` are tried on them as it does,
and then, learnt from all of them, scored on the list. A line for each: the two
criteria, the EER of raw cosines on the list, and its difference to that of no
map with a 95% interval (a bootstrap over speakers). The map that adapt chooses
has a star. OUTPUT gets minutes.csv.

Time and memory of a whole archive:

> /usr/bin/time -v speechbrain-cadino adapt ENCODER ARCHIVE --output=ADAPTED
"""

import argparse
import pathlib
import time

import pandas as pd
from lists import Lists

from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.process.tables import write_csv
from speechbrain_cadino.runs.maps import MAPS, NONE, choose, hear, try_maps
from speechbrain_cadino.verification.bootstrap import Bootstrap, trial_speakers
from speechbrain_cadino.verification.scoring import unit


def main():
    """Prints a table for each encoder and list."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--list", nargs=3, action="append", required=True)
    parser.add_argument("--output", type=pathlib.Path)
    flags = parser.parse_args()
    tables = []
    for source in flags.encoders:
        embedder = load_encoder(source, "cpu")
        for name, path, folder in flags.list:
            table, seconds = measure(embedder, name, path, folder)
            print(f"\n{source}, {name}: {seconds:.0f} s\n\n{shown(table)}")
            tables.append(table.assign(encoder=source, list=name))
            if flags.output:
                write_csv(flags.output / "minutes.csv", pd.concat(tables))


def measure(embedder, name, path, folder):
    """The figures of all maps, and how long they took without the list's."""
    lists = Lists({name: path}, folder)
    trials = lists.trials[name]
    started = time.time()
    heard = hear(embedder, lists.files)
    figures = try_maps(heard)
    seconds = time.time() - started
    whole = embedder.embed(lists.files)
    scores = {
        key: lists.scores(unit(learn(heard).transform(whole)))[name]
        for key, learn in MAPS.items()
    }
    enrol, test = trial_speakers(trials)
    drawn = Bootstrap(scores, trials["target"].to_numpy(), enrol, test)
    rows = []
    for key in MAPS:
        gain = drawn.compare(key, NONE)["eer"]
        low, high = gain["interval"]
        rows.append((drawn.figures[key]["eer"], gain["difference"], low, high))
    columns = ["list_eer", "list_difference", "list_low", "list_high"]
    truth = pd.DataFrame(rows, columns=columns, index=list(MAPS))
    table = figures.join(truth)
    table["chosen"] = table.index == choose(figures)
    return table.rename_axis("map").reset_index(), seconds


def shown(table):
    """A table as Markdown."""
    head = "map|crops' EER|difference|agreement|list's EER|difference"
    lines = [head.split("|"), ["---"] * 6]
    for row in table.itertuples():
        lines.append(
            [
                row.map + " *" * row.chosen,
                f"{row.eer:.1f}",
                f"{row.difference:+.1f} [{row.difference_low:+.1f}, "
                f"{row.difference_high:+.1f}]",
                f"{row.agreement:.2f}" + ", less" * row.agrees_less,
                f"{row.list_eer:.1f}",
                f"{row.list_difference:+.1f} [{row.list_low:+.1f}, "
                f"{row.list_high:+.1f}]",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
