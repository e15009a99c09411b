#!/usr/bin/env python3
r"""Recipe for training a speaker encoder without labels: DINO, stage I of
CA-DINO + DLG-LC (https://arxiv.org/abs/2304.05754).

To run this recipe, use one of the following commands:
> python train_dino.py hparams/demo_dino.yaml
> python train_dino.py hparams/small_dino.yaml --data_folder=/path/to/speech \
    [--start_encoder=FOLDER]
> torchrun --nproc_per_node=8 train_dino.py hparams/dino.yaml \
    --data_folder=/path/to/VoxCeleb2 --convert_folder=/path/for/flac

The trained encoder is in <output_folder>/encoder: stock SpeechBrain loads it.
Started again, the same command resumes where the run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.stage_one import report, start
from speechbrain_cadino.runs.training import train


@user_errors()
def main():
    """Reads the command line, trains."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # An encoder to start from brings its own features and sizes
    overrides = adopt_encoder(hparams_file, overrides)

    train(hparams_file, run_opts, overrides, DINOBrain, report, start)


if __name__ == "__main__":
    main()
