"""Speech from eSpeak NG, in a process of its own.

The library keeps a global state that even a new initialisation leaves as it
was: what it says depends on all that it said before. So each call of
``synthesise`` runs this file as a script in a fresh process, which imports the
standard library only and is up in some 20 milliseconds. eSpeak NG and its
voices come with the wheel ``espeakng-loader``.
"""

import ctypes
import json
import os
import pathlib
import subprocess
import sys

# From speak_lib.h, eSpeak NG's C interface.
SYNCHRONOUS = 2
PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
BY_CHARACTER = 1
UTF8 = 1
# Tell when phones begin, by their names in the phonetic alphabet (IPA). The
# samples are the same as without.
PHONE_EVENTS = 1 | 2
END_OF_EVENTS, PHONE = 0, 7
STRESS = str.maketrans("", "", "ˈˌ")


class Event(ctypes.Structure):
    """``espeak_EVENT``: something that begins at a sample."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("name", ctypes.c_char * 8),
    ]


CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.POINTER(ctypes.c_short),
    ctypes.c_int,
    ctypes.POINTER(Event),
)


def require_espeak():
    """Imports the wheel that holds eSpeak NG.

    Returns
    -------
    module
        ``espeakng_loader``.

    Raises
    ------
    ImportError
        If it is not installed, with the command that installs it.
    """
    try:
        import espeakng_loader
    except ImportError as error:
        raise ImportError(
            "The demo corpus is spoken by eSpeak NG, which is not installed: "
            'pip install "speechbrain_cadino[demo]"'
        ) from error
    return espeakng_loader


def synthesise(voice, sentences):
    """Lets a voice speak sentences, in the same samples at every call.

    Arguments
    ---------
    voice : str
        A language and a variant of eSpeak NG, as in ``en-us+Annie``.
    sentences : list of dict
        The sentences to say: ``text``, ``rate`` (words per minute, 80 to 450),
        ``pitch`` and ``range`` (0 to 99 each; 50 is the variant's own).

    Returns
    -------
    list of numpy.ndarray
        An int16 signal for each sentence.
    int
        The sample rate of the signals, in Hz.

    Raises
    ------
    ImportError
        If eSpeak NG is not installed.
    RuntimeError
        If it fails, with the reason.

    Example
    -------
    >>> sentence = {"text": "One, two.", "rate": 160, "pitch": 50, "range": 50}
    >>> signals, sample_rate = synthesise("en-us+Annie", [sentence])
    >>> sample_rate, signals[0].dtype, len(signals[0]) > 11025
    (22050, dtype('int16'), True)
    """
    # Here and not above: the script below must start quickly.
    import numpy as np

    header, samples = _ask(voice, sentences)
    ends = np.cumsum(header["lengths"])
    signals = np.split(np.frombuffer(samples, np.int16), ends[:-1])
    return signals, header["sample_rate"]


def pronounce(voice, sentences):
    """The phones of what ``synthesise`` says, and when.

    Arguments
    ---------
    voice : str
        A language and a variant of eSpeak NG, as in ``en-us+Annie``.
    sentences : list of dict
        The sentences to say: ``text``, ``rate``, ``pitch`` and ``range``. See
        ``synthesise``.

    Returns
    -------
    list of list of tuple
        The phones of each sentence in order: the name in the phonetic alphabet
        (IPA) without stress, the first sample, and the first sample after it.
        What is not covered is silence or a glide without a name.
    int
        The sample rate in Hz.

    Raises
    ------
    ImportError
        If eSpeak NG is not installed.
    RuntimeError
        If it fails, with the reason.

    Example
    -------
    >>> sentence = {"text": "Bed.", "rate": 160, "pitch": 50, "range": 50}
    >>> (phones,), sample_rate = pronounce("en-us+Annie", [sentence])
    >>> len(phones), phones[0][0], phones[0][2] == phones[1][1]
    (3, 'b', True)
    """
    header, _ = _ask(voice, sentences)
    phones = []
    for events, length in zip(header["events"], header["lengths"]):
        stops = [start for _, start in events[1:]] + [length]
        named = [
            (name.translate(STRESS), start, stop)
            for (name, start), stop in zip(events, stops)
        ]
        phones.append([each for each in named if each[0] and each[1] < each[2]])
    return phones, header["sample_rate"]


def _ask(voice, sentences):
    """What the script below answers: its header, and all samples as bytes."""
    espeak = require_espeak()
    data = pathlib.Path(espeak.get_data_path()).absolute()
    request = {
        "library": os.path.abspath(espeak.get_library_path()),
        # It has room for a short path alone
        "data": ".",
        "voice": voice,
        "sentences": sentences,
    }
    process = subprocess.run(
        [sys.executable, "-I", "-S", os.path.abspath(__file__)],
        input=json.dumps(request).encode(),
        capture_output=True,
        cwd=data.parent,  # where the data are
    )
    if process.returncode:
        reason = process.stderr.decode(errors="replace").strip()
        raise RuntimeError(
            f"eSpeak NG could not speak as {voice} (exit status "
            f"{process.returncode}): {reason}"
        )
    header, _, samples = process.stdout.partition(b"\n")
    return json.loads(header), samples


def _speak(request):
    """The sample rate; of each sentence the samples as bytes, and the name and
    first sample of each phone."""
    library = ctypes.CDLL(request["library"])
    spoken, phones = [], []

    @CALLBACK
    def collect(samples, count, events):
        if count > 0:
            spoken[-1] += ctypes.string_at(samples, 2 * count)
        number = 0
        while events[number].type != END_OF_EVENTS:
            event = events[number]
            if event.type == PHONE:
                # Eight bytes at most, which may end within a character
                name = event.name.decode(errors="ignore")
                phones[-1].append((name, event.sample))
            number += 1
        return 0

    data = request["data"].encode()
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, PHONE_EVENTS)
    if sample_rate < 0:
        sys.exit(f"no voice data in {os.getcwd()}")
    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        sys.exit("no such voice")
    for sentence in request["sentences"]:
        spoken.append(b"")
        phones.append([])
        for name, number in PARAMETERS.items():
            library.espeak_SetParameter(number, sentence[name], 0)
        text = sentence["text"].encode()
        size = ctypes.c_size_t(len(text) + 1)
        if library.espeak_Synth(
            text, size, 0, BY_CHARACTER, 0, UTF8, None, None
        ):
            sys.exit(f"no speech for the text {sentence['text']!r}")
    return sample_rate, spoken, phones


def _main():
    """Answers the request on the standard input: a line of JSON, then the
    samples of all sentences."""
    sample_rate, spoken, phones = _speak(json.load(sys.stdin))
    lengths = [len(samples) // 2 for samples in spoken]
    header = {
        "sample_rate": sample_rate,
        "lengths": lengths,
        "events": phones,
    }
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    sys.stdout.buffer.write(b"".join(spoken))


if __name__ == "__main__":
    _main()
