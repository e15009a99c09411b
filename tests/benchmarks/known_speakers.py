"""Labels for a share of a corpus: those of some speakers, and of no other.

> python tests/benchmarks/known_speakers.py train.csv speakers.csv \
    [--share=0.1] [--seed=1986]

Speakers are drawn until their utterances are so large a share of all; those of
one utterance are not drawn, as a label says little of them. A file is
``<speaker>/<session>/<clip>``.
"""

import argparse

import numpy as np

from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    read_manifest,
)
from speechbrain_cadino.process.tables import write_csv


def main():
    """Reads the flags, draws, writes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest")
    parser.add_argument("output")
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=1986)
    flags = parser.parse_args()
    table = read_manifest(flags.manifest, DATA_ROOT)[["ID"]]
    table[LABEL] = table["ID"].str.split("/").str[-3]
    sizes = table[LABEL].value_counts().sort_index()
    sizes = sizes[sizes > 1]
    order = np.random.default_rng(flags.seed).permutation(len(sizes))
    sizes = sizes.iloc[order]
    # As many as come nearest
    count = (sizes.cumsum() - flags.share * len(table)).abs().argmin() + 1
    known = table[table[LABEL].isin(sizes.index[:count])]
    write_csv(flags.output, known)
    share = len(known) / len(table)
    print(f"{len(known)} utterances ({share:.1%}) of {count} speakers")


if __name__ == "__main__":
    main()
