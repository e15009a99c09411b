"""The recordings in some folders: found, measured, converted, judged."""

import os
import re
from dataclasses import dataclass

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import (
    AudioError,
    length_at,
    read_header,
)
from speechbrain_cadino.dataio.manifest import DATA_ROOT
from speechbrain_cadino.dataio.names import CONVERTIBLE
from speechbrain_cadino.prepare.convert import convert_files
from speechbrain_cadino.prepare.copies import has_av
from speechbrain_cadino.prepare.parallel import in_parallel
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.parts import stretches
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# Lists of IDs have one on each line, and SpeechBrain's reader of CSV files
# takes $ for a variable and drops spaces in front.
UNLISTED = "\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff"
UNSAFE = re.compile(f"^ |[{UNLISTED}$]")

NEEDS_CONVERTING = (
    "needs converting: give convert_folder (of noises, rooms: copies that "
    "speechbrain-cadino prepare makes by its own), with "
    'pip install "speechbrain_cadino[convert]"'
)

# Seconds of MP3, in which soundfile finds a place by reading from the start: at
# the end of three hours in 0.3 s, of FLAC in 0.001
LONG_MP3 = 600


@dataclass(slots=True)
class Recording:
    """An audio file on its way into a manifest.

    Arguments
    ---------
    id : str
        The ID of the recording.
    wav : str
        The path in the words of the manifest.
    path : str
        The path of the file.
    problem : str
        The reason why it cannot be used; empty as long as nothing is known
        against it.
    frames : int
        Samples per channel.
    rate : int
        The sample rate, in Hz.
    channels : int
        The number of channels; of a converted copy those of its source, as far
        as soundfile tells.
    told : int
        Samples per channel by the header, which may be wrong: see
        ``dataio.audio.Header``.
    source : str
        The path of the source, of a converted copy.
    source_rate : int
        The rate of the source, in Hz, as far as soundfile tells.
    """

    id: str
    wav: str
    path: str
    problem: str = ""
    frames: int = 0
    rate: int = 0
    channels: int = 0
    told: int = 0
    source: str = ""
    source_rate: int = 0

    @property
    def recorded_rate(self):
        """The rate of the recording itself, if this is a copy."""
        return self.source_rate or self.rate

    @property
    def is_doubtful(self):
        """Whether another decoder may find more in it: soundfile cannot read
        it, finds nothing in it, or something else than the header says."""
        return bool(self.problem or not self.frames or self.frames != self.told)

    @property
    def is_slow(self):
        """Whether a crop of it takes long to find."""
        mp3 = self.path.lower().endswith(".mp3")
        return mp3 and self.frames > LONG_MP3 * self.rate


def choose_recordings(listings, id_parts=None):
    """Gives listed files their IDs, and finds those that cannot have one.

    Arguments
    ---------
    listings : dict of str to list of Found
        The files of each folder.
    id_parts : int, optional
        The number of the last parts of a path that are the ID; all by default.

    Returns
    -------
    list of Recording
        All files; what cannot be used has its ``problem``.

    Example
    -------
    >>> from speechbrain_cadino.prepare.scan import Found
    >>> listing = [Found("a/1.m4a", 99), Found("a/1.wav", 99)]
    >>> for recording in choose_recordings({"/data": listing}):
    ...     print(recording.wav, [recording.problem])
    $data_root/a/1.wav ['']
    $data_root/a/1.m4a ['another file has this ID']
    """
    files = [(folder, file) for folder in listings for file in listings[folder]]
    # Where a recording is there twice, what needs no conversion is taken.
    # Of a file and of a link to it, the former, if it can have an ID.
    files.sort(
        key=lambda pair: (bool(pair[1].target), pair[1].suffix in CONVERTIBLE)
    )
    used = set()
    root = "" if len(listings) > 1 else DATA_ROOT
    taken, recordings, clashes = {}, [], []
    for folder, file in files:
        path = f"{folder}/{file.name}"
        wav = f"{root or folder}/{file.name}"
        name = os.path.splitext(file.name)[0]
        parts = name.split("/")
        problem = file.problem
        if UNSAFE.search(name):
            problem = "a name with control characters, $ or a space in front"
            if re.search("[\ud800-\udfff]", name):
                problem = "a name that is not in UTF-8, or LANG is not"
            wav = wav.encode("unicode_escape").decode()
        elif id_parts:
            if len(parts) < id_parts:
                problem = f"fewer than {id_parts - 1} folders deep"
            name = "/".join(parts[-id_parts:])
            if UNSAFE.search(name):
                problem = "a folder with a space in front"
        if not problem and (folder, file.target) in used:
            problem = "a link to another file of the data"
        if not problem and name in taken:
            problem = "another file has this ID"
            if len(listings) > 1:
                problem += ": give the folder above all of them instead"
            # In two formats, a recording may well be in two folders
            other, suffix = taken[name]
            if other != parts and suffix == file.suffix:
                clashes.append(path)
        if not problem:
            taken[name] = parts, file.suffix
            used.add((folder, file.target or file.name))
        recordings.append(Recording(name, wav, path, problem))
    if clashes:
        logger.warning(
            f"{len(clashes)} of {len(recordings)} files are left out, such as "
            f"{clashes[0]}: the last {id_parts} parts of the path, which are "
            "the ID, are also those of another file. Raise id_parts, or leave "
            "it out (null in a YAML file) for the whole path."
        )
    return recordings


