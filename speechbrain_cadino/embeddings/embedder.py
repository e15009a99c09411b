"""Embedders: an encoder, and all that it takes to use it."""

import copy
import hashlib
import inspect
import pathlib
import re

import numpy as np
import torch
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.dataio.crop_reader import shows
from speechbrain_cadino.dataio.rates import check_rate
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.extract import SETTINGS, extract
from speechbrain_cadino.embeddings.segments import SHORTEST, Segments
from speechbrain_cadino.process.ranks import shield_worker, worth_while

logger = get_logger(__name__)

# Memory grows with the length: of a longer utterance the beginning is taken,
# and utterances of a batch are not longer than twice this together.
LONGEST = 300  # seconds

# The standard error of a mean of so many is a hundredth of the standard
# deviation: as good as the mean of millions.
MEAN_UTTERANCES = 10_000


class Embedder:
    """An encoder with its sample rate, reader, segments and batch size.

    ``encoders.load.load_encoder`` makes one of an encoder folder, and
    ``EncoderBrain.embedder`` one of an encoder in training. What verifies,
    clusters or exports takes an Embedder, and knows nothing of what is behind
    it; ``StoredEmbeddings`` stands in for it where there are only embeddings.

    Arguments
    ---------
    encode_batch : callable
        The function from waveforms (B, samples) and relative lengths (B,), on
        the CPU, to embeddings (B, 1, D) or (B, D): the ``encode_batch`` of an
        ``EncoderClassifier``, or a module in eval mode.
    weights : torch.nn.Module, optional
        The networks behind it, whose state tells encoders apart. ``extract``
        needs it.
    sample_rate : int
        The rate of the waveforms, in Hz; ``start`` and ``stop`` of a manifest
        count in it.
    reader : callable
        The opener of a file: ``AudioReader``, or
        ``audio_visual.faces.FaceReader``, whose samples are the frames of a
        face track: (B, frames, 3, size, size).
    segment_seconds : float, optional
        The length of the segments to embed instead of whole utterances: as many
        as fit without overlap, evenly spread. The embedding is the mean of
        theirs, each divided by its L2 norm, times the mean of these norms. A
        shorter utterance is one segment.
    max_segments : int
        The number of segments of an utterance, at most.
    keep_segments : bool
        Whether the embeddings of all segments are kept in the place of their
        mean: those of an utterance are rows below each other, and ``ids.txt``
        has a line for each.
    batch_size : int
        The number of utterances in a batch, at most.
    num_workers : int
        The number of processes that read audio, for each process of torchrun;
        with 0 this process does.
    mean : numpy.ndarray, optional
        The mean embedding of the training set, (D,).
    encoder : optional
        The SpeechBrain object behind it, if there is one.
    source : str, optional
        The folder or hub id that it was loaded from.

    Attributes
    ----------
    hears : bool
        Whether it embeds any audio: not so ``StoredEmbeddings``.
    problems : dict of str:str
        Why the utterances without an embedding, by ID, have none: those of the
        last call of ``embed``.

    Example
    -------
    >>> import pandas as pd, soundfile
    >>> path = getfixture("tmp_path") / "one.wav"
    >>> soundfile.write(path, np.tile([0.25, 0.75], 8000), 16000)
    >>> table = pd.DataFrame(
    ...     {"ID": ["one"], "wav": [path], "start": [0], "stop": [8000]}
    ... )
    >>> embedder = Embedder(lambda wavs, lens: wavs.mean(1, keepdim=True))
    >>> embedder.embed(table)
    array([[0.5]], dtype=float32)
    """

    hears = True

    def __init__(
        self,
        encode_batch,
        weights=None,
        sample_rate=16000,
        reader=AudioReader,
        segment_seconds=None,
        max_segments=10,
        keep_segments=False,
        batch_size=16,
        num_workers=0,
        mean=None,
        encoder=None,
        source=None,
    ):
        self.encode_batch = encode_batch
        self.weights = weights
        self.sample_rate = sample_rate
        self.reader = reader
        self.segment_seconds = segment_seconds
        self.max_segments = max_segments
        self.keep_segments = keep_segments
        self.segments = Segments(
            sample_rate, segment_seconds, max_segments, keep_segments
        )
        self.batch_size = batch_size
        self.num_workers = num_workers
        self.mean = mean
        self.encoder = encoder
        self.source = source
        self.problems = {}

    @property
    def device(self):
        """The device of the encoder, as str; None where it has no weights."""
        found = getattr(self.encoder, "device", None)
        if found is None and self.weights is not None:
            weight = next(self.weights.parameters(), None)
            found = None if weight is None else str(weight.device)
        return found

    def replace(self, **options):
        """The same with other arguments.

        Arguments
        ---------
        **options
            Arguments of Embedder.

        Returns
        -------
        Embedder
            The new Embedder; this one stays as it is.
        """
        names = inspect.signature(Embedder).parameters
        return Embedder(
            **{name: getattr(self, name) for name in names} | options
        )

    def fingerprint(self):
        """What tells apart the embeddings of two embedders.

        Returns
        -------
        dict
            The fingerprint as plain data: a hash of the weights, and what else
            the embeddings depend on.

        Raises
        ------
        ValueError
            If the Embedder was made without ``weights``.
        """
        if self.weights is None:
            raise ValueError(
                "Encoders are told apart by their weights: give Embedder "
                "weights, the networks behind encode_batch."
            )
        segmented = self.segment_seconds is not None
        averaged = segmented and not self.keep_segments
        return {
            "weights": _hash_state(self.weights),
            "sample_rate": self.sample_rate,
            "segment_seconds": self.segment_seconds,
            "max_segments": self.max_segments if segmented else None,
            # Without the address of a function, another one in each process
            "reader": re.sub(r" at 0x[0-9a-f]+", "", str(self.reader)),
            # Not of an embedder without: its embeddings have been kept so
            **({"keep_segments": True} if self.keep_segments else {}),
            # Until version 0.2.0 the means were of unit vectors
            **({"scale": "of whole ones"} if averaged else {}),
            **_hash_settings(self.source),
        }

    def encode(self, wavs):
        """The embeddings of waveforms of equal length, on the CPU.

        Arguments
        ---------
        wavs : torch.Tensor
            Waveforms, (B, samples).

        Returns
        -------
        numpy.ndarray
            Embeddings, (B, D), float32.
        """
        output = self.encode_batch(wavs, torch.ones(len(wavs)))
        return output.float().cpu().flatten(1).numpy()

    def embed(self, table, skip_unreadable=False):
        """Embeds utterances, exactly.

        Only utterances of the same length share a batch: an encoder's
        convolutions see padding, so an embedding would depend on its
        neighbours. Of an utterance of more than ``LONGEST`` seconds the
        beginning is taken.

        Arguments
        ---------
        table : pandas.DataFrame
            A manifest: the columns ``ID,wav,start,stop``.
        skip_unreadable : bool
            Whether to go on after a file that cannot be read. Its row is then
            NaN.

        Returns
        -------
        numpy.ndarray
            Embeddings, shape (N, D), float32, in the order of the table.

        Raises
        ------
        MediaError
            If a file cannot be read or is too short, unless that is skipped;
            or if none of them can be read.
        ValueError
            If an embedding is not finite, or those of segments are kept apart.
        """
        if self.keep_segments:
            raise ValueError(
                "With keep_segments there is no embedding of an utterance: "
                "load the encoder without it."
            )
        check_rate(table, self.sample_rate)
        counts, pieces = None, table
        if self.segments.length:
            counts = self.segments.counts(table)
            pieces = self.segments.cut(table, counts)
        self.say_what_is_left_out(pieces)
        own = copy.copy(self)  # threads may share this one
        with tqdm(total=len(pieces), desc="Embedding", unit="utt") as bar:
            embeddings = own.embed_pieces(pieces, bar, skip_unreadable)
        self.problems = own.problems
        embeddings = self.segments.mean(embeddings, counts)
        lost = int(np.isnan(embeddings).any(1).sum())
        if lost:
            first = next(iter(own.problems.values()))
            logger.warning(
                f"{lost} of {len(embeddings)} utterances cannot be read and "
                f"have no embedding. The first: {first}"
            )
        return embeddings

    def embed_pieces(self, table, bar, skip_unreadable=False):
        """Embeds utterances as they are, whatever the segments.

        Arguments
        ---------
        table : pandas.DataFrame
            See ``embed``, as for the errors.
        bar : tqdm.tqdm
            A progress bar to move.
        skip_unreadable : bool
            See ``embed``.

        Returns
        -------
        numpy.ndarray
            Embeddings, shape (N, D), float32.
        """
        table = _without_ends(table, LONGEST * self.sample_rate)
        embeddings, errors, self.problems = None, [], {}
        # Not inference_mode: tables that an encoder keeps would be of no use to
        # a training
        with torch.no_grad():
            for batch in self._loader(table):
                bar.update(len(batch))
                bad = [
                    pair for pair in batch if isinstance(pair[1], MediaError)
                ]
                errors += [error for _, error in bad]
                for row, error in bad:
                    self.problems[table["ID"].iloc[row]] = str(error)
                if errors and not skip_unreadable:
                    raise errors[0]
                batch = [item for item in batch if torch.is_tensor(item[1])]
                if not batch:
                    continue
                rows, wavs = zip(*batch)
                output = self.encode(torch.stack(wavs))
                if embeddings is None:
                    shape = len(table), output.shape[1]
                    embeddings = np.full(shape, np.nan, np.float32)
                embeddings[list(rows)] = output
                _check_finite(output, table.iloc[list(rows)])
        if embeddings is None:
            raise MediaError(
                "None of the utterances can be read"
                + (
                    f"; the first: {errors[0]}"
                    if errors
                    else ": there are none."
                )
            )
        return embeddings

    def say_what_is_left_out(self, table):
        """Says how many utterances are embedded by their beginning alone.

        Arguments
        ---------
        table : pandas.DataFrame
            See ``embed``.
        """
        long = (table["stop"] - table["start"]) / self.sample_rate > LONGEST
        if long.any():
            logger.info(
                f"{long.sum()} of {len(table)} utterances are longer than "
                f"{LONGEST} s: their first {LONGEST} s are embedded. To embed "
                "more of them, cut the files, or in a manifest give "
                "cut_seconds in the prepare step."
            )

    def _loader(self, table):
        """Batches of (row, waveform or MediaError), of one length each."""
        return torch.utils.data.DataLoader(
            _Utterances(table, self.sample_rate, self.reader),
            batch_sampler=_equal_length_batches(
                table, self.batch_size, 2 * LONGEST * self.sample_rate
            ),
            num_workers=worth_while(self.num_workers),
            collate_fn=list,
            worker_init_fn=shield_worker,
            # Its own, so that evaluating does not move the training's.
            generator=torch.Generator(),
        )

    def extract(self, folder, table, shard_size=5_000, keep=False):
        """Embeds millions of utterances into a folder: see
        ``embeddings.extract.extract``, which it calls.

        Arguments
        ---------
        folder : str or pathlib.Path
            The folder of ``embeddings.npy`` and ``ids.txt``.
        table : pandas.DataFrame
            See ``embed``.
        shard_size : int
            The number of utterances in a shard.
        keep : bool
            Whether it is an error if embeddings of something else are there.

        Returns
        -------
        list of str
            The N IDs.
        numpy.memmap
            Shape (N, D), float32; the rows of unreadable files are NaN.
        """
        return extract(self, folder, table, shard_size, keep=keep)

    def mean_embedding(self, table):
        """The mean embedding of a training set, for mean subtraction.

        Arguments
        ---------
        table : pandas.DataFrame
            The training manifest. Of more than ``MEAN_UTTERANCES``, as many
            are taken, evenly spread over the table. Files that cannot be read
            are left out, and counted in the log.

        Returns
        -------
        numpy.ndarray
            The mean embedding, shape (D,), float32.

        Example
        -------
        >>> import pandas as pd, soundfile
        >>> path = getfixture("tmp_path") / "one.wav"
        >>> waves = np.repeat([0, 0.5], 8000) + np.tile([0, 0, 1, -1], 4000) / 2
        >>> soundfile.write(path, waves, 16000)
        >>> table = pd.DataFrame({"ID": ["a", "b"], "wav": [path] * 2})
        >>> table["start"] = [0, 8000]
        >>> table["stop"] = [8000, 16000]
        >>> Embedder(lambda wavs, lens: wavs[:, :2]).mean_embedding(table)
        array([0.25, 0.25], dtype=float32)
        """
        rows = spread_rows(len(table), MEAN_UTTERANCES)
        embeddings = self.embed(table.iloc[rows], skip_unreadable=True)
        mean = np.nanmean(embeddings, axis=0, dtype=np.float64)
        return mean.astype(np.float32)


