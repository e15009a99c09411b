"""Face tracks to a manifest, under the IDs of the utterances they belong to."""

import itertools
import math
import os
import pathlib
from dataclasses import dataclass, field, replace

import numpy as np
from PIL import Image

from speechbrain.utils.logger import get_logger
from speechbrain_cadino import __version__
from speechbrain_cadino.audio_visual.faces import (
    IMAGE_ERRORS,
    IMAGES,
    flat_track,
    in_order,
    is_image,
    upright_rgb,
)
from speechbrain_cadino.audio_visual.videos import VIDEOS, sample_frames
from speechbrain_cadino.dataio.manifest import DATA_ROOT, read_manifest
from speechbrain_cadino.dataio.names import (
    CONVERTIBLE,
    READABLE,
    match,
    recordings_of,
    spelling,
)
from speechbrain_cadino.dataio.rates import counted_rate
from speechbrain_cadino.prepare.exclude import Excluded
from speechbrain_cadino.prepare.inputs import (
    SPEAKERS,
    Preparation,
    check_folders,
    check_id_parts,
    check_made_folder,
)
from speechbrain_cadino.prepare.parallel import in_parallel
from speechbrain_cadino.prepare.recordings import (
    UNSAFE,
    write_skipped,
)
from speechbrain_cadino.prepare.scan import (
    EVERYTHING,
    digest,
    fingerprint,
    list_files,
)
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.parts import JOINING
from speechbrain_cadino.verification.trials import read_lists, trial_names

logger = get_logger(__name__)

# How many of the last parts of a path are the ID, in each layout.
LAYOUTS = {"folders": 3, "flat": 2}

# A JPEG decodes faster at about this size, enough to see that it is not blank
SMALL = 32, 32


@dataclass(slots=True)
class Track:
    """A face track on its way into a manifest.

    Arguments
    ---------
    id : str
        The ID of the track.
    wav : str
        The path of the track, in the words of the manifest.
    folder : str
        The folder of the track's files.
    problem : str
        The reason why it cannot be used; empty as long as nothing is known
        against it.
    video : str
        The video of the track, below the folder; empty if there is none.
    frames : int
        The number of the track's images.
    images : list of str
        The images that may be readable, below the folder.
    """

    id: str
    wav: str = ""
    folder: str = ""
    problem: str = ""
    video: str = ""
    frames: int = 0
    images: list = field(default_factory=list)


# What an utterance without a face has.
NO_TRACK = Track("", problem="no face track")


