"""Usable signals: what training, embedding, verification and clustering take.

The one home of these rules: a signal is finite, is not silent, and the
channels of a file do not cancel each other out.
"""

import math

import numpy as np
import soxr
import torch
from torchaudio.functional import resample

# The power spectrum of louder samples is not finite in fp32; 32-bit integers
# that pass for floats are far below.
LOUDEST = 1e15

# What 16 bits resolve: the dither of a silent recording moves by this much
# around its mean (RMS). -90 dB of full scale; quiet recordings are at -40.
QUANTUM = 2**-15

# Of opposite channels, the sum has less than this share of the power that it
# would have if they were unrelated: two as loud have a correlation below -0.8.
# Ogg Vorbis keeps what cancels above 3 kHz, -13 dB, and loses what is below.
CANCELLED = 0.2

# Entries of torchaudio's kernel, about: 44100, 22050 and 11025 Hz are below
LARGEST_KERNEL = 2**19

# What problem_of calls a signal that does not move.
SILENT = "silent"

# No speech is recorded below; above, a header is damaged. In Hz.
RATES = range(1000, 1_000_000)


def movement(samples):
    """How much a signal moves: its RMS around its mean, in float64.

    Arguments
    ---------
    samples : numpy.ndarray
        Samples, shape (N,) or (N, channels).

    Returns
    -------
    float or numpy.ndarray
        The RMS of each channel; 0 if there are no samples.

    Example
    -------
    >>> [float(movement(np.array(pair))) for pair in [(0.5, 0.5), (1, 0)]]
    [0.0, 0.5]
    """
    if not len(samples):
        return np.zeros(samples.shape[1:])
    return np.std(samples, axis=0, dtype=np.float64)


def problem_of(samples):
    """Why a signal cannot be used.

    Arguments
    ---------
    samples : numpy.ndarray
        Samples, shape (N,), mono.

    Returns
    -------
    str
        The reason; empty if it can be used.

    Example
    -------
    >>> tone = np.sin(np.arange(8000.0))
    >>> problem_of(0.01 * tone), problem_of(0.3 + 1e-5 * tone)
    ('', 'silent')
    >>> problem_of(tone / 0)[:33]
    'holds samples that are NaN or inf'
    """
    if not len(samples):
        return SILENT
    return unusable(samples) or ("" if _moves(samples) else SILENT)


def unusable(samples):
    """Why samples are no sound, not even silence.

    Arguments
    ---------
    samples : numpy.ndarray
        Samples, of any shape.

    Returns
    -------
    str
        The reason; empty if they are sound or silence.

    Example
    -------
    >>> unusable(np.zeros(3)), unusable(np.array([0.0, np.inf]))[:33]
    ('', 'holds samples that are NaN or inf')
    """
    # Not above, as NaN is neither
    if not np.abs(samples).max(initial=0.0) < LOUDEST:
        return "holds samples that are NaN or inf, or beyond all measure"
    return ""


def _moves(samples):
    """Whether the movement is above ``QUANTUM``: of loud samples, whose
    rounding does not matter, by a product that takes a tenth of the time."""
    energy = samples @ samples
    most_by_rounding = 1e-3 * energy + 4 * QUANTUM**2 * len(samples)
    if energy - len(samples) * samples.mean() ** 2 > most_by_rounding:
        return True
    return movement(samples) > QUANTUM


def to_mono(samples, channel=None):
    """Several channels as one: their mean; the stronger one where they cancel
    each other out, as of a line that was wired the wrong way round.

    Arguments
    ---------
    samples : numpy.ndarray
        Samples, shape (N, channels).
    channel : int, optional
        The channel to take in the place of the stronger one, so that all parts
        that cancel each other out come from the same.

    Returns
    -------
    mono : numpy.ndarray
        Samples, shape (N,).
    channel : int
        The channel that was taken; None if they do not cancel each other out.

    Example
    -------
    >>> tone = np.sin(np.arange(8000.0))
    >>> mono, channel = to_mono(np.stack([tone, -tone], 1))
    >>> channel, bool((mono == tone).all())
    (0, True)
    """
    if samples.shape[1] == 1:
        return samples[:, 0], None
    mono = samples.mean(1)
    each = movement(samples)
    strongest = int(np.argmax(each))
    opposite = (
        each[strongest] > QUANTUM
        and (len(each) * movement(mono)) ** 2 < CANCELLED * (each**2).sum()
    )
    if not opposite:
        return mono, None
    channel = strongest if channel is None else channel
    return samples[:, channel], channel


def resampled(samples, rate, wanted):
    """A signal at another rate, in time and memory that grow with its length
    alone.

    Where the two rates have a large common factor, by torchaudio's defaults,
    as SpeechBrain does it: an encoder hears the same wherever it is loaded.
    Elsewhere torchaudio's kernel would have gigabytes, and libsoxr takes over,
    whose high quality is exact to 20 bits.

    Arguments
    ---------
    samples : numpy.ndarray
        Samples, shape (N,), float32.
    rate : int
        The rate of the samples, in Hz.
    wanted : int
        The rate wanted, in Hz.

    Returns
    -------
    numpy.ndarray
        Samples, shape (about N * wanted / rate,), float32.

    Example
    -------
    >>> [
    ...     resampled(np.ones(rate, np.float32), rate, 16000).shape
    ...     for rate in (44100, 44101)
    ... ]
    [(16000,), (16000,)]
    """
    if rate == wanted or not len(samples):
        return samples
    common = math.gcd(rate, wanted)
    if rate // common * (wanted // common) > LARGEST_KERNEL:
        return soxr.resample(samples, rate, wanted, quality="HQ")
    return resample(torch.from_numpy(samples), rate, wanted).numpy()


def fft_size(sample_rate):
    """The points of an FFT that hold SpeechBrain's window of 25 ms.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    int
        SpeechBrain's 400, more above 16000 Hz.

    Example
    -------
    >>> fft_size(8000), fft_size(16000), fft_size(24000)
    (400, 400, 600)
    """
    return max(400, round(0.025 * sample_rate))
