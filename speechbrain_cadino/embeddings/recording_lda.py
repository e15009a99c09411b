"""Recording LDA: a linear map learnt without labels, from crops of recordings.

Linear discriminant analysis with the *recording* as class. Crops of one
recording differ in what is said and, once augmented, in room and noise, and
share their voice: directions in which they differ say little about voices,
and are made small.
"""

import numpy as np
import torch
from scipy.linalg import eigh
from sklearn.covariance import ledoit_wolf
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.augment import (
    AddNoise,
    AddReverb,
    CropAugmenter,
)
from speechbrain_cadino.dataio.crops import CropReader
from speechbrain_cadino.dataio.manifest import spread_rows
from speechbrain_cadino.process.ranks import shield_worker, worth_while

logger = get_logger(__name__)

# Crops of so many tell what those of millions would.
MOST_RECORDINGS = 10_000

# Fewer are worth a warning.
FEW_RECORDINGS = 100

# Recordings whose crops are embedded at once
BATCH_SIZE = 16


class RecordingLDA:
    """A linear map of embeddings, in which crops of a recording lie together.

    The axes solve ``between a = ratio within a``, where ``within`` is the
    covariance of crops around the mean of their recording and ``between``
    that of these means. They are scaled such that crops vary equally along
    each (within-class covariance normalisation: Hatch et al. 2006), in
    falling order of the ratio. ``within`` is shrunk towards a multiple of the
    identity (Ledoit and Wolf 2004): hardly at all where there are many
    recordings, enough to be of use where there are five.

    It serves as a step of verification (``back_ends``), as the ``transform``
    of pseudo labels, and as a last layer of an encoder (``linear``).

    Arguments
    ---------
    dimensions : int, optional
        The number of axes to keep. All by default: on log-mel statistics fewer
        have more errors.
    crops : int
        The number of crops of each recording.
    crop_seconds : float
        Their length; a shorter recording is repeated.
    augment : torch.nn.Module, optional
        The augmentation that makes crops of a recording differ, (B, samples) to
        (B, samples): rooms half of the time and three kinds of noise a quarter
        each, all of the built-in generators, by default.
    seed : int
        Random seed of the crops and their augmentation.

    Attributes
    ----------
    mean : numpy.ndarray
        Shape (D,), subtracted first.
    axes : numpy.ndarray
        Shape (D, d), multiplied with from the right.
    ratios : numpy.ndarray
        Shape (d,): how much more recordings vary along each axis than crops
        of a recording.

    Example
    -------
    >>> rng = np.random.default_rng(0)
    >>> recordings = np.repeat(np.arange(50), 4)
    >>> means = rng.standard_normal((50, 2))
    >>> noise = rng.standard_normal((200, 2)) * [0.1, 10]
    >>> embeddings = means[recordings] + noise
    >>> lda = RecordingLDA(dimensions=1).fit(embeddings, recordings)
    >>> along, across = np.abs(lda.axes[:, 0])
    >>> bool(along > 50 * across)
    True
    """

    def __init__(
        self,
        dimensions=None,
        crops=6,
        crop_seconds=2.5,
        augment=None,
        seed=0,
    ):
        if crops < 2:
            raise ValueError(
                f"crops={crops}: two or more of a recording can differ."
            )
        if dimensions is not None and dimensions < 1:
            raise ValueError(f"dimensions={dimensions}: give 1 or more.")
        self.dimensions = dimensions
        self.crops = crops
        self.crop_seconds = crop_seconds
        self.augment = augment
        self.seed = seed

    def learn(self, embedder, table):
        """Learns from recordings.

        Arguments
        ---------
        embedder : Embedder
            The encoder.
        table : pandas.DataFrame
            A manifest, each row of which is a recording. Of more than
            ``MOST_RECORDINGS``, as many are taken, evenly spread. What cannot
            be read is replaced by others, and counted in the log.

        Returns
        -------
        RecordingLDA
            Itself.

        Raises
        ------
        ValueError
            If there are only embeddings, or too few recordings.
        """
        if not hasattr(embedder, "encode_batch"):
            raise ValueError(
                f"recording_lda embeds crops of recordings, and "
                f"{embedder.source} holds embeddings alone: leave "
                "recording_lda out, or give the encoder that made them."
            )
        _check_number(len(table))
        if len(table) < FEW_RECORDINGS:
            logger.warning(
                f"recording_lda learns from {len(table)} recordings, which is "
                "few: it has been tried on hundreds, of many voices."
            )
        rows = spread_rows(len(table), MOST_RECORDINGS)
        return self.fit(*self._embed_crops(embedder, table.iloc[rows]))

    def fit(self, embeddings, recordings):
        """Learns from embeddings of crops.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Shape (N, D).
        recordings : numpy.ndarray
            Shape (N,): which recording each is a crop of.

        Returns
        -------
        RecordingLDA
            Itself.

        Raises
        ------
        ValueError
            If there are too few recordings, or all crops of each are the same.
        """
        names, index, counts = np.unique(
            recordings, return_inverse=True, return_counts=True
        )
        _check_number(len(names))
        embeddings = np.asarray(embeddings, np.float64)
        self.mean = embeddings.mean(0)
        sums = np.zeros((len(names), embeddings.shape[1]))
        np.add.at(sums, index, embeddings - self.mean)
        means = sums / counts[:, None]
        within, _ = ledoit_wolf(
            embeddings - self.mean - means[index], assume_centered=True
        )
        if not np.trace(within) > 0:
            raise ValueError(
                "All crops of a recording have the same embedding: the encoder "
                "has collapsed, or there is one crop of each."
            )
        # Residuals around a mean of n are too small by a factor of 1 - 1 / n.
        within *= len(embeddings) / max(len(embeddings) - len(names), 1)
        between = (means * counts[:, None]).T @ means / len(embeddings)
        # Directions in which nothing varies at all stay out of the way.
        floor = np.eye(len(within)) * within.trace() / len(within) * 1e-9
        ratios, axes = eigh(between, within + floor)
        self.ratios = ratios[::-1][: self.dimensions]
        self.axes = axes[:, ::-1][:, : self.dimensions]
        return self

    def transform(self, embeddings):
        """Maps embeddings, once it has learnt.

        Arguments
        ---------
        embeddings : numpy.ndarray
            Shape (N, D).

        Returns
        -------
        numpy.ndarray
            Shape (N, d), float32.
        """
        return ((embeddings - self.mean) @ self.axes).astype(np.float32)

    def fit_transform(self, embeddings):
        """``transform``: the form in which pseudo labels take it, after
        ``learn``."""
        return self.transform(embeddings)

    def linear(self):
        """The map as a layer of a network.

        Returns
        -------
        torch.nn.Linear
            From D to d dimensions.
        """
        layer = torch.nn.Linear(*self.axes.shape)
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(self.axes.T.copy()))
            layer.bias.copy_(torch.from_numpy(-self.mean @ self.axes))
        return layer.requires_grad_(False)

    def after(self, embedder):
        """An encoder followed by the map.

        Arguments
        ---------
        embedder : Embedder
            The encoder that it has learnt from.

        Returns
        -------
        Embedder
            Its embeddings have d dimensions, and a mean near 0.
        """
        layer, encode = self.linear(), embedder.encode_batch

        def encode_batch(wavs, lens):
            return layer(encode(wavs, lens).float().cpu())

        return embedder.replace(
            encode_batch=encode_batch, weights=None, mean=None
        )

    def _embed_crops(self, embedder, table):
        """Embeddings of augmented crops, and the row that each is of."""
        data = _Crops(table, embedder, self.crops, self.crop_seconds, self.seed)
        loader = torch.utils.data.DataLoader(
            data,
            batch_size=BATCH_SIZE,
            num_workers=worth_while(embedder.num_workers),
            collate_fn=list,
            worker_init_fn=shield_worker,
            generator=torch.Generator(),
        )
        augment = self.augment or default_augment(embedder.sample_rate)
        found, recordings, problems = [], [], []
        bar = tqdm(total=len(data), desc="Crops of recordings", delay=1)
        with torch.random.fork_rng(), torch.inference_mode(), bar:
            torch.manual_seed(self.seed)
            for batch in loader:
                bar.update(len(batch))
                rows, crops, problem = zip(*batch)
                wavs = torch.cat(crops)
                if wavs.dim() != 2:
                    raise ValueError(
                        "recording_lda is for voices: it augments waveforms."
                    )
                wavs = augment(wavs.to(embedder.device or "cpu"))
                output = embedder.encode_batch(wavs, torch.ones(len(wavs)))
                found.append(output.float().cpu().flatten(1).numpy())
                recordings.append(np.repeat(rows, self.crops))
                problems += filter(None, problem)
        if problems:
            logger.warning(
                f"{len(problems)} of {len(data)} recordings cannot be read or "
                f"are silent, others stand in. The first: {problems[0]}"
            )
        return np.concatenate(found), np.concatenate(recordings)