def prepare_faces(
    data_folder,
    manifest_folder,
    audio_manifest=None,
    trials=None,
    exclude=None,
    layout="folders",
    glob=EVERYTHING,
    frames_per_second=1,
    frame_folder=None,
    id_parts=None,
    num_workers=None,
    skip_prep=False,
    manifest="faces.csv",
):
    """Writes the manifest of a folder of face tracks.

    It has the columns of a manifest of audio; ``start`` and ``stop`` count
    frames. With an audio manifest or a trial list, it has a row for each of
    their utterances that has a track, under the ID of the utterance: that of
    the track or, where ``cut_seconds`` of ``prepare_folder`` made pieces, with
    the number of the piece after it; a piece has the frames of its own time.
    Frames are taken as they are: no face is looked for in them. What has no
    face, or none that can be read, goes to ``faces_skipped.csv``
    (``ID,reason``), named after the manifest.

    Nothing is done if neither the files nor the arguments changed since the
    last time, which ``faces.json`` tells. Hidden files are passed over. A
    track of which no image can be decoded, or each is of one colour, is left
    out; once one is good, the others are not looked at: those that are broken
    are found when they are read.

    Arguments
    ---------
    data_folder : str or list of str
        The folder, ``$data_root`` in the manifest. Of several folders the
        manifest holds absolute paths.
    manifest_folder : str
        The folder to write to.
    audio_manifest : str, optional
        The manifest of the utterances to find faces for.
    trials : str or list of str, optional
        Trial lists (see ``read_trials``) of such utterances. Their IDs are
        the names in the list without the suffix.
    exclude : str or list of str, optional
        Trial lists whose speakers are left out: see ``prepare.exclude``.
    layout : str
        "folders": the images in one folder, or a video, are a track, as in
        VoxCeleb's ``<speaker>/<video>/<utterance>/<frame>.jpg`` and
        ``<speaker>/<video>/<utterance>.mp4``. "flat": images that differ
        after the last ``_`` only are a track, as in VGGFace2's
        ``<speaker>/<track>_<frame>.jpg``. Both below any folders.
    glob : str
        The images and videos to take, as paths below the folder: ``*`` and
        ``?`` stay within one part of the path, ``**`` is any number of folders.
        Of a track all images, as they are read: it is left out where some are
        not to be taken.
    frames_per_second : float
        The number of frames that are taken of a second of video, or that
        folders of images have of a second: by it frames are divided to give
        ``duration``, and those of a piece found.
    frame_folder : str, optional
        The folder for the frames of videos, with one below it for each ID: made
        once, used from then on. Needs
        ``pip install "speechbrain_cadino[convert]"``.
    id_parts : int, optional
        The number of the last parts of a path that are the ID; 3 in the layout
        "folders", 2 in "flat" by default. The first of them is taken for the
        true speaker: without an audio manifest and trials it is written to
        ``speakers.csv`` (``ID,spk_id``), which no training opens that is not
        told to.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    skip_prep : bool
        Whether to do nothing at all.
    manifest : str
        The name of the manifest.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, audio manifest or trial list.
    ImportError
        If there are videos and PyAV is not installed.
    ValueError
        If no track is left, there are videos and no ``frame_folder``, or it
        lies around the data; or two utterances have the same last parts.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for utterance, frames in [("00001", 2), ("00002", 3)]:
    ...     track = folder / "face" / "id1" / "video" / utterance
    ...     track.mkdir(parents=True)
    ...     for frame in range(frames):
    ...         image = Image.linear_gradient("L").resize((8, 8))
    ...         image.save(track / f"{frame}.jpg")
    >>> prepare_faces(folder / "face", folder / "save")
    >>> print((folder / "save" / "faces.csv").read_text().strip())
    ID,duration,wav,start,stop
    id1/video/00001,2.0,$data_root/id1/video/00001,0,2
    id1/video/00002,3.0,$data_root/id1/video/00002,0,3
    """
    if skip_prep:
        return
    if layout not in LAYOUTS:
        raise ValueError(
            f"There is no layout '{layout}': give {' or '.join(LAYOUTS)}."
        )
    if not frames_per_second > 0:
        raise ValueError(
            f"frames_per_second={frames_per_second}: give a number above 0."
        )
    id_parts = LAYOUTS[layout] if id_parts is None else id_parts
    folders = check_folders(data_folder, content="faces")
    frame_folder = check_made_folder(frame_folder, folders, "frame_folder")
    utterances = _read_utterances(audio_manifest, trials)
    excluded = Excluded(exclude, folders)
    if utterances is None:
        check_id_parts(id_parts)
    suffixes = IMAGES | VIDEOS if layout == "folders" else IMAGES
    listings = {
        folder: list_files(folder, glob, suffixes, leave_out=frame_folder)
        for folder in folders
    }
    manifest = pathlib.Path(manifest_folder, manifest)
    beside = [manifest.with_name(f"{manifest.stem}_skipped.csv")]
    if utterances is None:
        beside.append(manifest.with_name(SPEAKERS))
    inputs = {
        "version": __version__,
        "data_folder": folders,
        "utterances": digest(map(str, (utterances or {}).items())),
        "exclude": excluded.digest,
        "layout": layout,
        "glob": glob,
        "frames_per_second": frames_per_second,
        "frame_folder": frame_folder,
        "id_parts": id_parts,
        "files": [fingerprint(listing) for listing in listings.values()],
    }
    made = Preparation(manifest, inputs, beside, frame_folder, IMAGES)
    if made.is_done:
        logger.info(f"{manifest}: nothing has changed, preparation skipped.")
        return

    made.check_ours()
    tracks = find_tracks(listings, layout, id_parts)
    if glob != EVERYTHING:
        listings = {
            folder: list_files(folder, EVERYTHING, IMAGES, frame_folder)
            for folder in folders
        }
        _judge_glob(tracks, find_tracks(listings, layout, id_parts))
    excluded.leave_out(tracks, id_parts)
    usable = [track for track in tracks if not track.problem]
    unusable = [(track.id, track) for track in tracks if track.problem]
    pairs, whole = _pair(usable, utterances, id_parts)
    # Several pieces of a recording share a track.
    wanted = {track.id: track for _, track in pairs if not track.problem}
    wanted = list(wanted.values())
    _sample_videos(
        [track for track in wanted if not track.frames],
        frame_folder,
        frames_per_second,
        num_workers,
    )
    _judge_tracks([track for track in wanted if not track.problem], num_workers)
    spans = {name: utterances[name] for name, _ in pairs if name not in whole}
    others = len(usable) - len(wanted)
    # The manifest of one run would come with the settings of another
    with locked(manifest.parent, JOINING):
        _write(made, unusable + pairs, spans, utterances, others, excluded)


