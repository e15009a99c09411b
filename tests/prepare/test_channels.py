"""The sides of calls, in files of their own."""

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.commands.main import main
from speechbrain_cadino.prepare.channels import split_channels
from speechbrain_cadino.prepare.folder import prepare_folder

pytest.importorskip("av")

RATE = 8000


def tone(pitch, seconds=1.0):
    time = np.arange(round(seconds * RATE)) / RATE
    return 0.3 * np.sin(2 * np.pi * pitch * time)


def pitch_of(path):
    """The pitch of a mono file at 16 kHz, to 1 Hz."""
    wav, rate = soundfile.read(path)
    assert (wav.ndim, rate) == (1, 16000)
    return np.abs(np.fft.rfft(wav)).argmax() * rate / len(wav)


@pytest.fixture
def calls(tmp_path, write_m4a):
    """A folder with recordings of three, two and one channels, and a text."""
    folder = tmp_path / "calls"
    (folder / "monday").mkdir(parents=True)
    both = np.stack([tone(300), tone(500)], 1)
    soundfile.write(folder / "monday" / "7.wav", both, RATE)
    three = np.stack([tone(400), tone(600), tone(800)], 1)
    soundfile.write(folder / "three.flac", three, RATE)
    write_m4a(folder / "one.m4a", tone(700), RATE)
    (folder / "text.wav").write_text("I am no audio.")
    return folder


def test_each_channel_is_a_file(calls, tmp_path, caplog):
    sides = tmp_path / "sides"
    assert split_channels(calls, sides, num_workers=1) == [3, 2, 1]
    found = {
        str(path.relative_to(sides)): pitch_of(path)
        for path in sides.rglob("*.flac")
    }
    assert found == pytest.approx(
        {
            "channel_1/monday/7.flac": 300,
            "channel_2/monday/7.flac": 500,
            "channel_1/three.flac": 400,
            "channel_2/three.flac": 600,
            "channel_3/three.flac": 800,
            "channel_1/one.flac": 700,
        },
        abs=1,
    )
    assert "1 of 4 recordings have one channel" in caplog.text
    skipped = pd.read_csv(sides / "skipped.csv")
    assert skipped["wav"].tolist() == ["$data_root/text.wav"]
    assert skipped["reason"].str.startswith("not convertible").all()


def test_again_it_makes_what_is_new(calls, tmp_path):
    sides = tmp_path / "sides"
    split_channels(calls, sides, num_workers=1)
    times = {p: p.stat().st_mtime_ns for p in sides.rglob("*.flac")}
    soundfile.write(calls / "new.wav", np.stack([tone(300)] * 2, 1), RATE)
    (sides / "channel_2" / "three.flac").unlink()
    assert split_channels(calls, sides, num_workers=1) == [4, 3, 1]
    now = {p: p.stat().st_mtime_ns for p in sides.rglob("*.flac")}
    made = {path.name for path in now if now[path] != times.get(path)}
    assert made == {"new.flac", "three.flac"}
    assert (
        now.items()
        >= {
            path: time
            for path, time in times.items()
            if path.parent.name != "channel_2" or path.name != "three.flac"
        }.items()
    )


def test_a_mixed_copy_is_no_side(calls, tmp_path):
    """Nor the other way round, where somebody gives one folder to both."""
    place = tmp_path / "sides" / "channel_1"
    prepare_folder(calls, tmp_path / "save", convert_folder=str(place))
    mixed, _ = soundfile.read(place / "monday" / "7.flac")
    split_channels(calls, tmp_path / "sides", num_workers=1)
    side, _ = soundfile.read(place / "monday" / "7.flac")
    assert np.abs(side - mixed).max() > 0.1
    assert pitch_of(place / "monday" / "7.flac") == pytest.approx(300, abs=1)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["{calls}", "--output={calls}"], "give it a folder of its own"),
        (["{calls}", "--output={new}", "--sample_rate=1"], "give 1000 or more"),
        (["{calls}", "--output={new}", "--glob=*.mp3"], "No audio in"),
        (["{new}", "--output={taken}"], "No folder"),
        (["{calls}", "--output={taken}"], "is no copy that was made here"),
    ],
)
def test_mistakes_are_sentences(calls, tmp_path, words, sentence, caplog):
    taken = tmp_path / "taken" / "channel_1" / "three.flac"
    taken.parent.mkdir(parents=True)
    soundfile.write(taken, tone(300), RATE)
    with soundfile.SoundFile(taken, "w", RATE, 1) as file:
        file.comment = "mine"
        file.write(tone(300))
    before = taken.read_bytes()
    places = {
        "calls": calls,
        "new": tmp_path / "new",
        "taken": tmp_path / "taken",
    }
    with pytest.raises(SystemExit):
        main(["split", *(word.format(**places) for word in words)])
    assert sentence in caplog.text
    assert taken.read_bytes() == before
    assert sorted(calls.rglob("*.flac")) == [calls / "three.flac"]