def read_headers(recordings, num_workers=None):
    """Reads the headers of recordings into them, in parallel.

    Arguments
    ---------
    recordings : list of Recording
        The recordings; they gain their frames, rate and channels, or a problem.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    """
    headers = in_parallel(
        _read_header,
        [recording.path for recording in recordings],
        chunk=256,
        description="Reading headers",
        num_workers=num_workers,
    )
    for recording, header in zip(recordings, headers):
        (
            recording.problem,
            recording.frames,
            recording.rate,
            recording.channels,
            recording.told,
        ) = header


def convert_recordings(
    recordings, convert_folder, sample_rate, num_workers=None
):
    """Replaces what soundfile cannot read or finds no place in, or whose header
    is doubtful, or has another rate or several channels, and MP3 of more than
    ten minutes if PyAV is there, by a converted copy.

    Arguments
    ---------
    recordings : list of Recording
        The recordings, with their headers read. What is converted gains a new
        path and header, or a problem.
    convert_folder : str
        The folder of the copies, named by ID.
    sample_rate : int
        The rate wanted, in Hz.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    """
    needed = [
        recording
        for recording in recordings
        if recording.is_doubtful
        or (recording.is_slow and has_av())
        or (recording.rate, recording.channels) != (sample_rate, 1)
    ]
    if not needed:
        return
    targets = [f"{convert_folder}/{recording.id}.flac" for recording in needed]
    problems = convert_files(
        [recording.path for recording in needed],
        targets,
        sample_rate,
        num_workers,
    )
    converted = []
    for recording, target, problem in zip(needed, targets, problems):
        if problem and recording.frames and not recording.problem:
            continue  # what soundfile reads is better than nothing
        if problem and recording.problem and not needs_av(recording.path):
            problem = f"{recording.problem}; {problem}"
        recording.problem = problem
        if not problem:
            recording.source = recording.path
            recording.path = recording.wav = target
            converted.append(recording)
    before = [(recording.channels, recording.rate) for recording in converted]
    read_headers(converted, num_workers)
    for recording, (channels, rate) in zip(converted, before):
        recording.channels = channels or recording.channels
        recording.source_rate = rate


def warn_of_kinds(recordings, rate, manifest=None):
    """Says how many recordings lack the upper frequencies, are mixed (a call
    may have a voice on each channel), are those that a training will wait for,
    or are read in part alone.

    Arguments
    ---------
    recordings : list of Recording
        The recordings that are used, with their headers read.
    rate : int
        The sample rate that they are heard at, in Hz.
    manifest : pathlib.Path, optional
        The manifest of the recordings, if a training will read them from it.
    """
    where = f"{manifest}: " if manifest else ""
    count = len(recordings)
    rates = [one.recorded_rate for one in recordings]
    low = [row for row, own in enumerate(rates) if own < rate]
    # In a manifest where all are low, none is known by it
    if low and not (manifest and len(low) == count):
        first = recordings[low[0]]
        logger.warning(
            f"{where}{len(low)} of {count} recordings have fewer than "
            f"{rate} samples a second, such as {rates[low[0]]} of "
            f"{printable(first.source or first.path)}: they are resampled, but "
            "lack the upper frequencies, which may make them alike, whoever "
            "speaks."
            + " Train on one kind, or bring all to one rate: see Data in "
            "recipes/VoxCeleb/README.md." * bool(manifest)
        )
    mixed = sum(recording.channels > 1 for recording in recordings)
    if mixed:
        logger.warning(
            f"{where}{mixed} of {count} recordings have several channels, "
            "which are mixed. If each channel holds its own voice, as in "
            "calls, write each into its own file first, by "
            "speechbrain-cadino split."
        )
    slow = [recording for recording in recordings if recording.is_slow]
    if slow and manifest:
        logger.warning(
            f"{where}{len(slow)} of {count} recordings are MP3 "
            f"of more than {LONG_MP3 // 60} minutes, such as "
            f"{printable(slow[0].path)}: each crop is found by reading from "
            "the start. Give convert_folder, for copies that are fast, with "
            'pip install "speechbrain_cadino[convert]".'
        )
    parts = [one for one in recordings if one.told == -1]
    if parts:
        logger.warning(
            f"{where}{len(parts)} of {count} recordings go on where their "
            f"headers end, such as {printable(parts[0].path)}: their beginning "
            "alone is read. Converted, they are read whole: by convert_folder, "
            'and by commands after pip install "speechbrain_cadino[convert]".'
        )


