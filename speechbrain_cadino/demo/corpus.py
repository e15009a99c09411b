"""The demo corpus: voices of eSpeak NG, each utterance in a channel of its own.

It takes the shape of VoxCeleb, and the place of it where there is no real
speech at hand: made on the machine in half a minute, the same bytes each time.
"""

import pathlib
from fractions import Fraction
from functools import partial
from multiprocessing.pool import ThreadPool
from typing import NamedTuple

import numpy as np
import pandas as pd
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import check_written
from speechbrain_cadino.dataio.manifest import DATA_ROOT, LABEL, write_manifest
from speechbrain_cadino.demo.channel import SAMPLE_RATE, degrade
from speechbrain_cadino.demo.espeak import require_espeak, synthesise
from speechbrain_cadino.demo.sentences import LANGUAGES, make_sentence
from speechbrain_cadino.process.files import (
    atomic_path,
    read_json,
    remove_leftovers,
    write_json,
    write_text,
)
from speechbrain_cadino.process.outputs import holds_something
from speechbrain_cadino.process.ranks import own_processors
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# The settings of the corpus, beside it.
RECORD = "demo.json"
# eSpeak NG's variants that sound like a person: no whispers, echoes, robots or
# twins of another one (judged by pitch, voicing and mean spectrum), and none
# with breath, whose noise is another at every run. High voices, low voices.
VARIANTS = [
    "Andrea Annie anika aunty belinda f1 f4 grandma linda shelby steph "
    "zac".split(),
    "Alex Andy AnxiousAndy Denis Diogo Gene Hugo Jacky Lee Marco Mario Michael "
    "Mike Nguyen Reed Storm Tweaky adam antonio boris david ed edward grandpa "
    "gustave ian iven john kaukovalta klatt4 m1 m2 m3 m4 m5 m6 m7 m8 marcelo "
    "max miguel norbert pablo paul pedro quincy rob travis".split(),
]
# What a voice keeps: eSpeak NG's rate (words per minute), pitch and pitch
# range, and the factor by which its vocal tract is longer than the variant's.
RATE, PITCH, RANGE, TRACT = (125, 165), (25, 70), (30, 70), (0.88, 1.13)
# By how much its utterances stray from that, up or down.
STRAY = {"rate": 15, "pitch": 5, "range": 10}


class Voice(NamedTuple):
    """A speaker of the demo corpus: see ``draw_voices``."""

    number: int
    language: str
    high: bool
    variant: str
    rate: int
    pitch: int
    range: int
    tract: float

    @property
    def name(self):
        """The name of the speaker's folder."""
        return f"v{self.number:03d}"

    @property
    def espeak(self):
        """Its name in eSpeak NG."""
        return f"{self.language}+{self.variant}"


