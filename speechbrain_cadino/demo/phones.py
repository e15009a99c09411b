"""The phones of the demo corpus: a table beside it, made from its settings.

Audio is not read: each voice says its sentences again, and eSpeak NG tells when
each phone begins.
"""

import pathlib

import pandas as pd
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import LABEL
from speechbrain_cadino.demo.channel import SAMPLE_RATE
from speechbrain_cadino.demo.corpus import (
    RECORD,
    draw_sentences,
    draw_voices,
    factor_of_tract,
    utterance_files,
)
from speechbrain_cadino.demo.espeak import pronounce
from speechbrain_cadino.process.files import read_json
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)


def prepare_phones(data_folder, skip_prep=False):
    """Writes the phones of the test voices to ``meta/phones.csv``.

    A row for each phone, in the order of files and time, as
    ``frames.phones.read_phones`` reads it: ``wav`` (below ``data_folder``),
    ``spk_id``, ``language``, ``phone`` (IPA without stress), and ``start`` and
    ``stop`` in seconds. The corpus itself is not touched.

    Arguments
    ---------
    data_folder : str or pathlib.Path
        The folder of a demo corpus, made by ``prepare_demo``.
    skip_prep : bool
        Whether to do nothing at all.

    Raises
    ------
    FileNotFoundError
        If there is no demo corpus.
    ImportError
        If eSpeak NG is not installed.

    Example
    -------
    >>> from speechbrain_cadino.demo.corpus import prepare_demo
    >>> folder = getfixture("tmp_path")
    >>> prepare_demo(folder, train_voices=1, test_voices=2, utterances=2)
    >>> prepare_phones(folder)
    >>> print((folder / "meta" / "phones.csv").read_text().split("\\n")[0])
    wav,spk_id,language,phone,start,stop
    """
    folder = pathlib.Path(data_folder)
    path = folder / "meta" / "phones.csv"
    if skip_prep or path.exists():
        return
    settings = read_json(folder / RECORD)
    if settings is None:
        raise FileNotFoundError(
            f"{folder} holds no demo corpus ({RECORD}): its phones are made "
            "from its settings. Make it first, with prepare_demo."
        )
    voices = draw_voices(settings["test_voices"], settings["seed"])
    tables = [
        _phones_of(voice, settings["utterances"], settings["seed"])
        for voice in tqdm(voices, "Phones", unit="voice")
    ]
    table = pd.concat(tables, ignore_index=True)
    write_csv(path, table)
    logger.info(f"{len(table)} phones of {len(voices)} voices are in {path}.")


def _phones_of(voice, utterances, seed):
    """The rows of a voice."""
    sentences, _ = draw_sentences(voice, utterances, seed)
    phones, sample_rate = pronounce(voice.espeak, sentences)
    factor = factor_of_tract(voice, sample_rate) / SAMPLE_RATE
    files = utterance_files(voice, utterances)
    return pd.DataFrame(
        [
            (
                f"wav/{file}",
                voice.name,
                voice.language,
                name,
                *(round(float(place * factor), 6) for place in (start, stop)),
            )
            for file, said in zip(files, phones)
            for name, start, stop in said
        ],
        columns=["wav", LABEL, "language", "phone", "start", "stop"],
    )
