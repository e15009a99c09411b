#!/usr/bin/env python3
r"""Joins what train_dlg_lc.py recorded of its loss gate with the true
speakers, which training never sees: how many labels were right among the
reliable, the corrected and the dropped ones.

To run this recipe:
> python report_gate.py hparams/report_gate.yaml --run_folder=FOLDER \
    --manifest=FILE --speakers=FILE

Adds columns to gate.csv in the run folder, draws plots/gate.png again, with
the right and the wrong labels apart, and shows the last epoch. Run again, it
gives the same files.

Authors
 * The speechbrain_cadino developers 2026
"""

import logging
import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

from hyperpyyaml import load_hyperpyyaml

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.gate.report import format_gate, report_gate
from speechbrain_cadino.process.errors import user_errors

logger = get_logger(__name__)


@user_errors(goes_on=False)
def main(arguments):
    """Reads the flags, joins, shows the table."""
    # No experiment folder of its own: the run's hyperparams.yaml and log.txt
    # stay what they are.
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stdout)
    hparams_file, _, overrides = parse_arguments(arguments, trains=False)
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)
    table = report_gate(
        hparams["run_folder"], hparams["manifest"], hparams["speakers"]
    )
    logger.info(format_gate(table))


if __name__ == "__main__":
    main(sys.argv[1:])
