"""Converting audio of any kind to mono flac at one rate, once and for all."""

import errno
import functools
import itertools
import os
import stat

import numpy as np
import soundfile

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import check_written, say_opposite
from speechbrain_cadino.dataio.headers import died
from speechbrain_cadino.dataio.signal import RATES, to_mono, unusable
from speechbrain_cadino.prepare.copies import (
    IN_THE_WAY,
    comment_of,
    decodable,
    in_the_way,
    is_copy,
    make_copies,
    require_av,
)
from speechbrain_cadino.process.files import atomic_path, remove_leftovers

logger = get_logger(__name__)

# Where floats are written in 16 bits as they are: decoders of lossy formats go
# a little beyond full scale, which may be cut, and below there are few steps.
LOUD, QUIET = 1.5, 2**-8

# What a file system says of a name that it cannot have
OF_A_NAME = (errno.ENAMETOOLONG, errno.EINVAL, errno.EILSEQ)


def convert_files(
    sources, targets, sample_rate=16000, num_workers=None, channel=None
):
    """Converts audio files to 16-bit mono flac, in parallel.

    Floats that go far beyond full scale are scaled down to it, and those that
    stay far below are written in 24 bits, so that each sounds as it did.

    Run it again after it was stopped, and it goes on where it was: a target
    says in its comment which file it was made of, of which size and time, and
    is left as it is if that is its source as it is now, at the right rate.

    Arguments
    ---------
    sources : list of str
        The files to convert: whatever PyAV, that is FFmpeg, decodes.
    targets : list of str
        The flac file for each source. Folders are made as needed.
    sample_rate : int
        The rate of the targets, in Hz.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    channel : int, optional
        The channel to take, counted from 0; all of them, mixed, by default.

    Returns
    -------
    list of str
        The reason why each source failed; an empty text if it did not.

    Raises
    ------
    ImportError
        If PyAV is not there.
    ValueError
        If a target is there, and is no copy of its source at this rate: of
        another file that is still there, or of nobody knows what.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", [[0.5, 0.0]] * 44100, 44100)
    >>> convert_files([folder / "a.wav"], [folder / "16k" / "a.flac"])
    ['']
    >>> info = soundfile.info(folder / "16k" / "a.flac")
    >>> info.samplerate, info.channels, info.frames
    (16000, 1, 16000)
    """
    require_av(
        f"{len(sources)} file(s) have to be converted, the first is "
        f"{sources[0]}"
    )
    for folder in {os.path.dirname(target) for target in targets}:
        remove_leftovers(folder)
    return make_copies(
        functools.partial(_convert, sample_rate=sample_rate, channel=channel),
        sources,
        targets,
        "Converting",
        "give each folder of audio, and each sample_rate, a folder of its own "
        "for the copies",
        num_workers,
    )


def _convert(source, target, sample_rate, channel=None):
    """Converts one file; returns why it could not, or an empty text."""
    import av

    try:
        # To open a FIFO waits for its writer, for ever.
        if not stat.S_ISREG(os.stat(source).st_mode):
            return "not convertible (no plain file)"
    except OSError as error:
        return f"not convertible ({error.strerror})"
    made_of = comment_of(source)
    if channel is not None:
        made_of += f" channel {channel + 1}"
    found, rate = _comment(target)
    if problem := in_the_way(target, found, made_of):
        return problem
    if found is not None and rate != sample_rate:
        return f"{IN_THE_WAY}{target} has {rate} samples a second"
    if is_copy(found, made_of):
        return ""
    decode = functools.partial(_decode, source, sample_rate, channel)
    try:
        with atomic_path(target) as path:
            write = functools.partial(_write, path, sample_rate, made_of)
            peak = write(decode())
            if peak > LOUD:
                write(samples / peak for samples in decode())
            elif 0 < peak < QUIET:
                write(decode(), subtype="PCM_24")
    # PyAV's resampler raises a ValueError when a stream changes midway.
    except (av.FFmpegError, ValueError) as error:
        return f"not convertible ({getattr(error, 'strerror', error)})"
    except OSError as error:
        if error.errno not in OF_A_NAME:
            raise
        return f"not convertible ({error.strerror}: {target})"
    return ""


def _write(path, sample_rate, made_of, parts, subtype="PCM_16"):
    """Writes a copy of its parts, and checks it; returns the peak of them."""
    frames, peak = 0, 0.0
    with soundfile.SoundFile(path, "w", sample_rate, 1, subtype) as output:
        output.comment = made_of
        for samples in parts:
            output.write(samples)
            frames += len(samples)
            peak = max(peak, float(np.abs(samples).max(initial=0.0)))
    if not frames:
        raise ValueError("no samples in it")
    check_written(path, frames)
    return peak


def _decode(source, sample_rate, chosen):
    """Yields the audio of a file as mono arrays: of the chosen channel, or of
    all of them, mixed."""
    import av

    # FFmpeg believes the length that a recorder had written last, too
    options = {"ignore_length": "1"} if died(source) else {}
    with av.open(str(source), options=options) as container:
        if not container.streams.audio:
            raise ValueError("no audio in it")
        rate = container.streams.audio[0].codec_context.sample_rate
        if rate not in RATES:
            raise ValueError(f"a rate of {rate} Hz is none of audio")
        yield from _mono_parts(container, sample_rate, source, chosen)


def _mono_parts(container, sample_rate, source, chosen):
    """The same of an open file."""
    import av

    # All channels, packed: FFmpeg's own sum of more than two is too loud
    resampler = av.AudioResampler(format="flt", rate=sample_rate)
    channel = None
    frames = decodable(container.demux(audio=0), source)
    # At the end None makes the resampler give what it still holds.
    for frame in itertools.chain(frames, [None]):
        for resampled in resampler.resample(frame):
            count = len(resampled.layout.channels)
            samples = resampled.to_ndarray().reshape(-1, count)
            if problem := unusable(samples):
                raise ValueError(problem)
            if chosen is not None:
                if chosen >= count:
                    raise ValueError(f"no channel {chosen + 1} in a part of it")
                yield samples[:, chosen]
                continue
            mono, alone = to_mono(samples, channel)
            if channel is None and alone is not None:
                say_opposite(str(source))
                channel = alone
            yield mono


def _comment(target):
    """What a target says, and its rate; None if it is not there, or is empty,
    as the copy of a file without samples was in version 0.2.0."""
    if not os.path.lexists(target):
        return None, None
    if os.path.isfile(target) and not os.path.getsize(target):
        return None, None
    try:
        with soundfile.SoundFile(target) as file:
            return file.comment, file.samplerate
    except soundfile.LibsndfileError:
        return "", None
