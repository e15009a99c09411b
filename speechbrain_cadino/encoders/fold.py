"""A linear map of embeddings, folded into the last layer of an encoder."""

import pathlib
import tempfile

import torch

from speechbrain_cadino.encoders.calibration import forget_calibration
from speechbrain_cadino.encoders.card import CARD, follow_card
from speechbrain_cadino.encoders.export import (
    ENTRIES,
    READER,
    check_replaceable,
    export_encoder,
    read_entries,
)
from speechbrain_cadino.encoders.load import (
    checked_copy,
    encoder_hyperparams,
    load_classifier,
    with_weights,
)
from speechbrain_cadino.process.files import atomic_folder, write_text


def fold_linear(source, layer, folder, mean=None, trusted=True):
    """Writes an encoder folder whose embeddings are those of another after a
    linear map. Its networks have the same sizes.

    The folder needs none but itself, also where the other is of the hub, and
    has a model card without figures, and no calibration: scores mean something
    else than before. A classifier of the other stays behind.

    Arguments
    ---------
    source : str or pathlib.Path
        The encoder: a folder or a hub id.
    layer : torch.nn.Linear
        The map, from D to D dimensions, such as ``LinearMap.linear()``.
    folder : str or pathlib.Path
        The folder to write.
    mean : numpy.ndarray, optional
        Shape (D,): the mean embedding, before the map, of the recordings that
        it is for. That of the encoder by default.
    trusted : bool
        See ``load_encoder``.

    Raises
    ------
    ValueError
        If the last layer of the encoder is not linear with a bias, the map
        changes the number of dimensions, or something else is in the folder.
    """
    check_replaceable(folder)
    if not trusted:
        with checked_copy(source, CARD) as copy:
            return fold_linear(copy, layer, folder, mean)
    encoder = load_classifier(source, "cpu")
    last = last_linear(encoder, source)
    if tuple(layer.weight.shape) != (len(last.weight),) * 2:
        raise ValueError(
            f"A map from {layer.in_features} to {layer.out_features} "
            f"dimensions does not fit embeddings of {len(last.weight)}."
        )
    with torch.no_grad():
        weight = layer.weight.double()
        flat = weight @ last.weight.double().flatten(1)
        bias = weight @ last.bias.double()
        if layer.bias is not None:
            bias += layer.bias.double()
        last.weight.copy_(flat.view_as(last.weight))
        last.bias.copy_(bias)
        norm = getattr(encoder.hparams, "mean_var_norm_emb", None)
        if mean is None and norm is not None and norm.count:
            mean = norm.glob_mean
        if mean is None:
            mean = torch.zeros(len(last.bias))
        mean = torch.as_tensor(mean, dtype=layer.weight.dtype).view(-1)
        mean = layer(mean).float()
    parts = with_weights(encoder, ENTRIES)
    if "embedding_model" not in parts:
        raise ValueError(
            f"{source} does not load its embedding_model by itself: write an "
            "encoder folder whose pretrainer has it among its loadables."
        )
    rate = encoder.audio_normalizer.sample_rate
    with tempfile.TemporaryDirectory() as place:
        described = pathlib.Path(place, "hyperparams.yaml")
        write_text(described, _description(source, rate))
        with atomic_folder(folder) as temporary:
            export_encoder(temporary, described, parts, mean)
            follow_card(source, temporary, rate)
            forget_calibration(temporary)


def _description(source, rate):
    """The entries that ``export_encoder`` takes over."""
    path = encoder_hyperparams(source)
    text = f"sample_rate: {rate}\n"
    text += read_entries(path, ENTRIES[1:], "modules")
    try:
        return text + read_entries(path, [READER])
    except ValueError:  # not of faces
        return text


def last_linear(encoder, source):
    """The layer whose output is the embedding.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder.
    source : str or pathlib.Path
        The folder or hub id of the encoder, for the error.

    Returns
    -------
    torch.nn.Linear or torch.nn.Conv1d
        The layer, which has a bias.

    Raises
    ------
    ValueError
        If there is none.
    """
    outputs = []

    def keep(module, inputs, output):
        outputs.append((module, output.flatten()))

    kinds = (torch.nn.Linear, torch.nn.Conv1d)
    hooks = [
        module.register_forward_hook(keep)
        for module in encoder.mods.embedding_model.modules()
        if isinstance(module, kinds)
    ]
    with torch.no_grad():
        noise = torch.randn(1, 16000, generator=torch.Generator())
        embedding = encoder.encode_batch(noise).flatten()
    for hook in hooks:
        hook.remove()
    module, output = outputs[-1] if outputs else (None, embedding[:0])
    # A convolution over one frame, or a layer on the embedding
    one = getattr(module, "kernel_size", (1,)) == (1,)
    same = output.shape == embedding.shape and torch.allclose(output, embedding)
    if not (one and same) or module.bias is None:
        raise ValueError(
            f"The last layer of {source} is not linear with a bias, so nothing "
            "can be folded into it. Verification can map its embeddings all "
            "the same: see back_ends of verify.py."
        )
    return module