def _write(made, pairs, spans, utterances, others, excluded):
    """Writes the manifest, what is beside it, and last what it is made of."""
    manifest, inputs = made.manifest, made.inputs
    skipped, *speakers = made.beside
    frames_per_second = inputs["frames_per_second"]
    ends = {
        track.wav: (track.frames, spans[name][1] * frames_per_second)
        for name, track in pairs
        if spans.get(name) is not None and not track.problem
    }
    pairs = [
        (name, _in_time(track, spans.get(name), frames_per_second))
        for name, track in pairs
    ]
    made.begin()
    problems = [(name, track.problem) for name, track in pairs]
    reasons = write_skipped(skipped, "ID", problems)
    found = [(name, track) for name, track in pairs if not track.problem]
    if not found:
        raise ValueError(
            f"No face tracks for {manifest} in "
            f"{', '.join(inputs['data_folder'])} with the layout "
            f"{inputs['layout']} and the glob {inputs['glob']}: "
            f"{reasons or 'no images or videos'}"
        )
    _report_found(manifest, found, utterances, others)
    excluded.report(manifest)
    rows = []
    for name, track in found:
        span = spans.get(name)
        start, stop = _frames(track.frames, span, frames_per_second)
        seconds = (stop - start) / frames_per_second
        rows.append((name, seconds, track.wav, start, stop))
    _judge_ends(manifest, ends.values())
    made.write(rows, *speakers)


def _judge_ends(manifest, ends):
    """Warns where tracks are far longer, or shorter, than their last pieces
    tell."""
    other = sum(not 0.5 <= stop / frames <= 2 for frames, stop in ends)
    if other:
        logger.warning(
            f"{manifest}: {other} of {len(ends)} tracks end at another time "
            "than expected: before half of the time of their last wanted piece "
            "or after twice that time. If there are no other pieces, "
            "frames_per_second is wrong, and the pieces have frames of other "
            "times."
        )


def _in_time(track, span, frames_per_second):
    """The track of a piece; none if it has ended a second before that begins:
    a camera may stop before the sound does."""
    if span is None or track.problem:
        return track
    if (span[0] - 1) * frames_per_second < track.frames:
        return track
    return replace(track, problem="the track has ended before")


def _frames(count, span, frames_per_second):
    """The first frame and that after the last: of a piece those of its time,
    one at least; else all."""
    if span is None:
        return 0, count
    # Durations are rounded, and so is the rate that they tell
    start = int(span[0] * frames_per_second + 0.01)
    stop = math.ceil(span[1] * frames_per_second - 0.01)
    start, stop = min(start, count - 1), min(stop, count)
    return start, max(stop, start + 1)


