import random

import numpy as np
import torch

from speechbrain_cadino.process.randomness import own_random


def draw():
    return random.random(), np.random.rand(), torch.rand(1).item()


def test_all_that_draws_has_numbers_of_its_own():
    """NumPy's, too: augmentations of others draw from it."""
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    expected = draw(), draw()
    random.seed(3), np.random.seed(3), torch.manual_seed(3)
    first = draw()
    found = []
    for _ in range(2):
        with own_random((7, "views")):
            found.append(draw())
    assert found[0] == found[1]
    assert (first, draw()) == expected
