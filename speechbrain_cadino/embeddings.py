"""Loading an encoder, embedding utterances, keeping embeddings in files."""

import contextlib
import pathlib
from pickle import UnpicklingError

import numpy as np
import torch
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from tqdm import tqdm

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.utils.fetching import fetch
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.files import atomic_path
from speechbrain_cadino.processes import shield_worker
from speechbrain_cadino.trust import check_known

logger = get_logger(__name__)

HINT = (
    "Give an encoder folder (the folder encoder/ in the output folder of a "
    "training run) or a hub id."
)

# What encode_batch and from_hparams look up in an encoder's hyperparams.yaml.
NEEDED = [
    ("modules", "compute_features"),
    ("modules", "mean_var_norm"),
    ("modules", "embedding_model"),
    ("pretrainer", "loadables"),
]

# Below it, the padding of an encoder's convolutions exceeds the utterance.
SHORTEST = 0.1  # seconds

# Memory grows with the length: of a longer utterance the beginning is taken,
# and utterances of a batch are not longer than twice this together.
LONGEST = 300  # seconds

# The standard error of a mean of so many is a hundredth of the standard
# deviation: as good as the mean of millions.
MEAN_UTTERANCES = 10_000


def load_encoder(source, device=None, trusted=True):
    """Loads an encoder through SpeechBrain's own interface.

    Nothing is linked or copied into the working folder: local files are read
    where they are, those of a hub stay in its cache.

    A ``hyperparams.yaml`` can name any function to call: to load the encoder of
    a stranger is to run the stranger's code. The weights beside it cannot.

    Arguments
    ---------
    source : str or pathlib.Path
        An encoder folder, or the id of a model on the Hugging Face hub.
    device : str, optional
        E.g. "cpu" or "cuda:0"; SpeechBrain's choice by default.
    trusted : bool
        Whether its YAML file may do anything. If not, the encoder is loaded
        only if it is made of well-known parts: see ``trust.check_known``.

    Returns
    -------
    speechbrain.inference.classifiers.EncoderClassifier
        In eval mode; its ``encode_batch`` makes embeddings.

    Raises
    ------
    FileNotFoundError
        If the folder or a file in it is missing.
    ValueError
        If the folder holds something else than an encoder, or one that is not
        trusted has a part that is not known.

    Example
    -------
    >>> load_encoder(getfixture("tmp_path"))
    Traceback (most recent call last):
    ...
    FileNotFoundError: ... has no hyperparams.yaml...
    """
    path = encoder_hyperparams(source)
    if not trusted:
        check_known(path)
    try:
        return EncoderClassifier.from_hparams(
            source=str(source), run_opts={"device": device} if device else None
        )
    # What PyTorch says of weights that do not fit, or are none
    except (RuntimeError, EOFError, UnpicklingError) as error:
        raise ValueError(f"{source} cannot be loaded: {error}") from error


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
    # Hub ids are "name" or "owner/name" and nothing else.
    if pathlib.Path(source).is_absolute() or str(source).startswith("."):
        raise FileNotFoundError(f"There is no folder {source}. {HINT}")
    try:
        return fetch("hyperparams.yaml", str(source))
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"There is no folder {source}, and the Hugging Face hub gives no "
            f"such model either ({error}). {HINT}"
        ) from error


def _check_folder(folder):
    """The folder's hyperparams.yaml; raises if it is no encoder folder."""
    path = folder / "hyperparams.yaml"
    inner = folder / "encoder"
    hint = f"Did you mean {inner}?" if inner.is_dir() else HINT
    if not path.is_file():
        raise FileNotFoundError(f"{folder} has no hyperparams.yaml. {hint}")
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
            )
    pretrainer = root["pretrainer"]
    for name in pretrainer["loadables"]:
        file = folder / f"{name}.ckpt"
        if name not in pretrainer.get("paths", {}) and not file.is_file():
            raise FileNotFoundError(
                f"{folder} has no {file.name}, which its hyperparams.yaml "
                "names: copy the encoder folder again, whole."
            )
    return path


def start_from_encoder(module, source):
    """Copies the weights of a trained encoder into a module.

    Arguments
    ---------
    module : torch.nn.Module
        Of the same architecture as the encoder's ``embedding_model``.
    source : str or pathlib.Path
        The encoder: see ``load_encoder``, also for the errors.

    Raises
    ------
    ValueError
        If the weights do not fit.
    """
    weights = load_encoder(source, "cpu").mods.embedding_model.state_dict()
    _start_from(module, weights, source)


