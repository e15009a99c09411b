"""Names of recordings in lists, manifests and score files: what they mean.

The one home of these rules: verification finds files by them, preparation
leaves test speakers out, score files and tables of speakers are matched.
"""

import functools
import os
import pathlib
import re
import unicodedata

import pandas as pd

# What soundfile reads
READABLE = {
    ".wav",
    ".flac",
    ".ogg",
    ".oga",
    ".opus",
    ".mp3",
    ".aiff",
    ".aif",
    ".au",
    ".caf",
    ".sph",
    ".w64",
}

# What soundfile cannot read and PyAV can
CONVERTIBLE = {
    ".m4a",
    ".m4b",
    ".aac",
    ".mp4",
    ".m4v",
    ".mov",
    ".3gp",
    ".avi",
    ".webm",
    ".mkv",
    ".mka",
    ".wma",
    ".amr",
    ".ac3",
}

# The same utterance may be at hand in another format than a list says.
SUFFIXES = [".wav", ".flac", ".ogg", ".opus", ".mp3"]

# Where VoxCeleb's audio lies in its folder
INNER = "wav"

# What the ID of a piece has beyond that of its recording
PIECE = re.compile(r"_\d{4,}$")


def spelling(name):
    """The one spelling of a name: without the suffix of an audio format, ``/``
    between its parts, no ``.`` or empty part, Unicode composed (macOS gives
    it decomposed).

    Arguments
    ---------
    name : str
        The name, as somebody wrote it.

    Returns
    -------
    str
        The name, so spelled; that of an absolute path starts with ``/``.

    Example
    -------
    >>> [spelling(name) for name in [".\\\\a\\\\1.wav", "a//1", "a/take.1"]]
    ['a/1', 'a/1', 'a/take.1']
    """
    name = unicodedata.normalize("NFC", name.replace("\\", "/"))
    absolute = name.startswith("/") or re.match("[A-Za-z]:/", name)
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return "/" * bool(absolute) + _stem("/".join(parts))


def match(names, known):
    """Finds names among others: as they are, else by their spelling.

    Arguments
    ---------
    names : sequence of str
        The names to look for.
    known : sequence of str
        The names to look among.

    Returns
    -------
    numpy.ndarray
        The place of each name among the known ones; -1 if it is not there, or
        if its spelling is that of several.

    Example
    -------
    >>> match(["b", "./a.wav", "c"], ["a.flac", "b"])
    array([ 1,  0, -1])
    """
    known = pd.Index(known)
    rows = known.get_indexer(names)

    @functools.cache
    def places(form):
        """Those of the known names by spelling, but of those that share one."""
        index = [spelling(form.format(name)) for name in known]
        found = pd.Series(range(len(known)), index)
        return found[~found.index.duplicated(keep=False)]

    # First as an ID and its file, of which the last suffix alone was taken off:
    # the ID of take.m4a.wav is take.m4a
    for form, of_known in [("{}.wav", "{}"), ("{}", "{}.wav"), ("{}", "{}")]:
        left = rows < 0
        if not left.any():
            break
        wanted = [spelling(form.format(n)) for n in pd.Index(names)[left]]
        found = places(of_known).reindex(wanted)
        rows[left] = found.fillna(-1).astype(int)
    return rows


def fields_of(line):
    """The fields of a line of a trial list or a score file: apart by tabs, so
    that a name may have blanks in it, or else by any blanks.

    Arguments
    ---------
    line : str
        The line.

    Returns
    -------
    list of str
        The fields, none of them empty, without blanks around them.

    Example
    -------
    >>> fields_of("1 a.wav b.wav"), fields_of("1\\ta 1.wav\\tb.wav")
    (['1', 'a.wav', 'b.wav'], ['1', 'a 1.wav', 'b.wav'])
    """
    fields = [field.strip() for field in line.split("\t") if field.strip()]
    return fields if len(fields) > 2 else line.split()


def separator_of(*columns):
    """What is to be between the fields of a line, for ``fields_of``.

    Arguments
    ---------
    *columns : iterable of str
        The names and groups that will be written.

    Returns
    -------
    str
        A tab if one has a blank in it, a blank otherwise.

    Example
    -------
    >>> separator_of(["a.wav", "b.wav"]), separator_of(["a.wav"], ["b 1.wav"])
    (' ', '\\t')
    """
    blanks = (len(name.split()) != 1 for names in columns for name in names)
    return "\t" if any(blanks) else " "


def recordings_of(names):
    """The recordings of which utterances are pieces.

    Arguments
    ---------
    names : sequence of str
        The IDs of a manifest.

    Returns
    -------
    list of str
        The recordings: of a piece the name without its number; other names as
        they are. Where a manifest has a recording whole, it has no pieces of
        it.

    Example
    -------
    >>> recordings_of(["a_0000", "a_0001", "b", "b_20240501"])
    ['a', 'a', 'b', 'b_20240501']
    """
    whole = [PIECE.sub("", name) for name in names]
    known = set(names)
    return [
        name if recording in known else recording
        for name, recording in zip(names, whole)
    ]