def default_augment(sample_rate=16000):
    """What makes crops of one recording differ, without any files.

    Odds and levels are those of ``noises.yaml``, without filters: on log-mel
    statistics these hide more of the voice than of the channel.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    CropAugmenter
    """
    levels = [(0, 15), (5, 15), (13, 20)]
    noises = [
        AddNoise(snr_low=low, snr_high=high, sample_rate=sample_rate)
        for low, high in levels
    ]
    return CropAugmenter(
        [AddReverb(sample_rate=sample_rate), *noises], [0.5, 0.25, 0.25, 0.25]
    )


def _check_number(count):
    """Raises if so many recordings tell nothing."""
    if count < 2:
        raise ValueError(
            f"recording_lda learns from two recordings or more, not from "
            f"{count}."
        )


class _Crops(torch.utils.data.Dataset):
    """Recordings as (row, crops (n, samples), problem)."""

    def __init__(self, table, embedder, count, seconds, seed):
        rate = embedder.sample_rate
        self.seed = seed
        self.reader = CropReader(
            table["wav"].astype(str).to_numpy(),
            table["start"].to_numpy(),
            table["stop"].to_numpy(),
            [round(seconds * rate)] * count,
            rate,
            embedder.reader,
        )

    def __len__(self):
        return len(self.reader.wavs)

    def __getitem__(self, index):
        rng = np.random.default_rng((self.seed, index))
        row, crops, problem = self.reader.read(
            index, 1, rng, lambda row, rng: ()
        )
        return row, torch.from_numpy(np.stack(crops)), problem
