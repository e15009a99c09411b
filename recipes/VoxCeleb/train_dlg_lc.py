#!/usr/bin/env python3
"""Recipe for training a speaker encoder on pseudo labels with the dynamic loss
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

from hyperpyyaml import load_hyperpyyaml

import speechbrain as sb
from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.encoders.load import start_from_encoder, start_from_file
from speechbrain_cadino.gate.report import report_gate
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.lock import claim_output_folder
from speechbrain_cadino.process.memory import keep_freed_memory
from speechbrain_cadino.training.plots import plot_stage_two
from speechbrain_cadino.verification.evaluate import evaluator_if_any


def finish(brain, hparams):
    """Exports the encoder, draws the plots, verifies."""
    brain.export()
    plot_stage_two(
        brain.record.rows, f"{hparams['output_folder']}/plots/training.png"
    )
    for sense in brain.senses:
        report_gate(sense.folder, hparams["train_manifest"])
    brain.verify(baselines=False)


def train(hparams_file, run_opts, overrides, brain_class=PseudoLabelBrain):
    """Prepares, trains, exports and verifies."""
    # Load hyperparameters file with command-line overrides
    with open(hparams_file, encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin, overrides)

    # Create experiment directory
    sb.create_experiment_directory(
        experiment_directory=hparams["output_folder"],
        hyperparams_to_save=hparams_file,
        overrides=overrides,
    )

    # Dataset prep (folders of noises and rooms to CSV manifests)
    for prepare in hparams["prepare"]:
        run_on_main(prepare)

    # Dataset of crops with pseudo labels, read from the manifest
    train_data = hparams["train_data"]()

    # Trials, to follow the EER; mistakes in the list show before training
    hparams["evaluator"] = evaluator_if_any(
        hparams["trials"],
        hparams["trials_folder"],
        hparams["sample_rate"],
        manifest=hparams.get("trials_manifest"),
    )

    # Weights to start from
    if hparams["start_encoder"] is not None:
        start_from_encoder(hparams["embedding_model"], hparams["start_encoder"])
    if hparams["start_classifier"] is not None:
        start_from_file(hparams["classifier"], hparams["start_classifier"])
    if hparams.get("start_face_encoder") is not None:
        start_from_encoder(
            hparams["face_embedding_model"], hparams["start_face_encoder"]
        )

    # Brain class initialization
    keep_freed_memory()
    brain = brain_class(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )

    # Training
    brain.fit(
        hparams["epoch_counter"],
        train_data,
        train_loader_kwargs=hparams["dataloader_options"],
    )

    # Encoder folder, plots and verification
    if not (brain.debug or brain.test_only):
        run_on_main(finish, args=[brain, hparams])


@user_errors()
def main(brain_class=PseudoLabelBrain):
    """Reads the command line, trains."""
    # Reading command line arguments
    hparams_file, run_opts, overrides = parse_arguments(sys.argv[1:])

    # Initialize ddp (useful only for multi-GPU DDP training)
    sb.utils.distributed.ddp_init_group(run_opts)

    # One run at a time in the output folder
    claim_output_folder(hparams_file, overrides)

    # An encoder to start from brings its own features and sizes
    overrides = adopt_encoder(hparams_file, overrides)

    train(hparams_file, run_opts, overrides, brain_class)


if __name__ == "__main__":
    main()