def start_from_file(module, path):
    """Copies the weights in a file into a module.

    Arguments
    ---------
    module : torch.nn.Module
        Such as a classifier.
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


def reader_of(encoder):
    """What opens the files that an encoder takes.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        Of ``load_encoder``.

    Returns
    -------
    callable
        ``AudioReader``, or what the encoder folder names as its ``reader``:
        see ``embed``.
    """
    return getattr(encoder.hparams, "reader", AudioReader)


def stored_mean(encoder):
    """The mean embedding of the training set that came with an encoder.

    Arguments
    ---------
    encoder : speechbrain.inference.classifiers.EncoderClassifier
        Of ``load_encoder``.

    Returns
    -------
    numpy.ndarray
        Shape (D,), float32; None if there is none.
    """
    norm = getattr(encoder.hparams, "mean_var_norm_emb", None)
    if norm is None or not norm.count:
        return None
    return norm.glob_mean.flatten().cpu().numpy()


def embed(
    encode_batch,
    table,
    sample_rate=16000,
    batch_size=16,
    num_workers=0,
    skip_unreadable=False,
    bar=None,
    reader=AudioReader,
):
    """Embeds whole utterances.

    Only utterances of the same length share a batch: an encoder's
    convolutions see padding, so an embedding would depend on its neighbours.
    Of an utterance of more than ``LONGEST`` seconds the beginning is taken.

    Arguments
    ---------
    encode_batch : callable
        Takes waveforms (B, samples) and relative lengths (B,) on the CPU, and
        returns embeddings (B, 1, D) or (B, D): the ``encode_batch`` of an
        ``EncoderClassifier``, or a module in eval mode.
    table : pandas.DataFrame
        A manifest: the columns ``ID,wav,start,stop``.
    sample_rate : int
        Of the waveforms wanted, in Hz; ``start`` and ``stop`` count in it.
    batch_size : int
        Utterances in a batch, at most.
    num_workers : int
        Processes that read audio; with 0 this process does.
    skip_unreadable : bool
        Go on after a file that cannot be read. Its row is then NaN.
    bar : tqdm.tqdm, optional
        A progress bar to move, left open; one of its own by default.
    reader : callable
        What opens a file, ``AudioReader`` or ``dataio.faces.FaceReader``, whose
        samples are the frames of a face track: (B, frames, 3, size, size).

    Returns
    -------
    numpy.ndarray
        Shape (N, D), float32, in the order of the table.

    Raises
    ------
    MediaError
        If a file cannot be read or is too short, unless that is skipped.
    ValueError
        If an embedding is not finite.

    Example
    -------
    >>> import pandas as pd, soundfile
    >>> path = getfixture("tmp_path") / "one.wav"
    >>> soundfile.write(path, np.full(16000, 0.5), 16000)
    >>> table = pd.DataFrame(
    ...     {"ID": ["one"], "wav": [path], "start": [0], "stop": [8000]}
    ... )
    >>> embed(lambda wavs, lens: wavs.mean(1, keepdim=True), table)
    array([[0.5]], dtype=float32)
    """
    table = _without_ends(table, LONGEST * sample_rate)
    loader = torch.utils.data.DataLoader(
        _Utterances(table, sample_rate, reader),
        batch_sampler=_equal_length_batches(
            table, batch_size, 2 * LONGEST * sample_rate
        ),
        num_workers=num_workers,
        collate_fn=list,
        worker_init_fn=shield_worker,
        # Its own, so that evaluating does not move the training's.
        generator=torch.Generator(),
    )
    if bar is None:
        progress = tqdm(total=len(table), desc="Embedding", unit="utt")
    else:
        progress = contextlib.nullcontext(bar)
    embeddings, errors = None, []
    with torch.inference_mode(), progress as bar:
        for batch in loader:
            bar.update(len(batch))
            errors += [wav for _, wav in batch if isinstance(wav, MediaError)]
            if errors and not skip_unreadable:
                raise errors[0]
            batch = [item for item in batch if torch.is_tensor(item[1])]
            if not batch:
                continue
            rows, wavs = zip(*batch)
            output = encode_batch(torch.stack(wavs), torch.ones(len(wavs)))
            output = output.float().cpu().flatten(1).numpy()
            if embeddings is None:
                shape = len(table), output.shape[1]
                embeddings = np.full(shape, np.nan, np.float32)
            embeddings[list(rows)] = output
            _check_finite(output, table.iloc[list(rows)])
    if embeddings is None:
        raise MediaError(
            "None of the utterances can be read"
            + (f"; the first: {errors[0]}" if errors else ": there are none.")
        )
    if errors:
        logger.warning(
            f"{len(errors)} of {len(table)} utterances cannot be read and have "
            f"no embedding. The first: {errors[0]}"
        )
    return embeddings


class _Utterances(torch.utils.data.Dataset):
    """Rows of a manifest as (row number, waveform or MediaError)."""

    def __init__(self, table, sample_rate, reader):
        self.reader = reader
        self.paths = table["wav"].astype(str).to_numpy()
        self.starts = table["start"].to_numpy()
        self.stops = table["stop"].to_numpy()
        self.sample_rate = sample_rate

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, row):
        path = self.paths[row]
        start, stop = int(self.starts[row]), int(self.stops[row])
        try:
            if stop - start < SHORTEST * self.sample_rate:
                raise MediaError(
                    f"{path}: {stop - start} samples are too short to embed, "
                    f"{SHORTEST} s are needed. Leave it out."
                )
            with self.reader(path, self.sample_rate) as signal:
                return row, signal.read(start, stop)
        except MediaError as error:
            return row, error


def _without_ends(table, most):
    """The table, with at most so many samples of each utterance."""
    long = table["stop"] - table["start"] > most
    if not long.any():
        return table
    logger.info(
        f"{long.sum()} of {len(table)} utterances are longer than {LONGEST} s: "
        f"their first {LONGEST} s are embedded. cut_seconds in the prepare "
        "step would make several of each."
    )
    stops = np.minimum(table["stop"], table["start"] + most)
    return table.assign(stop=stops)


def _equal_length_batches(table, batch_size, most):
    """Row numbers in lists of at most batch_size and at most so many samples,
    one length in each."""
    lengths = (table["stop"] - table["start"]).to_numpy()
    order = np.argsort(lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order])) + 1
    batches = []
    for same in np.split(order, edges):
        longest = max(int(lengths[same].max(initial=1)), 1)
        size = max(1, min(batch_size, most // longest))
        batches += np.split(same, range(size, len(same), size))
    return [batch.tolist() for batch in batches if len(batch)]


def _check_finite(embeddings, rows):
    """Raises if an embedding is not finite, naming its utterance."""
    bad = ~np.isfinite(embeddings).all(1)
    if bad.any():
        raise ValueError(
            f"The encoder's embedding of {rows['wav'].iloc[bad.argmax()]} is "
            "not finite: its weights are broken (did the training diverge?) or "
            "it cannot take this input."
        )


def mean_embedding(encode_batch, table, sample_rate=16000, **options):
    """The mean embedding of a training set, for mean subtraction.

    Arguments
    ---------
    encode_batch : callable
        See ``embed``.
    table : pandas.DataFrame
        The training manifest. Of more than ``MEAN_UTTERANCES``, as many are
        taken, evenly spread over the table.
    sample_rate : int
        See ``embed``.
    **options
        Further arguments of ``embed``. Files that cannot be read are left
        out, and counted in the log.

    Returns
    -------
    numpy.ndarray
        Shape (D,), float32.

    Example
    -------
    >>> import pandas as pd, soundfile
    >>> path = getfixture("tmp_path") / "one.wav"
    >>> soundfile.write(path, np.repeat([0, 0.5], 8000), 16000)
    >>> table = pd.DataFrame({"ID": ["a", "b"], "wav": [path] * 2})
    >>> table["start"] = [0, 8000]
    >>> table["stop"] = [8000, 16000]
    >>> mean_embedding(lambda wavs, lens: wavs[:, :2], table)
    array([0.25, 0.25], dtype=float32)
    """
    count = min(len(table), MEAN_UTTERANCES)
    rows = np.linspace(0, len(table) - 1, count).astype(int)
    options = {"skip_unreadable": True, **options}
    embeddings = embed(encode_batch, table.iloc[rows], sample_rate, **options)
    return np.nanmean(embeddings, axis=0, dtype=np.float64).astype(np.float32)


def save_embeddings(folder, ids, embeddings):
    """Writes ``embeddings.npy`` and ``ids.txt``.

    Arguments
    ---------
    folder : str or pathlib.Path
        Where to write. Killed in between, it holds no ids.txt, and
        ``load_embeddings`` says so.
    ids : list of str
        The N IDs.
    embeddings : numpy.ndarray
        Shape (N, D), in the order of the IDs.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> save_embeddings(folder, ["a", "b"], np.eye(2))
    >>> ids, embeddings = load_embeddings(folder)
    >>> ids, embeddings[1].tolist(), str(embeddings.dtype)
    (['a', 'b'], [0.0, 1.0], 'float32')
    """
    folder = pathlib.Path(folder)
    text = "".join(f"{name}\n" for name in ids)
    with (
        atomic_path(folder / "ids.txt") as names,
        atomic_path(folder / "embeddings.npy") as array,
    ):
        names.write_text(text, encoding="utf-8")
        np.save(array, np.asarray(embeddings, np.float32))
        (folder / "ids.txt").unlink(missing_ok=True)
        # An extraction would take these for its own.
        (folder / "extraction.json").unlink(missing_ok=True)


def load_embeddings(folder):
    """Opens what ``save_embeddings`` wrote.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder.

    Returns
    -------
    list of str
        The N IDs.
    numpy.memmap
        Shape (N, D), float32, read from disk when used.

    Raises
    ------
    FileNotFoundError
        If one of the two files is missing.
    ValueError
        If they do not belong together.
    """
    folder = pathlib.Path(folder)
    for name in ["embeddings.npy", "ids.txt"]:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} has no {name}: embed the utterances (again)."
            )
    ids = (folder / "ids.txt").read_text(encoding="utf-8").splitlines()
    try:
        embeddings = np.load(folder / "embeddings.npy", mmap_mode="r")
    except (ValueError, EOFError) as error:
        raise ValueError(
            f"{folder / 'embeddings.npy'} is damaged or no array ({error}). "
            "Embed the utterances again."
        ) from error
    if len(ids) != len(embeddings):
        raise ValueError(
            f"{folder}: {len(ids)} lines in ids.txt, {len(embeddings)} rows in "
            "embeddings.npy. Embed the utterances again."
        )
    return ids, embeddings
