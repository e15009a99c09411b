"""Loading encoders: folders, hub ids, and weights to start from."""

import contextlib
import importlib
import inspect
import os
import pathlib
import re
import sys
import tempfile
from pickle import UnpicklingError

import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from speechbrain.dataio.preprocess import AudioNormalizer
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import fetch
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.config.device import check_device, number_gpu
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.store import RECORD
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.encoders.trust import copy_known, within_limits

logger = get_logger(__name__)

HINT = (
    "Give an encoder folder (the folder encoder/ in the output folder of a "
    "training run) or a hub id."
)

STOCK = (
    " The encoder folder of a training by SpeechBrain's own recipes is made as "
    "the manual says in 'The encoder in stock SpeechBrain'."
)

# What encode_batch and from_hparams look up in an encoder's hyperparams.yaml.
NEEDED = [
    ("modules", "compute_features"),
    ("modules", "mean_var_norm"),
    ("modules", "embedding_model"),
    ("pretrainer", "loadables"),
]

# How the file begins that Git LFS leaves in the place of a large one
POINTER = b"version https://git-lfs"

# What sizes and names that make no sense, and arguments that a class does not
# know, raise
SENSELESS = (
    TypeError,
    AttributeError,
    KeyError,
    IndexError,
    NameError,
    AssertionError,
    ArithmeticError,
)

# Encoder folders of faces made before 0.2.0 name these.
OLD_NAMES = {
    "speechbrain_cadino.dataio.faces": "speechbrain_cadino.audio_visual.faces",
    "speechbrain_cadino.lobes.face_resnet": (
        "speechbrain_cadino.audio_visual.face_resnet"
    ),
}


def load_encoder(
    source=None, device=None, trusted=True, embeddings=None, **options
):
    """Loads an encoder through SpeechBrain's own interface.

    Nothing is linked or copied into the working folder: local files are read
    where they are, those of a hub stay in its cache.

    A ``hyperparams.yaml`` can name any function to call: to load the encoder of
    a stranger is to run the stranger's code. The weights beside it cannot.

    Arguments
    ---------
    source : str or pathlib.Path
        An encoder folder, or the id of a model on the Hugging Face hub; or a
        folder of embeddings, ``embeddings.npy`` and ``ids.txt``, to be looked
        up by the IDs.
    device : str or torch.device, optional
        The device, e.g. "cpu" or "cuda:0"; SpeechBrain's choice by default.
    trusted : bool
        Whether its YAML file may do anything. If not, the encoder is loaded
        only if it is made of well-known parts: see ``trust.copy_known``.
    embeddings : str or pathlib.Path, optional
        A folder of embeddings, in the place of an encoder.
    **options
        Further arguments of Embedder, such as ``batch_size``.

    Returns
    -------
    Embedder
        The encoder as an Embedder; its ``encoder`` is the EncoderClassifier,
        in eval mode. Of a folder of embeddings, StoredEmbeddings.

    Raises
    ------
    FileNotFoundError
        If the folder or a file in it is missing.
    ValueError
        If the folder holds something else than an encoder, one that is not
        trusted has a part that is not known, or there is neither an encoder
        nor embeddings.

    Example
    -------
    >>> load_encoder(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... has no hyperparams.yaml...
    """
    unknown = set(options) - set(inspect.signature(Embedder).parameters)
    if unknown:
        raise TypeError(f"An Embedder has no argument {sorted(unknown)}.")
    if embeddings is None and source and _holds_embeddings(source):
        embeddings = source
    if embeddings is not None:
        # Of a filter, which needs them, it is said there
        alone = not options.get("keep_segments")
        if options.get("segment_seconds") and alone:
            raise ValueError(
                "segment_seconds is of audio, and embeddings are as they are: "
                "leave it out, or give the encoder."
            )
        return StoredEmbeddings(embeddings, device=number_gpu(device))
    if source is None:
        raise ValueError(
            "Give encoder, an encoder folder or a hub id; or embeddings, a "
            "folder of embeddings.npy and ids.txt."
        )
    encoder = load_classifier(source, device, trusted)
    return as_embedder(encoder, source=source, **options)


