"""ABX discriminability of phones: does a frame encoder tell them apart?

Of three stretches of speech, A and X are of one phone and B of another, all
between the same neighbours. An error is an X that is nearer to B than to A. A
and B are of one voice; X is of that voice too (*within*), or of another one
(*across*), which asks for phones without the voice that says them. Chance is
50%. The task is that of Schatz et al. (2013, "Evaluating speech features with
the Minimal-Pair ABX task") and of the ZeroSpeech challenges: see ``summarise``
for the averages and ``distances`` for how near is near.
"""

import itertools

import numpy as np
import pandas as pd

from speechbrain_cadino.dataio.manifest import LABEL

CONTEXT = ["language", "before", "after"]
# Pairs whose distances are computed at once, if all their pairs of frames are
# not more than so many; larger numbers are not faster
PAIRS, CELLS = 1024, 2**22
# Segments of which distances are computed at once, and triples that are
# compared at once, for the memory's sake
SEGMENTS, TRIPLES = 4096, 2**22
# What bootstrapped intervals hold
COVERAGE = 0.95
# Of fewer voices there are no intervals: draws of so few tell nothing. Ours.
LEAST_VOICES = 5


def distances(segments, first, second):
    """The distance of pairs of segments, whatever their lengths.

    Frames are compared by the angle between them, as a share of half a turn.
    The path of dynamic time warping that has the smallest sum of them is
    sought, and the mean along it is the distance. Of equal ways, the diagonal
    one is taken, then the one that goes on in the first segment.

    Arguments
    ---------
    segments : list of numpy.ndarray
        The segments, each (frames, features), of one frame or more.
    first : numpy.ndarray
        Shape (pairs,), int: one segment of each pair.
    second : numpy.ndarray
        Shape (pairs,), int: the other one.

    Returns
    -------
    numpy.ndarray
        Distances, shape (pairs,), float64, from 0 to 1.

    Example
    -------
    >>> slow = np.array([[1.0, 0], [1, 0], [0, 1]])
    >>> distances([slow, slow[1:], -slow], np.array([0, 0]), np.array([1, 2]))
    array([0., 1.])
    """
    if not len(first):
        return np.empty(0)
    frames = _normalised(np.concatenate(segments))
    lengths = np.array([len(segment) for segment in segments])
    starts = np.cumsum(lengths) - lengths

    def padded(which):
        """The frames of segments, (pairs, frames, size), the last repeated."""
        most = lengths[which].max()
        place = np.minimum(np.arange(most), lengths[which, None] - 1)
        return frames[starts[which, None] + place]

    found = np.empty(len(first))
    # Pairs of like lengths together, as all of a batch take as long
    order = np.lexsort((lengths[second], lengths[first]))
    start = 0
    while start < len(order):
        batch = order[start : start + PAIRS]
        cells = lengths[first[batch]].max() * lengths[second[batch]].max()
        batch = batch[: max(1, CELLS // cells)]
        start += len(batch)
        one, other = first[batch], second[batch]
        cosines = padded(one) @ padded(other).swapaxes(1, 2)
        angles = np.arccos(np.clip(cosines, -1, 1)) / np.pi
        angles = np.ascontiguousarray(np.moveaxis(angles, 0, 2))
        found[batch] = _warp(angles, lengths[one], lengths[other])
    return found


def _normalised(frames):
    """Frames at a length of 1, in double precision."""
    frames = np.asarray(frames, float)
    norms = np.linalg.norm(frames, axis=1, keepdims=True)
    return frames / np.maximum(norms, 1e-12)


def _warp(costs, rows, columns):
    """The mean cost along the cheapest path from a corner of each matrix,
    costs[:, :, pair], to its other corner, at (rows, columns)."""
    height, width, count = costs.shape
    total = np.full((height + 1, width + 1, count), np.inf)
    steps = np.zeros(total.shape, np.int32)
    total[0, 0] = 0
    for i, j in itertools.product(range(height), range(width)):
        diagonal, down, along = total[i, j], total[i, j + 1], total[i + 1, j]
        straight = np.minimum(down, along)
        total[i + 1, j + 1] = np.minimum(diagonal, straight) + costs[i, j]
        steps[i + 1, j + 1] = 1 + np.where(
            diagonal <= straight,
            steps[i, j],
            np.where(down <= along, steps[i, j + 1], steps[i + 1, j]),
        )
    where = rows, columns, np.arange(count)
    return total[where] / steps[where]


def score_abx(items, segments):
    """Errors of all triples, by phones, neighbours and voices.

    Arguments
    ---------
    items : pandas.DataFrame
        A row for each segment: ``phone``, ``spk_id``, and what is the same for
        all three of a triple: ``language``, ``before``, ``after``.
    segments : list of numpy.ndarray
        The frames of each row, (frames, features).

    Returns
    -------
    pandas.DataFrame
        A row for each of the neighbours, the phone of A and X (``phone``), of B
        (``other``), the voice of A and B (``voice``) and of X (``voice_x``):
        the share of ``triples`` in which B is nearer, ties counted as half an
        error (``error``).

    Raises
    ------
    ValueError
        If there is no triple.

    Example
    -------
    >>> items = pd.DataFrame({"phone": ["a", "a", "o"], "spk_id": "v"})
    >>> items[["language", "before", "after"]] = "en", "p", "t"
    >>> near = [np.array([[1.0, x]]) for x in (0, 0.1, 1)]
    >>> score_abx(items, near)[["phone", "other", "error", "triples"]]
      phone other  error  triples
    0     a     o    0.0        2
    """
    places = np.flatnonzero(comparable(items))
    chosen = items.iloc[places].reset_index(drop=True)
    groups = chosen.groupby(CONTEXT, sort=True).indices.values()
    columns = ["phone", "other", "voice", "voice_x", "error", "triples"]
    rows = []
    for chunk in _chunks(groups):
        own = [segments[place] for place in places[np.concatenate(chunk)]]
        for group, matrix in zip(chunk, _matrices(own, map(len, chunk))):
            where = chosen.iloc[group]
            context = tuple(where[CONTEXT].iloc[0])
            rows += [(*context, *row) for row in _score_group(where, matrix)]
    if not rows:
        raise ValueError(
            "There is nothing to compare: no two phones stand between the same "
            "neighbours, with one of them said twice. More speech is needed."
        )
    # The last three of a row are arrays, over the voices of X
    counts = [len(row[-1]) for row in rows]
    *names, voices, errors, triples = zip(*rows)
    values = [np.repeat(np.array(each, object), counts) for each in names]
    values += [np.concatenate(each) for each in (voices, errors, triples)]
    return pd.DataFrame(dict(zip([*CONTEXT, *columns], values)))


def comparable(table):
    """Which phones have another one between the same neighbours.

    Arguments
    ---------
    table : pandas.DataFrame
        A row for each phone, with ``phone``, ``language``, ``before`` and
        ``after``, these None where there is no neighbour.

    Returns
    -------
    numpy.ndarray
        The answer for each phone, shape (phones,), bool.

    Example
    -------
    >>> table = pd.DataFrame({"phone": [*"aoao"], "language": "en"})
    >>> table["before"], table["after"] = [*"pp", None, "k"], "t"
    >>> comparable(table)
    array([ True,  True, False, False])
    """
    phones = table.groupby(CONTEXT)["phone"].transform("nunique")
    return phones.to_numpy() > 1


def has_triples(table):
    """Whether there is a triple to compare: between the same neighbours, a
    phone that is said twice, and another one by one of its voices.

    Arguments
    ---------
    table : pandas.DataFrame
        The table of ``comparable``, with ``spk_id``, too.

    Returns
    -------
    bool
        Whether there is at least one.

    Example
    -------
    >>> table = pd.DataFrame({"phone": [*"aao"], "spk_id": [*"vww"]})
    >>> table[["language", "before", "after"]] = "en", "p", "t"
    >>> has_triples(table), has_triples(table.iloc[1:])
    (True, False)
    """
    said = table.groupby([*CONTEXT, "phone"])["phone"].transform("size")
    others = table.groupby([*CONTEXT, "spk_id"])["phone"].transform("nunique")
    return bool(((said > 1) & (others > 1)).any())


def _chunks(groups):
    """Lists of groups of segments, of some thousand or of a single group."""
    chunk, count = [], 0
    for group in groups:
        if chunk and count + len(group) > SEGMENTS:
            yield chunk
            chunk, count = [], 0
        chunk.append(group)
        count += len(group)
    if chunk:
        yield chunk


def _matrices(segments, sizes):
    """The distances within each group of as many segments as its size."""
    sizes = list(sizes)
    pairs = [np.triu_indices(size, 1) for size in sizes]
    starts = np.cumsum(sizes) - sizes
    first, second = (
        np.concatenate([pair[side] + at for pair, at in zip(pairs, starts)])
        for side in (0, 1)
    )
    found = distances(segments, first, second)
    ends = np.cumsum([len(pair[0]) for pair in pairs])
    for size, pair, near in zip(sizes, pairs, np.split(found, ends[:-1])):
        matrix = np.zeros((size, size))
        matrix[pair] = near
        yield matrix + matrix.T


def _score_group(group, matrix):
    """The rows between two neighbours, from the distances of all segments: a
    phone, another, a voice; the voices of X, and errors and triples of each."""
    group = group.reset_index(drop=True)
    cells = group.groupby(["phone", LABEL], sort=True).indices
    for phone, rows in group.groupby("phone", sort=True):
        rows = rows.sort_values(LABEL, kind="stable")
        x = rows.index.to_numpy()
        to = matrix[x]
        voices, starts = np.unique(rows[LABEL].to_numpy(), return_index=True)
        for voice in voices:
            a = cells[phone, voice]
            others = x[:, None] != a[None]
            counts = np.add.reduceat(others.sum(1), starts)
            there = counts > 0
            if not there.any():
                continue
            for (other, other_voice), b in cells.items():
                if other == phone or other_voice != voice:
                    continue
                wrong = _wrong(to, a, b, others)
                triples = counts[there] * len(b)
                error = np.add.reduceat(wrong, starts)[there] / triples
                yield phone, other, voice, voices[there], error, triples


def _wrong(to, a, b, others):
    """How often B is nearer than A, for each X, from its distances to all:
    only those A that are others; ties are half an error."""
    wrong = np.empty(len(to))
    count = max(1, TRIPLES // (len(a) * len(b)))
    for start in range(0, len(to), count):
        part = slice(start, start + count)
        # (x, a, b)
        to_a, to_b = to[part, a, None], to[part, None][:, :, b]
        errors = (to_b < to_a) + 0.5 * (to_b == to_a)
        wrong[part] = (errors.sum(2) * others[part]).sum(1)
    return wrong


def summarise(scores, draws=1000, seed=0):
    """The ABX error rates of a table of scores, with intervals over voices.

    As in the ZeroSpeech challenges, the mean is taken over neighbours, then
    over voices, then over pairs of phones (of a language), each counted once.
    For the interval, voices are drawn anew, with repetition, as it is their
    number that limits what can be told. Equal voices get equal draws: the
    ``draws`` of two features may be subtracted.

    Arguments
    ---------
    scores : pandas.DataFrame
        The scores: see ``score_abx``.
    draws : int
        The number of draws.
    seed : int
        The seed of the draws.

    Returns
    -------
    dict of str:dict
        The figures of ``within`` and ``across``, where there is such a triple:
        ``error``, ``low`` and ``high`` (the 95% interval; NaN if there are
        fewer than five voices), ``triples``, and ``draws``, (draws,), the
        error of each.
    """
    voices = sorted({*scores["voice"], *scores["voice_x"]})
    if len(voices) < LEAST_VOICES:
        draws = 0
    rng = np.random.default_rng(seed)
    chosen = rng.multinomial(
        len(voices), np.full(len(voices), 1 / len(voices)), size=draws
    )
    weights = np.vstack([np.ones(len(voices)), chosen])
    same = scores["voice"] == scores["voice_x"]
    return {
        name: _mean(scores[mask], voices, weights)
        for name, mask in [("within", same), ("across", ~same)]
        if mask.any()
    }


def _mean(scores, voices, weights):
    """Error, interval and draws; the first row of weights has all voices."""
    pair = ["language", "phone", "other"]
    triples = int(scores["triples"].sum())
    scores = scores.groupby([*pair, "voice", "voice_x"])["error"].mean()
    scores = scores.reset_index()
    number = {voice: place for place, voice in enumerate(voices)}
    first, second = (
        scores[side].map(number).to_numpy() for side in ("voice", "voice_x")
    )
    pairs, _ = pd.factorize(pd.MultiIndex.from_frame(scores[pair]))
    ends = np.flatnonzero(np.diff(pairs, prepend=-1))
    error = scores["error"].to_numpy()

    def mean(weights):
        """Of the voices of a draw, each so often."""
        weight = weights[first] * np.where(first == second, 1, weights[second])
        counts = np.add.reduceat(weight, ends)
        sums = np.add.reduceat(weight * error, ends)
        # Pairs of phones that no drawn voice has are left out
        there = counts > 0
        return np.mean(sums[there] / counts[there]) if there.any() else np.nan

    means = np.array([mean(each) for each in weights])
    tail = (1 - COVERAGE) / 2
    low = high = np.nan
    if len(means) > 1:
        low, high = np.nanquantile(means[1:], [tail, 1 - tail])
    return {
        "error": float(means[0]),
        "low": float(low),
        "high": float(high),
        "triples": triples,
        "draws": means[1:],
    }
