"""Adaptation in minutes: an encoder for recordings without labels.

Nothing is trained: the best linear map of the embeddings is folded into the
encoder, if it is better than none.
"""

import pathlib
from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.speakers import MOST_LEAVES
from speechbrain_cadino.dataio.spread import spread_rows
from speechbrain_cadino.encoders.calibration import write_calibration
from speechbrain_cadino.encoders.card import replace_figures
from speechbrain_cadino.encoders.export import check_replaceable
from speechbrain_cadino.encoders.fold import fold_linear, last_linear
from speechbrain_cadino.encoders.load import check_kind
from speechbrain_cadino.process.files import atomic_folder
from speechbrain_cadino.runs.finish import say_what_is_lost
from speechbrain_cadino.runs.maps import (
    MAPS,
    NONE,
    choose,
    hear,
    in_words,
    score_held_out,
    try_maps,
)
from speechbrain_cadino.training.checkpoints import has_checkpoint
from speechbrain_cadino.verification.threshold import (
    check_alike,
    check_calibration,
    fit,
    threshold_interval,
)

logger = get_logger(__name__)

STILL_ALIKE = (
    "Even after the map, {alike:.0%} of the pairs of two recordings score like "
    "halves of one: they are of few voices, or the encoder hears no voices in "
    "them. Give recordings of more voices, or train an encoder on them "
    "(train_adapt.py)."
)


class Adaptation(NamedTuple):
    """What came of an adaptation.

    Arguments
    ---------
    figures : pandas.DataFrame
        See ``try_maps``.
    choice : str
        The map; "none" if no one is better.
    verdict : str
        The reasons for the choice, in words.
    calibration : ScoreCalibration
        The calibration of scores after the map; None without one.
    interval : tuple of float
        The 95% interval of its threshold; None without one.
    """

    figures: pd.DataFrame
    choice: str
    verdict: str
    calibration: object = None
    interval: tuple = None


def adapt(embedder, table, folder, only=None, trusted=True):
    """Adapts an encoder to recordings, if it can be done in minutes.

    Arguments
    ---------
    embedder : Embedder
        The encoder, of ``load_encoder``: its folder or hub id is read again.
    table : pandas.DataFrame
        A manifest of recordings, of many voices. Of more than ``MOST_LEAVES``,
        as many are taken, evenly spread.
    folder : str or pathlib.Path
        The encoder folder to write, with a calibration and a model card: as a
        whole, or not at all.
    only : str, optional
        The map to take, of ``MAPS``, whatever the criteria say.
    trusted : bool
        See ``load_encoder``.

    Returns
    -------
    Adaptation
        The figures, the choice and its reasons; with a map, its calibration.

    Raises
    ------
    ValueError
        See ``check_request``; or if the encoder does not end in a linear layer,
        the recordings are too few or of few voices, or after the map no pair is
        of one voice or too many are.
    """
    source = embedder.source
    check_request(source, folder, only)
    if embedder.encoder is None:
        raise ValueError(
            f"{source} holds embeddings alone: an encoder is needed, into "
            "which something can be folded."
        )
    check_kind(embedder, "voices")
    last_linear(embedder.encoder, source)
    table = table.iloc[spread_rows(len(table), MOST_LEAVES)]
    heard = hear(embedder, table)
    figures = try_maps(heard)
    choice = only or choose(figures)
    verdict = in_words(figures, choice)
    if choice == NONE:
        return Adaptation(figures, choice, verdict)
    logger.info(f"The map is {choice}. Finding its threshold.")
    found = MAPS[choice](heard)
    scores, *pairs = score_held_out(heard, MAPS[choice])
    same = np.equal(*pairs)
    calibration = fit(scores, same, "crops")
    check_alike(scores[~same], calibration, STILL_ALIKE)
    check_calibration(calibration)
    interval = low, high = threshold_interval(scores, *pairs)
    say_what_is_lost(folder)
    with atomic_folder(folder) as temporary:
        # Of the recordings as they are: a map may have learnt from noisy crops
        mean = heard.flat.mean(0, dtype=np.float64)
        fold_linear(source, found.linear(), temporary, mean, trusted)
        replace_figures(
            temporary,
            f"Adapted without labels to {heard.count:,} recordings by a linear "
            f"map: {choice}. {verdict} The 95% interval of its threshold "
            f"without labels, {calibration.threshold:.3f}, is {low:.3f} to "
            f"{high:.3f}. Not evaluated with labels.",
        )
        write_calibration(temporary, calibration)
    return Adaptation(figures, choice, verdict, calibration, interval)


def check_request(source, folder, only=None):
    """Raises if what ``adapt`` is asked for cannot be had, before the work.

    Arguments
    ---------
    source : str or pathlib.Path
        The encoder folder or hub id that is to be adapted.
    folder : str or pathlib.Path
        The encoder folder to write. See ``adapt``.
    only : str, optional
        The map to take, of ``MAPS``; by default the criteria choose.

    Raises
    ------
    ValueError
        If the folder is the encoder's own, that of a training, or holds
        anything but an encoder, or there is no such map.
    """
    maps = [name for name in MAPS if name != NONE]
    if only is not None and only not in maps:
        raise ValueError(f"The map {only}: give one of {', '.join(maps)}.")
    folder, source = pathlib.Path(folder), pathlib.Path(source or "")
    if folder.exists() and source.exists() and folder.samefile(source):
        raise ValueError(
            f"{folder} is the encoder itself: give another folder to write."
        )
    check_replaceable(folder)
    place = folder.resolve()
    if place.name == "encoder" and has_checkpoint(place.parent / "save"):
        raise ValueError(
            f"{folder} is the encoder of a training, and would be replaced: "
            "give another folder to write."
        )
