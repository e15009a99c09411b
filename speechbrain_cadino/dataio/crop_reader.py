"""Reading of random crops of utterances, from as little of the files as can
be."""

import contextlib
import math

import numpy as np
import torch
from torchaudio.functional import resample

from speechbrain_cadino.dataio.audio import MediaError, SilentError
from speechbrain_cadino.dataio.signal import SILENT, problem_of

# Draws of another utterance before a batch is given up.
MAX_REPLACEMENTS = 10

# Draws of another place for a silent crop before its utterance is replaced: one
# side of a telephone call is silent for half of its time.
MAX_SILENT = 50

BLANK = "blank"


def crop_samples(seconds, sample_rate):
    """The length of a crop.

    Arguments
    ---------
    seconds : float
        The length of the crop, in seconds.
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    int
        The number of samples.

    Raises
    ------
    ValueError
        If that is none.

    Example
    -------
    >>> crop_samples(0.5, 16000)
    8000
    """
    if seconds is None or not 1 <= seconds * sample_rate < math.inf:
        raise ValueError(
            f"A crop of {seconds} seconds: give a length above 0 to "
            "global_seconds, local_seconds and crop_seconds."
        )
    return round(seconds * sample_rate)


class CropReader:
    """Reads random crops of utterances, and replaces what cannot be read.

    An utterance shorter than a crop is repeated until it fills it. A crop that
    is silent is drawn again from its utterance. An anchor that cannot be read,
    or is silent, is replaced by another one; for one of its partners, the
    anchor stands in.

    Arguments
    ---------
    wavs : sequence of str
        The file of each utterance.
    starts, stops : numpy.ndarray
        (N,): where it begins and ends there, in samples.
    lengths : list of int
        The lengths of the crops of a sample, in samples.
    sample_rate : int
        The sample rate, in Hz.
    reader : callable
        The opener of a file: see Embedder.
    """

    def __init__(self, wavs, starts, stops, lengths, sample_rate, reader):
        self.wavs = wavs
        self.starts = starts
        self.stops = stops
        self.lengths = lengths
        self.sample_rate = sample_rate
        self.reader = reader

    def read(self, row, speed, rng, partners):
        """The crops of a sample.

        Arguments
        ---------
        row : int
            The row of the anchor.
        speed : Fraction
            The factor by which it is played faster.
        rng : numpy.random.Generator
            The source of all that is random.
        partners : callable
            See ``Sampling.partners``.

        Returns
        -------
        row : int
            The row of the anchor, or of the utterance that replaced it.
        crops : list of numpy.ndarray
            The crops, one of each of ``lengths``.
        problem : str
            The reason why an utterance was replaced; empty if none was.

        Raises
        ------
        MediaError
            If ``MAX_REPLACEMENTS`` anchors in a row cannot be read.
        """
        problem = ""
        for _ in range(MAX_REPLACEMENTS):
            try:
                rows = [row, *partners(row, rng)]
                crops, missed = self._read_all(rows, speed, rng)
                return row, crops, problem or missed
            except MediaError as error:
                problem = problem or str(error)
                row = rng.integers(len(self.wavs))
        raise MediaError(
            f"{MAX_REPLACEMENTS} utterances in a row could not be read, the "
            f"first because: {problem}"
        )

    def _read_all(self, rows, speed, rng):
        """All crops of a sample: from each utterance in turn.

        The anchor stands in for an utterance that cannot be read, and the
        reason is returned too.
        """
        crops, problem = [None] * len(self.lengths), ""
        step = len(rows)
        for turn, source in enumerate(rows):
            lengths = self.lengths[turn::step]
            try:
                pieces = self._read_from(source, lengths, speed, rng)
            except MediaError as error:
                if source == rows[0]:
                    raise
                problem = str(error)
                pieces = self._read_from(rows[0], lengths, speed, rng)
            crops[turn::step] = pieces
        return crops, problem

    def _read_from(self, row, lengths, speed, rng):
        """Crops of one utterance, from one opened file: drawn again, one by
        one, if any is silent."""
        sizes = [round(length * speed) for length in lengths]
        with self.reader(self.wavs[row], self.sample_rate) as audio:
            places = [self._place(row, size, rng) for size in sizes]
            try:
                pieces = self._read_places(row, audio, places)
            except SilentError:
                pieces = [self._read_heard(row, audio, s, rng) for s in sizes]
        return [
            _fill(_at_speed(piece, speed), length)
            for piece, length in zip(pieces, lengths)
        ]

    def _place(self, row, size, rng):
        """Where a random stretch of an utterance begins and ends."""
        start, stop = self.starts[row], self.stops[row]
        first = int(start + rng.integers(max(stop - start - size, 0) + 1))
        return first, int(min(first + size, stop))

    def _read_heard(self, row, audio, size, rng):
        """A random stretch that is not silent; raises if none is found."""
        # Of what it fills there is one place
        fills = self.stops[row] - self.starts[row] <= size
        for _ in range(0 if fills else MAX_SILENT - 1):
            with contextlib.suppress(SilentError):
                place = self._place(row, size, rng)
                return self._read_places(row, audio, [place])[0]
        return self._read_places(row, audio, [self._place(row, size, rng)])[0]

    def _read_places(self, row, audio, places):
        """Reads stretches; raises if one is silent."""
        pieces = _read_pieces(audio, *zip(*places))
        for (first, _), piece in zip(places, pieces):
            problem = problem_of(piece) if piece.ndim == 1 else _blank(piece)
            if problem:
                kind = SilentError if problem in (SILENT, BLANK) else MediaError
                raise kind(f"{self.wavs[row]}: {problem}, from {first} on.")
        return pieces


def _read_pieces(audio, firsts, lasts):
    """Reads stretches of a file, decoding as little as possible.

    Crops of a short utterance overlap so much that their common span is less
    to decode than they are one by one.
    """
    begin, end = min(firsts), max(lasts)
    if end - begin > sum(lasts) - sum(firsts):
        return [audio.read(*piece).numpy() for piece in zip(firsts, lasts)]
    span = audio.read(begin, end).numpy()
    return [
        span[first - begin : last - begin] for first, last in zip(firsts, lasts)
    ]


def shows(frames):
    """Whether pictures show something: each is not of one colour.

    Arguments
    ---------
    frames : numpy.ndarray
        Pictures, shape (frames, channels, height, width).

    Returns
    -------
    numpy.ndarray
        The answer for each picture, shape (frames,), bool.

    Example
    -------
    >>> blue = np.zeros((1, 3, 2, 2))
    >>> blue[:, 2] = 255
    >>> shows(blue), shows(np.arange(12).reshape(1, 3, 2, 2))
    (array([False]), array([ True]))
    """
    pixels = frames.reshape(*frames.shape[:2], -1)
    return (pixels.max(2) > pixels.min(2)).any(1)


def _blank(frames):
    """What ``problem_of`` is to signals."""
    return "" if shows(frames).any() else BLANK


def _at_speed(piece, speed):
    """A piece played at another speed, its pitch with it."""
    if speed == 1:
        return piece
    wav = torch.from_numpy(piece)
    return resample(wav, speed.numerator, speed.denominator).numpy()


def _fill(piece, length):
    """A piece cut, or repeated, to a length; not copied if it has it."""
    if len(piece) == length:
        return piece
    return np.resize(piece, (length, *piece.shape[1:]))
