"""Reading audio: any rate, any number of channels, only the samples needed."""

import errno
import os
import pathlib
import stat
from typing import NamedTuple

import numpy as np
import soundfile
import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.headers import goes_on
from speechbrain_cadino.dataio.signal import (
    RATES,
    SILENT,
    problem_of,
    resampled,
    to_mono,
)

logger = get_logger(__name__)

# Formats in which the header says how many samples there are, and the file
# may have less: cut short, or written to a pipe. soundfile looks at the size
# of all others.
TOLD = {"FLAC", "MP3", "MPEG"}

# What soundfile says where it does not know, as of some Ogg files
UNKNOWN = 2**63 - 1

# The bytes of a sample in WAV, whose header cannot tell of 4 GB and more
WIDTHS = {
    "PCM_U8": 1,
    "ULAW": 1,
    "ALAW": 1,
    "PCM_16": 2,
    "PCM_24": 3,
    "PCM_32": 4,
    "FLOAT": 4,
    "DOUBLE": 8,
}

# Samples that are decoded at a time to count them
BLOCK = 2**18
# Files whose channels cancel each other out, so many of which are named
NAMED = 10
_opposite = set()

RELATIVE = (
    " A name in a manifest starts from the current folder, unless it begins "
    "with $data_root/, which stands for data_folder."
)

# Read before and after a stretch that is resampled, in samples at the rate
# wanted: hardly a filter is longer
MARGIN = 64


class MediaError(ValueError):
    """A file that cannot be used, with the reason."""


class AudioError(MediaError):
    """An audio file that cannot be used, with the reason."""


class SilentError(AudioError):
    """A stretch of a file in which nothing is heard, or seen."""


def length_at(sample_rate, frames, file_rate):
    """How many samples ``AudioReader`` gives for a whole file.

    Arguments
    ---------
    sample_rate : int
        The rate wanted, in Hz.
    frames : int
        Samples per channel in the file.
    file_rate : int
        The file's own rate, in Hz.

    Returns
    -------
    int
        The number of samples at ``sample_rate``.

    Example
    -------
    >>> length_at(16000, 44100, 44100)
    16000
    """
    return frames * sample_rate // file_rate


class Header(NamedTuple):
    """What a file holds.

    Arguments
    ---------
    frames : int
        Samples per channel that can be read.
    rate : int
        The sample rate, in Hz.
    channels : int
        The number of channels.
    told : int
        Samples per channel by the header, where it is wrong; else the same.
        -1 if there are more in the file than soundfile reads.
    """

    frames: int
    rate: int
    channels: int
    told: int


def read_header(path):
    """What an audio file holds: never what a header says alone.

    Where the last sample that the header promises is not there, all that can
    be decoded is counted. Where there is more than soundfile reads, ``told``
    says so: see ``headers.goes_on``.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    Header
        The samples, rate and channels, and what the header tells.

    Raises
    ------
    AudioError
        If it is no plain file, is not readable, or has a rate that no audio
        has.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros((8000, 2)), 8000)
    >>> read_header(path)
    Header(frames=8000, rate=8000, channels=2, told=8000)
    """
    with open_audio(path) as audio:
        told, rate, channels = audio.frames, audio.samplerate, audio.channels
        kind, unknown = audio.format, told == UNKNOWN or not audio.seekable()
        doubtful = unknown or kind in TOLD
        whole = not doubtful or _has_sample(audio, told - 1)
    frames = told if whole else _count(path)
    try:
        told = -1 if goes_on(path, kind) else told
    except OSError as error:
        raise AudioError(f"{path}: not readable ({error.strerror}).") from error
    return Header(frames, rate, channels, told)


def check_written(path, frames):
    """Raises if the last samples of a file found no room, of which libsndfile
    says nothing.

    Arguments
    ---------
    path : str or pathlib.Path
        The file, written and closed.
    frames : int
        The number of samples, of all channels at once, that it is to have.

    Raises
    ------
    OSError
        As of a full disk.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.zeros(8000), 8000)
    >>> check_written(path, 8000)
    """
    if soundfile.info(str(path)).frames != frames:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def open_audio(path):
    """Opens an audio file.

    Arguments
    ---------
    path : str or pathlib.Path
        See ``read_header``, also for the errors.

    Returns
    -------
    soundfile.SoundFile
        The open file, to be closed by the caller.
    """
    try:
        status = pathlib.Path(path).stat()
    except OSError as error:
        if isinstance(error, FileNotFoundError):
            raise AudioError(
                f"{path}: no such file. Was it moved after the prepare step? "
                "Then prepare again."
                + RELATIVE
                * (not pathlib.Path(path).is_absolute())
            ) from error
        raise AudioError(f"{path}: not readable ({error.strerror}).") from error
    # To open a FIFO waits for its writer, for ever.
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path}: no plain file.")
    try:
        audio = soundfile.SoundFile(str(path))
    except soundfile.LibsndfileError as error:
        reason = error.error_string.rstrip(".")
        try:
            open(path, "rb").close()
        except OSError as denied:
            # Better than libsndfile's "System error"
            reason = denied.strerror
        raise AudioError(
            f"{path}: not readable as audio ({reason}). If it plays "
            "elsewhere, convert it: see convert_folder in the prepare step."
        ) from error
    if _is_wrapped(audio, status.st_size):
        audio.close()
        raise AudioError(
            f"{path}: a WAV file of more than 4 GB, of which its header tells "
            "a part: convert it to FLAC, or cut it."
        )
    if audio.samplerate not in RATES:
        audio.close()
        raise AudioError(
            f"{path}: its rate of {audio.samplerate} Hz is none of audio: its "
            "header is damaged."
        )
    return audio


