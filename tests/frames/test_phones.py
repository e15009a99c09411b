import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.demo.corpus import prepare_demo
from speechbrain_cadino.demo.phones import prepare_phones
from speechbrain_cadino.frames.phones import frames_of, read_phones


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_phones_of_the_demo_lie_beside_it_and_in_its_time(tmp_path):
    pytest.importorskip("espeakng_loader", reason="needs [demo]")
    prepare_demo(tmp_path, train_voices=1, test_voices=4, utterances=2, seed=5)
    before = contents(tmp_path)
    prepare_phones(tmp_path)
    path = tmp_path / "meta" / "phones.csv"
    after = contents(tmp_path)
    del after[path]
    assert after == before
    table = read_phones(path)
    assert table["spk_id"].nunique() == 4
    assert table["wav"].nunique() == 8
    assert {*table["language"]} == {"en-us", "de"}
    silent, voiced = [], []
    for wav, rows in table.groupby("wav"):
        signal, rate = soundfile.read(tmp_path / wav)
        duration = len(signal) / rate
        assert (rows["start"].diff().dropna() > 0).all()
        assert duration - 0.5 < rows["stop"].max() <= duration + 0.01
        power = pd.Series(signal**2).rolling(320, center=True).mean()
        power = power / power.mean()
        for row in rows.itertuples():
            middle = power[round(rate * (row.start + row.stop) / 2)]
            if row.phone[0] in "aeiou":
                voiced.append(middle)
            elif row.phone in ("t", "p", "k"):
                silent.append(middle)
    # Vowels are loud, stops are not, at the time that the table gives
    assert len(silent) > 20 < len(voiced)
    assert np.median(voiced) > 3 * np.median(silent)
    assert table[["before", "after"]].notna().all(axis=1).mean() > 0.7
    # Complete: left alone
    prepare_phones(tmp_path)
    assert contents(tmp_path) == {**before, path: path.read_bytes()}


def test_phones_without_a_corpus_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no demo corpus"):
        prepare_phones(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no table of phones"),
        ("wav,phone,start,stop\na,b,0,1\n", "no column spk_id"),
        ("wav,spk_id,phone,start,stop\n", "no row"),
        (
            "wav,spk_id,phone,start,stop\na,v,b,0,1\n\na,v,b,2,1\n",
            "a phone of a starts at 2 and stops at 1",
        ),
        ("wav,spk_id,phone,start,stop\na,v,b,zero,1\n", "'zero' is no start"),
        ("wav,spk_id,phone,start,stop\na,v,b,0,inf\n", "'inf' is no stop"),
        ("wav,spk_id,phone,start,stop\na,v,b,-1,1\n", "'-1' is no start"),
        ("wav,spk_id,phone,start,stop\na,v,é,0,1\n", "is not in UTF-8"),
    ],
)
def test_a_table_that_cannot_be_used_is_named(text, said, tmp_path):
    path = tmp_path / "phones.csv"
    if text is not None:
        path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=f"phones.csv.*{said}|{said}.*phones"):
        read_phones(path)


def test_pauses_are_gaps_and_voices_have_their_own_neighbours(tmp_path):
    """As of a forced aligner, and of a dialogue in one file."""
    rows = [
        "a.wav,v,t,0.0,0.1",
        "a.wav,v,SIL,0.1,0.2",
        "a.wav,v,o,0.2,0.3",
        "a.wav,v,m,0.3,0.4",
        "a.wav,v,,0.4,0.5",
        "a.wav,w,i,0.4,0.6",
        "a.wav,w,[sp],0.6,0.7",
        "a.wav,w,u,0.65,0.8",
        "a.wav,v,e,0.8,0.9",
        "a.wav,v,s,0.9,1.0",
        "a.wav,w,<eps>,1.0,1.1",
    ]
    path = tmp_path / "phones.csv"
    path.write_text("wav,spk_id,phone,start,stop\n" + "\n".join(rows) + "\n")
    table = read_phones(path)
    found = table[["spk_id", "before", "phone", "after"]].values.tolist()
    assert found == [
        ["v", None, "t", None],
        ["v", None, "o", "m"],
        ["v", "o", "m", None],
        ["v", None, "e", "s"],
        ["v", "e", "s", None],
        ["w", None, "i", None],
        ["w", None, "u", None],
    ]


def test_frames_are_cut_by_their_middle():
    rng = np.random.default_rng(0)
    starts = rng.uniform(0, 1.7, 200)
    table = pd.DataFrame({"wav": "a", "start": starts})
    table["stop"] = starts + rng.uniform(0.001, 0.3, 200)
    middles = 0.0125 + 0.02 * np.arange(100)
    cut = frames_of(table, {"a": middles[:, None]}, 0.02, 0.0125)
    for start, stop, frames in zip(table["start"], table["stop"], cut):
        inside = middles[(middles >= start) & (middles < stop)]
        if not len(inside):
            nearest = np.abs(middles - (start + stop) / 2).argmin()
            inside = middles[[nearest]]
        assert frames[:, 0] == pytest.approx(inside)
