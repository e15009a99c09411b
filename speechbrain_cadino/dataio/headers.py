"""Files that go on where their header ends: soundfile reads the beginning."""

import re
import struct

# Of a file, as far as its first header may be from its beginning, and the last
# one from its end
STRETCH = 2**16

# So many bytes beyond what an MP3 file tells are no audio: tags at its end
TAGS = 2**16

# Less than so many bytes after the samples of a WAV file are no loss
LEAST = 4096

NAME = re.compile(rb"[ -~]{4}")


def goes_on(path, kind):
    """Whether a file has more audio than its header tells: of an MP3 file that
    others were joined to, an Ogg file of several streams, one after the other,
    or a WAV file whose recorder did not come to write its length.

    An MP3 file that tells nothing of its size is not looked at.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    kind : str
        The format of the file, as soundfile calls it.

    Returns
    -------
    bool
        Whether it has; False for any format but MP3, Ogg and WAV.

    Example
    -------
    >>> import numpy as np, soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "one.ogg", np.zeros(16000), 16000)
    >>> goes_on(folder / "one.ogg", "OGG")
    False
    >>> one = (folder / "one.ogg").read_bytes()
    >>> soundfile.write(folder / "other.ogg", np.ones(16000), 16000)
    >>> other = (folder / "other.ogg").read_bytes()
    >>> _ = (folder / "both.ogg").write_bytes(one + other)
    >>> goes_on(folder / "both.ogg", "OGG")
    True
    """
    look = {"OGG": _several_streams, "MP3": _joined, "MPEG": _joined}
    look |= dict.fromkeys(["WAV", "WAVEX", "RF64"], _unfinished)
    if kind not in look:
        return False
    with open(path, "rb") as file:
        return look[kind](file, file.seek(0, 2))


def died(path):
    """Whether a file is a WAV file, whatever its name, whose recorder did not
    come to write its length.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.

    Returns
    -------
    bool
        Whether it is one; False if it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(12)
            is_wav = start[:4] in (b"RIFF", b"RF64") and start[8:] == b"WAVE"
            return is_wav and _unfinished(file, file.seek(0, 2))
    except OSError:  # said by what reads it
        return False


def _several_streams(file, size):
    """Of the pages of an Ogg file, each of which names its stream: whether the
    first and the last one are of two."""
    file.seek(0)
    first = file.read(18)
    file.seek(max(0, size - STRETCH))
    end = file.read()
    last = end[end.rfind(b"OggS") :][:18]
    return len(last) == 18 and last[14:18] != first[14:18]


def _joined(file, size):
    """Whether an MP3 file is longer than its first frame says."""
    file.seek(0)
    tag = file.read(10)
    start = 0
    if tag[:3] == b"ID3":  # seven bits to a byte
        start = 10 + sum(b << 7 * i for i, b in enumerate(reversed(tag[6:])))
    file.seek(start)
    head = file.read(STRETCH)
    place = re.search(b"Xing|Info", head)
    if place is None:
        return False
    words = head[place.end() : place.end() + 12]
    flags, *numbers = struct.unpack(">3I", words.ljust(12, b"\0"))
    if not flags & 2:
        return False
    told = numbers[1 if flags & 1 else 0]
    return told > 0 and size - start > told + max(TAGS, told // 20)


def _unfinished(file, size):
    """Whether samples of a WAV file may follow those that it tells of: no part
    of another kind does, no tag, and no zeros alone."""
    place, of_data = 12, None
    while place + 8 <= size:
        file.seek(place)
        name, length = struct.unpack("<4sI", file.read(8))
        if name == b"ds64":  # of RF64, whose lengths may be beyond 4 GB
            of_data = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        elif name == b"data" and length == 2**32 - 1 and of_data is not None:
            length = of_data
        place += 8 + length + length % 2
        if name == b"data":
            break
    if size - place < LEAST:
        return False
    # Some leave out the byte that makes a length even
    for start in (place, place - 1):
        file.seek(start)
        name, length = struct.unpack("<4sI", file.read(8))
        if NAME.fullmatch(name) and start + 8 + length <= size + 1:
            return False
    file.seek(place)
    rest = file.read(STRETCH)
    return any(rest) and rest[:3] not in (b"TAG", b"ID3")