def _is_wrapped(audio, size):
    """Whether the length of a WAV file has begun anew at 4 GB."""
    width = WIDTHS.get(audio.subtype)
    if not audio.format.startswith("WAV") or width is None:
        return False
    return size - audio.frames * audio.channels * width >= 2**32


def _has_sample(audio, place):
    """Whether a sample is there, whatever the header says."""
    if place < 0:
        return True
    try:
        audio.seek(place)
        return len(audio.read(1, "float32")) == 1
    except (soundfile.LibsndfileError, RuntimeError, MemoryError):
        return False


def _count(path, count=0, step=BLOCK):
    """How many samples of a file can be decoded, of which so many are known to
    be."""
    with open_audio(path) as audio:
        try:
            if count:
                audio.seek(count)
            while True:
                block = len(audio.read(step, "float32", always_2d=True))
                count += block
                if block < step:
                    return count
        except (soundfile.LibsndfileError, RuntimeError):
            # What it had decoded of this block is not told: sample by sample
            # would take for ever, so in small blocks.
            return count if step < BLOCK else _count(path, count, step=256)


class AudioReader:
    """An open audio file that gives mono float32 samples at one rate.

    Files at another rate are resampled piece by piece; of several channels it
    is the mean, or the stronger one where they cancel each other out.
    Positions are in samples at ``sample_rate``.

    Arguments
    ---------
    path : str or pathlib.Path
        A file that soundfile can read (wav, flac, ogg, mp3).
    sample_rate : int
        The rate of what ``read`` returns, in Hz.

    Raises
    ------
    AudioError
        If the file is missing, or soundfile cannot read it.

    Example
    -------
    >>> path = getfixture("tmp_path") / "tone.wav"
    >>> soundfile.write(path, np.random.randn(8000, 2) / 9, 8000)
    >>> with AudioReader(path, sample_rate=16000) as audio:
    ...     len(audio), audio.read(4000, 12000).shape
    (16000, torch.Size([8000]))
    """

    def __init__(self, path, sample_rate=16000):
        self.path = str(path)
        self.sample_rate = sample_rate
        self._file = open_audio(path)
        self._ratio = self._file.samplerate / sample_rate

    def __len__(self):
        header = read_header(self.path)
        return length_at(self.sample_rate, header.frames, header.rate)

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self._file.close()

    def read(self, start=0, stop=None):
        """Reads the samples from start (included) to stop (excluded).

        Arguments
        ---------
        start : int
            The first sample, at ``sample_rate``.
        stop : int, optional
            One past the last sample; the end of the file by default.

        Returns
        -------
        torch.Tensor
            Samples, shape (stop - start,), float32.

        Raises
        ------
        AudioError
            If the file ends before ``stop`` or breaks in between, or what is
            read cannot be used: see ``dataio.signal.problem_of``. It is a
            SilentError if that is silent.
        """
        stop = len(self) if stop is None else stop
        # What is resampled is read with its neighbours
        margin = 0 if self._ratio == 1 else MARGIN
        lead = min(start, margin)
        begin, first, last, end = (
            round(place * self._ratio)
            for place in (start - lead, start, stop, stop + margin)
        )
        samples = self._samples(begin, last, end)
        mono, alone = to_mono(samples)
        if alone is not None:
            say_opposite(self.path)
        problem = problem_of(mono[first - begin : last - begin])
        if problem:
            kind = SilentError if problem == SILENT else AudioError
            raise kind(f"{self.path}: {problem}, from {start} on.")
        if self._ratio != 1:
            mono = resampled(mono, self._file.samplerate, self.sample_rate)
            mono = mono[lead:][: stop - start]
            mono = np.pad(mono, (0, stop - start - len(mono)))
        return torch.from_numpy(np.ascontiguousarray(mono))

    def _samples(self, begin, last, end):
        """The samples of a stretch, (samples, channels), up to the end if they
        are there, but at least up to the last."""
        # A file of unknown length cannot be read beyond its end
        for until in dict.fromkeys([end, last]):
            try:
                self._go_to(begin)
                samples = self._file.read(
                    until - begin, "float32", always_2d=True
                )
                break
            except (soundfile.LibsndfileError, RuntimeError) as error:
                damage = error
        else:
            raise AudioError(
                f"{self.path}: damaged or cut short ({damage}). If it has been "
                "replaced since, prepare again; else leave it out."
            ) from damage
        if begin + len(samples) < last:
            raise AudioError(
                f"{self.path}: ends after {begin + len(samples)} samples, "
                f"{last} were expected: damaged, or truncated. If it has been "
                "replaced since, prepare again; else leave it out."
            )
        return samples

    def _go_to(self, place):
        """Goes to a sample. Some formats of telephony (GSM 6.10, G.721) have no
        way there but from the beginning."""
        if self._file.seekable():
            self._file.seek(place)
            return
        self._file.close()
        self._file = open_audio(self.path)
        while place > 0:
            place -= len(self._file.read(min(place, BLOCK), "float32")) or place


def say_opposite(path):
    """Says, once, that the channels of a file cancel each other out: of an
    archive where all are so, of the first ones in each process.

    Arguments
    ---------
    path : str
        The file.
    """
    if path in _opposite or len(_opposite) == NAMED:
        return
    _opposite.add(path)
    logger.warning(
        f"{path}: its channels cancel each other out (one is wired the wrong "
        "way round): the stronger one is used.",
        main_process_only=False,
    )
