import gc
import multiprocessing
import pathlib
import pickle
import re

import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.dataio import packed
from speechbrain_cadino.dataio.packed import PackedStrings

# Of one to four bytes in UTF-8, and none at all
ROWS = ["a", "", "é", "語", "🎙 b", "", "\n"]


@pytest.mark.parametrize("make", [list, pd.Series, np.array])
@pytest.mark.parametrize("chunk", [1, 3, 7, 8])
def test_every_row_comes_back_whatever_the_chunks(monkeypatch, make, chunk):
    monkeypatch.setattr(packed, "ROWS_PER_CHUNK", chunk)
    column = PackedStrings(make(ROWS))
    assert len(column) == len(ROWS)
    assert list(column) == ROWS
    assert [column[np.int64(i)] for i in range(len(ROWS))] == ROWS
    assert {type(column[i]) for i in range(len(ROWS))} == {str}


def test_rows_are_counted_as_those_of_a_list():
    column = PackedStrings(ROWS)
    assert column[-1] == "\n"
    for index in (len(ROWS), -len(ROWS) - 1):
        with pytest.raises(IndexError):
            column[index]
    assert list(PackedStrings([])) == []


def test_a_table_is_packed_by_place_not_by_its_index():
    """Rows that were left out leave holes in a pandas index."""
    rows = pd.Series(["a", "b", "c"]).drop(index=0)
    assert list(PackedStrings(rows)) == ["b", "c"]


def test_a_spawned_worker_gets_the_same_rows():
    assert list(pickle.loads(pickle.dumps(PackedStrings(ROWS)))) == ROWS


def copied_by_reading(column, pipe):
    """Sends the MiB of its own that a process has after reading, and before."""
    gc.disable()  # it writes into all that there is
    sizes = []
    for step in range(2):
        if step:
            for row in range(len(column)):
                column[row]
        text = pathlib.Path("/proc/self/smaps_rollup").read_text()
        sizes.append(int(re.search(r"Private_Dirty:\s+(\d+)", text)[1]) / 1024)
    pipe.send(sizes[1] - sizes[0])


def measure_copies(column):
    context = multiprocessing.get_context("fork")
    here, there = context.Pipe()
    process = context.Process(target=copied_by_reading, args=(column, there))
    process.start()
    copied = here.recv()
    process.join()
    return copied


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/smaps_rollup").exists(), reason="not Linux"
)
def test_a_forked_worker_copies_nothing_by_reading():
    strings = [f"$data_root/wav/id{i:050}.wav" for i in range(100_000)]
    column = PackedStrings(strings)  # 7 MB
    assert measure_copies(strings) > 5  # or this test could not fail
    assert measure_copies(column) < 1
