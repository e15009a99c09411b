import multiprocessing
import os
import signal
import sys
import threading
import time

import av
import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.prepare import convert
from speechbrain_cadino.prepare.convert import convert_files
from speechbrain_cadino.prepare.folder import prepare_folder
from speechbrain_cadino.prepare.voxceleb import prepare_voxceleb
from speechbrain_cadino.process import lock
from speechbrain_cadino.process.files import HOST
from speechbrain_cadino.process.lock import locked


def tone(seconds, rate):
    return 0.3 * np.sin(2 * np.pi * 440 * np.arange(int(seconds * rate)) / rate)


def write_encoded(path, signal, rate, codec="aac", **options):
    """Writes what soundfile cannot: signal of shape (channels, samples)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layout = {1: "mono", 2: "stereo"}[len(signal)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        for key, value in options.items():
            setattr(stream, key, value)
        frame = av.AudioFrame.from_ndarray(
            np.ascontiguousarray(signal, np.float32), "fltp", layout
        )
        frame.sample_rate, frame.pts = rate, 0
        for part in [frame, None]:
            container.mux(stream.encode(part))


def frequency(signal, rate):
    """Where the spectrum of a signal has its peak, in Hz."""
    spectrum = np.abs(np.fft.rfft(signal * np.hanning(len(signal))))
    return np.argmax(spectrum) * rate / len(signal)


@pytest.mark.parametrize(
    ("name", "codec", "rate"),
    [
        ("a.m4a", "aac", 16000),
        ("a.aac", "aac", 44100),
        ("a.mp4", "aac", 48000),
        ("a.webm", "libopus", 48000),
    ],
)
def test_a_tone_stays_a_tone(tmp_path, name, codec, rate):
    source, target = tmp_path / name, tmp_path / "out" / "a.flac"
    write_encoded(source, [tone(2, rate)], rate, codec)
    assert convert_files([source], [target]) == [""]
    info = soundfile.info(target)
    assert (info.samplerate, info.channels) == (16000, 1)
    assert info.subtype == "PCM_16"
    assert info.duration == pytest.approx(2, abs=0.1)
    signal = AudioReader(target).read().numpy()[4000:28000]
    assert frequency(signal, 16000) == pytest.approx(440, abs=2)
    assert signal.std() == pytest.approx(0.3 / np.sqrt(2), rel=0.05)


@pytest.mark.parametrize("channels", [2, 4, 6, 8])
def test_the_same_as_the_reader_makes_of_it(tmp_path, channels):
    """However many: FFmpeg's sum of six clips."""
    rate = 44100
    both = np.stack([tone(1, rate)] * (channels - 1) + [np.zeros(rate)], 1)
    soundfile.write(tmp_path / "a.wav", both, rate)
    convert_files([tmp_path / "a.wav"], [tmp_path / "a.flac"])
    converted = AudioReader(tmp_path / "a.flac").read().numpy()
    read = AudioReader(tmp_path / "a.wav").read().numpy()
    assert len(converted) == len(read)
    inside = slice(500, -500)
    np.testing.assert_allclose(converted[inside], read[inside], atol=1e-3)


def test_opposite_channels_come_from_the_same_one_all_along(tmp_path):
    """Each has its own noise: which is the stronger differs along the file."""
    rate, rng = 16000, np.random.default_rng(0)
    both = np.outer(tone(4, rate), [1, -1])
    noise = 0.0003 * rng.standard_normal(both.shape)
    soundfile.write(tmp_path / "a.wav", both + noise, rate)
    assert convert_files([tmp_path / "a.wav"], [tmp_path / "a.flac"]) == [""]
    copy, _ = soundfile.read(tmp_path / "a.flac")
    alike = [abs(copy - side).max() < 1e-2 for side in (both + noise).T]
    assert sum(alike) == 1


def test_a_copy_is_of_its_source(tmp_path):
    """As it is now, whatever the clock said when that was made."""
    sources = [tmp_path / name / "001.wav" for name in ("speech", "noise")]
    for source, seconds in zip(sources, (1, 2)):
        source.parent.mkdir()
        soundfile.write(source, tone(seconds, 44100), 44100)
    target = tmp_path / "flac" / "001.flac"
    assert convert_files(sources[:1], [target]) == [""]
    before = target.read_bytes()
    with pytest.raises(ValueError, match=r"001.flac was made of .*speech/001"):
        convert_files(sources[1:], [target])
    assert target.read_bytes() == before
    # Unpacked anew, with a time of long ago
    soundfile.write(sources[0], tone(3, 44100), 44100)
    os.utime(sources[0], (1, 1))
    convert_files(sources[:1], [target])
    assert soundfile.info(target).duration == 3
    # What it was made of has gone
    sources[0].unlink()
    convert_files(sources[1:], [target])
    assert soundfile.info(target).duration == 2


