"""Evaluation of frame encoders by phones: ABX, purity, PNMI, codes used."""

import pathlib

import numpy as np
import pandas as pd
import torch
from tqdm import tqdm

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import (
    AudioReader,
    MediaError,
    read_header,
)
from speechbrain_cadino.frames.abx import (
    CONTEXT,
    comparable,
    has_triples,
    score_abx,
    summarise,
)
from speechbrain_cadino.frames.features import LONGEST, read_signal
from speechbrain_cadino.frames.phones import TOUCH, frames_of, read_phones
from speechbrain_cadino.frames.units import unit_figures

logger = get_logger(__name__)

# The frames that are kept at a time, in bytes, of one layer at least: for more,
# the files are gone through again
KEPT = 2 * 2**30
# Files longer than LONGEST are described in stretches, each with as much before
# and after it as the margin, in seconds
STRETCH, MARGIN = 50, 5
# Pairs of phones that take some ten minutes, and those of an hour: 768
# dimensions, one core
MANY_PAIRS, PAIRS_AN_HOUR = 7e6, 4e7


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

    Raises
    ------
    ValueError
        If the table of phones makes no sense, or a file of it is not there.
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
                "give the folder of its files, phones_folder of "
                "train_dinosr.py, data_folder of evaluate_frames.py."
            )
        self._check_seconds(phones)
        self._leave_out_unreadable(phones)
        # What is compared, and the place of each phone there, or -1
        inside = comparable(self.table)
        if not has_triples(self.table):
            raise ValueError(
                f"{phones} has nothing to compare: no phone is said twice "
                "between the same neighbours, where one of its voices says "
                "another one, too. Phones are neighbours where one ends as the "
                f"next one starts, to {1000 * TOUCH:g} ms. Give more speech."
            )
        self.items = self.table[inside].reset_index(drop=True)
        _say_how_long(self.items, phones)
        self.places = np.where(inside, np.cumsum(inside) - 1, -1)
        phones = self.table["language"] + " " + self.table["phone"]
        self.phones, _ = pd.factorize(phones, sort=True)

    def _leave_out_unreadable(self, phones):
        """Takes files that are silent or damaged, which a header does not tell,
        out of the table."""
        problems = {}
        files = self.table.groupby("wav", sort=False)
        for wav, rows in tqdm(files, "Reading files", unit="file", delay=3):
            try:
                for _ in self._stretches(wav, rows):
                    pass
            except MediaError as error:
                problems[wav] = error
        if not problems:
            return
        kept = ~self.table["wav"].isin(problems.keys())
        reason = f"the first: {next(iter(problems.values()))}"
        if not kept.any():
            raise ValueError(f"No file of {phones} can be used; {reason}")
        logger.warning(
            f"{len(problems)} of {len(files)} files of {phones} cannot be "
            f"used and are left out; {reason}"
        )
        self.table = self.table[kept].reset_index(drop=True)

    def _check_seconds(self, phones):
        """Takes phones that begin after the end of their file out of the
        table; raises if they are half of one's."""
        starts = self.table["start"]
        late = pd.Series(False, starts.index)
        for wav, rows in starts.groupby(self.table["wav"]):
            try:
                header = read_header(self.folder / wav)
            except MediaError:
                continue  # it is left out later, as those of no sample are
            if not header.frames:
                continue
            end = header.frames / header.rate
            if rows.median() > end:
                raise ValueError(
                    f"{phones}: half of the phones of {wav} start at "
                    f"{rows.median():g} or later, after its {end:.2f} s: "
                    "start and stop are in seconds, not in samples."
                )
            late[rows.index] = rows >= end
        if late.any():
            logger.warning(
                f"{late.sum()} of {len(late)} phones start after the end of "
                f"their file, such as one of {self.table['wav'][late.idxmax()]}"
                ", and are left out: are the times those of this audio?"
            )
            self.table = self.table[~late].reset_index(drop=True)

    def __call__(self, system, features):
        """Judges all that a system says of frames.

        Arguments
        ---------
        system : str
            The name of the system, for the table and the progress bar.
        features : Features
            The features of the system: under names that begin with "codes",
            probabilities of codes, which are judged as units, too.

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
            The code of each frame, (1, frames, 1).
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
        with torch.no_grad():
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
                with torch.no_grad():
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
        The table of phones: see FrameEvaluator.
    **options
        See FrameEvaluator.

    Returns
    -------
    FrameEvaluator
        The evaluator; None without a table.

    Example
    -------
    >>> evaluator_if_any(None, data_folder="speech") is None
    True
    """
    return None if phones is None else FrameEvaluator(phones, **options)


def _say_how_long(items, phones):
    """Says how many pairs of phones each row of the table takes, if they are
    many."""
    counts = items.groupby(CONTEXT).size().to_numpy(np.int64)
    pairs = int((counts * (counts - 1) // 2).sum())
    if pairs > MANY_PAIRS:
        logger.warning(
            f"{phones}: {pairs:,} pairs of phones are compared for each row of "
            f"the table, some {pairs / PAIRS_AN_HOUR:.1f} hours. Give a table "
            "of fewer files: pairs grow with the square of the speech."
        )
