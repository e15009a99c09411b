"""Reading audio: any rate, any number of channels, only the samples needed."""

import pathlib

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

# The power spectrum of louder samples is not finite in fp32; 32-bit integers
# that pass for floats are far below.
LOUDEST = 1e15


class MediaError(ValueError):
    """A file that cannot be used, with the reason."""


class AudioError(MediaError):
    """An audio file that cannot be used, with the reason."""


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


class AudioReader:
    """An open audio file that gives mono float32 samples at one rate.

    Files at another rate are resampled piece by piece, files with several
    channels are averaged. Positions are in samples at ``sample_rate``.

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
    >>> soundfile.write(path, np.zeros((8000, 2)), 8000)
    >>> with AudioReader(path, sample_rate=16000) as audio:
    ...     len(audio), audio.read(4000, 12000).shape
    (16000, torch.Size([8000]))
    """

    def __init__(self, path, sample_rate=16000):
        self.path = str(path)
        self.sample_rate = sample_rate
        if not pathlib.Path(path).is_file():
            raise AudioError(
                f"{path}: no such file. Was it moved after the prepare step? "
                "Then prepare again."
            )
        try:
            self._file = soundfile.SoundFile(self.path)
        except soundfile.LibsndfileError as error:
            raise AudioError(
                f"{path}: not readable as audio ({error.error_string}). If it "
                "plays elsewhere, convert it: see convert_folder in the "
                "prepare step."
            ) from error
        self._ratio = self._file.samplerate / sample_rate

    def __len__(self):
        return length_at(
            self.sample_rate, self._file.frames, self._file.samplerate
        )

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
            Shape (stop - start,), float32.

        Raises
        ------
        AudioError
            If the file ends before ``stop`` or breaks in between, or a sample
            is not finite, or so large that its features would not be.
        """
        stop = len(self) if stop is None else stop
        first, last = round(start * self._ratio), round(stop * self._ratio)
        try:
            self._file.seek(first)
            samples = self._file.read(last - first, "float32", always_2d=True)
        except (soundfile.LibsndfileError, RuntimeError) as error:
            raise AudioError(
                f"{self.path}: damaged or cut short ({error})."
            ) from error
        if len(samples) < last - first:
            raise AudioError(
                f"{self.path}: ends after {first + len(samples)} samples, "
                f"{last} were expected. The file changed or is truncated: "
                "prepare again."
            )
        # numpy: torch would start a thread pool for work of a millisecond
        mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(1)
        # Not above, as NaN is neither
        if not np.abs(mono).max(initial=0.0) < LOUDEST:
            raise AudioError(
                f"{self.path}: holds samples that are NaN, inf or beyond all "
                "measure."
            )
        signal = torch.from_numpy(np.ascontiguousarray(mono))
        if self._ratio != 1:
            signal = resample(signal, self._file.samplerate, self.sample_rate)[
                : stop - start
            ]
            missing = stop - start - len(signal)
            signal = torch.nn.functional.pad(signal, (0, missing))
        return signal


def read_audio(path, start=0, stop=None, sample_rate=16000):
    """Reads a stretch of an audio file: see ``AudioReader``.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    start : int
        The first sample, at ``sample_rate``.
    stop : int, optional
        One past the last sample; the end of the file by default.
    sample_rate : int
        The rate wanted, in Hz.

    Returns
    -------
    torch.Tensor
        Shape (stop - start,), float32.
    """
    with AudioReader(path, sample_rate) as audio:
        return audio.read(start, stop)