@pytest.mark.parametrize("link", [False, True])
def test_copies_of_an_archive_that_has_moved_stay(tmp_path, link):
    """As on the disk of another job; not of another file of that name."""
    old, new, copies = (tmp_path / name for name in ("job1", "job2", "flac"))
    old.mkdir()
    for name in "ab":
        soundfile.write(old / f"{name}.wav", tone(1, 44100), 44100)
    targets = [copies / "a.flac", copies / "b.flac"]
    sources = [old / "a.wav", old / "b.wav"]
    assert convert_files(sources, targets) == ["", ""]
    before = [target.stat().st_mtime_ns for target in targets]
    old.rename(new)
    if link:
        old.symlink_to(new)
    soundfile.write(new / "b.wav", tone(2, 44100), 44100)
    sources = [new / "a.wav", new / "b.wav"]
    assert convert_files(sources, targets) == ["", ""]
    assert targets[0].stat().st_mtime_ns == before[0]
    assert soundfile.info(targets[1]).duration == 2


@pytest.mark.parametrize("kind", ["music", "junk"])
def test_what_is_no_copy_is_not_replaced(kind, tmp_path):
    source, target = tmp_path / "a.wav", tmp_path / "flac" / "a.flac"
    target.parent.mkdir()
    soundfile.write(source, tone(1, 44100), 44100)
    if kind == "music":
        soundfile.write(target, np.stack([tone(1, 48000)] * 2, 1), 48000)
    else:
        target.write_bytes(b"fLaC" + bytes(100))
    before = target.read_bytes()
    with pytest.raises(
        ValueError, match=r"a.flac (is no copy|does not say).* of its own"
    ):
        convert_files([source], [target])
    assert target.read_bytes() == before


def test_what_is_there_stays(tmp_path):
    source, target = tmp_path / "a.m4a", tmp_path / "a.flac"

    def convert(**options):
        convert_files([source], [target], **options)
        return target.stat().st_mtime_ns

    write_encoded(source, [tone(1, 16000)], 16000)
    first = convert()
    assert convert() == first
    later = time.time() + 10
    os.utime(source, (later, later))
    second = convert()
    assert second > first
    assert convert() == second
    # Manifests of a training at another rate may name it
    with pytest.raises(
        ValueError, match=r"flac has 16000 samples a second, an"
    ):
        convert(sample_rate=8000)
    assert convert() == second


def test_failures_name_their_reason_and_leave_nothing(tmp_path):
    (tmp_path / "text.m4a").write_text("I am no audio.")
    write_encoded(tmp_path / "good.m4a", [tone(1, 16000)], 16000)
    whole = (tmp_path / "good.m4a").read_bytes()
    (tmp_path / "half.m4a").write_bytes(whole[: len(whole) // 2])
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width = stream.height = 16
        stream.pix_fmt = "yuv420p"
        image = np.zeros((16, 16, 3), np.uint8)
        for part in [av.VideoFrame.from_ndarray(image), None]:
            container.mux(stream.encode(part))
    soundfile.write(tmp_path / "slow.wav", tone(1, 16000), 1)
    os.mkfifo(tmp_path / "fifo.m4a")
    broken = tone(1, 44100)
    broken[30000] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, 44100, subtype="FLOAT")
    soundfile.write(tmp_path / "zero.wav", [], 44100)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "zero.wav.flac").touch()  # of a version before
    names = "text good half film gone slow fifo nan zero".split()
    suffixes = {
        "film": ".mp4",
        **dict.fromkeys(["slow", "nan", "zero"], ".wav"),
    }
    names = [name + suffixes.get(name, ".m4a") for name in names]
    text, good, half, film, gone, slow, fifo, nan, zero = convert_files(
        [tmp_path / name for name in names],
        [tmp_path / "out" / f"{name}.flac" for name in names],
    )
    assert good == ""
    assert slow == "not convertible (a rate of 1 Hz is none of audio)"
    assert "not convertible (Invalid data" in text
    assert "not convertible (Invalid data" in half
    assert film == "not convertible (no audio in it)"
    assert "No such file" in gone
    assert fifo == "not convertible (no plain file)"
    assert "not convertible (holds samples that are NaN" in nan
    assert zero == "not convertible (no samples in it)"
    (tmp_path / "out" / "zero.wav.flac").unlink()
    assert os.listdir(tmp_path / "out") == ["good.m4a.flac"]


