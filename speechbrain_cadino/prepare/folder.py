"""Any folder of audio to an unlabelled manifest."""

import math
import pathlib

from speechbrain.utils.logger import get_logger
from speechbrain_cadino import __version__
from speechbrain_cadino.dataio.manifest import DATA_ROOT
from speechbrain_cadino.dataio.names import CONVERTIBLE, READABLE
from speechbrain_cadino.embeddings.segments import SHORTEST
from speechbrain_cadino.prepare.exclude import Excluded
from speechbrain_cadino.prepare.inputs import (
    SPEAKERS,
    Preparation,
    check_folders,
    check_id_parts,
    check_made_folder,
    check_rate,
)
from speechbrain_cadino.prepare.parts import prepare_part
from speechbrain_cadino.prepare.recordings import (
    choose_recordings,
    convert_recordings,
    judge_recordings,
    manifest_rows,
    read_headers,
    warn_of_kinds,
    write_skipped,
)
from speechbrain_cadino.prepare.scan import fingerprint, list_files
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.parts import JOINING, read_part

logger = get_logger(__name__)

# The suffix of what convert_recordings makes.
CONVERTED = {".flac"}


def prepare_folder(
    data_folder,
    manifest_folder,
    glob="**/*",
    min_duration=1.0,
    max_duration=None,
    sample_rate=16000,
    convert_folder=None,
    cut_seconds=None,
    exclude=None,
    id_parts=None,
    num_workers=None,
    skip_prep=False,
    manifest="train.csv",
    part=None,
):
    """Writes the manifest of a folder of audio, from the files' headers.

    What is left out goes to ``skipped.csv`` (``wav,reason``) beside it, or
    ``noise_skipped.csv`` if the manifest is ``noise.csv`` (and so on), and is
    counted in the log. Nothing is done if neither the files nor the arguments
    changed since the last time, which ``train.json`` (``noise.json``) tells.

    Links to folders are followed, hidden files are passed over. Of files that
    differ in their suffix only, one is taken: they are one recording in
    several formats. The decoding of a file is not tried: silence and NaN are
    found when it is read.

    Arguments
    ---------
    data_folder : str or list of str
        The folder, ``$data_root`` in the manifest. Of several folders the
        manifest holds absolute paths, and the same path in two of them counts
        as one recording.
    manifest_folder : str
        The folder to write to.
    glob : str
        The files to take, as paths below the folder: ``*`` and ``?`` stay
        within one part of the path, ``**`` is any number of folders.
    min_duration : float
        The shortest file to take, in seconds; 0 for noises and room impulse
        responses.
    max_duration : float, optional
        The longest file to take, in seconds.
    sample_rate : int
        The rate of the experiment in Hz, in which ``start`` and ``stop``
        count. Files at another rate are resampled whenever they are read.
    convert_folder : str, optional
        The folder for 16-bit mono flac copies of files that soundfile cannot
        read (m4a), have a doubtful header, another rate or several channels,
        and of long MP3: made once, used from then on; for the speakers left
        out too, for the sake of verification. Needs
        ``pip install "speechbrain_cadino[convert]"``.
    cut_seconds : float, optional
        The approximate length of the equal pieces that files are cut into, one
        row of the manifest each. No audio is written.
    exclude : str or list of str, optional
        Trial lists (see ``read_trials``) whose speakers are left out: see
        ``prepare.exclude``. Names that do not tell the speaker are counted
        in a warning.
    id_parts : int, optional
        The number of the last parts of a path that are the ID; all by default.
        If given, the first of them is taken for the true speaker and written to
        ``speakers.csv`` (``ID,spk_id``), which no training opens that is not
        told to.
    num_workers : int, optional
        The number of processes; as many as there are CPUs by default.
    skip_prep : bool
        Whether to do nothing at all.
    manifest : str
        The name of the manifest.
    part : str, optional
        The part of the recordings to read, such as "3/8": see
        ``prepare.parts``. The manifest is written once all parts are there.

    Raises
    ------
    FileNotFoundError
        If there is no such folder or trial list.
    ImportError
        If files have to be converted and PyAV is not installed.
    ValueError
        If a number makes no sense, no audio is left, ``convert_folder`` lies
        around the data or holds other files under these names, the manifest is
        there and of somebody else, or there is no such part.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> for name, length in [("a", 24000), ("b", 16000), ("c", 4000)]:
    ...     soundfile.write(folder / f"{name}.wav", [0.1] * length, 8000)
    >>> prepare_folder(folder, folder / "save", cut_seconds=2)
    >>> print((folder / "save" / "train.csv").read_text().strip())
    ID,duration,wav,start,stop
    a_0001,1.5,$data_root/a.wav,0,24000
    a_0002,1.5,$data_root/a.wav,24000,48000
    b_0001,2.0,$data_root/b.wav,0,32000
    >>> print((folder / "save" / "skipped.csv").read_text().strip())
    wav,reason
    $data_root/c.wav,shorter than 1.0 s
    """
    if skip_prep:
        return
    _check_numbers(
        sample_rate, min_duration, max_duration, cut_seconds, id_parts
    )
    if part is not None:
        read_part(part)
    folders = check_folders(data_folder)
    convert_folder = check_made_folder(
        convert_folder, folders, "convert_folder"
    )
    excluded = Excluded(exclude, folders)
    listings = {
        folder: list_files(
            folder, glob, READABLE | CONVERTIBLE, leave_out=convert_folder
        )
        for folder in folders
    }
    manifest = pathlib.Path(manifest_folder, manifest)
    inputs = {
        "version": __version__,
        "data_folder": folders,
        "glob": glob,
        "min_duration": min_duration,
        "max_duration": max_duration,
        "sample_rate": sample_rate,
        "convert_folder": convert_folder,
        "cut_seconds": cut_seconds,
        "exclude": excluded.digest,
        "id_parts": id_parts,
        "files": [fingerprint(listing) for listing in listings.values()],
    }
    beside = [_beside(manifest, "skipped.csv")]
    if id_parts:
        beside.append(_beside(manifest, SPEAKERS))
    made = Preparation(manifest, inputs, beside, convert_folder, CONVERTED)
    if made.is_done:
        logger.info(f"{manifest}: nothing has changed, preparation skipped.")
        return

    made.check_ours()
    recordings = choose_recordings(listings, id_parts)
    usable = [recording for recording in recordings if not recording.problem]

    def measure(some):
        read_headers(some, num_workers)
        if convert_folder:
            convert_recordings(some, convert_folder, sample_rate, num_workers)

    def finish():
        judge_recordings(usable, sample_rate, min_duration, max_duration)
        excluded.leave_out(recordings, id_parts)
        _write(made, recordings, excluded)

    if part is None:
        measure(usable)
        # The manifest of one run would come with the settings of another
        with locked(manifest.parent, JOINING):
            finish()
    else:
        prepare_part(made, part, usable, measure, finish)


