"""Evaluation of frame encoders by phones: ABX, purity, PNMI, codes used."""

import pathlib
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from sklearn.cluster import KMeans
from tqdm import tqdm

from speechbrain.lobes.features import MFCC, Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.frames.abx import (
    comparable,
    score_abx,
    summarise,
)
from speechbrain_cadino.frames.phones import frames_of, read_phones
from speechbrain_cadino.frames.units import unit_figures
from speechbrain_cadino.losses.online_codebook import over_time
from speechbrain_cadino.process.figures import save_figure
from speechbrain_cadino.process.files import (
    write_csv,
    write_json,
)

logger = get_logger(__name__)

# Of SpeechBrain's features at 100 frames a second
HOP = 0.01
# How a plot names them
SPECTRAL = {"log_mel": "log-mel", "mfcc": "MFCC"}
# Files of the training set, and frames of these, that k-means learns from
KMEANS_FILES, KMEANS_FRAMES = 300, 50_000
# The frames that are kept at a time, in bytes, of one layer at least: for more,
# the files are gone through again
KEPT = 2 * 2**30
# Longer files are described in stretches, each with as much before and after it
# as the margin, in seconds: a network's memory grows with the square
LONGEST, STRETCH, MARGIN = 60, 50, 5


class Features(NamedTuple):
    """A way to describe the frames of a signal."""

    describe: object  # (1, samples) to (1, frames, size) by name
    hop: float  # seconds from one frame to the next
    offset: float = 0.0  # the middle of the first one, in seconds


