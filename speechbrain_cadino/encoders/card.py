"""The model card of an encoder folder: README.md, as model hubs show it."""

import pathlib

import pandas as pd

from speechbrain_cadino import __version__
from speechbrain_cadino.dataio.manifest import LABEL, trusted_rows
from speechbrain_cadino.encoders.calibration import (
    NO_THRESHOLD,
    read_calibration,
    threshold_line,
)
from speechbrain_cadino.encoders.export import kind_of
from speechbrain_cadino.process.files import write_text

CARD = "README.md"

# The settings that a reader asks for first, where a training has them
SETTINGS = [
    "number_of_epochs",
    "batch_size",
    "processes",
    "precision",
    "lr",
    "seed",
    "cut_seconds",
    "speeds",
    "teacher_temp",
    "out_dim",
    "target",
    "num_clusters",
    "num_classes",
    "correction_temp",
    "confidence",
    "gate",
    "gate_rule",
    "target_weight",
    "train_only",
    "codebooks",
    "codes",
    "targets",
    "heads_at",
    "export_layer",
]

LOAD = """\
```python
from speechbrain.inference.speaker import SpeakerRecognition

encoder = SpeakerRecognition.from_hparams(source="this folder")
embeddings = encoder.encode_batch(wavs)  # (batch, 1, D) of {sample_rate} Hz
score, _ = encoder.verify_files("one.wav", "other.wav")
```

The score is the cosine of two embeddings. Embed recordings of unequal length
one at a time: padding counts.

{threshold}

The second answer of `verify_files` is by a fixed threshold, not by this
encoder's own."""

# Headings between which there are figures
GOOD = "## How good it is"
LICENCE = "## Licence"
# In their place, of an encoder that was made of another one
FOLDED = "Not evaluated since a linear map was folded into its last layer."

LOAD_FACES = """\
```python
from speechbrain_cadino.encoders.load import load_encoder

encoder = load_encoder("this folder")
with encoder.reader("folder of frames") as track:
    embedding = encoder.encode_batch(track.read()[None])
```

The score of two faces is the cosine of their embeddings.

{threshold}"""

LOAD_FRAMES = """\
```python
from speechbrain.inference.encoders import WaveformEncoder

encoder = WaveformEncoder.from_hparams(source="this folder")
frames = encoder.encode_batch(wavs, wav_lens)  # of {sample_rate} Hz
```

From waveforms, (batch, samples), to (batch, frames, size); `wav_lens` are their
lengths as shares of the longest. SpeechBrain 1.1.0 does not look at them: take
1.1.1 or newer. Of a file, `encoder.load_audio(path)[None]` with lengths of 1:
`encode_file` is for encoders that give more than frames.

Figures are of all layers, `layer_N`, each normalised over its recording, and of
the heads that guess the codes, `codes_N`. This folder has no heads, and gives
one layer as it is: the last, or `export_layer`, each of whose frames has mean 0
and variance 1 over its features. The last one is that of the figures after
`(frames - frames.mean(1, keepdim=True)) / frames.std(1, keepdim=True)`; another
one is near it."""

# What an encoder is, and how it is loaded, by its kind
KINDS = {
    "voices": ("A speaker encoder", LOAD),
    "faces": ("An encoder of faces", LOAD_FACES),
    "frames": ("An encoder of frames of speech", LOAD_FRAMES),
}

TEXT = """\
# {what}

Trained by speechbrain_cadino {version}.

## How to load it

{load}

## Trained on

{trained}

## Settings

| setting | value |
|---|---|
{settings}

All are in `hyperparams.yaml` of the training.

{good}

{figures}

{licence}

To be filled in: the licence of this model, which depends on that of the data.
"""


# Of an encoder that was made of another one, whose card is not ours
MADE_OF = """\
# {what}

{name} with a linear map of its embeddings in its last layer, by
speechbrain_cadino {version}.

## How to load it

{load}

{good}

{figures}

{licence}

That of {name}.
"""


def write_card(
    folder, settings, table, results=None, labelled=None, weights=None
):
    """Writes the model card.

    It tells how much the encoder was trained on, not what: no path, no name
    of a file or of a speaker.

    Arguments
    ---------
    folder : str or pathlib.Path
        The encoder folder.
    settings : dict
        The settings of the training, as ``config.settings.resolve`` gives them.
    table : pandas.DataFrame
        The manifest it was trained on; None if on ``labelled`` alone.
    results : dict, optional
        The results of ``verify``: ``trials``, ``targets`` and the figures of
        the encoder, ``eer`` in percent and ``min_dcf_0.01``, in one dict.
    labelled : pandas.DataFrame, optional
        The manifest of utterances with true speakers that it was trained on
        besides, or that are some of these.
    weights : str, optional
        The network whose weights these are, where a training has those of
        several.

    Example
    -------
    >>> import pandas as pd
    >>> folder = getfixture("tmp_path")
    >>> table = pd.DataFrame({"ID": ["a", "b"], "start": 0, "stop": 43200000})
    >>> _ = (folder / "hyperparams.yaml").write_text("sample_rate: 16000")
    >>> write_card(folder, {"sample_rate": 16000, "seed": 7}, table)
    >>> print((folder / "README.md").read_text().partition("## Trained on")[2])
    <BLANKLINE>
    <BLANKLINE>
    2 recordings, 1.5 hours, without speaker labels.
    ...
    | seed | 7 |
    ...
    """
    shown = [
        f"| {name} | {text.replace('|', '/')} |"
        for name in SETTINGS
        if (text := _setting(settings.get(name))) and "/" not in text
    ]
    kind = kind_of(folder)
    what, load = KINDS[kind]
    rate = None if kind == "faces" else settings["sample_rate"]
    text = TEXT.format(
        what=what,
        version=__version__,
        load=load.format(
            threshold=threshold_line(read_calibration(folder)), **settings
        ),
        trained=_trained(table, labelled, rate)
        + _started(settings.get("start_encoder"))
        + (f" These are the weights of {weights}." if weights else ""),
        settings="\n".join(shown),
        figures=_figures(results, kind),
        good=GOOD,
        licence=LICENCE,
    )
    write_text(pathlib.Path(folder, CARD), text)