def find_tracks(listings, layout, id_parts):
    """Finds the face tracks among listed files.

    Arguments
    ---------
    listings : dict of str to list of Found
        The images and videos of each folder.
    layout : str
        See ``prepare_faces``.
    id_parts : int
        The number of the last parts of a path that are the ID.

    Returns
    -------
    list of Track
        All tracks; what cannot be used has its ``problem``.

    Example
    -------
    >>> from speechbrain_cadino.prepare.scan import Found
    >>> names = ["id1/x/1.mp4", "id1/x/1/0.jpg", "id1/x/1/1.jpg", "1.jpg"]
    >>> listing = [Found(name, size=99) for name in names]
    >>> for track in find_tracks({"/data": listing}, "folders", id_parts=3):
    ...     print(track.id, track.frames, track.wav, [track.problem])
    id1/x/1 2 $data_root/id1/x/1 ['']
    . 1 $data_root/. ['a path of fewer than 3 parts']
    """
    root = "" if len(listings) > 1 else DATA_ROOT
    tracks = {}
    for folder, listing in listings.items():
        for file in listing:
            name = _track_name(file, layout)
            track = tracks.setdefault((folder, name), Track(name))
            track.folder = folder
            track.wav = f"{root or folder}/{name}"
            if file.suffix in VIDEOS:
                track.video = file.name
            elif file.suffix not in IMAGES:
                track.problem = file.problem
            elif name == file.name:
                track.problem = "no _ before the number of the frame"
            else:
                track.frames += 1
                track.images += [] if file.problem else [file.name]
    # Where a track is there twice, what needs no decoding is taken.
    tracks = sorted(tracks.values(), key=lambda track: not track.frames)
    _give_ids(tracks, id_parts)
    return tracks


def _track_name(file, layout):
    """The track of a file as a path below its folder; the file's own name if
    it is a folder that cannot be entered, or belongs to no track."""
    if file.suffix in VIDEOS:
        return os.path.splitext(file.name)[0]
    if file.suffix not in IMAGES:
        return file.name
    if layout == "flat":
        return flat_track(file.name) or file.name
    return os.path.dirname(file.name) or "."


def _give_ids(tracks, id_parts):
    """Makes IDs of the names of tracks, and finds those that have none."""
    taken = set()
    for track in tracks:
        parts = track.id.split("/")
        if UNSAFE.search(track.id):
            track.problem = "a name with control characters, $ or a space first"
            track.id = track.id.encode("unicode_escape").decode()
        elif len(parts) < id_parts:
            track.problem = (
                track.problem or f"a path of fewer than {id_parts} parts"
            )
        else:
            track.id = "/".join(parts[-id_parts:])
            suffix = os.path.splitext(track.id)[1].lower()
            if UNSAFE.search(track.id):
                track.problem = "a folder with a space in front"
            elif not track.problem and suffix in READABLE | CONVERTIBLE:
                track.problem = f"a name in {suffix}, as that of a recording"
        if not track.problem and track.id in taken:
            track.problem = "another track has this ID"
        if not track.problem:
            taken.add(track.id)


def _read_utterances(audio_manifest, trials):
    """The IDs of the utterances to find faces for, and when each begins and
    ends in its file, in seconds, if that is known; None for all tracks."""
    if audio_manifest is None and trials is None:
        return None
    names = map(spelling, trial_names(read_lists(trials)))
    utterances = dict.fromkeys(names)
    if audio_manifest is not None:
        table = read_manifest(audio_manifest, data_root="")
        spans = itertools.repeat(None)
        rate = counted_rate(table)
        if rate is not None:
            spans = zip(table["start"] / rate, table["stop"] / rate)
        utterances.update(zip(table["ID"], spans))
    return dict(sorted(utterances.items()))


