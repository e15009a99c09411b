"""The encoder folder: a trained encoder that stock SpeechBrain loads."""

import io
import os
import pathlib
import re

import torch
from ruamel.yaml import YAML

from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import DEFAULT_SAVE_HOOKS, get_default_hook
from speechbrain_cadino.config.settings import (
    own_modules,
    parse,
    resolved_text,
)
from speechbrain_cadino.process.files import (
    atomic_folder,
    is_temporary,
    read_text,
)
from speechbrain_cadino.process.outputs import holds_something

# What makes an embedding of a waveform, in SpeechBrain's names.
ENTRIES = ["sample_rate", "compute_features", "mean_var_norm"]
ENTRIES += ["embedding_model"]

# Our ECAPA-TDNN only computes the same faster: strangers get SpeechBrain's.
OURS = "!new:speechbrain_cadino.lobes.ecapa.ECAPA_TDNN"
STOCK = "!new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN"

# What an encoder folder has besides its ``.ckpt`` files
WRITTEN = {"hyperparams.yaml", "calibration.json", "README.md"}

# What the hyperparams.yaml of an encoder has, and that of a run has not
ENCODER = re.compile("^pretrainer:", re.MULTILINE)

# Entries of the mean that SpeechBrain 1.0 looks for, and later ones pass over
OF_SPEAKERS = {f"spk_dict_{name}": {} for name in ("mean", "std", "count")}

# Only an encoder of faces has it: what opens a file, see Embedder
READER = "reader"

HEADER = """\
# A speaker encoder trained by speechbrain_cadino. Only SpeechBrain is needed
# to load it:
#
#     from speechbrain.inference.speaker import SpeakerRecognition
#     encoder = SpeakerRecognition.from_hparams(source="this folder")
#     score, _ = encoder.verify_files("one.wav", "other.wav")
# README.md beside this file tells what it was trained on, and whose weights
# these are, such as the teacher's.
"""

OWN_HEADER = """\
# A speaker encoder trained by speechbrain_cadino. It has a class of its own:
# who loads it needs SpeechBrain, and {files} on the import path.
"""

FACES_HEADER = """\
# An encoder of faces trained by speechbrain_cadino, which is needed to load it:
#
#     from speechbrain_cadino.encoders.load import load_encoder
#     encoder = load_encoder("this folder")
#     with encoder.reader("folder of frames") as track:
#         embedding = encoder.encode_batch(track.read()[None])
"""

# mean_var_norm_emb holds the mean embedding of the training set, which
# encode_batch(wavs, normalize=True) subtracts. EncoderClassifier names a
# classifier among its modules; an encoder folder of ours has none.
REST = """\

audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
  sample_rate: !ref <sample_rate>
mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
  norm_type: global
  std_norm: false
classifier: !new:torch.nn.Identity

modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>
  mean_var_norm_emb: !ref <mean_var_norm_emb>
  classifier: !ref <classifier>

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables:
"""


def check_replaceable(folder):
    """Raises if a folder holds anything but an encoder that was written by this
    package: another is to take its place as a whole.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder; none or an empty one is fine.

    Raises
    ------
    ValueError
        If something would be lost.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> check_replaceable(folder)
    >>> _ = (folder / "thesis.txt").write_text("...")
    >>> check_replaceable(folder)
    Traceback (most recent call last):
    ...
    ValueError: ... holds other things than an encoder of speechbrain_cadino...
    """
    if os.path.ismount(os.path.realpath(folder)):
        raise ValueError(
            f"{folder} is where a disk is mounted, which no folder can "
            "replace: give one below it."
        )
    if not holds_something(folder):
        return
    folder = pathlib.Path(folder)
    what = "other things than an encoder of speechbrain_cadino"
    told = [folder / name for name in ["hyperparams.yaml", "README.md"]]
    if any(
        "speechbrain_cadino"
        in path.read_text(encoding="utf-8", errors="replace")
        for path in told
        if path.is_file()
    ):
        others = sorted(
            path.name for path in folder.iterdir() if not _is_ours(path)
        )
        if not others:
            return
        what = f"{others[0]} beside an encoder"
    raise ValueError(
        f"{folder} holds {what}, and would be replaced as a whole by another "
        "one: give another folder."
    )


def _is_ours(path):
    """Whether a file in an encoder folder may be lost; those that macOS leaves
    in any folder may, too, what is locked on NFS, and what a killed process has
    not finished."""
    ours = path.name in {*WRITTEN, ".lock"} or path.suffix == ".ckpt"
    left = path.name == ".DS_Store" or path.name.startswith("._")
    return path.is_file() and (ours or left or bool(is_temporary(path.name)))


def check_no_encoder(folder):
    """Raises if a folder is that of an encoder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of some results.

    Raises
    ------
    ValueError
        If so.
    """
    path = pathlib.Path(folder, "hyperparams.yaml")
    if path.is_file() and ENCODER.search(read_text(path, "replace")):
        raise ValueError(
            f"{folder} is the folder of an encoder, whose files would be "
            "replaced: give another output folder."
        )


def kind_of(folder):
    """What an encoder folder is an encoder of.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.

    Returns
    -------
    str
        "faces", "frames" or "voices".

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("sample_rate: 16000")
    >>> kind_of(folder)
    'voices'
    """
    text = "\n" + pathlib.Path(folder, "hyperparams.yaml").read_text("utf-8")
    if f"\n{READER}:" in text:
        return "faces"
    return "frames" if "\nfront_end:" in text else "voices"