def _check_numbers(
    sample_rate, min_duration, max_duration, cut_seconds, id_parts
):
    """Raises if a number makes no sense."""
    check_rate(sample_rate)
    if id_parts is not None:
        check_id_parts(id_parts)
    limits = {
        "min_duration": (min_duration, 0),
        "max_duration": (max_duration, SHORTEST),
        "cut_seconds": (cut_seconds, SHORTEST),
    }
    for name, (value, least) in limits.items():
        if value is not None and not least <= value < math.inf:
            raise ValueError(f"{name}={value}: give {least} s or more.")


def _write(made, recordings, excluded):
    """Writes the manifest, what is beside it, and last what it is made of."""
    manifest, inputs = made.manifest, made.inputs
    sample_rate = inputs["sample_rate"]
    speakers = _beside(manifest, SPEAKERS)
    if not inputs["id_parts"] and made.has_told(speakers):
        speakers.unlink()
    made.begin()
    folders = inputs["data_folder"]
    problems = [(_listed(r, folders), r.problem) for r in recordings]
    reasons = write_skipped(_beside(manifest, "skipped.csv"), "wav", problems)
    usable = [recording for recording in recordings if not recording.problem]
    if not usable:
        raise ValueError(
            f"No audio for {manifest} in {', '.join(inputs['data_folder'])} "
            f"with the glob {inputs['glob']}: "
            f"{reasons or 'no file with the suffix of an audio format'}"
            + f". IDs are the last {inputs['id_parts']} parts of a path; "
            "without id_parts files in any folders are taken."
            * bool(inputs["id_parts"])
        )
    _report_usable(manifest, usable, sample_rate)
    if inputs["min_duration"]:  # not of noises
        warn_of_kinds(usable, sample_rate, manifest)
    excluded.report(manifest)
    rows = [
        row
        for recording in usable
        for row in manifest_rows(recording, sample_rate, inputs["cut_seconds"])
    ]
    made.write(rows, speakers if inputs["id_parts"] else None)


def _listed(recording, folders):
    """The name of a recording among those that are left out: not of a copy of
    it, and in the words of the manifest."""
    if not recording.source:
        return recording.wav
    if len(folders) > 1:
        return recording.source
    return DATA_ROOT + recording.source.removeprefix(folders[0])


def _beside(manifest, name):
    """A file that belongs to the manifest; of others than train.csv, their name
    comes before its own."""
    prefix = "" if manifest.stem == "train" else f"{manifest.stem}_"
    return manifest.with_name(f"{prefix}{name}")


def _report_usable(manifest, recordings, sample_rate):
    """Says in the log what there is."""
    seconds = sum(r.frames / r.rate for r in recordings)
    logger.info(
        f"{manifest}: {len(recordings)} recordings, {seconds / 3600:.2f} hours."
    )
    other_rate = sum(r.rate != sample_rate for r in recordings)
    if other_rate:
        logger.info(
            f"{manifest}: {other_rate} of them are not at {sample_rate} Hz and "
            "are resampled whenever they are read; convert_folder would have "
            "it done once."
        )