def _pair(tracks, utterances, id_parts):
    """Each utterance, or each track, by its ID, with its track; and the IDs of
    those that are no pieces."""
    known = [track.id for track in tracks]
    if utterances is None:
        return list(zip(known, tracks)), set(known)
    names = ["/".join(name.split("/")[-id_parts:]) for name in utterances]
    places = match(names, known)
    whole = {name for name, place in zip(utterances, places) if place >= 0}
    of_pieces = match(recordings_of(names), known)
    places = np.where(places < 0, of_pieces, places)
    _check_apart(
        [
            (name, utterance)
            for name, utterance, place in zip(names, utterances, places)
            if place >= 0
        ]
    )
    pairs = [
        (name, NO_TRACK if place < 0 else tracks[place])
        for name, place in zip(utterances, places)
    ]
    return pairs, whole


def _check_apart(pairs):
    """Raises if utterances that have a face, each the last parts of its ID and
    the whole ID, are told apart by what comes before those parts alone: one
    would have the face of the other."""
    longest = {}
    for name, whole in sorted(pairs, key=lambda pair: -len(pair[1])):
        other = longest.setdefault(name, whole)
        # One of them may be the other below more folders
        if not f"/{other}".endswith(f"/{whole}"):
            raise ValueError(
                f"{other} and {whole} are both {name} in the last "
                f"{name.count('/') + 1} parts of their IDs, by which faces are "
                "found: give more of them, id_parts."
            )


def _judge_glob(tracks, all_tracks):
    """Finds the tracks of which a glob takes a part: a reader takes all."""
    frames = {(track.folder, track.wav): track.frames for track in all_tracks}
    for track in tracks:
        there = frames.get((track.folder, track.wav), 0)
        if 0 < track.frames < there:
            track.problem = track.problem or "images that the glob leaves out"


def _sample_videos(tracks, frame_folder, frames_per_second, num_workers):
    """Puts folders of frames, or a problem, in the place of videos."""
    if not tracks:
        return
    videos = [f"{track.folder}/{track.video}" for track in tracks]
    if not frame_folder:
        raise ValueError(
            f"{len(videos)} face track(s) are videos, the first is "
            f"{videos[0]}: give frame_folder, a folder for their frames, with "
            'pip install "speechbrain_cadino[convert]"'
        )
    folders = [f"{frame_folder}/{track.id}" for track in tracks]
    problems = sample_frames(videos, folders, frames_per_second, num_workers)
    for track, folder, problem in zip(tracks, folders, problems):
        track.problem = problem
        if not problem:
            track.wav = track.folder = folder
            track.images = in_order(filter(is_image, os.listdir(folder)))
            track.frames = len(track.images)


def _judge_tracks(tracks, num_workers):
    """Finds the tracks that show nothing."""
    showing = in_parallel(
        _any_shows,
        [track.folder for track in tracks],
        [track.images for track in tracks],
        chunk=256,
        description="Looking at images",
        num_workers=num_workers,
    )
    for track, good in zip(tracks, showing):
        if not good:
            track.problem = "no image in it that is readable and not blank"


def _any_shows(folder, images):
    """Whether one of the images can be decoded and is not of one colour."""
    for name in images:
        try:
            with Image.open(f"{folder}/{name}") as image:
                image.draft("RGB", SMALL)
                ranges = upright_rgb(image).getextrema()
        except IMAGE_ERRORS:
            continue
        if any(darkest < brightest for darkest, brightest in ranges):
            return True
    return False


def _report_found(manifest, found, utterances, others):
    """Says in the log what there is."""
    if utterances is None:
        frames = sum(track.frames for _, track in found)
        logger.info(f"{manifest}: {len(found)} face tracks, {frames} frames.")
    else:
        logger.info(
            f"{manifest}: {len(found)} utterances have a face, "
            f"{len(utterances) - len(found)} are audio-only, {others} tracks "
            "have no utterance."
        )
