"""Sampling the frames of videos, once and for all."""

import functools
import os
import pathlib

from PIL import Image, UnidentifiedImageError

from speechbrain_cadino.prepare.copies import (
    COPY_OF,
    comment_of,
    decodable,
    in_the_way,
    is_copy,
    make_copies,
    require_av,
)
from speechbrain_cadino.process.files import atomic_folder
from speechbrain_cadino.process.outputs import holds_something

VIDEOS = {".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm"}
QUALITY = 95

# The name of the first frame, and how its comment ends
FIRST, COMMENT = "00000.jpg", " frames per second"


def sample_frames(videos, folders, frames_per_second=1, num_workers=None):
    """Writes frames of videos as numbered JPEGs, in parallel.

    Run it again after it was stopped, and it goes on where it was: the first
    frame says of which video its folder was made, of which size and time, and
    at which rate, and the folder is left as it is if that has not changed.

    Arguments
    ---------
    videos : list of str
        The videos to sample: whatever PyAV, that is FFmpeg, decodes.
    folders : list of str
        The folder for the frames of each video.
    frames_per_second : float
        The number of frames that are taken of a second, the first of each
        stretch.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.

    Returns
    -------
    list of str
        The reason why each video failed; an empty text if it did not.

    Raises
    ------
    ImportError
        If PyAV is not there.
    ValueError
        If a folder holds frames of another video that is still there.
    """
    require_av(
        f"{len(videos)} video(s) have to be decoded, the first is {videos[0]}"
    )
    return make_copies(
        functools.partial(_sample, frames_per_second=frames_per_second),
        videos,
        folders,
        "Sampling frames",
        "give each folder of faces a frame_folder of its own",
        num_workers,
    )


def _sample(video, folder, frames_per_second):
    """Samples one video; returns why it could not, or an empty text."""
    import av

    try:
        made_of = f"{comment_of(video)}, {frames_per_second:g}{COMMENT}"
    except OSError as error:
        return f"not readable as video ({error.strerror})"
    if not os.path.isfile(video):  # of a FIFO nothing ever comes
        return "not readable as video (no plain file)"
    found = _comment(pathlib.Path(folder, FIRST))
    if found is None and holds_something(folder):
        return f"not sampled (its frame folder, {folder}, holds other files)"
    if is_copy(found, made_of):
        return ""
    # Those of older versions say nothing of their video
    named = found if found and found.startswith(COPY_OF) else None
    if problem := in_the_way(folder, named, made_of):
        return problem
    number = 0
    try:
        with av.open(str(video)) as container:
            if not container.streams.video:
                return "not usable (no video in it)"
            with atomic_folder(folder) as temporary:
                frames = decodable(container.demux(video=0), video)
                for image in _thinned(frames, frames_per_second):
                    path = temporary / f"{number:05d}.jpg"
                    image.save(path, quality=QUALITY, comment=made_of.encode())
                    number += 1
    except av.FFmpegError as error:
        return f"not readable as video ({error.strerror})"
    return "" if number else "not usable (no frame in it)"


def _thinned(frames, frames_per_second):
    """Yields the first image of each stretch of the video."""
    start, due = None, 0
    for frame in frames:
        start = frame.time if start is None else start
        # The tolerance is for rounding: 0.3 * 10 is less than 3.
        stretch = int((frame.time - start) * frames_per_second + 1e-6)
        if stretch >= due:
            yield frame.to_image()
            due = stretch + 1


def _comment(first):
    """What the first frame tells of a folder that was made here; else None."""
    try:
        with Image.open(first) as image:
            comment = image.info.get("comment", b"").decode(errors="replace")
    except (FileNotFoundError, UnidentifiedImageError):
        return None
    return comment if comment.endswith(COMMENT) else None
