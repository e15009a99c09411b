"""The folder of a trained encoder of frames, for stock SpeechBrain."""

import io

import torch
from ruamel.yaml import YAML

from speechbrain_cadino.config.settings import own_modules
from speechbrain_cadino.encoders.export import check_replaceable, read_entries
from speechbrain_cadino.process.files import atomic_folder

# Of an encoder of frames: from signals to latents, and what is above
FRAME_ENTRIES = ["sample_rate", "front_end", "transformer"]

FRAMES_HEADER = """\
# An encoder of frames of speech trained by speechbrain_cadino. To load it,
# {needed}:
#
#     from speechbrain.inference.encoders import WaveformEncoder
#     encoder = WaveformEncoder.from_hparams(source="this folder")
#     frames = encoder.encode_batch(wavs, wav_lens)  # (batch, frames, size)
"""

WRAPPER = "speechbrain.lobes.models.transformer.TransformerASR.EncoderWrapper"

FRAMES_REST = f"""\

audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
  sample_rate: !ref <sample_rate>

encoder: !new:speechbrain.nnet.containers.LengthsCapableSequential
  front_end: !ref <front_end>
  context: !new:{WRAPPER}
    transformer: !ref <transformer>

modules:
  encoder: !ref <encoder>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
    front_end: !ref <front_end>
    transformer: !ref <transformer>
"""


def export_frame_encoder(
    folder, hyperparams_file, front_end, transformer, layer
):
    """Writes the folder of an encoder of frames, for stock SpeechBrain's
    ``WaveformEncoder``. One that is there is replaced as a whole.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write.
    hyperparams_file : str or pathlib.Path
        The resolved ``hyperparams.yaml`` of the training run. Its entries
        ``sample_rate``, ``front_end`` and ``transformer`` are taken over.
    front_end : torch.nn.Module
        The trained front end.
    transformer : TransformerASR
        The trained transformer.
    layer : int, optional
        The layer whose frames are given, counted from 1; those above are left
        out. The last one by default; of another one, each frame is given with
        mean 0 and variance 1, as SpeechBrain's Transformer ends in a norm.

    Raises
    ------
    ValueError
        If an entry is missing or names a class of this package, there is no
        such layer, or something else is in the folder.
    """
    depth = len(transformer.encoder.layers)
    layer = exported_layer(transformer, layer)
    entries = frame_entries(hyperparams_file)
    state = transformer.state_dict()
    if layer < depth:
        # The norm at the end is of the last layer
        state = {
            name: _reset(name, value) if _is_end_norm(name) else value
            for name, value in state.items()
            if not _is_above(name, layer)
        }
    entries["transformer"]["num_encoder_layers"] = layer
    own = ", ".join(own_modules(entries))
    # Older ones do not hand the lengths on to the transformer
    needed = "only SpeechBrain 1.1.1 or newer is needed"
    if own:
        needed = f"SpeechBrain is needed, and {own} on the import path"
    stream = io.StringIO()
    YAML().dump(entries, stream)
    text = FRAMES_HEADER.format(needed=needed) + stream.getvalue() + FRAMES_REST
    check_replaceable(folder)
    with atomic_folder(folder) as temporary:
        (temporary / "hyperparams.yaml").write_text(text, encoding="utf-8")
        torch.save(front_end.state_dict(), temporary / "front_end.ckpt")
        torch.save(state, temporary / "transformer.ckpt")


def frame_entries(hyperparams_file):
    """What an encoder of frames is made of.

    Arguments
    ---------
    hyperparams_file : str or pathlib.Path
        See ``export_frame_encoder``, also for the errors.

    Returns
    -------
    dict
        The entries of ``FRAME_ENTRIES``, as ``YAML().load`` gives them.
    """
    text = read_entries(hyperparams_file, FRAME_ENTRIES)
    if "speechbrain_cadino" in text:
        raise ValueError(
            f"{hyperparams_file}: front_end or transformer names a class of "
            "speechbrain_cadino, which the users of the encoder may not have. "
            "Use a class of SpeechBrain or of PyTorch there."
        )
    return YAML().load(text)


def exported_layer(transformer, layer=None):
    """Which layer's frames are given.

    Arguments
    ---------
    transformer : TransformerASR
        The trained transformer. See ``export_frame_encoder``.
    layer : int, optional
        The layer whose frames are given, counted from 1; by default the last.

    Returns
    -------
    int
        The layer, counted from 1.

    Raises
    ------
    ValueError
        If there is no such layer.
    """
    depth = len(transformer.encoder.layers)
    layer = depth if layer is None else layer
    if not isinstance(layer, int) or not 1 <= layer <= depth:
        raise ValueError(f"export_layer={layer}: give 1 to {depth}.")
    return layer


def _is_above(name, layer):
    """Whether a parameter is of a layer above."""
    parts = name.split(".")
    return parts[:2] == ["encoder", "layers"] and int(parts[2]) >= layer


def _is_end_norm(name):
    """Whether a parameter is of the norm after the last layer."""
    return name.startswith("encoder.norm.")


def _reset(name, value):
    """The norm as it is before any training."""
    fill = torch.ones_like if name.endswith("weight") else torch.zeros_like
    return fill(value)
