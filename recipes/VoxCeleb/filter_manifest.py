#!/usr/bin/env python3
r"""Filters a manifest: keeps utterances of one voice that speaks, drops noise,
music, dead air and several voices. No label is needed: the scores are the share
of speech, and how alike the segments of an utterance are to an encoder.

To run this recipe, use one of the following commands:
> python filter_manifest.py hparams/filter.yaml --encoder=FOLDER \
    --manifest=FILE --data_folder=FOLDER --output_folder=FOLDER
> torchrun --nproc_per_node=8 filter_manifest.py hparams/filter.yaml ...

Writes filtered.csv, confidence.csv, filter.json and plots/confidence.png.
Killed and started again, the same command goes on where it was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.open_run import load_run


@user_errors()
def main(arguments):
    """Reads the flags, scores, filters."""
    hparams_file, run_opts, overrides = parse_arguments(arguments, trains=False)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_run(hparams_file, run_opts, overrides, resumes=False)
    embedder, rate = None, hparams["sample_rate"]
    if hparams["embeddings"] is None:
        embedder = hparams["embedder"](device=run_opts["device"])
        rate = embedder.sample_rate
    detector = hparams["load_detector"](sample_rate=rate)
    hparams["filter_manifest"](embedder=embedder, detector=detector)


if __name__ == "__main__":
    main(sys.argv[1:])
