"""Writes a manifest of true labels, a share of which is replaced at random.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/replace_labels.py demo_corpus/train.csv \
    demo_corpus/speakers.csv half_wrong.csv --share 0.5
> python train_dlg_lc.py hparams/demo_dlg_lc.yaml \
    --train_manifest=half_wrong.csv --start_encoder=FOLDER
> python report_gate.py hparams/report_gate.yaml --run_folder=FOLDER \
    --manifest=half_wrong.csv --speakers=demo_corpus/speakers.csv

What does the loss gate make of labels that are wrong by accident?
"""

import argparse

import numpy as np
import pandas as pd

from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    read_manifest,
    write_manifest,
)


def main():
    """Reads the flags, labels, replaces."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("manifest")
    parser.add_argument("speakers", help="ID,spk_id")
    parser.add_argument("output")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=1986)
    flags = parser.parse_args()
    table = read_manifest(flags.manifest, DATA_ROOT)
    labels = labels_of(flags.speakers, table["ID"])
    rng = np.random.default_rng(flags.seed)
    table[LABEL] = replace(labels, flags.share, rng)
    write_manifest(flags.output, table)


def replace(labels, share, rng):
    """Gives a share of the labels the name of another speaker, in place."""
    names = pd.unique(labels)
    for row in rng.permutation(len(labels))[: round(share * len(labels))]:
        labels[row] = rng.choice(names[names != labels[row]])
    return labels


if __name__ == "__main__":
    main()
