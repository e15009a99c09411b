#!/usr/bin/env python3
"""Recipe for training an encoder of voices and one of faces on the same pseudo
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

from train_dlg_lc import main

from speechbrain_cadino.audio_visual.brain import AudioVisualBrain

if __name__ == "__main__":
    main(AudioVisualBrain)
