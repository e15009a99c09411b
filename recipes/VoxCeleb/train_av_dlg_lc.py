#!/usr/bin/env python3
r"""Recipe for training an encoder of voices and one of faces on the same pseudo
labels: one iteration of audio-visual DLG-LC, stage II of
https://arxiv.org/abs/2304.05754.

To run this recipe, use one of the following commands:
> python train_av_dlg_lc.py hparams/demo_av_dlg_lc.yaml --train_manifest=FILE \
    --start_encoder=FOLDER --start_face_encoder=FOLDER
> torchrun --nproc_per_node=8 train_av_dlg_lc.py hparams/av_dlg_lc.yaml ...

FILE is the pseudo_labels.csv of pseudo_label.py, made of both. The trained
encoders are in <output_folder>/encoder, which stock SpeechBrain loads, and in
<output_folder>/face_encoder. Started again, the same command resumes where the
run was.

Authors
 * The speechbrain_cadino developers 2026
"""

import sys

from speechbrain_cadino.config.usage import show_usage

if __name__ == "__main__":
    show_usage(__doc__)  # before the imports below, which take seconds

import speechbrain as sb
from speechbrain_cadino.audio_visual.brain import AudioVisualBrain
from speechbrain_cadino.audio_visual.finish import report
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.process.errors import user_errors
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

    train(
        hparams_file,
        run_opts,
        overrides,
        AudioVisualBrain,
        report,
        evaluators=["evaluator", "face_evaluator"],
    )


if __name__ == "__main__":
    main()
