"""Rates in which manifests count, against those of files and encoders."""

import pathlib

import numpy as np

from speechbrain_cadino.dataio.audio import AudioError, read_header
from speechbrain_cadino.dataio.names import READABLE


def check_rate(table, sample_rate):
    """Raises if a manifest counts samples at another rate than that of the
    encoder: at that of its files, or at the one it was prepared for.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest: of one without ``duration`` nothing can be told.
    sample_rate : int
        The rate of the encoder, in Hz; 1 for faces, which are numbered.

    Raises
    ------
    ValueError
        If the encoder is one of faces, and the manifest of audio files; if
        all rows have so many samples a second, and so has the first file;
        or the first row is a whole file, or the durations are those of pieces
        of several lengths.
    """
    path = table["wav"].iloc[0] if len(table) else ""
    if sample_rate == 1 and pathlib.Path(path).suffix.lower() in READABLE:
        raise ValueError(
            f"{path} is audio, and the encoder is one of faces: give one of "
            "voices, or a manifest of faces."
        )
    rate = None if sample_rate == 1 else counted_rate(table)
    if rate is None or alike(rate, sample_rate):
        return
    try:
        header = read_header(path)
    except AudioError:  # said where it is read
        return
    if alike(table["stop"].iloc[0], header.frames * sample_rate / header.rate):
        raise ValueError(
            f"The manifest gives {path} a duration of "
            f"{table['duration'].iloc[0]:g} seconds, and it has "
            f"{header.frames / header.rate:g}: the column is in another unit. "
            "Prepare again, or give seconds."
        )
    whole = alike(table["duration"].iloc[0], header.frames / header.rate)
    whole &= (table["wav"] == path).sum() == 1  # no pieces, with its duration
    # Pieces of several lengths that agree on a rate have durations of their own
    lengths = table["duration"].to_numpy()
    several = np.ptp(lengths) > 0.05 * lengths.max()
    if alike(rate, header.rate) or whole or several:
        raise ValueError(
            f"The manifest counts {rate:.0f} samples a second, such as of "
            f"{path}, and {sample_rate} are expected, the rate of the encoder: "
            "prepare again, or multiply start and stop by "
            f"{sample_rate / rate:.4g}."
        )


def counted_rate(table):
    """The rate in which a manifest counts.

    Arguments
    ---------
    table : pandas.DataFrame
        The manifest.

    Returns
    -------
    float
        The rate, in Hz; None if its rows do not agree on one, or it has no
        durations.

    Example
    -------
    >>> import pandas as pd
    >>> table = {"start": [0, 8000], "stop": [8000, 24000], "duration": [1, 2]}
    >>> counted_rate(pd.DataFrame(table)).item()
    8000.0
    """
    if "duration" not in table or table.empty:
        return None
    rates = ((table["stop"] - table["start"]) / table["duration"]).to_numpy()
    return None if np.ptp(rates) > 0.01 * rates[0] else rates[0]


def alike(rate, other):
    """Whether two rates are the same but for rounded durations.

    Arguments
    ---------
    rate, other : float
        The rates, in one unit.

    Returns
    -------
    bool
        Whether they are.

    Example
    -------
    >>> alike(16000, 15990), alike(16000, 8000)
    (True, False)
    """
    return abs(rate / other - 1) < 0.01