def check_source(source):
    """Raises if there is no encoder, nor a folder of embeddings, before what
    takes long is done for it.

    Arguments
    ---------
    source : str or pathlib.Path
        See ``load_encoder``, as for the errors.

    Example
    -------
    >>> check_source(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... has no hyperparams.yaml...
    """
    if not _holds_embeddings(source):
        encoder_hyperparams(source)


def _holds_embeddings(folder):
    """Whether a folder is one of embeddings. That of extract.py has a
    hyperparams.yaml, too: the extraction's."""
    has = {
        name: pathlib.Path(folder, name).is_file()
        for name in ["embeddings.npy", RECORD, "hyperparams.yaml"]
    }
    return has["embeddings.npy"] and (
        has[RECORD] or not has["hyperparams.yaml"]
    )


def load_classifier(source, device=None, trusted=True):
    """The encoder itself, as SpeechBrain has it.

    Arguments
    ---------
    source : str or pathlib.Path
        The encoder: see ``load_encoder``, also for the errors.
    device : str or torch.device, optional
        The device that the encoder is on.
    trusted : bool
        Whether its folder may run code.

    Returns
    -------
    speechbrain.inference.classifiers.EncoderClassifier
        The encoder, in eval mode.
    """
    if not trusted:
        with checked_copy(source) as folder:
            return load_classifier(folder, device)
    path = encoder_hyperparams(source)
    _know_old_names(path)
    _check_weights(source)
    device = number_gpu(device)
    check_device(device)
    try:
        encoder = EncoderClassifier.from_hparams(
            source=str(source),
            overrides=_beside(source),
            run_opts={"device": device} if device else None,
        )
    # Weights that do not fit or are damaged, and what is no YAML
    except (RuntimeError, EOFError, UnpicklingError, YAMLError) as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from error
    except FileNotFoundError:
        raise
    # A file that was cut short
    except (*SENSELESS, OSError) as error:
        raise ValueError(f"{source} cannot be loaded: {error!r}") from error
    _set_rate(encoder)
    return encoder


def _beside(source):
    """Overrides for the copy of an encoder of a hub, whose hyperparams.yaml
    still names that: the weights beside it are taken, as they are called on the
    hub or, ``NAME.ckpt``, in a ``savedir`` of SpeechBrain."""
    folder = pathlib.Path(source).absolute()
    path = folder / "hyperparams.yaml"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    hub = re.search(r"^pretrained_path: *(\S+)", text, re.MULTILINE)
    if hub is None or pathlib.Path(hub[1]).exists():
        return {}
    named = r"^ +(\w+): *!ref <pretrained_path>/([\w.-]+)"
    found = {}
    for name, file in re.findall(named, text, re.MULTILINE):
        for path in (folder / file, folder / f"{name}.ckpt"):
            if path.is_file():
                found.setdefault(name, str(path))
    return {"pretrainer": {"paths": found}} if found else {}


def _set_rate(encoder):
    """Reads audio at the rate of an encoder's features, where SpeechBrain takes
    16 kHz: without an ``audio_normalizer`` in ``hyperparams.yaml``."""
    features = encoder.mods["compute_features"]
    rate = getattr(
        getattr(features, "compute_STFT", None),
        "sample_rate",
        getattr(encoder.hparams, "sample_rate", None),
    )
    if rate is not None and not hasattr(encoder.hparams, "audio_normalizer"):
        encoder.audio_normalizer = AudioNormalizer(sample_rate=int(rate))


def _check_weights(source):
    """Raises if weights in a folder have not been copied."""
    for path in sorted(pathlib.Path(source).glob("*.ckpt")):
        with open(path, "rb") as file:
            head = file.read(len(POINTER))
        if not head:
            raise ValueError(f"{path} is empty: copy the encoder again.")
        if head == POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS in the place of the weights: "
                "git lfs pull fetches them."
            )


