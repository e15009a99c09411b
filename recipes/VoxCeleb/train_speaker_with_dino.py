#!/usr/bin/env python3
r"""Recipe for training a speaker encoder where a share of the utterances has
labels: AAM-softmax on these, DINO as an auxiliary loss on all of them.

To run this recipe, use one of the following commands:
> python train_speaker_with_dino.py hparams/demo_speaker_with_dino.yaml
> python train_speaker_with_dino.py hparams/small_speaker_with_dino.yaml \
    --data_folder=FOLDER --train_manifest=FILE --speakers=FILE
> torchrun --nproc_per_node=8 train_speaker_with_dino.py \
    hparams/speaker_with_dino.yaml ...

The labels are those that speakers.csv knows, or a share of them, drawn by
--share. The trained encoder is in <output_folder>/encoder: stock SpeechBrain
loads it. Started again, the same command resumes where the run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.brains.speaker import SpeakerBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.config.settings import LIMIT
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.finetune import MAY_CHANGE
from speechbrain_cadino.runs.finish import finish
from speechbrain_cadino.runs.training import train
from speechbrain_cadino.training.plots import plot_speaker


def report(brain, hparams):
    """Exports the encoder, verifies, draws the plot."""
    weights = "the student, which the labels have taught"
    finish(
        brain.embedder(),
        hparams,
        brain.device,
        weights=weights,
        labels=hparams["labelled_manifest"] == hparams["train_manifest"],
    )
    plot_speaker(
        brain.record.rows,
        f"{hparams['output_folder']}/plots/training.png",
        hparams["objective"],
    )


@user_errors()
def main():
    """Reads the command line, trains."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # An encoder to start from brings its own features and sizes
    overrides = adopt_encoder(hparams_file, overrides)

    train(
        hparams_file,
        run_opts,
        overrides,
        SpeakerBrain,
        report,
        harmless=MAY_CHANGE | {LIMIT},
    )


if __name__ == "__main__":
    main()
