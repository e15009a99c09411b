"""Training that starts from any SpeechBrain encoder, whatever its features."""

import pathlib

import torch
from ruamel.yaml import YAML

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.overlays import (
    allow_own_classes,
    change_overrides,
    dump_yaml,
)
from speechbrain_cadino.config.settings import parse, resolved_text
from speechbrain_cadino.config.starts import check_starts
from speechbrain_cadino.encoders.export import OURS, STOCK, read_entries
from speechbrain_cadino.encoders.load import (
    as_embedder,
    check_kind,
    encoder_hyperparams,
    load_classifier,
    with_weights,
)

logger = get_logger(__name__)

# What makes an embedding of a waveform at the right rate
FEATURES = ["compute_features", "mean_var_norm"]
ENTRIES = [*FEATURES, "embedding_model"]


def adopt_encoder(hparams_file, overrides):
    """Makes a training's YAML file describe the encoder that it starts from.

    Where ``start_encoder`` is given, ``compute_features``, ``mean_var_norm``
    and ``embedding_model`` become those of its own ``hyperparams.yaml``, and
    ``emb_dim`` the size of its embeddings. Keys that nothing refers to any
    longer, such as ``channels``, are removed, from the flags too. Weights are
    for ``start_from_encoder`` to copy.

    Arguments
    ---------
    hparams_file : str
        The YAML file of ``parse_arguments``. It is rewritten where it lies.
    overrides : str
        The overrides of ``parse_arguments``.

    Returns
    -------
    str
        The overrides that are left.

    Raises
    ------
    FileNotFoundError
        If there is no such encoder.
    ValueError
        If it is no encoder, is for audio at another rate, or has features
        with trained values of their own; or see ``config.starts.check_starts``.

    Example
    -------
    >>> path = getfixture("tmp_path") / "train.yaml"
    >>> _ = path.write_text("start_encoder: null\\n")
    >>> adopt_encoder(path, "seed: 1")
    'seed: 1'
    """
    resolved = parse(resolved_text(hparams_file, overrides))
    check_starts(resolved)
    source = resolved.get("start_encoder")
    if source is None:
        return overrides
    allow_own_classes()
    encoder = load_classifier(source, "cpu")
    _check(encoder, source, resolved["sample_rate"])

    settings = YAML().load(pathlib.Path(hparams_file))
    before = dump_yaml({name: settings[name] for name in ENTRIES})
    own = read_entries(encoder_hyperparams(source), ENTRIES, "modules")
    # The same network, computed faster
    settings.update(YAML().load(own.replace(STOCK, OURS)))
    # A second of audio, or a frame
    probe = torch.zeros(1, resolved["sample_rate"])
    if "reader" in resolved:
        probe = torch.zeros(1, 1, 3, 64, 64)
    settings["emb_dim"] = encoder.encode_batch(probe).shape[-1]
    unused = _remove_unused(settings, before)
    YAML().dump(settings, pathlib.Path(hparams_file))

    taken = [*unused, "emb_dim"]
    given = [key for key in taken if key in (YAML().load(overrides) or {})]
    if given:
        logger.warning(
            f"{', '.join(given)}: not used, {source} has features and sizes "
            "of its own."
        )
    return change_overrides(overrides, without=given)


def _remove_unused(settings, before):
    """Removes keys that entries which are gone referred to, and those that
    these referred to in turn; returns them."""
    removed = []
    while True:
        after = dump_yaml(settings)
        unused = [
            key
            for key in settings
            if f"<{key}>" in before and f"<{key}>" not in after
        ]
        if not unused:
            return removed
        before += dump_yaml({key: settings.pop(key) for key in unused})
        removed += unused


def _check(encoder, source, sample_rate):
    """Raises if a training here cannot take over an encoder's features."""
    rate = encoder.audio_normalizer.sample_rate
    # A training of faces counts frames
    kind = "faces" if sample_rate == 1 else "voices"
    check_kind(as_embedder(encoder, source=source), kind)
    if rate != sample_rate:
        raise ValueError(
            f"{source} is for audio at {rate} Hz, and sample_rate is "
            f"{sample_rate}. Start from another encoder, or give "
            f"--sample_rate={rate} and a manifest whose start and stop count "
            "in that rate."
        )
    trained = with_weights(encoder, FEATURES)
    if trained:
        raise ValueError(
            f"{source} has a {next(iter(trained))} with trained values, which "
            "training would not keep. Start from an encoder whose features are "
            "only computed, such as one that normalises each sentence."
        )