def prepare_demo(
    data_folder,
    train_voices=60,
    test_voices=20,
    utterances=12,
    seed=1986,
    num_workers=None,
    skip_prep=False,
):
    """Makes the demo corpus.

    Below ``data_folder``: ``wav/<voice>/<session>/00001.flac`` (16 kHz, mono,
    16 bit; each utterance is a session, since each has its own channel), the
    unlabelled manifest ``train.csv``, the labels of its utterances in
    ``speakers.csv``, and ``meta/veri_test.txt``, trials between the
    utterances of the test voices in VoxCeleb's form. Killed and started again
    it goes on where it was; with a whole corpus at hand it does nothing.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        A folder for the corpus alone: new, empty, or with a demo corpus of
        the same settings in it.
    train_voices : int
        The number of voices to train on.
    test_voices : int
        The number of other voices in the trials. They are the same whatever the
        number of training voices.
    utterances : int
        The number of utterances of each voice, of about 4 s each.
    seed : int
        The random seed: another one gives other voices, sentences, channels and
        trials.
    num_workers : int, optional
        The number of voices to make at once; as many as there are CPUs by
        default.
    skip_prep : bool
        Whether to do nothing at all.

    Raises
    ------
    ImportError
        If eSpeak NG is not installed.
    ValueError
        If there are too few voices or utterances to make trials, or the
        folder holds anything but a demo corpus of these settings.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> prepare_demo(folder, train_voices=1, test_voices=2, utterances=2)
    >>> print((folder / "meta" / "veri_test.txt").read_text().split("\\n")[0])
    1 v000/s00/00001.flac v000/s01/00001.flac
    >>> print((folder / "train.csv").read_text().split("\\n")[0])
    ID,duration,wav,start,stop
    """
    if skip_prep:
        return
    if train_voices < 1 or test_voices < 2 or utterances < 2:
        raise ValueError(
            "A demo corpus needs at least 1 training voice, 2 test voices and "
            f"2 utterances of each, not {train_voices}, {test_voices} and "
            f"{utterances}."
        )
    folder = pathlib.Path(data_folder)
    settings = {
        "train_voices": train_voices,
        "test_voices": test_voices,
        "utterances": utterances,
        "seed": seed,
    }
    _check_folder(folder, settings)
    # Written last, so where it is all the rest is.
    manifest = folder / "train.csv"
    if manifest.exists():
        logger.info(f"The demo corpus in {folder} is complete.")
        return
    require_espeak()
    write_json(folder / RECORD, settings)
    remove_leftovers(folder, below=True)
    logger.info(f"Making the demo corpus in {folder}.")
    voices = draw_voices(test_voices + train_voices, seed)
    speak = partial(_speak, folder / "wav", utterances=utterances, seed=seed)
    # Threads do: eSpeak NG runs in processes of its own, and numpy and
    # soundfile let go of the interpreter lock while they compute.
    with ThreadPool(num_workers or own_processors(1)) as pool:
        tables = pool.imap(speak, voices)
        bar = tqdm(tables, "Demo corpus", total=len(voices), unit="voice")
        table = pd.concat(bar, ignore_index=True)
    is_test = table[LABEL].isin([voice.name for voice in voices[:test_voices]])
    trials = _draw_trials(table[is_test], np.random.default_rng([seed, 2]))
    write_text(folder / "meta" / "veri_test.txt", trials)
    _write_training_set(folder, manifest, table[~is_test])
    logger.info(f"{len(table)} utterances of {len(voices)} voices are ready.")


def draw_voices(count, seed):
    """Draws voices, half of them high and half low, of all languages in turn.

    A variant of eSpeak NG serves a second time only when all others of its
    pitch have served, and then with another length of the vocal tract.

    Arguments
    ---------
    count : int
        The number of voices.
    seed : int
        The seed of the draws; a larger count adds to the same first ones.

    Returns
    -------
    list of Voice
        The voices, numbered from 0.

    Example
    -------
    >>> voices = draw_voices(20, seed=1)
    >>> len({voice.variant for voice in voices})
    20
    >>> voices[:5] == draw_voices(5, seed=1)
    True
    """
    rng = np.random.default_rng([seed, 0])
    variants = [rng.permutation(names) for names in VARIANTS]
    return [
        _draw_voice(number, variants[number % 2], rng)
        for number in range(count)
    ]


def _draw_voice(number, variants, rng):
    """Draws what is the voice's own."""
    nth = number // 2
    return Voice(
        number=number,
        language=LANGUAGES[nth % len(LANGUAGES)],
        high=number % 2 == 0,
        variant=str(variants[nth % len(variants)]),
        rate=int(rng.integers(*RATE)),
        pitch=int(rng.integers(*PITCH)),
        range=int(rng.integers(*RANGE)),
        tract=float(rng.uniform(*TRACT)),
    )


def _check_folder(folder, settings):
    """Raises unless the folder is free for a corpus of these settings."""
    record = folder / RECORD
    if record.exists():
        found = read_json(record)
        if found != settings:
            raise ValueError(
                f"{folder} holds a demo corpus with other settings ({found}, "
                f"not {settings}): give another data_folder, or delete it."
            )
    elif holds_something(folder):
        raise ValueError(
            f"{folder} is not empty and holds no demo corpus: give a new "
            "folder as data_folder."
        )