@contextlib.contextmanager
def checked_copy(source, card=None):
    """A copy of an encoder folder that is not trusted, for a while: what was
    checked is what is read, see ``trust``.

    Arguments
    ---------
    source : str or pathlib.Path
        The folder, or a hub id; its name is in the place of the copy's in what
        is raised within the block.
    card : str, optional
        See ``copy_known``, also for the errors.

    Yields
    ------
    str
        The copy.
    """
    if not pathlib.Path(source, "hyperparams.yaml").exists():
        encoder_hyperparams(source)  # says what is missing
    with tempfile.TemporaryDirectory() as place:
        name = pathlib.Path(source).resolve().name or "encoder"
        folder = os.path.join(place, name)
        os.mkdir(folder)
        try:
            copy_known(source, folder, card)
            within_limits(lambda: load_classifier(folder, "cpu"), str(source))
            yield folder
        except (ValueError, FileNotFoundError) as error:
            sentence = str(error).replace(folder, str(source))
            raise type(error)(sentence) from error
        except SENSELESS as error:
            raise ValueError(f"{source} is no encoder: {error!r}.") from error


def as_embedder(encoder, **options):
    """An encoder of SpeechBrain as an Embedder.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder, in eval mode.
    **options
        Further arguments of Embedder.

    Returns
    -------
    Embedder
        The Embedder. Its reader is what the encoder folder names as its
        ``reader``, or else ``AudioReader``; its mean is that of the training
        set if the folder has one.
    """
    _set_rate(encoder)
    norm = getattr(encoder.hparams, "mean_var_norm_emb", None)
    mean = None
    if norm is not None and norm.count:
        mean = norm.glob_mean.flatten().cpu().numpy()
    return Embedder(
        encoder.encode_batch,
        encoder.mods,
        encoder.audio_normalizer.sample_rate,
        reader=getattr(encoder.hparams, "reader", AudioReader),
        mean=mean,
        encoder=encoder,
        **options,
    )


def check_kind(embedder, kind):
    """Raises if an encoder is of another kind of signal.

    Arguments
    ---------
    embedder : Embedder or StoredEmbeddings
        The encoder, as ``load_encoder`` gives it: embeddings may be of any.
    kind : str
        "voices" or "faces".

    Raises
    ------
    ValueError
        If it is one of the others.

    Example
    -------
    >>> voices = Embedder(lambda wavs, lens: wavs, source="my/encoder")
    >>> check_kind(voices, "voices")
    >>> check_kind(voices, "faces")
    Traceback (most recent call last):
    ...
    ValueError: my/encoder is no encoder of faces: give one of these.
    """
    if not embedder.hears:
        return
    if (embedder.reader is AudioReader) != (kind == "voices"):
        raise ValueError(
            f"{embedder.source} is no encoder of {kind}: give one of these."
        )


def _know_old_names(path):
    """Lets an encoder folder name modules as they were called once."""
    text = pathlib.Path(path).read_text(encoding="utf-8")
    for old, new in OLD_NAMES.items():
        if f":{old}." in text:
            sys.modules[old] = importlib.import_module(new)
            above, _, name = old.rpartition(".")
            setattr(importlib.import_module(above), name, sys.modules[old])


def encoder_hyperparams(source):
    """The ``hyperparams.yaml`` of an encoder, after a check that it is one.

    Arguments
    ---------
    source : str or pathlib.Path
        See ``load_encoder``, also for the errors.

    Returns
    -------
    pathlib.Path
        The local file.
    """
    if pathlib.Path(source).is_dir():
        return _check_folder(pathlib.Path(source))
    if pathlib.Path(source).exists():
        raise ValueError(f"{source} is a file. {HINT}")
    # Of the hub's ids those without an owner are of no encoder of voices.
    if str(source).startswith((".", "/")) or str(source).count("/") != 1:
        raise FileNotFoundError(f"There is no folder {source}. {HINT}")
    # Who has that name on the hub is not the user
    if str(source).startswith("results/"):
        raise FileNotFoundError(
            f"There is no folder {source} below the current folder. Is it "
            f"below another one? {HINT}"
        )
    logger.info(f"{source} is no folder here: the Hugging Face hub is asked.")
    try:
        path = fetch("hyperparams.yaml", str(source))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no folder {source}, and the Hugging Face hub gives no "
            f"such model either ({error}). {HINT}"
        ) from error
    _read_entries(path, f"{source} is none that EncoderClassifier loads.")
    return path