def needs_av(path):
    """Whether a file has the suffix of a format that only PyAV reads.

    Arguments
    ---------
    path : str
        The file.

    Returns
    -------
    bool
        Whether it has one, in small letters or capitals.
    """
    return os.path.splitext(path)[1].lower() in CONVERTIBLE


def judge_recordings(recordings, sample_rate, min_duration, max_duration=None):
    """Finds what is no training material.

    Arguments
    ---------
    recordings : list of Recording
        The recordings, with their headers read. Those found gain a problem.
    sample_rate : int
        The rate at which they will be read, in Hz.
    min_duration : float
        The shortest duration, in seconds.
    max_duration : float, optional
        The longest duration, in seconds.
    """
    for recording in recordings:
        if recording.problem:
            continue
        elif not length_at(sample_rate, recording.frames, recording.rate):
            recording.problem = "no samples in it"
        elif recording.frames < min_duration * recording.rate:
            recording.problem = f"shorter than {min_duration} s"
        elif max_duration and recording.frames > max_duration * recording.rate:
            recording.problem = f"longer than {max_duration} s"


def write_skipped(path, name, problems):
    """Lists what is left out; logs and returns how many, and why.

    Arguments
    ---------
    path : str or pathlib.Path
        The CSV file.
    name : str
        The heading of what is left out.
    problems : list of tuple
        The name of each thing, and the reason why it is left out; an empty
        reason if it is not.

    Returns
    -------
    str
        The number for each reason, apart by semicolons; empty if nothing is.

    Example
    -------
    >>> path = getfixture("tmp_path") / "skipped.csv"
    >>> write_skipped(path, "wav", [("b.wav", "silent"), ("a.wav", "")])
    '1 skipped: silent'
    """
    skipped = pd.DataFrame(
        sorted(pair for pair in problems if pair[1]), columns=[name, "reason"]
    )
    write_csv(path, skipped)
    reasons = [
        f"{count} skipped: {reason}"
        for reason, count in skipped["reason"].value_counts().items()
    ]
    for line in reasons:
        logger.info(f"{path}: {line}")
    return "; ".join(reasons)


def manifest_rows(recording, sample_rate, cut_seconds=None):
    """The rows of a manifest for a recording.

    Arguments
    ---------
    recording : Recording
        The recording, with its header read.
    sample_rate : int
        The rate in which to count samples, in Hz.
    cut_seconds : float, optional
        The approximate length of a piece; the whole recording by default.

    Returns
    -------
    list of tuple
        ``ID,duration,wav,start,stop`` for each piece.

    Example
    -------
    >>> recording = Recording("a", "$data_root/a.wav", "a.wav", "", 50, 10, 1)
    >>> manifest_rows(recording, sample_rate=10)
    [('a', 5.0, '$data_root/a.wav', 0, 50)]
    >>> for row in manifest_rows(recording, sample_rate=10, cut_seconds=2.4):
    ...     print(*row)
    a_0001 2.5 $data_root/a.wav 0 25
    a_0002 2.5 $data_root/a.wav 25 50
    """
    length = length_at(sample_rate, recording.frames, recording.rate)
    if not cut_seconds:
        return [(recording.id, length / sample_rate, recording.wav, 0, length)]
    pieces = max(1, round(length / (cut_seconds * sample_rate)))
    return [
        (
            f"{recording.id}_{number:04d}",
            (stop - start) / sample_rate,
            recording.wav,
            start,
            stop,
        )
        for number, (start, stop) in enumerate(stretches(length, pieces), 1)
    ]


def _read_header(path):
    """The problem with an audio file, its frames, rate and channels, and the
    frames that its header tells of."""
    try:
        header = read_header(path)
        return "", header.frames, header.rate, header.channels, header.told
    except AudioError as error:
        reason = str(error).removeprefix(f"{path}: ").partition(". ")[0]
    if needs_av(path):
        reason = NEEDS_CONVERTING
    return reason.rstrip("."), 0, 0, 0, 0
