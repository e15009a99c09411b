"""Text columns of millions of rows that workers share."""

import zlib
from itertools import pairwise

import numpy as np

# Rows encoded at a time: packing takes little memory beside what it makes.
ROWS_PER_CHUNK = 2**16


class PackedStrings:
    """An immutable column of text in two arrays: UTF-8 bytes, and offsets.

    A million Python strings take more memory than their text, and reading one
    writes its reference count: each forked worker would copy, in time, all
    the pages they lie in. Reading these arrays writes nothing.

    Arguments
    ---------
    strings : sequence of str
        The rows: a list, an array or a pandas.Series.

    Example
    -------
    >>> column = PackedStrings(["é", "", "abc"])
    >>> len(column), column[0], column[-1], list(column)
    (3, 'é', 'abc', ['é', '', 'abc'])
    """

    def __init__(self, strings):
        self._offsets = np.zeros(len(strings) + 1, np.int64)
        text = bytearray()
        for first in range(0, len(strings), ROWS_PER_CHUNK):
            rows = strings[first : first + ROWS_PER_CHUNK]
            encoded = [string.encode() for string in rows]
            last = first + len(encoded)
            self._offsets[first + 1 : last + 1] = [len(row) for row in encoded]
            text += b"".join(encoded)
        np.cumsum(self._offsets, out=self._offsets)
        self._text = np.frombuffer(text, np.uint8)

    def checksum(self):
        """The CRC-32 of all rows."""
        return zlib.crc32(self._offsets, zlib.crc32(self._text))

    def __len__(self):
        return len(self._offsets) - 1

    def __getitem__(self, index):
        row = range(len(self))[index]  # negative ones; IndexError
        return self._decode(self._offsets[row], self._offsets[row + 1])

    def __iter__(self):
        for begin, end in pairwise(self._offsets.tolist()):
            yield self._decode(begin, end)

    def _decode(self, begin, end):
        return self._text[begin:end].tobytes().decode()