class FrameEvaluator:
    """Judges frame encoders by the phones of a corpus.

    Arguments
    ---------
    phones : str or pathlib.Path
        The table of phones: see ``read_phones``.
    data_folder : str or pathlib.Path
        The folder that its files are in.
    sample_rate : int
        The sample rate, in Hz.
    seed : int
        The seed of k-means and of the draws of voices.
    """

    def __init__(self, phones, data_folder, sample_rate=16000, seed=0):
        self.table = read_phones(phones)
        self.folder = pathlib.Path(data_folder)
        self.sample_rate = sample_rate
        self.seed = seed
        missing = [
            wav
            for wav in self.table["wav"].unique()
            if not (self.folder / wav).is_file()
        ]
        if missing:
            raise ValueError(
                f"{phones} names {missing[0]}, which is not in {data_folder}: "
                "give the folder of its files as phones_folder."
            )
        # What is compared, and the place of each phone there, or -1
        inside = comparable(self.table)
        self.items = self.table[inside].reset_index(drop=True)
        self.places = np.where(inside, np.cumsum(inside) - 1, -1)
        phones = self.table["language"] + " " + self.table["phone"]
        self.phones, _ = pd.factorize(phones, sort=True)

    def __call__(self, system, features):
        """Judges all that a system says of frames.

        Arguments
        ---------
        system : str
            Its name, for the table and the progress bar.
        features : Features
            What it says: of names that begin with "codes", probabilities of
            codes, which are judged as units, too.

        Returns
        -------
        list of dict
            A row for each name: ``system``, ``features``, the errors
            ``within`` and ``across`` in percent, with ``_low`` and ``_high``;
            ``pnmi``, ``purity`` and ``used`` of codes; ``draws``, the errors
            across of the drawn voices.
        """
        rows = []
        passes = self._passes(features)
        for number, names in enumerate(passes, 1):
            title = f"Frames of {system}"
            if len(passes) > 1:
                title += f", {number} of {len(passes)}"
            segments, numbers = self._describe(title, features, names)
            for name in tqdm(names, f"ABX of {system}"):
                found = self._judge(segments.pop(name), numbers.get(name))
                rows.append({"system": system, "features": name, **found})
        return rows

    def units(self, system, name, codes, size):
        """Judges codes that are given as numbers.

        Arguments
        ---------
        system : str
            The name of the system.
        name : str
            The name of the codes.
        codes : Features
            One code for each frame, (1, frames, 1).
        size : int
            The number of codes.

        Returns
        -------
        dict
            A row, as ``__call__`` gives them.
        """
        numbers = [None] * len(self.table)
        for places, said in self._cuts(f"Codes of {system}", codes):
            (cut,) = said.values()
            for place, frames in zip(places, cut):
                numbers[place] = frames[:, 0].astype(int)
        row = {"system": system, "features": name}
        return row | self._figures(numbers, size)

    def _judge(self, frames, numbers=None):
        """The figures of the frames of each phone that is compared; of codes,
        whose numbers are given, those of units, too."""
        row = {}
        scores = score_abx(self.items, frames)
        for kind, found in summarise(scores, seed=self.seed).items():
            row[kind] = 100 * found["error"]
            row[f"{kind}_low"] = 100 * found["low"]
            row[f"{kind}_high"] = 100 * found["high"]
            row[f"{kind}_draws"] = 100 * found["draws"]
        if numbers is not None:
            row |= self._figures(numbers, frames[0].shape[1])
        return row

    def _figures(self, numbers, size):
        """The figures of codes, given as the numbers of each phone."""
        lengths = [len(each) for each in numbers]
        return unit_figures(
            np.concatenate(numbers), np.repeat(self.phones, lengths), size
        )

    def _passes(self, features):
        """The names of what features say, in lists: as much at a time as may
        be kept."""
        wav, rows = next(iter(self.table.groupby("wav", sort=False)))
        _, signal, _ = next(self._stretches(wav, rows))
        with torch.inference_mode():
            said = features.describe(signal)
        seconds = self.items["stop"] - self.items["start"]
        frames = np.maximum(seconds / features.hop, 1).sum()
        passes, left = [], 0
        for name, each in said.items():
            size = 4 * frames * each.shape[-1]
            if size > left or not passes:
                passes.append([])
                left = KEPT
            passes[-1].append(name)
            left -= size
        return passes

    def _describe(self, title, features, names):
        """By name, the frames of each phone that is compared, and of codes the
        most likely ones of all phones."""
        segments = {name: [None] * len(self.items) for name in names}
        numbers = {
            name: [None] * len(self.table)
            for name in names
            if name.startswith("codes")
        }
        for places, said in self._cuts(title, features, names):
            for name, cut in said.items():
                for place, frames in zip(places, cut):
                    if self.places[place] >= 0:
                        # A copy: the other frames of the file are let go
                        segments[name][self.places[place]] = frames.copy()
                    if name in numbers:
                        numbers[name][place] = frames.argmax(1)
        return segments, numbers

    def _cuts(self, title, features, names=None):
        """The places of some phones in the table and, by name, their frames,
        until there have been all phones."""
        files = self.table.groupby("wav", sort=False)
        for wav, rows in tqdm(files, title, unit="file"):
            for begin, signal, phones in self._stretches(wav, rows):
                with torch.inference_mode():
                    said = features.describe(signal)
                times = phones.assign(
                    start=phones["start"] - begin, stop=phones["stop"] - begin
                )
                cuts = {}
                for name in names or said:
                    frames = {wav: said[name][0].float().cpu().numpy()}
                    cuts[name] = frames_of(
                        times, frames, features.hop, features.offset
                    )
                yield phones.index, cuts

    def _stretches(self, wav, rows):
        """Of a file where a signal begins in it, in seconds, the signal, and
        the phones that are in it, until there have been all."""
        path, rate = self.folder / wav, self.sample_rate
        with AudioReader(path, rate) as audio:
            length = len(audio)
        if length <= LONGEST * rate:
            yield 0, read_signal(path, rate), rows
            return
        middles = (rows["start"] + rows["stop"]) / 2
        # A table may go on after the end
        numbers = np.minimum(middles, length / rate) // STRETCH
        for number, phones in rows.groupby(numbers.astype(int)):
            begin = max(0, number * STRETCH - MARGIN)
            end = min(length, ((number + 1) * STRETCH + MARGIN) * rate)
            yield begin, read_signal(path, rate, begin * rate, end), phones


def evaluator_if_any(phones=None, **options):
    """A FrameEvaluator, if there is a table of phones.

    Arguments
    ---------
    phones : str, optional
        The table.
    **options
        See FrameEvaluator.

    Returns
    -------
    FrameEvaluator
        None without a table.

    Example
    -------
    >>> evaluator_if_any(None, data_folder="speech") is None
    True
    """
    return None if phones is None else FrameEvaluator(phones, **options)


def read_signal(path, sample_rate, start=0, stop=None):
    """Reads a signal.

    Arguments
    ---------
    path : str or pathlib.Path
        The file.
    sample_rate : int
        The sample rate, in Hz.
    start : int
        The first sample.
    stop : int, optional
        The first sample after it.

    Returns
    -------
    torch.Tensor
        (1, samples), float32.
    """
    with AudioReader(path, sample_rate) as audio:
        return torch.as_tensor(audio.read(start, stop)).float()[None]


