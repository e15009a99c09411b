#!/usr/bin/env python3
r"""Labels a manifest by clustering embeddings: the pseudo speakers that stage
II of CA-DINO + DLG-LC (https://arxiv.org/abs/2304.05754) trains on. So does
SpeechBrain's own recipe train_speaker_embeddings.py, unedited.

To run this recipe, use one of the following commands:
> python pseudo_label.py hparams/pseudo_label.yaml --encoder=FOLDER \
    --manifest=FILE --data_folder=FOLDER
> python pseudo_label.py hparams/av_pseudo_label.yaml --encoder=FOLDER \
    --manifest=FILE --data_folder=FOLDER --face_encoder=FOLDER \
    --face_manifest=FILE --face_folder=FOLDER
> torchrun --nproc_per_node=8 pseudo_label.py hparams/pseudo_label.yaml ...

Writes pseudo_labels.csv, clusters.json and plots/clusters.png. Killed and
started again, the same command goes on embedding where it was.

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
    """Reads the flags, embeds, clusters, labels."""
    hparams_file, run_opts, overrides = parse_arguments(arguments, trains=False)
    sb.utils.distributed.ddp_init_group(run_opts)
    hparams = load_run(hparams_file, run_opts, overrides, resumes=False)
    embedders = {
        name: load(device=run_opts["device"])
        for name, load in hparams["embedders"].items()
    }
    hparams["pseudo_label"](**embedders)


if __name__ == "__main__":
    main(sys.argv[1:])
