import numpy as np
import pytest

from speechbrain_cadino.dataio.spread import spread_rows


@pytest.mark.parametrize(("count", "most"), [(8000, 4000), (10_007, 5000)])
def test_rows_that_stand_for_all_are_of_all(count, most):
    """Of calls cut into 0001_a.wav, 0001_b.wav, ... they were of one side."""
    rows = spread_rows(count, most)
    assert len(set(rows)) == most
    assert 0.45 < np.mean(rows % 2) < 0.55
    tenths, _ = np.histogram(rows, 10, (0, count))
    assert tenths.max() - tenths.min() <= 2