def spectral_features(sample_rate):
    """What there was before any training: log-mel bands and MFCC.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    Features
        ``log_mel``, 80 bands less their mean over the file, and ``mfcc``, 13
        with their first and second differences, of mean 0 and variance 1 over
        the file, as the baseline of the ZeroSpeech challenges.

    Example
    -------
    >>> said = spectral_features(16000).describe(torch.randn(1, 16000))
    >>> {name: tuple(frames.shape) for name, frames in said.items()}
    {'log_mel': (1, 101, 80), 'mfcc': (1, 101, 39)}
    """
    log_mel = Fbank(sample_rate=sample_rate, n_mels=80)
    mfcc = MFCC(sample_rate=sample_rate, n_mfcc=13, context=False)
    less_mean = InputNormalization(norm_type="sentence", std_norm=False)
    normal = InputNormalization(norm_type="sentence")

    def describe(signal):
        return {
            "log_mel": less_mean(log_mel(signal)),
            "mfcc": normal(mfcc(signal)),
        }

    return Features(describe, HOP)


def kmeans_codes(manifest, data_folder, clusters, sample_rate, seed=0):
    """Clusters of MFCC, learnt on a training set: the codes to beat.

    Arguments
    ---------
    manifest : str or pathlib.Path
        The training set.
    data_folder : str or pathlib.Path
        The folder of its files.
    clusters : int
        The number of clusters.
    sample_rate : int
        The sample rate, in Hz.
    seed : int
        The seed of the files, the frames and the clusters.

    Returns
    -------
    Features
        ``codes``, the number of the cluster of each frame.
    """
    mfcc = spectral_features(sample_rate).describe
    table = read_manifest(manifest, data_folder)
    rng = np.random.default_rng(seed)
    chosen = rng.permutation(len(table))[:KMEANS_FILES]
    parts = []
    for row in tqdm(table.iloc[chosen].itertuples(), "MFCC", total=len(chosen)):
        # Of a longer one, its beginning
        stop = min(row.stop, row.start + LONGEST * sample_rate)
        signal = read_signal(row.wav, sample_rate, row.start, stop)
        parts.append(mfcc(signal)["mfcc"][0].numpy())
    frames = np.concatenate(parts)
    frames = frames[rng.permutation(len(frames))[:KMEANS_FRAMES]]
    found = KMeans(clusters, n_init=1, random_state=seed).fit(frames)

    def describe(signal):
        codes = found.predict(mfcc(signal)["mfcc"][0].numpy())
        return {"codes": torch.as_tensor(codes)[None, :, None]}

    return Features(describe, HOP)


def network_features(student, hop, offset, heads=True):
    """The layers of a frame encoder, and the codes that it guesses.

    Arguments
    ---------
    student : FrameStudent
        The encoder; it is put into evaluation mode.
    hop : float
        See Features, as for the next.
    offset : float
    heads : bool
        Whether to give the codes, too.

    Returns
    -------
    Features
        ``layer_1`` and so on, of mean 0 and variance 1 over the file as the
        MFCC that they are compared with, and ``codes_LAYER`` of the heads, by
        the layer whose codebook it is.
    """
    student.eval()
    device = next(student.parameters()).device

    def describe(signal):
        layers, codes = student.describe(signal.to(device))
        said = {f"layer_{n}": over_time(x) for n, x in enumerate(layers, 1)}
        if heads:
            first = 1 + len(layers) - len(codes)
            said |= {f"codes_{n}": each for n, each in enumerate(codes, first)}
        return said

    return Features(describe, hop, offset)


def report_frames(rows, folder):
    """Writes ``frames.csv``, ``frames.json`` and ``plots/frames.png``.

    Arguments
    ---------
    rows : list of dict
        The rows of FrameEvaluator.
    folder : str or pathlib.Path
        The output folder.

    Returns
    -------
    str
        The table, and in a sentence how the best layer compares.
    """
    folder = pathlib.Path(folder)
    table = pd.DataFrame(rows)
    draws = [name for name in table if name.endswith("_draws")]
    shown = table.drop(columns=draws)
    write_csv(folder / "frames.csv", shown)
    answer = compare_layers(table)
    write_json(folder / "frames.json", answer)
    _plot(shown, folder / "plots" / "frames.png")
    return f"{_format(shown)}\n{_say(answer)}"


