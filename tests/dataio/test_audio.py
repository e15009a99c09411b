import numpy as np
import pytest
import soundfile
import torch

from speechbrain_cadino.dataio.audio import AudioError, AudioReader, read_audio


def tone(rate, seconds=1.0, frequency=440.0):
    return 0.5 * np.sin(
        2 * np.pi * frequency * np.arange(int(rate * seconds)) / rate
    )


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
    stereo = np.stack([np.full(100, 0.5), np.full(100, -0.25)], 1)
    soundfile.write(path, stereo, 16000, "FLOAT")
    torch.testing.assert_close(read_audio(path), torch.full((100,), 0.125))


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "DOUBLE"])
def test_sample_formats(tmp_path, subtype):
    path = tmp_path / "tone.wav"
    soundfile.write(path, tone(16000), 16000, subtype)
    expected = torch.from_numpy(tone(16000)).float()
    torch.testing.assert_close(read_audio(path), expected, atol=0.01, rtol=0)


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
