"""Speech from eSpeak NG, in a process of its own.

The library keeps a global state that even a new initialisation leaves as it
was: what it says depends on all that it said before. So each call of
``synthesise`` runs this file as a script in a fresh process, which imports the
standard library only and is up in some 20 milliseconds. eSpeak NG and its
voices come with the wheel ``espeakng-loader``.
"""

import ctypes
import json
import subprocess
import sys

# From speak_lib.h, eSpeak NG's C interface.
SYNCHRONOUS = 2
PARAMETERS = {"rate": 1, "pitch": 3, "range": 4}
BY_CHARACTER = 1
UTF8 = 1
CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.c_void_p
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
        Their sample rate in Hz.

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

    espeak = require_espeak()
    request = {
        "library": espeak.get_library_path(),
        "data": espeak.get_data_path(),
        "voice": voice,
        "sentences": sentences,
    }
    process = subprocess.run(
        [sys.executable, "-I", "-S", __file__],
        input=json.dumps(request).encode(),
        capture_output=True,
    )
    if process.returncode:
        reason = process.stderr.decode(errors="replace").strip()
        raise RuntimeError(
            f"eSpeak NG could not speak as {voice} (exit status "
            f"{process.returncode}): {reason}"
        )
    header, _, samples = process.stdout.partition(b"\n")
    header = json.loads(header)
    ends = np.cumsum(header["lengths"])
    signals = np.split(np.frombuffer(samples, np.int16), ends[:-1])
    return signals, header["sample_rate"]


def _speak(request):
    """The sample rate, and the samples of each sentence as bytes."""
    library = ctypes.CDLL(request["library"])
    spoken = []

    @CALLBACK
    def collect(samples, count, events):
        if count > 0:
            spoken[-1] += ctypes.string_at(samples, 2 * count)
        return 0

    data = request["data"].encode()
    sample_rate = library.espeak_Initialize(SYNCHRONOUS, 0, data, 0)
    if sample_rate < 0:
        sys.exit(f"no voice data in {request['data']}")
    library.espeak_SetSynthCallback(collect)
    if library.espeak_SetVoiceByName(request["voice"].encode()):
        sys.exit("no such voice")
    for sentence in request["sentences"]:
        spoken.append(b"")
        for name, number in PARAMETERS.items():
            library.espeak_SetParameter(number, sentence[name], 0)
        text = sentence["text"].encode()
        size = ctypes.c_size_t(len(text) + 1)
        if library.espeak_Synth(
            text, size, 0, BY_CHARACTER, 0, UTF8, None, None
        ):
            sys.exit(f"no speech for the text {sentence['text']!r}")
    return sample_rate, spoken


def _main():
    """Answers the request on the standard input: a line of JSON, then the
    samples of all sentences."""
    sample_rate, spoken = _speak(json.load(sys.stdin))
    lengths = [len(samples) // 2 for samples in spoken]
    header = {"sample_rate": sample_rate, "lengths": lengths}
    sys.stdout.buffer.write(json.dumps(header).encode() + b"\n")
    sys.stdout.buffer.write(b"".join(spoken))


if __name__ == "__main__":
    _main()
