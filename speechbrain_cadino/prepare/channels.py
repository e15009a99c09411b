"""Each channel of recordings, as a side of a call, in a file of its own."""

import pathlib

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.names import CONVERTIBLE, READABLE
from speechbrain_cadino.prepare.convert import convert_files
from speechbrain_cadino.prepare.copies import require_av
from speechbrain_cadino.prepare.inputs import (
    check_folders,
    check_made_folder,
    check_rate,
)
from speechbrain_cadino.prepare.parallel import in_parallel
from speechbrain_cadino.prepare.recordings import (
    choose_recordings,
    write_skipped,
)
from speechbrain_cadino.prepare.scan import list_files

logger = get_logger(__name__)


def split_channels(
    data_folder, output_folder, sample_rate=16000, glob="**/*", num_workers=None
):
    """Writes each channel of each recording as 16-bit mono flac.

    ``calls/monday/7.wav`` becomes ``channel_1/monday/7.flac`` and
    ``channel_2/monday/7.flac``; a recording of one channel is in
    ``channel_1`` alone. Run it again after it was stopped, or with more
    recordings, and it goes on where it was: see ``convert_files``. What cannot
    be split is in ``skipped.csv`` (``wav,reason``).

    Arguments
    ---------
    data_folder : str or list of str
        The folder of the recordings, or several.
    output_folder : str or pathlib.Path
        The folder to write to.
    sample_rate : int
        The rate of the files, in Hz.
    glob : str
        The files to take, as paths below the folder.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.

    Returns
    -------
    list of int
        The number of files of each channel.

    Raises
    ------
    FileNotFoundError
        If there is no such folder.
    ImportError
        If PyAV is not installed.
    ValueError
        If there is no audio or no such rate, the output lies around the data,
        or a file there is of others.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> (folder / "calls").mkdir()
    >>> soundfile.write(folder / "calls" / "a.wav", [[0.5, 0.0]] * 800, 8000)
    >>> split_channels(folder / "calls", folder / "sides", sample_rate=8000)
    [1, 1]
    >>> wav, rate = soundfile.read(folder / "sides" / "channel_1" / "a.flac")
    >>> len(wav), float(wav[0]), rate
    (800, 0.5, 8000)
    """
    check_rate(sample_rate)
    folders = check_folders(data_folder)
    output = check_made_folder(output_folder, folders, "output")
    suffixes = READABLE | CONVERTIBLE
    listings = {
        folder: list_files(folder, glob, suffixes, leave_out=output)
        for folder in folders
    }
    recordings = choose_recordings(listings)
    usable = [recording for recording in recordings if not recording.problem]
    if not usable:
        raise ValueError(
            f"No audio in {', '.join(folders)} with the glob {glob}."
        )
    require_av(f"{len(usable)} file(s) have to be split")
    channels = in_parallel(
        _count,
        [recording.path for recording in usable],
        chunk=256,
        description="Counting channels",
        num_workers=num_workers,
    )
    written = []
    for number in range(max(1, *channels)):
        # Of what has none, the reason is that of the first
        some = [
            recording
            for recording, count in zip(usable, channels)
            if max(count, 1) > number
        ]
        folder = f"{output}/channel_{number + 1}"
        problems = convert_files(
            [recording.path for recording in some],
            [f"{folder}/{recording.id}.flac" for recording in some],
            sample_rate,
            num_workers,
            channel=number,
        )
        for recording, problem in zip(some, problems):
            recording.problem = recording.problem or problem
        written.append(problems.count(""))
        logger.info(f"{folder}: {written[-1]} recordings.")
    write_skipped(
        pathlib.Path(output, "skipped.csv"),
        "wav",
        [(recording.wav, recording.problem) for recording in recordings],
    )
    single = sum(count == 1 for count in channels)
    if single:
        logger.warning(
            f"{single} of {len(usable)} recordings have one channel: they are "
            "in channel_1, with all who speak in them."
        )
    return written


def _count(path):
    """The number of channels of a file; 0 if that cannot be told."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.audio[0]
            return len(stream.codec_context.layout.channels)
    except (av.FFmpegError, OSError, ValueError, IndexError):
        return 0
