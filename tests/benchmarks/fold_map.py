"""Writes an encoder folder with recording LDA in its last layer.

> cd recipes/VoxCeleb
> python ../../tests/benchmarks/fold_map.py results/RUN/encoder \
    results/RUN/save/train.csv /path/to/speech FOLDER

As ``final_map`` does at the end of a training, for one that ended without: to
try a stage II from either.
"""

import argparse

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.encoders.fold import fold_linear
from speechbrain_cadino.encoders.load import load_encoder


def main():
    """Reads the flags, copies, folds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("encoder")
    parser.add_argument("manifest", help="of the training set")
    parser.add_argument("data_folder")
    parser.add_argument("output")
    flags = parser.parse_args()
    table = read_manifest(flags.manifest, flags.data_folder)
    found = RecordingLDA().learn(load_encoder(flags.encoder), table)
    fold_linear(flags.encoder, found.linear(), flags.output)


if __name__ == "__main__":
    main()
