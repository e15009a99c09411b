"""Some rows of a table, for all."""

import numpy as np


def spread_rows(count, most):
    """Rows that stand for all, spread over a table: one of each part of it.

    Which one of its part is drawn, always the same: every second row might be
    the same side of calls.

    Arguments
    ---------
    count : int
        The number of rows of the table.
    most : int
        The number of rows to take, at most.

    Returns
    -------
    numpy.ndarray
        Row numbers, rising.

    Example
    -------
    >>> spread_rows(9, most=3), spread_rows(2, most=3)
    (array([2, 4, 7]), array([0, 1]))
    """
    ends = np.linspace(0, count, min(count, most) + 1).astype(int)
    return np.random.default_rng(0).integers(ends[:-1], ends[1:])