@pytest.mark.parametrize("gain", [32768.0, 1.2, 1.0, 2**-12])
def test_floats_of_any_level_sound_as_they_did(tmp_path, gain):
    """Within what a decoder of a lossy format adds, also to full scale."""
    wav = gain * tone(1, 16000) / 0.3
    source, target = tmp_path / "a.wav", tmp_path / "a.flac"
    soundfile.write(source, wav, 16000, subtype="FLOAT")
    assert convert_files([source], [target]) == [""]
    found, _ = soundfile.read(target)
    if gain == 1.2:  # cut, as in any player
        np.testing.assert_allclose(found, wav.clip(-1, 1), atol=1e-4)
        return
    # In 16 bits, the last would be off by 0.06
    np.testing.assert_allclose(
        found / np.abs(found).max(), wav / np.abs(wav).max(), atol=5e-4
    )
    assert soundfile.info(target).subtype == (
        "PCM_24" if gain < 1 else "PCM_16"
    )


@pytest.fixture
def mixed(tmp_path):
    """A folder in which two files need no converting."""
    data = tmp_path / "data"
    write_encoded(data / "x" / "m4a.m4a", [tone(2, 44100)] * 2, 44100)
    (data / "text.m4a").write_text("I am no audio.")
    (data / "more.wav").write_text("Nor am I.")
    soundfile.write(data / "good.wav", tone(2, 16000), 16000)
    soundfile.write(data / "x" / "good.flac", tone(2, 16000), 16000)
    soundfile.write(data / "rate.wav", tone(2, 8000), 8000)
    soundfile.write(
        data / "stereo.wav", np.stack([tone(2, 16000)] * 2, 1), 16000
    )
    return data


@pytest.mark.parametrize("inside", [True, False])
def test_prepare_converts_what_needs_it(mixed, tmp_path, caplog, inside):
    converted = (mixed if inside else tmp_path) / "converted"
    save = tmp_path / "save"
    prepare_folder(mixed, save, convert_folder=converted)
    assert "1 of 5 recordings have several channels" in caplog.text
    table = read_manifest(save / "train.csv", "ROOT").set_index("ID")
    assert dict(table["wav"]) == {
        "good": "ROOT/good.wav",
        "rate": f"{converted}/rate.flac",
        "stereo": f"{converted}/stereo.flac",
        "x/good": "ROOT/x/good.flac",
        "x/m4a": f"{converted}/x/m4a.flac",
    }
    for row in table.drop(["good", "x/good"]).itertuples():
        assert soundfile.info(row.wav).samplerate == 16000
        assert soundfile.info(row.wav).frames == row.stop
    skipped = pd.read_csv(save / "skipped.csv").set_index("wav")["reason"]
    assert len(skipped) == 2
    assert "not convertible" in skipped["$data_root/text.m4a"]
    assert "not convertible" in skipped["$data_root/more.wav"]

    before = (save / "train.csv").stat().st_mtime_ns
    prepare_folder(mixed, save, convert_folder=converted)
    assert (save / "train.csv").stat().st_mtime_ns == before
    (converted / "rate.flac").unlink()
    prepare_folder(mixed, save, convert_folder=converted)
    assert (converted / "rate.flac").is_file()


def test_converted_files_must_not_mix_with_the_data(mixed, tmp_path):
    (tmp_path / "link").symlink_to(mixed, target_is_directory=True)
    for folder in [mixed, tmp_path, tmp_path / "link"]:
        with pytest.raises(ValueError, match=r"convert_folder .* would mix"):
            prepare_folder(mixed, tmp_path / "save", convert_folder=folder)


def test_voxceleb2_as_it_comes(tmp_path):
    aac = tmp_path / "data" / "dev" / "aac"
    for name in ["id1/x/00001.m4a", "id2/y/00001.m4a"]:
        write_encoded(aac / name, [tone(2, 16000)], 16000)
    (tmp_path / "trials.txt").write_text("1 id1/x/00001.wav id1/x/00001.wav")
    prepare_voxceleb(
        tmp_path / "data",
        tmp_path / "save",
        tmp_path / "trials.txt",
        convert_folder=tmp_path / "flac",
    )
    table = read_manifest(tmp_path / "save" / "train.csv")
    assert list(table["ID"]) == ["id2/y/00001"]
    assert list(table["wav"]) == [f"{tmp_path}/flac/id2/y/00001.flac"]
    # Verification needs the other one.
    assert (tmp_path / "flac" / "id1" / "x" / "00001.flac").is_file()


def test_a_file_without_permission_ends_no_conversion(open_folder, no_root):
    """Whatever is said of it; the other one is converted."""
    sources = [open_folder / f"{name}.m4a" for name in "ab"]
    targets = [open_folder / "out" / f"{name}.flac" for name in "ab"]
    for source in sources:
        write_encoded(source, [tone(2, 16000)], 16000)
    sources[0].chmod(0)
    with no_root():
        found = convert_files(sources, targets)
    assert found == ["not convertible (Permission denied)", ""]


