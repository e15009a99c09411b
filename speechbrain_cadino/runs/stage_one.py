"""How a training of stage I starts, and what it leaves.

``train_dino.py`` and ``train_adapt.py`` share it; its starts are those of
``train_speaker_with_dino.py``, too.
"""

from speechbrain_cadino.encoders.load import start_from_encoder
from speechbrain_cadino.runs.finish import finish
from speechbrain_cadino.runs.training import start_from
from speechbrain_cadino.training.plots import plot_training

STARTS = {"start_encoder": (start_from_encoder, "embedding_model")}


def start(hparams):
    """Loads weights to start from: the teacher is a copy of the student.

    Arguments
    ---------
    hparams : dict
        See ``start_from``, and ``student`` and ``teacher``.
    """
    start_from(hparams, STARTS)
    student, teacher = hparams["student"], hparams["teacher"]
    teacher.network.load_state_dict(student.state_dict())


def report(brain, hparams):
    """Exports the teacher, or the mean of the last ones, compares it with the
    baselines, draws the plot.

    Arguments
    ---------
    brain : DINOBrain
        The Brain, trained.
    hparams : dict
        The hyperparameters of the training.
    """
    weights = "the teacher, which follows the student"
    last_epochs = hparams.get("last_epochs")
    if last_epochs is not None:
        last_epochs.average(brain.network.encoder, len(brain.record.rows))
        if last_epochs.count > 1:
            weights = "the mean of the teachers of the last epochs"
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
