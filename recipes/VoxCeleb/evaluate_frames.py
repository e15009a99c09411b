#!/usr/bin/env python3
r"""Tells what an encoder of frames knows of phones: ABX within and across
voices, purity and PNMI of its codes, codes used.

Writes frames.csv, frames.json and plots/frames.png to the output folder and
shows the table.

To run this recipe:
> python evaluate_frames.py hparams/evaluate_frames.yaml --run_folder=FOLDER \
    --phones=FILE --data_folder=FOLDER

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.frames import evaluate_run
from speechbrain_cadino.runs.open_run import load_run

logger = get_logger(__name__)


@user_errors(goes_on=False)
def main(arguments):
    """Reads the flags, evaluates, shows the table."""
    hparams_file, run_opts, overrides = parse_arguments(arguments, trains=False)
    hparams = load_run(hparams_file, run_opts, overrides, resumes=False)
    answer = evaluate_run(
        hparams["run_folder"],
        hparams["evaluator"],
        hparams["output_folder"],
        hparams["baselines"],
        run_opts["device"],
    )
    logger.info(answer)


if __name__ == "__main__":
    main(sys.argv[1:])