def export_encoder(
    folder, hyperparams_file, modules, mean_embedding, section=None
):
    """Writes the encoder folder.

    ``EncoderClassifier.from_hparams(source=folder)`` and
    ``SpeakerRecognition.from_hparams(source=folder)`` load it, also where
    this package is not installed. An encoder of ours that is there is replaced
    as a whole. Only an encoder of faces, whose run has a ``reader``, needs this
    package.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder to write.
    hyperparams_file : str or pathlib.Path
        The resolved ``hyperparams.yaml`` of the training run. Its entries
        ``sample_rate``, ``compute_features``, ``mean_var_norm`` and
        ``embedding_model`` are taken over.
    modules : dict
        The trained modules by the names of these entries:
        ``embedding_model``, and others that have a state to load.
    mean_embedding : array_like or None
        Shape (D,): the mean embedding of the training set, if anybody knows it.
    section : str, optional
        The entry that holds these entries, such as a Branch; by default they
        are at the top.

    Raises
    ------
    ValueError
        If an entry is missing or needs this package to be loaded, or something
        else is in the folder: see ``check_replaceable``.

    Example
    -------
    >>> tmp_path = getfixture("tmp_path")
    >>> _ = (tmp_path / "hyperparams.yaml").write_text(
    ...     '''
    ... sample_rate: 16000
    ... compute_features: !new:speechbrain.lobes.features.Fbank
    ...   n_mels: 8
    ... mean_var_norm: !new:torch.nn.Identity
    ... embedding_model: !new:torch.nn.Linear
    ...   in_features: 8
    ...   out_features: 4
    ... '''
    ... )
    >>> export_encoder(
    ...     tmp_path / "encoder",
    ...     tmp_path / "hyperparams.yaml",
    ...     {"embedding_model": torch.nn.Linear(8, 4)},
    ...     torch.zeros(4),
    ... )
    >>> sorted(file.name for file in (tmp_path / "encoder").iterdir())
    ['embedding_model.ckpt', 'hyperparams.yaml', 'mean_var_norm_emb.ckpt']
    """
    norm = InputNormalization(norm_type="global", std_norm=False)
    known = mean_embedding is not None
    mean = mean_embedding if known else torch.zeros(1)  # subtracts nothing
    norm.count = int(known)
    norm.glob_mean = torch.as_tensor(mean, dtype=torch.float32).cpu()
    norm.glob_std = torch.ones_like(norm.glob_mean)
    loadables = {**modules, "mean_var_norm_emb": norm}
    text = _entries(hyperparams_file, section) + REST
    text += "".join(f"    {name}: !ref <{name}>\n" for name in loadables)
    check_replaceable(folder)
    with atomic_folder(folder) as temporary:
        (temporary / "hyperparams.yaml").write_text(text, encoding="utf-8")
        for name, module in loadables.items():
            save = get_default_hook(module, DEFAULT_SAVE_HOOKS)
            save(module, temporary / f"{name}.ckpt")
        path = temporary / "mean_var_norm_emb.ckpt"
        torch.save({**torch.load(path), **OF_SPEAKERS}, path)


def check_entries(hyperparams_file, section=None):
    """Raises if ``export_encoder`` would not take the entries of a YAML file.

    Arguments
    ---------
    hyperparams_file : str or pathlib.Path
        The YAML file: see ``export_encoder``, also for the errors.
    section : str, optional
        The entry of the YAML file that holds them, if they are not at its top.
    """
    _entries(hyperparams_file, section)


def _entries(hyperparams_file, section):
    """The text of the entries that make an embedding, and what it says of
    them above."""
    settings = parse(read_text(hyperparams_file))
    if READER in (settings if section is None else settings.get(section, {})):
        names = [*ENTRIES, READER]
        return FACES_HEADER + read_entries(hyperparams_file, names, section)
    text = read_entries(hyperparams_file, ENTRIES, section)
    text = text.replace(OURS, STOCK)
    if "speechbrain_cadino" in text:
        raise ValueError(
            f"{hyperparams_file}: an entry among {', '.join(ENTRIES)} names a "
            "class of speechbrain_cadino, which the users of the encoder may "
            "not have. Use a class of SpeechBrain or of PyTorch there."
        )
    own = own_modules(parse(text))
    return (OWN_HEADER.format(files=", ".join(own)) if own else HEADER) + text


def read_entries(path, names, section=None):
    """The text of some entries of a YAML file, able to stand alone.

    References are resolved, comments stay behind. Nothing is built.

    Arguments
    ---------
    path : str or pathlib.Path
        The YAML file.
    names : list of str
        The entries, in the order wanted.
    section : str, optional
        The entry that holds them; by default they are at the top.

    Returns
    -------
    str
        The YAML text of these entries, in that order.

    Raises
    ------
    ValueError
        If an entry is missing.

    Example
    -------
    >>> path = getfixture("tmp_path") / "hyperparams.yaml"
    >>> _ = path.write_text(
    ...     "size: 8 # units\\nmodel: !new:torch.nn.Identity {in: !ref <size>}"
    ... )
    >>> print(read_entries(path, ["model"]).strip())
    model: !new:torch.nn.Identity {in: 8}
    """
    # Nodes, not objects: anchors shared with the rest of the file are written
    # out where they are needed.
    yaml = YAML(typ="safe", pure=True)
    root = yaml.compose(resolved_text(path))
    found = {key.value: (key, value) for key, value in root.value}
    if section is not None:
        if section not in found:
            raise ValueError(
                f"{path} has no entry {section}: a Branch is to be called as "
                "its entry in the YAML file."
            )
        _, node = found[section]
        found = {key.value: (key, value) for key, value in node.value}
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(
            f"{path} has no entry {', '.join(missing)}: an encoder is made of "
            f"all of {', '.join(names)}."
        )
    root.value = [found[name] for name in names]
    stream = io.StringIO()
    yaml.serialize(root, stream)
    return stream.getvalue()