def compare_layers(table):
    """The best trained layer, across voices, against what it is to beat.

    Arguments
    ---------
    table : pandas.DataFrame
        The rows of FrameEvaluator, ``trained``, ``untrained`` and
        ``spectral`` among the systems, as far as there.

    Returns
    -------
    dict
        ``layer``, ``across``; and for ``mfcc``, ``log_mel`` and
        ``untrained``, its best layer, the ``difference`` of the errors in
        points, ``relative``, the difference as a share of the error to beat,
        and ``low`` and ``high``, the 95% interval over voices, if they are
        enough.
    """
    if "across" not in table:  # a single voice
        return {}
    layers = table[table["features"].str.startswith("layer")]
    layers = layers.dropna(subset="across")
    trained = layers[layers["system"] == "trained"]
    if not len(trained):
        return {}
    best = trained.loc[trained["across"].idxmin()]
    answer = {"layer": best["features"], "across": float(best["across"])}
    others = {
        "mfcc": table[table["features"] == "mfcc"],
        "log_mel": table[table["features"] == "log_mel"],
        "untrained": layers[layers["system"] == "untrained"],
    }
    for name, rows in others.items():
        if not len(rows):
            continue
        other = rows.loc[rows["across"].idxmin()]
        difference = best["across"] - other["across"]
        answer[name] = {
            "across": float(other["across"]),
            "difference": float(difference),
            "relative": float(difference / other["across"]),
        }
        if len(drawn := best["across_draws"] - other["across_draws"]):
            low, high = np.nanquantile(drawn, [0.025, 0.975])
            answer[name] |= {"low": float(low), "high": float(high)}
    return answer


def _say(answer):
    """The comparison, in a sentence or two."""
    if not answer:
        return ""
    parts = []
    for name, other in answer.items():
        if not isinstance(other, dict):
            continue
        part = f"{name.replace('_', '-')} {other['across']:.1f}% "
        part += f"({other['relative']:+.0%}; {other['difference']:+.1f} points"
        if "low" in other:
            part += f", [{other['low']:+.1f}, {other['high']:+.1f}]"
        parts.append(f"{part})")
    layer = answer["layer"].replace("_", " ")
    return (
        f"Across voices, the best is {layer} with an ABX error of "
        f"{answer['across']:.1f}%; against {'; '.join(parts)}."
    )


def _format(table):
    """The table in text."""
    lines = [
        f"{'':24}{'ABX within (%)':>20}{'ABX across (%)':>20}"
        f"{'PNMI':>7}{'purity':>8}{'used':>7}"
    ]
    for row in table.to_dict("records"):
        line = f"{row['system'] + ' ' + row['features']:24}"
        for kind in ("within", "across"):
            cell = "-"
            if not np.isnan(row.get(kind, np.nan)):
                low, high = row[f"{kind}_low"], row[f"{kind}_high"]
                cell = f"{row[kind]:.1f}"
                if not np.isnan(low):
                    cell += f" [{low:.1f}, {high:.1f}]"
            line += f"{cell:>20}"
        for kind, width in (("pnmi", 7), ("purity", 8), ("used", 7)):
            value = row.get(kind, np.nan)
            line += f"{'-' if np.isnan(value) else f'{value:.2f}':>{width}}"
        lines.append(line)
    return "\n".join(lines)


def _plot(table, path):
    """ABX by layer, and the units."""
    figure, (errors, units) = plt.subplots(
        1, 2, figsize=(11, 5), layout="constrained"
    )
    below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.12)}
    styles = [("across", "-"), ("within", ":")]
    styles = [(kind, style) for kind, style in styles if kind in table]
    layers = table[table["features"].str.startswith("layer")]
    for color, (system, rows) in enumerate(layers.groupby("system")):
        numbers = rows["features"].str.removeprefix("layer_").astype(int)
        for kind, style in styles:
            label = f"{system}, {kind}"
            errors.plot(
                numbers, rows[kind], style, color=f"C{color}", label=label
            )
            errors.fill_between(
                numbers,
                *(rows[f"{kind}_low"], rows[f"{kind}_high"]),
                color=f"C{color}",
                alpha=0.1,
            )
    for color, row in enumerate(
        table[table["system"] == "spectral"].to_dict("records"), 2
    ):
        for kind, style in styles:
            label = f"{SPECTRAL[row['features']]}, {kind}"
            errors.axhline(row[kind], color=f"C{color}", ls=style, label=label)
    errors.set_xlabel("layer")
    errors.set_ylabel("ABX error (%); chance: 50")
    errors.set_title("phones, within and across voices")
    errors.set_ylim(0, None)
    errors.xaxis.get_major_locator().set_params(integer=True)
    errors.legend(fontsize=8, ncols=4, **below)
    codes = table.dropna(subset="pnmi") if "pnmi" in table else table[:0]
    names = codes["system"] + " " + codes["features"].str.replace("_", " ")
    for place, name in enumerate(("pnmi", "purity", "used")):
        if len(codes):
            units.barh(
                np.arange(len(codes)) + 0.27 * (1 - place),
                codes[name],
                height=0.25,
                label=name.replace("pnmi", "PNMI"),
            )
    units.set_yticks(range(len(codes)), names)
    units.invert_yaxis()
    units.set_xlim(0, 1)
    units.set_title("codes as units")
    if len(codes):
        units.legend(fontsize=8, ncols=3, **below)
    save_figure(figure, path)
