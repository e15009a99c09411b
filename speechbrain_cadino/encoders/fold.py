"""A linear map of embeddings, folded into the last layer of an encoder."""

import pathlib
import shutil

import torch

from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook
from speechbrain_cadino.encoders.calibration import forget_calibration
from speechbrain_cadino.encoders.card import forget_figures
from speechbrain_cadino.encoders.load import load_classifier
from speechbrain_cadino.process.files import atomic_folder


def fold_linear(source, layer, folder):
    """Writes an encoder folder whose embeddings are those of another after a
    linear map. Its parts and sizes are the same, so whatever loads the one
    loads the other.

    Arguments
    ---------
    source : str or pathlib.Path
        The encoder folder. Its ``calibration.json`` is left out: scores mean
        something else afterwards.
    layer : torch.nn.Linear
        The map, from D to D dimensions, such as ``RecordingLDA.linear()``.
    folder : str or pathlib.Path
        The folder to write.

    Raises
    ------
    ValueError
        If the last layer of the encoder is not linear with a bias, the map
        changes the number of dimensions, or source is no folder.
    """
    if not pathlib.Path(source).is_dir():
        raise ValueError(f"{source} is no folder: give an encoder folder.")
    encoder = load_classifier(source, "cpu")
    model = encoder.mods.embedding_model
    last = _last_linear(encoder)
    if last is None or last.bias is None:
        raise ValueError(
            f"The last layer of {source} is not linear with a bias, so nothing "
            "can be folded into it."
        )
    if tuple(layer.weight.shape) != (len(last.weight),) * 2:
        raise ValueError(
            f"A map from {layer.in_features} to {layer.out_features} "
            f"dimensions does not fit embeddings of {len(last.weight)}."
        )
    with torch.no_grad():
        weight = layer.weight.double()
        flat = weight @ last.weight.double().flatten(1)
        bias = weight @ last.bias.double() + layer.bias.double()
        last.weight.copy_(flat.view_as(last.weight))
        last.bias.copy_(bias)
    parts = {"embedding_model": model}
    norm = getattr(encoder.hparams, "mean_var_norm_emb", None)
    if norm is not None and norm.count:
        mean = layer(norm.glob_mean.float().view(-1))
        norm.glob_mean = mean.view_as(norm.glob_mean).detach()
        parts["mean_var_norm_emb"] = norm
    with atomic_folder(folder) as temporary:
        for path in pathlib.Path(source).iterdir():
            if path.is_file():
                shutil.copyfile(path, temporary / path.name)
        forget_calibration(temporary)
        forget_figures(
            temporary,
            "Not evaluated since a linear map was folded into its last layer.",
        )
        for name, module in parts.items():
            save = get_default_hook(module, DEFAULT_SAVE_HOOKS)
            save(module, temporary / f"{name}.ckpt")


def _last_linear(encoder):
    """The layer whose output is the embedding; None if there is none."""
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
    return module if one and same else None
