#!/usr/bin/env python3
r"""Joins a manifest of true labels and one of pseudo labels, for stage II:
train_dlg_lc.py never drops or corrects those that are given, and fits its loss
gate to the losses of the others.

To run this recipe:
> python join_manifests.py SOURCE.csv TARGET.csv --output=JOINED.csv \
    [--source_folder=FOLDER] [--target_folder=FOLDER]

SOURCE.csv has the true speakers as spk_id, TARGET.csv is the pseudo_labels.csv
of pseudo_label.py. Where $data_root in them stands for two folders, give both.

Authors
 * The speechbrain_cadino developers 2026
"""

import argparse
import logging
import os
import sys


def path(name):
    """A path of the command line; no shell expands that in --output=~/a.csv."""
    if not name:
        raise argparse.ArgumentTypeError("names nothing: is a variable unset?")
    return os.path.expanduser(name)


def main(arguments):
    """Reads the flags, joins."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("source", metavar="SOURCE.csv", type=path)
    parser.add_argument("target", metavar="TARGET.csv", type=path)
    parser.add_argument(
        "--output", metavar="JOINED.csv", type=path, required=True
    )
    parser.add_argument("--source_folder", metavar="FOLDER", type=path)
    parser.add_argument("--target_folder", metavar="FOLDER", type=path)
    flags = parser.parse_args(arguments)

    # Only now, as they take seconds
    from speechbrain_cadino.prepare.join import join_manifests
    from speechbrain_cadino.process.errors import user_errors

    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    with user_errors(goes_on=False):
        join_manifests(**vars(flags))


if __name__ == "__main__":
    main(sys.argv[1:])
