"""Files that a training could not read."""

import collections
import types

import pytest

from speechbrain_cadino.dataio.audio import MediaError
from speechbrain_cadino.training.unreadable import Unreadable


def test_each_file_is_listed_once_by_all_processes_and_starts(tmp_path):
    """Wherever its crop was in an epoch; an item that was fine is none."""
    listed = tmp_path / "unreadable.txt"
    for _ in range(2):
        record = types.SimpleNamespace(counts=collections.Counter())
        record.count = lambda name, number, of=record: of.counts.update(
            {name: number}
        )
        unreadable = Unreadable(record, tmp_path)
        unreadable.count(["", ""], epoch=1, items=100)
        unreadable.count(["a.wav: silent, from 0 on.", ""], 1, 100)
        unreadable.count(["a.wav: silent, from 9 on.", "b: gone."], 2, 100)
        assert listed.read_text() == "a.wav: silent.\nb: gone.\n"
    with pytest.raises(MediaError, match=f"All are in {listed}"):
        unreadable.count(["c: gone."] * 8, epoch=2, items=100)
