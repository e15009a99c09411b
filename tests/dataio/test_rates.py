import pandas as pd
import pytest

from speechbrain_cadino.dataio.rates import check_rate


def test_audio_is_not_for_an_encoder_of_faces():
    table = pd.DataFrame(
        {"ID": ["a"], "wav": ["a.FLAC"], "start": [0], "stop": [16000]}
    )
    with pytest.raises(ValueError, match=r"a\.FLAC is audio, and the encoder"):
        check_rate(table, 1)
    check_rate(table.assign(wav="tracks/a"), 1)
    check_rate(table[:0], 1)
