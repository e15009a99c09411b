"""A recording channel made by code: room, noise, microphone, level.

It serves the demo corpus, where a channel drawn anew for every utterance keeps
an encoder from telling voices apart by their recordings.
"""

import numpy as np
from scipy import fft

SAMPLE_RATE = 16000
RT60 = (0.15, 0.8)  # seconds
DIRECT_TO_REVERBERANT = (0.0, 14.0)  # dB
REFLECTIONS = 6
EARLY = (0.002, 0.05)  # seconds, when reflections arrive
KNOTS = 64 * 2.0 ** np.arange(8)  # Hz, one an octave
EQUALISER = 3.0  # dB, the standard deviation of the gain at a knot
NOISE_SLOPE = (-6.0, 0.0)  # dB per octave: 0 is white noise, -3 pink
NOISE_WANDER = (0.0, 8.0)  # dB, the standard deviation of the noise level ...
NOISE_CHANGES = (1.0, 8.0)  # ... which is drawn this many times a second
HIGH_PASS = (40.0, 150.0)  # Hz
LOW_PASS = (5000.0, 8000.0)  # Hz
SNR = (12.0, 30.0)  # dB
LEVEL = (-36.0, -20.0)  # dB, the root mean square of the whole; full scale: 0


def degrade(signal, rng):
    """Passes a signal through a channel drawn at random.

    Arguments
    ---------
    signal : numpy.ndarray
        Samples, shape (samples,), at 16 kHz, not all zero.
    rng : numpy.random.Generator
        The source of all that is random.

    Returns
    -------
    numpy.ndarray
        Samples, shape (samples,), int16.

    Example
    -------
    >>> tone = np.sin(np.arange(16000) / 5)
    >>> one, two = (degrade(tone, np.random.default_rng(i)) for i in (1, 2))
    >>> one.shape, one.dtype, np.array_equal(one, two)
    ((16000,), dtype('int16'), False)
    """
    length = len(signal)
    # With room for the reverberation of the last sample.
    size = fft.next_fast_len(length + int(RT60[1] * SAMPLE_RATE), real=True)
    frequency = fft.rfftfreq(size, 1 / SAMPLE_RATE)
    speech = fft.rfft(signal, size)
    speech *= fft.rfft(_draw_room(rng), size)
    noise = fft.rfft(_draw_noise(rng, size))
    noise *= _draw_equaliser(rng, frequency, rng.uniform(*NOISE_SLOPE))
    # One microphone hears both the voice and the noise.
    microphone = _draw_equaliser(rng, frequency) * _draw_band(rng, frequency)
    speech, noise = (
        _scale(fft.irfft(spectrum * microphone, size)[:length], decibels)
        for spectrum, decibels in ((speech, 0), (noise, -rng.uniform(*SNR)))
    )
    mixed = _scale(speech + noise, rng.uniform(*LEVEL))
    return np.int16(np.clip(mixed, -1, 1) * 32767)


def _scale(signal, decibels):
    """Gives a signal the root mean square of so many decibels."""
    return signal * 10 ** (decibels / 20) / np.sqrt(np.mean(signal**2))


def _draw_room(rng):
    """An impulse response: direct sound, a few early reflections, and a tail
    of noise that decays by 60 dB in the reverberation time."""
    rt60 = rng.uniform(*RT60)
    time = np.arange(int(rt60 * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(time))
    first, last = (int(seconds * SAMPLE_RATE) for seconds in EARLY)
    response[:first] = 0
    response[rng.integers(first, last, REFLECTIONS)] *= 4
    response *= 10 ** (-3 * time / rt60)
    ratio = rng.uniform(*DIRECT_TO_REVERBERANT)
    response *= 10 ** (-ratio / 20) / np.sqrt(np.sum(response**2))
    response[0] = 1
    return response


def _draw_equaliser(rng, frequency, slope=0.0):
    """A gain (a factor, not dB) that varies smoothly over frequency, around a
    slope in dB per octave."""
    gain = rng.normal(0, EQUALISER, len(KNOTS)) + slope * np.arange(len(KNOTS))
    octave = np.log2(np.maximum(frequency, KNOTS[0]))
    return 10 ** (np.interp(octave, np.log2(KNOTS), gain) / 20)


def _draw_band(rng, frequency):
    """The gain of a Butterworth band pass, steeper above than below."""
    low, high = np.exp([rng.uniform(*np.log(e)) for e in (HIGH_PASS, LOW_PASS)])
    below = (low / np.maximum(frequency, 1)) ** 4
    return 1 / np.sqrt((1 + below) * (1 + (frequency / high) ** 12))


def _draw_noise(rng, size):
    """White noise whose level wanders."""
    knots = int(size / SAMPLE_RATE * rng.uniform(*NOISE_CHANGES)) + 2
    level = rng.normal(0, rng.uniform(*NOISE_WANDER), knots)
    level = np.interp(np.linspace(0, knots - 1, size), np.arange(knots), level)
    return rng.standard_normal(size) * 10 ** (level / 20)
