"""Recording LDA: a linear map learnt without labels, from crops of recordings.

Linear discriminant analysis with the *recording* as class. Crops of one
recording differ in what is said and, once augmented, in room and noise, and
share their voice: directions in which they differ say little about voices,
and are made small.
"""

import numpy as np
import torch
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.augment import (
    AddNoise,
    AddReverb,
    CropAugmenter,
)
from speechbrain_cadino.dataio.crop_reader import CropReader, crop_samples
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.embeddings.linear import LDA, check_classes
from speechbrain_cadino.process.randomness import fork_rng
from speechbrain_cadino.process.ranks import shield_worker, worth_while

logger = get_logger(__name__)

# Crops of so many tell what those of millions would.
MOST_ROWS = 10_000

# Fewer are worth a warning.
FEW_RECORDINGS = 100

# Recordings whose crops are embedded at once
BATCH_SIZE = 16


class RecordingLDA(LDA):
    """LDA whose classes are recordings: crops of one lie together.

    It serves as a step of verification (``back_ends``), as the ``transform``
    of pseudo labels, and as a last layer of an encoder (``linear``).

    Arguments
    ---------
    dimensions : int, optional
        The number of axes to keep. All by default: on log-mel statistics fewer
        have more errors.
    crops : int
        The number of crops of each row of a manifest.
    crop_seconds : float
        The length of a crop, in seconds; a shorter row is repeated.
    augment : torch.nn.Module, optional
        The augmentation that makes crops of a recording differ, (B, samples) to
        (B, samples): rooms half of the time and three kinds of noise a quarter
        each, all of the built-in generators, by default.
    seed : int
        Random seed of the crops and their augmentation.

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
        super().__init__(dimensions)
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
            A manifest. Its rows of one file are one recording; where it has
            labels (``spk_id``), those of one label, for a file may be a
            conversation. Of more rows than ``MOST_ROWS``, as many are taken,
            evenly spread. What cannot be read is replaced by others, and
            counted in the log.

        Returns
        -------
        RecordingLDA
            This map.

        Raises
        ------
        ValueError
            If there are only embeddings, or too few recordings.
        """
        if not embedder.hears:
            raise ValueError(
                f"recording_lda embeds crops of recordings, and "
                f"{embedder.source} holds embeddings alone: leave "
                "recording_lda out, or give the encoder that made them."
            )
        table = table.iloc[spread_rows(len(table), MOST_ROWS)]
        keys = ["wav", *table.columns.intersection(["spk_id"])]
        recordings = table.groupby(keys, sort=False)
        check_classes(recordings.ngroups)
        if recordings.ngroups < FEW_RECORDINGS:
            logger.warning(
                f"recording_lda learns from {recordings.ngroups} recordings, "
                "which is few: it has been tried on hundreds, of many voices."
            )
        embeddings, rows = self.embed_crops(embedder, table)
        return self.fit(embeddings, recordings.ngroup().to_numpy()[rows])

    def fit_transform(self, embeddings):
        """``transform``: the form in which pseudo labels take it, after
        ``learn``."""
        return self.transform(embeddings)

    def embed_crops(self, embedder, table):
        """Embeds augmented crops.

        Arguments
        ---------
        embedder : Embedder
            The encoder.
        table : pandas.DataFrame
            A manifest, a recording or a stretch of one in each row. See
            ``learn``.

        Returns
        -------
        embeddings : numpy.ndarray
            Embeddings of the crops, shape (N, D).
        rows : numpy.ndarray
            Shape (N,): the row that each is a crop of.

        Raises
        ------
        ValueError
            If these are no waveforms.
        """
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
        found, places, problems = [], [], []
        bar = tqdm(total=len(data), desc="Crops of recordings", delay=1)
        with fork_rng(embedder.device, self.seed), torch.no_grad(), bar:
            for batch in loader:
                bar.update(len(batch))
                rows, crops, problem = zip(*batch)
                wavs = torch.cat(crops)
                if wavs.dim() != 2:
                    raise ValueError(
                        "recording_lda is for voices: it augments waveforms."
                    )
                wavs = augment(wavs.to(embedder.device or "cpu"))
                found.append(embedder.encode(wavs))
                places.append(np.repeat(rows, self.crops))
                problems += filter(None, problem)
        if problems:
            logger.warning(
                f"{len(problems)} of {len(data)} recordings cannot be read or "
                f"are silent, others stand in. The first: {problems[0]}"
            )
        return np.concatenate(found), np.concatenate(places)


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
        The augmenter: reverberation, then noise at three ranges of levels.
    """
    levels = [(0, 15), (5, 15), (13, 20)]
    noises = [
        AddNoise(snr_low=low, snr_high=high, sample_rate=sample_rate)
        for low, high in levels
    ]
    return CropAugmenter(
        [AddReverb(sample_rate=sample_rate), *noises], [0.5, 0.25, 0.25, 0.25]
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
            [crop_samples(seconds, rate)] * count,
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
