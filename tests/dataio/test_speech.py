"""Detectors of speech, on speech and on what is none."""

import itertools
import sys

import numpy as np
import pytest
import torch
from torchaudio.functional import resample

from speechbrain_cadino.dataio.speech import Modulation, load_detector
from speechbrain_cadino.demo.espeak import synthesise


def rain(samples, seed=0):
    """A hiss of changing colour, and drops."""
    rng = np.random.default_rng(seed)
    drops = (rng.random(samples) < 0.002) * rng.standard_normal(samples)
    ring = np.exp(-np.arange(160) / 30) * np.sin(np.arange(160) * 1.5)
    hiss = np.convolve(rng.standard_normal(samples), rng.random(8), "same")
    signal = 0.3 * hiss + 8 * np.convolve(drops, ring, "same")
    return torch.tensor(0.02 * signal, dtype=torch.float32)


@pytest.fixture(scope="module")
def spoken():
    pytest.importorskip("espeakng_loader", reason="needs [demo]")
    text = "The quick brown fox jumps over the lazy dog, and the dog barks."
    sentence = {"text": text, "rate": 150, "pitch": 50, "range": 50}
    (signal,), rate = synthesise("en-us+Annie", [sentence])
    wav = torch.tensor(signal.astype(np.float32) / 2**15)
    return 0.1 * resample(wav, rate, 16000)[:48000]


@pytest.mark.parametrize("gain", [1e-3, 2.0**15])
def test_a_level_tells_silero_nothing(gain, spoken):
    pytest.importorskip("silero_vad", reason="needs [vad]")
    detector = load_detector("silero")
    wavs = torch.stack([spoken, rain(48000)])
    shares, scaled = detector(wavs), detector(gain * wavs)
    assert scaled[0] > detector.least > scaled[1]
    torch.testing.assert_close(scaled, shares, rtol=0, atol=0.15)


@pytest.mark.parametrize("name", ["silero", "modulation"])
def test_rain_is_no_speech(name, spoken):
    if name == "silero":
        pytest.importorskip("silero_vad", reason="needs [vad]")
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        detector = load_detector(name)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    wavs = torch.stack([spoken, rain(48000), rain(48000, seed=1)])
    shares = detector(wavs)
    assert shares.shape == (3, 1)
    assert shares[0] > detector.least
    assert (shares[1:] < detector.least).all()
    # Each by itself, and whatever came before
    alone = torch.cat([detector(wav[None]) for wav in wavs])
    torch.testing.assert_close(alone, shares, rtol=1e-4, atol=1e-4)


def test_modulation_by_a_plain_reference():
    """Band by band and rate by rate, with NumPy alone."""
    wav = rain(16000).numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = range(0, len(wav) - 399, 160)
    power = np.array(
        [np.abs(np.fft.rfft(wav[s : s + 400] * window)) ** 2 for s in starts]
    )
    edges = np.geomspace(125, 6000, 9)
    shares = []
    for low, high in itertools.pairwise(edges):
        bins = [k for k in range(201) if low <= 40 * k < high]
        envelope = np.sqrt(power[:, bins].sum(1))
        envelope -= envelope.mean()
        count = len(envelope)
        envelope *= np.hanning(count)
        total = inside = 0.0
        for k in range(count // 2 + 1):
            wave = np.exp(-2j * np.pi * k * np.arange(count) / count)
            rate, value = 100 * k / count, abs((envelope * wave).sum()) ** 2
            total += value * (0.5 <= rate <= 50)
            inside += value * (2 <= rate <= 8)
        shares.append(inside / total)
    found = Modulation()(torch.from_numpy(wav)[None]).item()
    assert found == pytest.approx(np.mean(shares), rel=1e-3)


def test_without_the_extra_modulation_steps_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "silero_vad", None)
    assert isinstance(load_detector("auto"), Modulation)
    with pytest.raises(ImportError, match=r"speechbrain_cadino\[vad\]"):
        load_detector("silero")
    assert load_detector(None) is None
