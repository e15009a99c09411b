"""Loading an encoder, embedding utterances, keeping embeddings in files."""

import contextlib

import numpy as np
import torch
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.process.ranks import shield_worker

logger = get_logger(__name__)


# Below it, the padding of an encoder's convolutions exceeds the utterance.
SHORTEST = 0.1  # seconds

# Memory grows with the length: of a longer utterance the beginning is taken,
# and utterances of a batch are not longer than twice this together.
LONGEST = 300  # seconds

# The standard error of a mean of so many is a hundredth of the standard
# deviation: as good as the mean of millions.
MEAN_UTTERANCES = 10_000


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
