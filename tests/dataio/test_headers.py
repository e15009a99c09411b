"""Files that go on where their header ends, made of real ones."""

import struct

import numpy as np
import pytest
import soundfile

from speechbrain_cadino.dataio.audio import read_header
from speechbrain_cadino.prepare.folder import prepare_folder


@pytest.fixture
def write(tmp_path):
    """A function that writes noise, and returns the bytes."""

    def make(name, seed=0, seconds=3, **options):
        wav = np.random.default_rng(seed).standard_normal(16000 * seconds)
        soundfile.write(tmp_path / name, 0.1 * wav, 16000, **options)
        return (tmp_path / name).read_bytes()

    return make


def told(path):
    header = read_header(path)
    return header.frames, header.told


@pytest.mark.parametrize("suffix", ["mp3", "ogg"])
def test_joined_files_are_more_than_the_first(write, tmp_path, suffix):
    one, other = (write(f"{seed}.{suffix}", seed, 30) for seed in (0, 1))
    path = tmp_path / f"both.{suffix}"
    for before in (b"", b"ID3\x04\x00\x00\x00\x00\x01\x00" + bytes(128)):
        if before and suffix == "ogg":
            continue
        path.write_bytes(before + one)
        assert told(path) == (480000, 480000)
        path.write_bytes(before + one + other)
        assert told(path) == (480000, -1)
    # Of many soundfile does not know how much there is, and reads as much
    path.write_bytes(one + other * 3)
    assert told(path) == (480000, -1)
    # Lyrics and the like at its end are no audio
    path.write_bytes(one + bytes(1000) * (suffix == "mp3"))
    assert told(path) == (480000, 480000)


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
def test_a_recorder_that_did_not_come_to_its_end(write, tmp_path, subtype):
    whole = bytearray(write("a.wav", subtype=subtype))
    path = tmp_path / "a.wav"
    assert told(path) == (48000, 48000)
    place = whole.find(b"data")
    length = struct.unpack_from("<I", whole, place + 4)[0]
    struct.pack_into("<I", whole, place + 4, length // 3)
    path.write_bytes(whole)
    assert told(path) == (16000, -1)


def test_the_same_of_more_than_4_gb(write, tmp_path):
    """As if: its length is in a part of its own."""
    whole = bytearray(write("a.wav", format="RF64"))
    path = tmp_path / "a.wav"
    assert told(path) == (48000, 48000)
    place = whole.find(b"ds64") + 8  # the whole, the data, the samples
    for where, number in ((0, 32000), (8, 32000), (16, 16000)):
        struct.pack_into("<Q", whole, place + where, number)
    path.write_bytes(whole)
    assert told(path) == (16000, -1)


def test_what_follows_the_samples_may_be_something_else(write, tmp_path):
    """Such as names; also where the whole is shorter than it says."""
    whole = write("a.wav")
    path = tmp_path / "a.wav"
    path.write_bytes(whole + b"LIST" + struct.pack("<I", 4) + b"INFO")
    assert told(path) == (48000, 48000)
    for rest in (b"\0", bytes(9000), b"TAG" + bytes(125), b"ID3\3" + whole):
        path.write_bytes(whole + rest)
        assert told(path) == (48000, 48000)
    odd = bytearray(write("odd.wav", subtype="PCM_U8", seconds=3))
    place = odd.find(b"data")
    struct.pack_into("<I", odd, place + 4, 47999)
    names = b"LIST" + struct.pack("<I", 8000) + bytes(8000)
    path.write_bytes(bytes(odd[:-1]) + names)
    assert told(path) == (47999, 47999)
    path.write_bytes(whole[:-2000])
    assert told(path) == (47000, 47000)


def test_they_are_named_or_converted(write, tmp_path, caplog):
    one, other = write("0.ogg"), write("1.ogg", 1)
    died = bytearray(write("2.wav", 2))
    struct.pack_into("<I", died, died.find(b"data") + 4, 32000)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "died.wav").write_bytes(died)
    (tmp_path / "in" / "other_name.aif").write_bytes(died)
    (tmp_path / "in" / "both.ogg").write_bytes(one + other)
    prepare_folder(tmp_path / "in", tmp_path / "out", min_duration=1)
    assert "3 of 3 recordings go on where their headers end" in caplog.text
    caplog.clear()
    prepare_folder(
        tmp_path / "in",
        tmp_path / "whole",
        min_duration=1,
        convert_folder=tmp_path / "copies",
    )
    assert "go on where" not in caplog.text
    for name, expected in (("both", 6), ("died", 3), ("other_name", 3)):
        seconds = soundfile.info(tmp_path / "copies" / f"{name}.flac").duration
        assert seconds == pytest.approx(expected, abs=0.1)
