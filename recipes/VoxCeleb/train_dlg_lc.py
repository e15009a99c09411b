#!/usr/bin/env python3
r"""Recipe for training a speaker encoder on pseudo labels with the dynamic loss
gate and label correction: one iteration of stage II of CA-DINO + DLG-LC
(https://arxiv.org/abs/2304.05754).

To run this recipe, use one of the following commands:
> python train_dlg_lc.py hparams/small_dlg_lc.yaml --train_manifest=FILE \
    --data_folder=FOLDER [--start_encoder=FOLDER]
> torchrun --nproc_per_node=8 train_dlg_lc.py hparams/dlg_lc.yaml ...

FILE is the pseudo_labels.csv of pseudo_label.py. The trained encoder is in
<output_folder>/encoder: stock SpeechBrain loads it. Started again, the same
command resumes where the run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.runs.stage_two import report
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

    train(hparams_file, run_opts, overrides, PseudoLabelBrain, report)


if __name__ == "__main__":
    main()
