"""A training of any kind: its data, its Brain, what it leaves at its end."""

import pathlib

from speechbrain.processing.features import STFT
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.settings import HARMLESS, LIMIT
from speechbrain_cadino.config.starts import CENTROIDS
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.dataio.names import paths_of
from speechbrain_cadino.encoders.load import (
    start_from_encoder,
    start_from_file,
)
from speechbrain_cadino.prepare.inputs import check_folders
from speechbrain_cadino.process.memory import keep_freed_memory
from speechbrain_cadino.process.ranks import LONG_PATIENCE, patience
from speechbrain_cadino.runs.finish import check_exportable, read_labelled
from speechbrain_cadino.runs.open_run import load_run
from speechbrain_cadino.training.checkpoints import has_checkpoint
from speechbrain_cadino.training.partial import train_only
from speechbrain_cadino.verification.evaluate import TrialEvaluator

logger = get_logger(__name__)

# For each key of a YAML file that may name weights to start from, the function
# that copies them, and the key of the module that gets them
STARTS = {
    "start_encoder": (start_from_encoder, "embedding_model"),
    "start_classifier": (start_from_file, "classifier"),
    "start_face_encoder": (start_from_encoder, "face_embedding_model"),
}


def start_from(hparams):
    """Loads the weights that a training starts from, and fixes those that it
    leaves as they are.

    Arguments
    ---------
    hparams : dict
        The hyperparameters: ``embedding_model``, and optionally ``train_only``
        and the keys of ``STARTS``.
    """
    for source, (load, module) in STARTS.items():
        if hparams.get(source) not in (None, CENTROIDS):
            load(hparams[module], hparams[source])
    train_only(hparams["embedding_model"], hparams.get("train_only"))


def train(
    hparams_file,
    run_opts,
    overrides,
    brain_class,
    report,
    start=start_from,
    evaluators=("evaluator",),
    harmless=HARMLESS | {LIMIT},
):
    """Prepares, trains, and reports, unless it only debugs.

    The YAML file is to have ``prepare``, ``train_data``, ``modules``,
    ``opt_class``, ``checkpointer``, ``epoch_counter``, ``dataloader_options``,
    and what the Brain asks for.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``.
    run_opts : dict
        The run options of ``parse_arguments``.
    overrides : str
        The overrides of ``parse_arguments``.
    brain_class : callable
        The class of the Brain; ``brain`` in the YAML file has the last word.
    report : callable
        The function of the trained Brain and the hyperparameters that writes
        what is left; the main process calls it.
    start : callable
        The function of the hyperparameters that loads weights to start from.
    evaluators : list of str
        The keys of the trial lists, read once the data are prepared.
    harmless : set of str
        See ``open_run``.
    """
    # One run at a time in the output folder, always of the same settings
    hparams = load_run(hparams_file, run_opts, overrides, harmless=harmless)

    # What could not be trained or exported shows before the work
    _check_windows(hparams)
    _check_schedule(hparams)
    check_exportable(hparams)

    # Dataset prep (folders of audio, noises and rooms to CSV manifests)
    with patience(LONG_PATIENCE):
        run_on_main(_prepare, args=[hparams])

    # Dataset of crops, read from the manifest
    train_data = hparams["train_data"]()

    # Trials, to follow the EER; mistakes in the list show before training. One
    # process reads the headers of their files, which may be many
    for name in evaluators:
        hparams[name] = run_on_main(hparams[name])

    # The EER of speakers that are trained on would look too good for hours
    run_on_main(_warn_of_tested, args=[hparams])

    # Weights to start from
    start(hparams)

    # Brain and training
    keep_freed_memory()
    brain = hparams.get("brain", brain_class)(
        modules=hparams["modules"],
        opt_class=hparams["opt_class"],
        hparams=hparams,
        run_opts=run_opts,
        checkpointer=hparams["checkpointer"],
    )
    brain.fit(
        hparams["epoch_counter"],
        train_data,
        train_loader_kwargs=hparams["dataloader_options"],
    )

    # Encoder folder, plots and verification
    if not brain.debug:
        with patience(LONG_PATIENCE):
            run_on_main(report, args=[brain, hparams])


def _check_schedule(hparams):
    """Raises if the learning rate is no function of the position alone; a Brain
    of one's own may have none."""
    schedule = hparams.get("lr_schedule")
    if schedule is None:
        return
    try:
        float(schedule(0.0))
    except (AttributeError, TypeError) as error:
        raise ValueError(
            "lr_schedule: give a function from the position in epochs to the "
            "learning rate, such as CosineSchedule; SpeechBrain's schedulers "
            f"take other arguments. ({error})"
        ) from error


def _check_windows(hparams):
    """Raises if features have a window that their FFT does not hold."""
    for network in hparams["modules"].values():
        for stft in network.modules():
            if isinstance(stft, STFT) and stft.win_length > stft.n_fft:
                raise ValueError(
                    f"The window of compute_features, {stft.win_length} "
                    f"samples at {stft.sample_rate} Hz, is longer than its "
                    f"n_fft, {stft.n_fft}: leave sample_rate at 16000, files "
                    "of any rate are resampled, or give compute_features an "
                    f"n_fft of {stft.win_length}."
                )


def _prepare(hparams):
    """Writes the manifests. A training that goes on keeps those that it began
    with: recordings may have come since."""
    begun = has_checkpoint(hparams["checkpointer"].checkpoints_dir)
    if begun and pathlib.Path(hparams["train_manifest"]).is_file():
        logger.info("The training goes on with its manifests as they are.")
        return
    # Before the corpus is converted
    for key in ("noise_folder", "rir_folder"):
        check_folders(hparams.get(key), content="noise", key=key)
    if hparams.get("trials") is not None:
        made = paths_of(hparams["data_folder"])  # maybe only now, as the demo's
        for folder in paths_of(hparams.get("trials_folder")):
            if folder not in made:
                check_folders(folder, "test recordings", "trials_folder")
    for prepare in hparams["prepare"]:
        prepare()


def _warn_of_tested(hparams):
    """Warns if a trial list has speakers of the manifest: only what the recipe
    prepares itself is without them."""
    trials = hparams.get("evaluator")
    if isinstance(trials, TrialEvaluator):
        table = read_manifest(hparams["train_manifest"], hparams["data_folder"])
        trials.overlap(table, read_labelled(hparams))
