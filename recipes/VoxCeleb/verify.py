#!/usr/bin/env python3
r"""Scores a trial list with a speaker encoder: EER and minDCF.

Writes metrics.json and scores_<system>.txt (lines "enrol test score") to the
output folder and shows the figures.

To run this recipe:
> python verify.py hparams/verify.yaml --encoder=FOLDER --trials=FILE \
    --data_folder=FOLDER [--baselines=True --train_manifest=FILE]
> python verify.py hparams/av_verify.yaml --encoder=FOLDER \
    --face_encoder=FOLDER --trials=FILE --data_folder=FOLDER \
    --trials_manifest=FILE --face_folder=FOLDER

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.load import check_kind
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.open_run import load_run
from speechbrain_cadino.verification.results import format_results

logger = get_logger(__name__)


@user_errors(goes_on=False)
def main(arguments):
    """Reads the flags, scores, shows the table."""
    hparams_file, run_opts, overrides = parse_arguments(arguments, trains=False)
    hparams = load_run(hparams_file, run_opts, overrides, resumes=False)
    embedders = {
        name: load(device=run_opts["device"])
        for name, load in hparams["embedders"].items()
    }
    embedder = embedders["embedder"]
    check_kind(embedder, "voices")
    # A folder of embeddings needs no audio, whichever key has named it
    stored = None if embedder.hears else embedder.source
    trial_lists = {}
    for name, read in hparams["trial_lists"].items():
        options = {"sample_rate": embedder.sample_rate, **read.keywords}
        if "embeddings" in options:
            options["embeddings"] = stored
        trial_lists[name] = read(**options)
    results = hparams["verify"](**embedders, **trial_lists)
    logger.info(format_results(results))
    logger.info(f"Scores and plots are in {hparams['output_folder']}.")


if __name__ == "__main__":
    main(sys.argv[1:])
