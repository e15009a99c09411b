#!/usr/bin/env python3
r"""Recipe for training an encoder of frames without labels: DinoSR
(https://arxiv.org/abs/2305.10005), with heads at each layer as in SpidR
(https://arxiv.org/abs/2512.20308).

To run this recipe, use one of the following commands:
> python train_dinosr.py hparams/demo_dinosr.yaml
> python train_dinosr.py hparams/small_dinosr.yaml --data_folder=/path/to/speech
> torchrun --nproc_per_node=16 train_dinosr.py hparams/dinosr.yaml \
    --data_folder=/path/to/LibriSpeech --glob="train-*/**/*"

The trained encoder is in <output_folder>/encoder: stock SpeechBrain loads it.
Started again, the same command resumes where the run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import copy

import speechbrain as sb
from speechbrain_cadino.brains.frames import FrameBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.config.settings import HARMLESS, LIMIT
from speechbrain_cadino.encoders.export_frames import (
    exported_layer,
    frame_entries,
)
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.frames import finish_frames
from speechbrain_cadino.runs.training import train

# What matters once a training has ended: started again, it takes the new ones
REPORTED = {"export_layer", "phones", "phones_folder", "frame_evaluator"}


def start(hparams):
    """Keeps the network before training, to compare with."""
    # What cannot be exported shows before training
    frame_entries(f"{hparams['output_folder']}/hyperparams.yaml")
    transformer = hparams["student"].context.transformer
    exported_layer(transformer, hparams["export_layer"])
    hparams["untrained"] = copy.deepcopy(hparams["student"])


@user_errors()
def main():
    """Reads the command line, trains."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    train(
        hparams_file,
        run_opts,
        overrides,
        FrameBrain,
        finish_frames,
        start,
        evaluators=["frame_evaluator"],
        harmless=HARMLESS | {LIMIT} | REPORTED,
    )


if __name__ == "__main__":
    main()
