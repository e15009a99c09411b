import os
import pathlib

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter

from speechbrain_cadino.dataio.audio import AudioError, AudioReader, read_header
from speechbrain_cadino.dataio.signal import to_mono


def tone(rate, seconds=1.0, frequency=440.0):
    return 0.5 * np.sin(
        2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate
    )


def peak_memory():
    """The most memory since the last call, in kB."""
    own = pathlib.Path("/proc/self")
    lines = (own / "status").read_text().splitlines()
    (peak,) = (line.split()[1] for line in lines if line.startswith("VmHWM"))
    (own / "clear_refs").write_text("5")
    return int(peak)


def read_audio(path, start=0, stop=None, sample_rate=16000):
    with AudioReader(path, sample_rate) as audio:
        return audio.read(start, stop)


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg", "mp3"])
def test_formats(tmp_path, suffix):
    path = tmp_path / f"tone.{suffix}"
    soundfile.write(path, tone(16000), 16000)
    wav = read_audio(path, 2000, 10000)
    assert wav.dtype == torch.float32
    expected = torch.from_numpy(tone(16000)[2000:10000]).float()
    loss = (wav - expected).square().mean() / expected.square().mean()
    assert loss < 0.02


@pytest.mark.parametrize("rate", [8000, 44100, 48000])
def test_other_rates_are_resampled_in_place(tmp_path, rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate), rate, "FLOAT")
    with AudioReader(path, 16000) as audio:
        assert len(audio) == 16000
        piece = audio.read(4000, 12000)
    assert len(piece) == 8000
    expected = torch.from_numpy(tone(16000)[4000:12000]).float()
    # Away from the ends, where the resampler sees no neighbours.
    torch.testing.assert_close(
        piece[200:-200], expected[200:-200], atol=0.02, rtol=0
    )