def _setting(value):
    """A setting in words; nothing for an object, or an empty list."""
    if isinstance(value, list):
        return ", ".join(map(_setting, value))
    return str(value) if isinstance(value, (int, float, str)) else ""


def follow_card(source, folder, sample_rate):
    """Writes the model card of an encoder that was made of another one.

    It is that of the other one without its figures; a short one if that has
    none of ``write_card``.

    Arguments
    ---------
    source : str or pathlib.Path
        The other encoder: a folder or a hub id.
    folder : str or pathlib.Path
        The encoder folder.
    sample_rate : int
        The sample rate, in Hz.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> _ = (folder / "hyperparams.yaml").write_text("")
    >>> follow_card("mine/encoder", folder, 16000)
    >>> print((folder / "README.md").read_text())
    # A speaker encoder
    <BLANKLINE>
    encoder with a linear map ...
    Not evaluated since a linear map was folded into its last layer.
    ...
    """
    path = pathlib.Path(source, CARD)
    text = ""
    if path.is_file():
        text = path.read_text(encoding="utf-8", errors="replace")
    if not _is_ours(text):
        what, load = KINDS[kind_of(folder)]
        text = MADE_OF.format(
            what=what,
            name=pathlib.Path(source).name,
            version=__version__,
            load=load.format(threshold=NO_THRESHOLD, sample_rate=sample_rate),
            good=GOOD,
            figures="",
            licence=LICENCE,
        )
    write_text(pathlib.Path(folder, CARD), text)
    replace_figures(folder, FOLDED)


def replace_figures(folder, text):
    """Puts something in the place of the figures of a model card.

    Arguments
    ---------
    folder : str or pathlib.Path
        The encoder folder, with a card of ``write_card`` or ``follow_card``.
    text : str
        The text in the place of the figures.

    Example
    -------
    >>> card = getfixture("tmp_path") / "README.md"
    >>> _ = card.write_text("## How good it is\\n\\nEER 1 %\\n\\n## Licence\\n")
    >>> replace_figures(card.parent, "Not evaluated.")
    >>> card.read_text()
    '## How good it is\\n\\nNot evaluated.\\n\\n## Licence\\n'
    """
    path = pathlib.Path(folder, CARD)
    before, _, rest = path.read_text(encoding="utf-8").partition(GOOD)
    _, _, after = rest.partition(LICENCE)
    write_text(path, f"{before}{GOOD}\n\n{text}\n\n{LICENCE}{after}")


def _is_ours(text):
    """Whether a card has the headings between which there are figures."""
    return LICENCE in text.partition(GOOD)[2]


def _started(encoder):
    """That there was an encoder before, which had data of its own."""
    if encoder is None:
        return ""
    return (
        " It began as another encoder: what that was trained on, maybe with "
        "speaker labels, its own card tells."
    )


def _trained(table, labelled, rate):
    """What it was trained on, and which labels it had."""
    if table is None:
        return _labelled(labelled)
    given = trusted_rows(table)
    if given.any():
        labelled = pd.concat([table[given], labelled])
        table, labelled = table[~given], labelled.drop_duplicates("ID")
    trained = _amount(table, rate)
    if labelled is not None:
        trained += f" And {_labelled(labelled, 'with')}"
    return trained


def _amount(table, rate):
    """How much there is in a manifest, of voices at a rate or of faces, which
    have none, and whether it has labels."""
    amount = f"{len(table):,} tracks of faces"
    if rate:
        # Durations may be those of whole files, see ``read_manifest``
        hours = (table["stop"] - table["start"]).sum() / rate / 3600
        amount = f"{_recordings(table)}, {hours:.1f} hours"
    if LABEL not in table:
        return f"{amount}, without speaker labels."
    classes = table[LABEL].nunique()
    return (
        f"{amount}, in {classes:,} classes: clusters of an encoder's "
        "embeddings, or speakers if this is a fine-tuned one."
    )


def _labelled(table, start="With"):
    """How much there is in a manifest of true speakers."""
    return (
        f"{start} speaker labels: {_recordings(table)} of "
        f"{table[LABEL].nunique():,} speakers."
    )


def _recordings(table):
    """How many recordings, or pieces of them."""
    recordings = table.get("wav", table["ID"]).nunique()
    if recordings < len(table):
        return f"{len(table):,} pieces of {recordings:,} recordings"
    return f"{recordings:,} recordings"


def _figures(results, kind="voices"):
    """What a trial list says."""
    if not results:
        return "Not evaluated: no trials were given."
    unseen = ""
    if kind == "faces" and results.get("unseen"):
        unseen = f" ({results['unseen']:,} without a face, by the mean)"
    overlap = results.get("training_overlap") or {}
    known, heard = overlap.get("trained_on"), ""
    if known:
        heard = (
            f"\n\n{known:,} of the {overlap['test_speakers']:,} speakers of "
            "these trials were trained on: the figures say little of others."
        )
    return (
        f"On {results['trials']:,} trials, {results['targets']:,} of them of "
        f"the same speaker, raw cosine{unseen}:\n\n"
        f"* EER {results['eer']:.2f} %\n"
        f"* minDCF(0.01) {results['min_dcf_0.01']:.4f}{heard}"
    )
