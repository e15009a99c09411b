"""A training of stage I, from its settings to its encoder folder.

``train_dino.py`` and ``train_adapt.py`` share it.
"""

from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.encoders.load import start_from_encoder
from speechbrain_cadino.runs.finish import finish
from speechbrain_cadino.runs.fit import fit
from speechbrain_cadino.runs.open_run import load_run
from speechbrain_cadino.training.partial import train_only
from speechbrain_cadino.training.plots import plot_training


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
    if hparams.get("last_epochs") is not None:
        hparams["last_epochs"].average(brain.network.encoder)
    finish(brain.embedder(), hparams, brain.device, baselines=True)
    plot_training(
        brain.record.rows,
        f"{hparams['output_folder']}/plots/training.png",
        hparams["objective"],
    )


def train(hparams_file, run_opts, overrides, brain_class):
    """Prepares, trains, exports and verifies.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``, as for the next two.
    run_opts : dict
    overrides : str
    brain_class : type
        DINOBrain, or another one with a student and a teacher.
    """
    # One run at a time in the output folder, of one mould
    hparams = load_run(hparams_file, run_opts, overrides)

    # Dataset prep (audio folders to CSV manifests)
    for prepare in hparams["prepare"]:
        run_on_main(prepare)

    # Dataset of crops, read from the manifest
    train_data = hparams["train_data"]()

    # Trials, to follow the EER; mistakes in the list show before training
    hparams["evaluator"] = hparams["evaluator"]()

    # Weights to start from: the teacher is a copy of the student
    if hparams.get("start_encoder") is not None:
        student, teacher = hparams["student"], hparams["teacher"]
        start_from_encoder(hparams["embedding_model"], hparams["start_encoder"])
        teacher.network.load_state_dict(student.state_dict())
    train_only(hparams["embedding_model"], hparams.get("train_only"))

    # Brain and training
    brain = fit(brain_class, hparams, run_opts, train_data)

    # Encoder folder, plot and verification
    if not (brain.debug or brain.test_only):
        run_on_main(report, args=[brain, hparams])