def find_file(name, folder):
    """The audio file that a name means.

    It is looked for below ``folder`` and ``folder/wav``: first the name as it
    is, then with a suffix of ``SUFFIXES`` added, in small or capital letters,
    then with its own replaced, which is done to the suffix of an audio format
    only. ``\\`` is then tried as ``/``.

    Arguments
    ---------
    name : str
        The name in a list.
    folder : str or pathlib.Path
        The folder that the list's names start from.

    Returns
    -------
    pathlib.Path
        The path of the file; None if there is none.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> for file in ["take.wav", "take.1.wav"]:
    ...     (folder / file).touch()
    >>> find_file("take.1", folder).name, find_file("take.flac", folder).name
    ('take.1.wav', 'take.wav')
    """
    for path in candidates(name, folder):
        if path.is_file():
            return path
    return None


def candidates(name, folder):
    """Where the file of a name may be.

    Arguments
    ---------
    name : str
        See ``find_file``.
    folder : str or pathlib.Path
        See ``find_file``.

    Yields
    ------
    pathlib.Path
        The paths, the most literal first.
    """
    composed, decomposed = (
        unicodedata.normalize(form, name) for form in ("NFC", "NFD")
    )
    forms = [name, composed, decomposed]
    forms += [form.replace("\\", "/") for form in forms]
    for form in dict.fromkeys(forms):
        paths = [pathlib.Path(folder, form), pathlib.Path(folder, INNER, form)]
        yield from paths
        named = [path for path in paths if path.name]  # as / has none
        stems = [path.with_name(_stem(path.name)) for path in named]
        for path in named + stems:
            for suffix in [*SUFFIXES, *map(str.upper, SUFFIXES)]:
                yield path.with_name(path.name + suffix)


def speaker_of(name, folders=(), id_parts=None):
    """Who speaks: the first folder of a name below the data, or below ``wav``
    there.

    Arguments
    ---------
    name : str
        The name in a list or a manifest.
    folders : iterable of str
        The folders of the data, for absolute names.
    id_parts : int, optional
        The number of the last parts that are the ID, whose first part is then
        the speaker.

    Returns
    -------
    str
        The speaker; empty if the name does not tell: it has no folder, or is
        absolute and not below the data.

    Example
    -------
    >>> [speaker_of(n) for n in ["./anna/1.wav", "wav/anna/1", "1.wav"]]
    ['anna', 'anna', '']
    >>> speaker_of("/data/anna/1.wav", ["/data"]), speaker_of("/x/anna/1.wav")
    ('anna', '')
    """
    parts = parts_of(name, folders)
    if id_parts and len(parts) >= id_parts:
        return parts[-id_parts]
    if not parts or not parts[0]:
        return ""  # absolute, and elsewhere
    return parts[0] if len(parts) > 1 else ""


def parts_of(name, folders=()):
    """The parts of a name below the data.

    Arguments
    ---------
    name : str
        See ``speaker_of``.
    folders : iterable of str
        See ``speaker_of``.

    Returns
    -------
    list of str
        The parts; of an absolute name that is not below the data, the first is
        empty.

    Example
    -------
    >>> parts_of("wav/anna/x/1.wav"), parts_of("/elsewhere/anna/1.wav")
    (['anna', 'x', '1'], ['', 'elsewhere', 'anna', '1'])
    """
    text = spelling(name)
    if text.startswith("/"):
        roots = [
            unicodedata.normalize("NFC", root)
            for folder in folders
            for root in (os.path.abspath(folder), os.path.realpath(folder))
        ]
        for path in _places(name) if roots else ():
            for root in roots:
                if path.startswith(root.rstrip("/") + "/"):
                    return _inner(os.path.relpath(path, root).split("/"))
        return text.split("/")
    if ".." in text.split("/"):
        text = os.path.normpath(text)
    return _inner(text.split("/"))


def _places(name):
    """What an absolute name may be written as, one after the other: a disk is
    asked only where it has to be. As it was written comes first, as a link may
    lead out of a speaker's folder."""
    text = spelling(name)
    yield text
    yield os.path.realpath(text)
    if name.startswith("/"):  # as macOS has it: decomposed
        yield spelling(os.path.realpath(name))


def paths_of(paths):
    """A path, several, or none, as a list.

    Arguments
    ---------
    paths : str or pathlib.Path, or an iterable of these, optional
        The paths.

    Returns
    -------
    list
        The paths as they were given; empty for None.

    Example
    -------
    >>> paths_of("a/b"), paths_of(("a", "b")), paths_of(None)
    (['a/b'], ['a', 'b'], [])
    """
    if paths is None:
        return []
    return [paths] if isinstance(paths, (str, os.PathLike)) else list(paths)


def check_writable_name(path):
    """Raises if a table is to be written where a recording may be.

    Arguments
    ---------
    path : str or pathlib.Path
        The file to write.

    Raises
    ------
    ValueError
        If it is a folder or a device, or has the suffix of an audio format.

    Example
    -------
    >>> check_writable_name("clusters.csv")
    >>> check_writable_name("calls/one.wav")
    Traceback (most recent call last):
    ...
    ValueError: calls/one.wav is the name of a recording: give another one.
    """
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder: give the name of a file.")
    if os.path.exists(path) and not os.path.isfile(path):
        raise ValueError(f"{path} is no plain file: give the name of one.")
    if _stem(str(path)) != str(path):
        raise ValueError(
            f"{path} is the name of a recording: give another one."
        )


def _inner(parts):
    """The parts below the folder of VoxCeleb's audio, if that is the first."""
    return parts[1:] if parts[0] == INNER and len(parts) > 1 else parts


def _stem(name):
    """A name without the suffix of an audio format."""
    stem, suffix = os.path.splitext(name)
    return stem if suffix.lower() in READABLE | CONVERTIBLE else name