def _hash_settings(source):
    """A hash of what the YAML file of an encoder folder says, such as the hop
    of the features, which is no weight; nothing if there is none."""
    path = source and pathlib.Path(source, "hyperparams.yaml")
    if not path or not path.is_file():
        return {}
    lines = map(bytes.strip, path.read_bytes().splitlines())
    # A comment tells the threshold
    said = [line for line in lines if line and not line.startswith(b"#")]
    return {SETTINGS: hashlib.sha256(b"\n".join(said)).hexdigest()}


def _hash_state(module):
    """A hash of all weights and buffers of a module."""
    digest = hashlib.sha256()
    state = module.state_dict()
    # A detector of speech that has learnt nothing, say
    if not any(True for _ in module.parameters()):
        digest.update(_describe(module).encode())
    for name, value in state.items():
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        flat = value.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy())
    return digest.hexdigest()


def _describe(module):
    """What a module without weights is: its code, and its plain values."""
    values = {
        name: value
        for name, value in sorted(vars(module).items())
        if isinstance(value, (bool, int, float, str))
    }
    try:
        code = inspect.getsource(type(module))
    except (OSError, TypeError):  # typed into a shell
        code = ""
    return f"{type(module).__qualname__} {values} {code}"


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
                found = signal.read(start, stop)
            # Else all that are blank would have one face
            if found.dim() == 4 and not shows(found.numpy()).any():
                raise MediaError(f"{path}: frames {start} to {stop} are blank.")
            return row, found
        except MediaError as error:
            return row, error


def _without_ends(table, most):
    """The table, with at most so many samples of each utterance."""
    stops = np.minimum(table["stop"], table["start"] + most)
    return table.assign(stop=stops)


def _equal_length_batches(table, batch_size, most):
    """Row numbers in lists of at most batch_size and at most so many samples,
    one length in each; the longest first, so that a bar does not promise too
    much."""
    lengths = (table["stop"] - table["start"]).to_numpy()
    order = np.argsort(lengths, kind="stable")
    edges = np.flatnonzero(np.diff(lengths[order])) + 1
    batches = []
    for same in np.split(order, edges):
        longest = max(int(lengths[same].max(initial=1)), 1)
        size = max(1, min(batch_size, most // longest))
        batches += np.split(same, range(size, len(same), size))
    return [batch.tolist() for batch in reversed(batches) if len(batch)]


def _check_finite(embeddings, rows):
    """Raises if an embedding is not finite, naming its utterance."""
    bad = ~np.isfinite(embeddings).all(1)
    if bad.any():
        raise ValueError(
            f"The encoder's embedding of {rows['wav'].iloc[bad.argmax()]} is "
            "not finite: its weights are broken (did the training diverge?) or "
            "it cannot take this input."
        )
