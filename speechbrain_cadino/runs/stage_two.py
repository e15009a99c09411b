"""Stage II: what a training on pseudo labels leaves.

``train_dlg_lc.py``, ``train_av_dlg_lc.py`` and ``finetune.py`` share it.
"""

import pathlib

import torch

from speechbrain_cadino.gate.report import report_gate
from speechbrain_cadino.process.files import atomic_path
from speechbrain_cadino.runs.finish import average_last_epochs, finish
from speechbrain_cadino.training.plots import plot_stage_two

# Whose weights are exported, where they are averaged
MEAN = "the mean of what the last epochs would have exported"


def finish_voices(brain, hparams):
    """Exports the encoder and the classifier, and verifies.

    Arguments
    ---------
    brain : PseudoLabelBrain
        The Brain, trained.
    hparams : dict
        See ``finish``. With a ``final_map`` there is no classifier: it would
        not fit the encoder.
    """
    weights = MEAN if average_last_epochs(brain, hparams) else None
    if hparams.get("final_map") is None:
        save_classifiers(brain)
    else:  # one of before the map
        for branch in brain.branches.values():
            pathlib.Path(branch.classifier_file).unlink(missing_ok=True)
    finish(brain.embedder(), hparams, brain.device, weights=weights)


def save_classifiers(brain):
    """Writes the classifiers of all branches, for a training that goes on.

    Arguments
    ---------
    brain : PseudoLabelBrain
        The Brain, trained.
    """
    for branch in brain.branches.values():
        with atomic_path(branch.classifier_file) as temporary:
            classifier = brain.exported(branch).classifier
            torch.save(classifier.state_dict(), temporary)


def report(brain, hparams, end=finish_voices):
    """The files at the end of a training: encoders, plots, verification.

    Arguments
    ---------
    brain : PseudoLabelBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training.
    end : callable
        The function of brain and hparams that exports and verifies.
    """
    end(brain, hparams)
    folder = hparams["output_folder"]
    plot_stage_two(brain.record.rows, f"{folder}/plots/training.png")
    for branch in brain.branches.values():
        report_gate(branch.folder, hparams["train_manifest"])
