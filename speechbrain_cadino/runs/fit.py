"""The training within a run: a Brain of its hyperparameters, and its epochs."""

from speechbrain_cadino.process.memory import keep_freed_memory


def fit(brain_class, hparams, run_opts, train_data):
    """Makes a Brain and trains it.

    Arguments
    ---------
    brain_class : callable
        The class of the Brain.
    hparams : dict
        The hyperparameters: ``modules``, ``opt_class``, ``checkpointer``,
        ``epoch_counter``, ``dataloader_options``, and what the Brain asks for.
    run_opts : dict
        As SpeechBrain's.
    train_data : torch.utils.data.Dataset
        The training set.

    Returns
    -------
    speechbrain.Brain
        Trained.
    """
    keep_freed_memory()
    brain = brain_class(
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
    return brain
