"""Features of frames: log-mel, MFCC, codes of k-means, layers of a network."""

import contextlib
from typing import NamedTuple

import numpy as np
import torch
from sklearn.cluster import KMeans
from tqdm import tqdm

from speechbrain.lobes.features import MFCC, Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.dataio.signal import fft_size
from speechbrain_cadino.losses.online_codebook import over_time

# Of SpeechBrain's features at 100 frames a second
HOP = 0.01
# Files of the training set, and frames of these, that k-means learns from
KMEANS_FILES, KMEANS_FRAMES = 300, 50_000
# What is described at once, in seconds: memory grows with the square
LONGEST = 60


class Features(NamedTuple):
    """A way to describe the frames of a signal."""

    describe: object  # (1, samples) to (1, frames, size) by name
    hop: float  # seconds from one frame to the next
    offset: float = 0.0  # the middle of the first one, in seconds


def read_signal(path, sample_rate, start=0, stop=None):
    """Reads a signal.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    sample_rate : int
        The sample rate, in Hz.
    start : int
        The first sample.
    stop : int, optional
        The first sample after it.

    Returns
    -------
    torch.Tensor
        Samples, (1, samples), float32.
    """
    with AudioReader(path, sample_rate) as audio:
        return audio.read(start, stop)[None]


def spectral_features(sample_rate):
    """What there was before any training: log-mel bands and MFCC.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    Features
        ``log_mel``, 80 bands less their mean over the file, and ``mfcc``, 13
        with their first and second differences, of mean 0 and variance 1 over
        the file, as the baseline of the ZeroSpeech challenges.

    Example
    -------
    >>> said = spectral_features(16000).describe(torch.randn(1, 16000))
    >>> {name: tuple(frames.shape) for name, frames in said.items()}
    {'log_mel': (1, 101, 80), 'mfcc': (1, 101, 39)}
    """
    n_fft = fft_size(sample_rate)
    log_mel = Fbank(sample_rate=sample_rate, n_mels=80, n_fft=n_fft)
    mfcc = MFCC(sample_rate=sample_rate, n_mfcc=13, n_fft=n_fft, context=False)
    less_mean = InputNormalization(norm_type="sentence", std_norm=False)
    normal = InputNormalization(norm_type="sentence")

    def describe(signal):
        return {
            "log_mel": less_mean(log_mel(signal)),
            "mfcc": normal(mfcc(signal)),
        }

    return Features(describe, HOP)


def kmeans_codes(manifest, data_folder, clusters, sample_rate, seed=0):
    """Clusters of MFCC, learnt on a training set: the codes to beat.

    Arguments
    ---------
    manifest : str or pathlib.Path
        The training set.
    data_folder : str or pathlib.Path
        The folder of its files.
    clusters : int
        The number of clusters.
    sample_rate : int
        The sample rate, in Hz.
    seed : int
        The seed of the files, the frames and the clusters.

    Returns
    -------
    Features
        ``codes``, the number of the cluster of each frame.

    Raises
    ------
    MediaError
        If no file of the manifest can be read.
    """
    mfcc = spectral_features(sample_rate).describe
    table = read_manifest(manifest, data_folder)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(table))[:KMEANS_FILES]
    parts = []
    for row in tqdm(table.iloc[chosen].itertuples(), "MFCC", total=len(chosen)):
        # Of a longer one, its beginning
        stop = min(row.stop, row.start + LONGEST * sample_rate)
        # Broken and silent files are few, and are counted where all are read
        with contextlib.suppress(MediaError):
            signal = read_signal(row.wav, sample_rate, row.start, stop)
            parts.append(mfcc(signal)["mfcc"][0].numpy())
    if not parts:
        raise MediaError(f"{manifest}: none of its files can be read.")
    frames = np.concatenate(parts)
    frames = frames[rng.permutation(len(frames))[:KMEANS_FRAMES]]
    found = KMeans(clusters, n_init=1, random_state=seed).fit(frames)

    def describe(signal):
        codes = found.predict(mfcc(signal)["mfcc"][0].numpy())
        return {"codes": torch.as_tensor(codes)[None, :, None]}

    return Features(describe, HOP)


def network_features(student, hop, offset, heads=True):
    """The layers of a frame encoder, and the codes that it guesses.

    Arguments
    ---------
    student : FrameStudent
        The encoder; it is put into evaluation mode.
    hop : float
        The seconds from one frame to the next. See Features.
    offset : float
        The middle of the first frame, in seconds.
    heads : bool
        Whether to give the codes, too.

    Returns
    -------
    Features
        ``layer_1`` and so on, of mean 0 and variance 1 over the file as the
        MFCC that they are compared with, and ``codes_LAYER`` of the heads, by
        the layer whose codebook it is.
    """
    student.eval()
    device = next(student.parameters()).device

    def describe(signal):
        layers, codes = student.describe(signal.to(device))
        said = {f"layer_{n}": over_time(x) for n, x in enumerate(layers, 1)}
        if heads:
            first = 1 + len(layers) - len(codes)
            said |= {f"codes_{n}": each for n, each in enumerate(codes, first)}
        return said

    return Features(describe, hop, offset)