def _speak(folder, voice, utterances, seed):
    """Makes the utterances of a voice and lists them: columns ``file`` (below
    the folder), ``stop`` (samples), ``spk_id`` and ``kind`` (of voice)."""
    files = utterance_files(voice, utterances)
    if not all((folder / file).exists() for file in files):
        sentences, rngs = draw_sentences(voice, utterances, seed)
        signals, sample_rate = synthesise(voice.espeak, sentences)
        longer = factor_of_tract(voice, sample_rate)
        for file, signal, rng in zip(files, signals, rngs):
            signal = resample_poly(
                signal.astype(np.float32), longer.numerator, longer.denominator
            )
            with atomic_path(folder / file) as temporary:
                samples = degrade(signal, rng)
                soundfile.write(temporary, samples, SAMPLE_RATE)
                check_written(temporary, len(samples))
    return pd.DataFrame(
        {
            "file": files,
            "stop": [soundfile.info(folder / file).frames for file in files],
            LABEL: voice.name,
            "kind": f"{voice.language}, {'high' if voice.high else 'low'}",
        }
    )


def utterance_files(voice, utterances):
    """The files of a voice, below the folder of all.

    Arguments
    ---------
    voice : Voice
        The voice.
    utterances : int
        The number of its utterances.

    Returns
    -------
    list of str
        The path of each utterance, with ``/`` between its parts.
    """
    return [f"{voice.name}/s{i:02d}/00001.flac" for i in range(utterances)]


def factor_of_tract(voice, sample_rate):
    """By how much a signal gets longer on its way into the corpus.

    A longer tract moves all resonances down, as a slower tape does.

    Arguments
    ---------
    voice : Voice
        The voice.
    sample_rate : int
        The rate of eSpeak NG's signal in Hz.

    Returns
    -------
    fractions.Fraction
        The samples at 16 kHz for one of eSpeak NG's.
    """
    return Fraction(round(512 * voice.tract * SAMPLE_RATE / sample_rate), 512)


def draw_sentences(voice, utterances, seed):
    """Draws what a voice says, and how.

    Arguments
    ---------
    voice : Voice
        The voice.
    utterances : int
        The number of its utterances.
    seed : int
        The seed of the corpus.

    Returns
    -------
    list of dict
        The sentences, as ``synthesise`` takes them.
    list of numpy.random.Generator
        The generator that draws the channel of each.
    """
    rngs = [
        np.random.default_rng([seed, 1, voice.number, i])
        for i in range(utterances)
    ]
    return [_draw_sentence(voice, rng) for rng in rngs], rngs


def _draw_sentence(voice, rng):
    """Draws what the voice says, and how this time."""
    sentence = {"text": make_sentence(voice.language, rng)}
    for name, most in STRAY.items():
        offset = int(rng.integers(-most, most, endpoint=True))
        sentence[name] = getattr(voice, name) + offset
    return sentence


def _draw_trials(table, rng):
    """All pairs of utterances of one voice; as many of two voices of one kind
    if there are, and as many of two kinds: the lines of a trial list."""
    file, voice, kind = table[["file", LABEL, "kind"]].to_numpy().T
    enrol, test = np.triu_indices(len(table), 1)
    target = voice[enrol] == voice[test]
    alike = kind[enrol] == kind[test]
    pairs = np.flatnonzero(target)
    for others in (alike & ~target, ~alike):
        others = np.flatnonzero(others)
        count = min(len(others), target.sum())
        pairs = np.append(pairs, rng.choice(others, count, replace=False))
    return "".join(
        f"{int(target[i])} {file[enrol[i]]} {file[test[i]]}\n"
        for i in np.sort(pairs)
    )


def _write_training_set(folder, manifest, table):
    """Writes the labels, and last the manifest without them."""
    table = table.assign(
        ID=table["file"].str.removesuffix(".flac"),
        wav=f"{DATA_ROOT}/wav/" + table["file"],
        start=0,
        duration=table["stop"] / SAMPLE_RATE,
    )
    write_csv(folder / "speakers.csv", table[["ID", LABEL]])
    write_manifest(manifest, table.drop(columns=LABEL))