def test_without_pyav(mixed, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    save, converted = tmp_path / "save", tmp_path / "converted"
    prepare_folder(mixed, save)
    with pytest.raises(ImportError, match=r"^5 file\(s\) have .*\[convert\]"):
        prepare_folder(mixed, save, convert_folder=converted)
    # What needs no PyAV went well, and the rest was counted.
    ids = set(read_manifest(tmp_path / "save" / "train.csv", "")["ID"])
    assert ids == {"good", "rate", "stereo", "x/good"}
    skipped = (tmp_path / "save" / "skipped.csv").read_text()
    assert 'x/m4a.m4a,"needs converting: give convert_folder' in skipped


def test_killed_and_started_again(tmp_path):
    sources = [tmp_path / f"{i}.m4a" for i in range(20)]
    targets = [tmp_path / "out" / f"{i}.flac" for i in range(20)]
    write_encoded(sources[0], [tone(30, 16000)], 16000)
    for source in sources[1:]:
        source.write_bytes(sources[0].read_bytes())
    # A session of its own, so that its workers are killed too.
    process = multiprocessing.get_context("fork").Process(
        target=lambda: (
            os.setsid() or convert_files(sources, targets, num_workers=2)
        )
    )
    process.start()
    while sum(target.exists() for target in targets) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    there = {t: t.stat().st_mtime_ns for t in targets if t.exists()}
    assert 2 <= len(there) < 20
    assert convert_files(sources, targets) == [""] * 20
    for target, mtime in there.items():
        assert target.stat().st_mtime_ns == mtime
    heard = [soundfile.read(target)[0] for target in targets]
    assert all(np.array_equal(wav, heard[0]) for wav in heard)


def test_what_a_kill_has_left_is_removed(write_tone, tmp_path):
    """That of a dead process of this machine; others may be at work."""
    write_tone(tmp_path / "in" / "a.wav", rate=44100)
    folder = tmp_path / "out"
    folder.mkdir()
    dead = folder / f".b.{HOST}-{2**22 + 1}.tmp.flac"
    elsewhere = folder / ".b.elsewhere-7.tmp.flac"
    for path in (dead, elsewhere):
        path.write_bytes(b"half")
    prepare_folder(tmp_path / "in", tmp_path, convert_folder=folder)
    assert sorted(folder.iterdir()) == [elsewhere, folder / "a.flac"]


def test_a_name_that_no_copy_can_have_is_that_of_one_file(tmp_path):
    sources = []
    for name in ("é" * 125, "b"):
        write_encoded(tmp_path / f"{name}.m4a", [tone(1, 16000)], 16000)
        sources.append(tmp_path / f"{name}.m4a")
    targets = [tmp_path / "out" / f"{'é' * 126}.flac", tmp_path / "b.flac"]
    long, short = convert_files(sources, targets)
    assert "File name too long" in long
    assert short == ""


@pytest.mark.parametrize("bad", [bytes(400), bytes(range(255, 5, -1)) * 2])
@pytest.mark.parametrize("name", ["a.m4a", "a.mp3"])
def test_what_follows_damage_is_converted_too(tmp_path, name, bad, caplog):
    source, target = tmp_path / name, tmp_path / "copies" / "a.flac"
    codec = {"a.m4a": "aac", "a.mp3": "libmp3lame"}[name]
    noise = 0.1 * np.random.default_rng(0).standard_normal((1, 30 * 16000))
    write_encoded(source, noise, 16000, codec)
    content = bytearray(source.read_bytes())
    middle = len(content) // 5
    content[middle : middle + len(bad)] = bad
    source.write_bytes(content)
    assert convert_files([source], [target], num_workers=1) == [""]
    assert soundfile.info(target).duration > 29.5
    # In this process, where its words are heard
    assert not convert._convert(source, target.with_name("b.flac"), 16000)
    assert f"{source} is damaged or cut short" in caplog.text


def test_the_settings_beside_a_manifest_are_its_own(
    tmp_path, caplog, monkeypatch
):
    """Two runs that prepare one folder wait for each other."""
    monkeypatch.setattr(lock, "SILENCE", 0.2)
    for name in ["one", "two"]:
        soundfile.write(tmp_path / f"{name}.wav", tone(2, 16000), 16000)
    preparing = threading.Thread(
        target=prepare_folder, args=[tmp_path, tmp_path / "save"]
    )
    with locked(tmp_path / "save"):
        preparing.start()
        deadline = time.monotonic() + 60
        while "save: waiting" not in caplog.text:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        written = (tmp_path / "save" / "train.csv").exists()
    preparing.join()
    assert not written
    assert (tmp_path / "save" / "train.csv").exists()
