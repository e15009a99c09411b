"""What is said of the best layer."""

import numpy as np
import pandas as pd
import pytest

from speechbrain_cadino.frames.report import compare_layers


def test_the_best_layer_against_what_it_is_to_beat():
    table = pd.DataFrame({"across": [30.0, 20.0, 40.0, 25.0]})
    table["system"] = ["trained", "trained", "untrained", "spectral"]
    table["features"] = ["layer_1", "layer_2", "layer_1", "mfcc"]
    table["across_draws"] = [each + np.arange(3) for each in table["across"]]
    found = compare_layers(table)
    assert (found["layer"], found["across"]) == ("layer_2", 20)
    expected = {"across": 25, "difference": -5, "relative": -0.2}
    assert found["mfcc"] == pytest.approx({**expected, "low": -5, "high": -5})
    assert found["untrained"]["relative"] == -0.5