def _check_folder(folder):
    """The folder's hyperparams.yaml; raises if it is no encoder folder."""
    path = folder / "hyperparams.yaml"
    inner = folder / "encoder"
    hint = f"Did you mean {inner}?" if inner.is_dir() else HINT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no hyperparams.yaml. {hint}")
    pretrainer = _read_entries(path, hint)["pretrainer"]
    elsewhere = pretrainer.get("paths") or {}
    for name in pretrainer["loadables"]:
        file = folder / f"{name}.ckpt"
        if name not in elsewhere and not file.is_file():
            raise FileNotFoundError(
                f"{folder} has no {file.name}, which its hyperparams.yaml "
                "names: copy the encoder folder again, whole."
            )
    return path


def _read_entries(path, hint):
    """The content of a hyperparams.yaml; raises if it is that of no encoder."""
    try:
        root = YAML().load(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not a YAML file: {error}") from error
    for section, name in NEEDED:
        part = root.get(section) if isinstance(root, dict) else None
        if not isinstance(part, dict) or name not in part:
            raise ValueError(
                f"{path} is not that of an encoder, it has no '{name}' in "
                f"'{section}'. {hint}"
                + STOCK
                * (hint == HINT and "embedding_model" in (root or {}))
            )
    if not isinstance(root["pretrainer"]["loadables"], dict):
        raise ValueError(f"{path} names no weights in 'loadables'. {hint}")
    return root


def start_from_encoder(module, source):
    """Copies the weights of a trained encoder into a module.

    Arguments
    ---------
    module : torch.nn.Module
        The module, of the same architecture as the encoder's
        ``embedding_model``.
    source : str or pathlib.Path
        The encoder: see ``load_encoder``, also for the errors.

    Raises
    ------
    ValueError
        If the weights do not fit.
    """
    encoder = load_classifier(source, "cpu")
    weights = encoder.mods.embedding_model.state_dict()
    _start_from(module, weights, source)


def with_weights(encoder, names):
    """Which modules of an encoder have weights in its folder, whatever its
    pretrainer calls them.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        The encoder.
    names : list of str
        The names of modules.

    Returns
    -------
    dict of str:torch.nn.Module
        The modules that have some, by name, in the order of ``names``.
    """
    loaded = {*map(id, encoder.hparams.pretrainer.loadables.values())}
    return {
        name: encoder.mods[name]
        for name in names
        if name in encoder.mods and id(encoder.mods[name]) in loaded
    }


def start_from_file(module, path):
    """Copies the weights in a file into a module.

    Arguments
    ---------
    module : torch.nn.Module
        The module, such as a classifier.
    path : str or pathlib.Path
        A state_dict, as ``torch.save`` writes it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file holds no weights, or they do not fit.

    Example
    -------
    >>> path = getfixture("tmp_path") / "classifier.ckpt"
    >>> torch.save(torch.nn.Linear(2, 3).state_dict(), path)
    >>> start_from_file(torch.nn.Linear(2, 3), path)
    >>> start_from_file(torch.nn.Linear(2, 4), path)
    Traceback (most recent call last):
    ...
    ValueError: ... does not fit...
    """
    if not pathlib.Path(path).is_file():
        raise FileNotFoundError(f"There is no file {path} to start from.")
    try:
        weights = torch.load(path, "cpu", weights_only=True)
    except (RuntimeError, EOFError, KeyError, UnpicklingError) as error:
        raise ValueError(f"{path} holds no weights ({error}).") from error
    _start_from(module, weights, path)


def _start_from(module, weights, source):
    """Loads weights; raises naming their source if they do not fit."""
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(
            f"{source} does not fit: the sizes in the YAML file must be those "
            f"that it was trained with. {error}"
        ) from error
