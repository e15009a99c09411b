"""Stage I: the weights that a training starts from, and what it leaves.

``train_dino.py`` and ``train_adapt.py`` share it.
"""

from speechbrain_cadino.runs.finish import average_last_epochs, finish
from speechbrain_cadino.runs.training import start_from
from speechbrain_cadino.training.plots import plot_training


def start(hparams):
    """Loads weights to start from: the teacher is a copy of the student.

    Arguments
    ---------
    hparams : dict
        See ``start_from``, and ``student`` and ``teacher``.
    """
    start_from(hparams)
    student, teacher = hparams["student"], hparams["teacher"]
    teacher.network.load_state_dict(student.state_dict())


def report(brain, hparams):
    """Exports the teacher (the student, by ``export``), or the mean of the last
    ones, compares it with the baselines, draws the plot.

    Arguments
    ---------
    brain : DINOBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training.
    """
    weights = f"the {brain.export}"
    if brain.export == "teacher":
        weights += ", which follows the student"
    if average_last_epochs(brain, hparams):
        weights = f"the mean of the {brain.export}s of the last epochs"
    finish(
        brain.embedder(),
        hparams,
        brain.device,
        baselines=True,
        weights=weights,
        labels=False,
    )
    plot_training(
        brain.record.rows,
        f"{hparams['output_folder']}/plots/training.png",
        hparams["objective"],
    )
