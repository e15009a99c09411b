"""The torch engine where memory is short."""

import numpy as np
import pytest
import torch

from speechbrain_cadino.clustering import engines
from speechbrain_cadino.clustering.engines import find_engine
from speechbrain_cadino.clustering.rows import unit_rows


def random_points():
    return unit_rows(np.random.default_rng(3).standard_normal((180, 8)))


@pytest.mark.parametrize("similarities", [1, 50, 9 * 100, 10**6])
def test_chunks_do_not_change_what_torch_finds(similarities):
    points = random_points()
    centroids = points[::20].copy()
    labels, cosines = engines._nearest_torch(
        points, centroids, "cpu", similarities
    )
    expected = points @ centroids.T
    assert (labels == expected.argmax(1)).all()
    np.testing.assert_allclose(cosines, expected.max(1), atol=1e-6)


class SmallMemory:
    """Points of which no more than a few at once fit into memory."""

    def __init__(self, points, limit):
        self.points, self.limit = points, limit

    def __len__(self):
        return len(self.points)

    def __getitem__(self, rows):
        if len(self.points[rows]) > self.limit:
            raise torch.cuda.OutOfMemoryError("out of memory")
        return self.points[rows]


def test_torch_goes_on_with_smaller_chunks_if_memory_is_short():
    points = random_points()
    nearest = find_engine("torch", "cpu")
    expected, _ = nearest(points, points[:9])
    found, _ = nearest(SmallMemory(points, limit=7), points[:9])
    assert (found == expected).all()
    with pytest.raises(torch.cuda.OutOfMemoryError):
        nearest(SmallMemory(points, limit=0), points[:9])