def test_channels_are_averaged(tmp_path):
    path = tmp_path / "stereo.wav"
    waves = np.random.default_rng(0).standard_normal((100, 2)).astype("f")
    soundfile.write(path, waves, 16000, "FLOAT")
    torch.testing.assert_close(
        read_audio(path), torch.from_numpy(waves).mean(1)
    )


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE"])
def test_sample_formats(tmp_path, subtype):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(16000), 16000, subtype)
    expected = torch.from_numpy(tone(16000)).float()
    torch.testing.assert_close(read_audio(path), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32"])
def test_formats_in_which_there_is_no_way_back(tmp_path, subtype):
    """Those of telephony: what is not at the beginning was damaged."""
    path = tmp_path / ("call.wav" if subtype == "GSM610" else "call.au")
    soundfile.write(path, tone(8000, 3), 8000, subtype)
    with AudioReader(path, 8000) as audio:
        assert len(audio) >= 24_000
        whole = audio.read(0, 24_000)
        assert torch.equal(audio.read(8000, 16_000), whole[8000:16_000])
        assert torch.equal(audio.read(100, 900), whole[100:900])
    expected = torch.from_numpy(tone(8000, 3)).float()
    assert (whole - expected).square().mean() < 0.02 * expected.square().mean()


def test_errors_name_the_file_and_the_reason(tmp_path):
    with pytest.raises(AudioError, match=r"gone\.wav: no such file"):
        read_audio(tmp_path / "gone.wav")
    text = tmp_path / "text.wav"
    text.write_text("not audio")
    with pytest.raises(AudioError, match=r"text\.wav: not readable as audio"):
        read_audio(text)
    bad = tmp_path / "bad.wav"
    wav = tone(16000)
    wav[100] = np.nan
    soundfile.write(bad, wav, 16000, "FLOAT")
    with pytest.raises(AudioError, match=r"bad\.wav: holds samples"):
        read_audio(bad)
    with pytest.raises(AudioError, match="ends after 16000 samples"):
        read_audio(bad, 0, 20000)


@pytest.mark.parametrize("sample", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_no_feature_can_be_made_of(tmp_path, sample):
    path = tmp_path / "loud.wav"
    wav = tone(16000)
    wav[800] = sample
    soundfile.write(path, wav, 16000, "FLOAT")
    with pytest.raises(AudioError, match=r"loud\.wav: holds samples"):
        read_audio(path)
    assert len(read_audio(path, 1000)) == 15000


@pytest.mark.parametrize("kind", ["piped.flac", "cut.flac", "cut.mp3"])
def test_a_length_is_never_that_of_a_header_alone(tmp_path, kind):
    path = tmp_path / kind
    wav = np.random.default_rng(0).standard_normal(6 * 16000) / 50
    soundfile.write(path, wav, 16000)
    content = bytearray(path.read_bytes())
    if kind == "piped.flac":  # its encoder did not know the end
        content[21] &= 0xF0
        content[22:26] = bytes(4)
    else:
        del content[len(content) // 2 :]
    path.write_bytes(content)
    header = read_header(path)
    assert header.told != header.frames
    with AudioReader(path) as audio:
        assert len(audio) == header.frames
        assert len(audio.read()) == header.frames
    least = 5.9 if kind == "piped.flac" else 2
    assert least < header.frames / 16000 <= (6 if least > 5 else 4)


def test_only_plain_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    for path in [tmp_path / "pipe.wav", tmp_path]:
        with pytest.raises(AudioError, match="no plain file"):
            AudioReader(path)


@pytest.mark.skipif(
    not os.path.exists("/proc/self/clear_refs"), reason="Linux's figures"
)
@pytest.mark.parametrize("rate", [8001, 11127, 22255, 44101, 47999, 999_983])
def test_any_rate_is_read_exactly_in_bounded_memory(tmp_path, rate):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(rate, 2), rate, "FLOAT")
    peak_memory()
    before = peak_memory()
    with AudioReader(path) as audio:
        whole, piece = audio.read(), audio.read(12000, 20000)
    assert peak_memory() - before < 200_000
    expected = torch.from_numpy(tone(16000, 2)).float()
    within = slice(200, -200)
    assert (whole - expected)[within].abs().max() < 1e-4
    # Half a sample of the file may lie between the two
    late = 0.5 * np.pi * 440 / rate + 1e-3
    assert (piece - expected[12000:20000]).abs().max() < late


@pytest.mark.parametrize("rate", [1, 8, 10_000_000])
def test_a_rate_that_no_audio_has_is_refused(tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(16000), rate)
    with pytest.raises(AudioError, match=f"its rate of {rate} Hz"):
        AudioReader(tmp_path / "a.wav")


@pytest.mark.parametrize(
    "wav",
    [
        np.zeros(16000),
        np.full(16000, 0.3),
        np.random.default_rng(0).integers(-1, 2, 16000) / 32768,
    ],
    ids=["zeros", "constant", "dither"],
)
def test_silence_is_named(tmp_path, wav):
    soundfile.write(tmp_path / "a.wav", wav, 16000)
    with pytest.raises(AudioError, match=r"a.wav: silent"):
        read_audio(tmp_path / "a.wav")


@pytest.mark.parametrize("decibels", [-40, -60, -80])
def test_quiet_recordings_are_no_silence(tmp_path, decibels):
    wav = tone(16000) * 2 * 10 ** (decibels / 20)
    soundfile.write(tmp_path / "a.wav", wav, 16000)
    assert len(read_audio(tmp_path / "a.wav")) == 16000


def test_opposite_channels_do_not_cancel(tmp_path, caplog):
    wav = tone(16000)
    soundfile.write(tmp_path / "a.wav", np.stack([wav, -wav], 1), 16000)
    heard = read_audio(tmp_path / "a.wav")
    torch.testing.assert_close(
        heard, torch.from_numpy(wav).float(), atol=1e-4, rtol=0
    )
    assert "a.wav: its channels cancel each other out" in caplog.text


@pytest.mark.parametrize("count", [2, 4, 6, 16])
def test_a_voice_in_one_of_many_channels_is_no_opposite(count):
    """As of a headset for each: the next voice is in another one."""
    voices = np.random.default_rng(0).standard_normal((2, 1600))
    for voice, place in zip(voices, (0, count - 1)):
        samples = np.zeros((1600, count))
        samples[:, place] = voice
        mono, channel = to_mono(samples)
        assert channel is None
        np.testing.assert_allclose(mono, voice / count)
    unrelated = np.random.default_rng(1).standard_normal((1600, count))
    assert to_mono(unrelated)[1] is None


def test_opposite_channels_of_vorbis_do_not_cancel(tmp_path):
    """It loses their phases above some frequency, and these stay."""
    noise = 0.1 * np.random.default_rng(0).standard_normal(32000)
    wav = lfilter([1.0], [1.0, -0.9], noise)  # as speech: less above
    soundfile.write(tmp_path / "a.ogg", np.stack([wav, -wav], 1), 16000)
    heard = read_audio(tmp_path / "a.ogg").numpy()
    assert abs(np.corrcoef(heard, wav[: len(heard)])[0, 1]) > 0.9


def test_a_length_that_begins_anew_at_4_gb(tmp_path):
    path = tmp_path / "ten hours.wav"
    soundfile.write(path, np.full(16000, 0.1), 16000)
    size = path.stat().st_size
    os.truncate(path, size + 2**31)  # without a byte on the disk
    assert read_header(path).frames == 16000
    os.truncate(path, size + 2**32)
    with pytest.raises(AudioError, match="more than 4 GB"):
        read_header(path)
