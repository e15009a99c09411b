import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain.augment.time_domain import DropChunk
from speechbrain_cadino.dataio.audio import AudioError
from speechbrain_cadino.dataio.augment import (
    CPU_ROWS,
    AddNoise,
    AddReverb,
    CropAugmenter,
    Equalise,
    OneOf,
    ShiftPitch,
    refresh_banks,
    set_position,
)
from speechbrain_cadino.dataio.manifest import write_manifest
from speechbrain_cadino.dataio.noises import made_noise, made_rirs
from speechbrain_cadino.training.schedules import LinearSchedule

RATE = 16000


def write_clips(folder, clips):
    """Wav files and their manifest."""
    rows = []
    for name, clip in clips.items():
        soundfile.write(folder / f"{name}.wav", clip, RATE, "FLOAT")
        wav = f"$data_root/{name}.wav"
        rows.append((name, len(clip) / RATE, wav, 0, len(clip)))
    columns = ["ID", "duration", "wav", "start", "stop"]
    write_manifest(folder / "noise.csv", pd.DataFrame(rows, columns=columns))
    return {"data_folder": folder, "manifest": folder / "noise.csv"}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def snr(clean, noisy):
    noise = noisy - clean
    return 10 * (clean.square().mean(1) / noise.square().mean(1)).log10()


@pytest.mark.parametrize("folder", [None, "files"])
def test_snr_is_drawn_anew_for_every_crop(tmp_path, folder):
    source = {}
    if folder:
        noise = np.random.default_rng(0).standard_normal(8 * RATE)
        source = write_clips(tmp_path, {"noise": 0.1 * noise})
    add_noise = AddNoise(**source, snr_low=3, snr_high=12)
    clean = torch.randn(200, 4000)
    values = snr(clean, add_noise(clean))
    assert values.min() > 2.99
    assert values.max() < 12.01
    assert values.min() < 4
    assert values.max() > 11


def test_noise_comes_from_the_files(tmp_path):
    """Each draw is a piece of the file: it is found in there."""
    long = np.random.default_rng(0).standard_normal(3 * RATE).clip(-1, 1)
    add_noise = AddNoise(
        **write_clips(tmp_path, {"long": long}), clip_seconds=1.0
    )
    clean = torch.randn(40, 2000)
    added = (add_noise(clean) - clean).numpy()
    norms = np.sqrt(np.convolve(long**2, np.ones(2000), "valid"))
    places = set()
    for piece in added:
        match = np.correlate(long, piece, "valid") / norms
        assert match.max() > 0.999 * np.linalg.norm(piece)
        places.add(match.argmax() % RATE)  # in its clip of a second
    assert len(places) > 20
    assert max(places) > 0.6 * RATE


def test_made_noise_has_slopes_and_levels_of_its_own():
    """From white to brown, its level changing by 3 dB."""
    noise = made_noise(400, RATE, "cpu")
    spectrum = torch.fft.rfft(noise)[:, 10:].abs().log()
    freqs = torch.arange(10, 10 + spectrum.shape[1]).log()
    slopes = np.polyfit(freqs.numpy(), spectrum.T.numpy(), 1)[0]
    assert -1.1 < slopes.min() < -0.8
    assert -0.2 < slopes.max() < 0.1
    white = noise[slopes > -0.2].unflatten(1, (8, -1))
    levels = 10 * white.square().mean(-1).log10()
    assert 1 < levels.std(1).median() < 4


@pytest.mark.parametrize("clips", [[3, 3], [1, 3]])
def test_babble_mixes_several_files(tmp_path, clips):
    tones = {
        str(hz): np.sin(2 * np.pi * hz * np.arange(RATE) / RATE)
        for hz in (500, 1000, 2000, 4000)
    }
    add_noise = AddNoise(
        **write_clips(tmp_path, tones), clips=clips, clip_seconds=1.0
    )
    clean = 0.01 * torch.randn(50, 8000)
    spectrum = torch.fft.rfft(add_noise(clean) - clean).abs()
    bins = [round(hz * 8000 / RATE) for hz in (500, 1000, 2000, 4000)]
    present = (spectrum[:, bins] > 0.1 * spectrum.max(1, True)[0]).sum(1)
    assert present.max() == 3  # never four of them
    assert present.float().mean() > 1.5
    # Three draws of four files are one file alone in one of 16
    alone = (present == 1).float().mean()
    assert (alone > 0.25) == (clips == [1, 3])


def test_a_large_set_is_sampled_anew_each_epoch(tmp_path):
    clips = {
        f"{i:02}": np.tile([0.5, 0.45 - 0.01 * i], RATE // 2) for i in range(30)
    }
    add_noise = AddNoise(
        **write_clips(tmp_path, clips), bank_minutes=5 / 60, clip_seconds=1.0
    )
    augment = CropAugmenter([add_noise], [1.0])
    chosen = []
    for epoch in (1, 2, 1):
        refresh_banks(augment, epoch)
        augment(torch.randn(2, 1000))
        clips, pieces = add_noise.bank._load("cpu"), add_noise.bank._pieces
        assert len(clips) == 5
        assert len(pieces) == 30
        chosen.append(sorted(clips[:, 1].tolist()))
    assert chosen[0] == chosen[2] != chosen[1]
    assert len(set(chosen[0])) == 5


def test_a_crop_longer_than_the_pieces_is_refused(tmp_path):
    source = write_clips(tmp_path, {"a": np.ones(RATE)})
    with pytest.raises(ValueError, match="clip_seconds"):
        AddNoise(**source, clip_seconds=0.5)(torch.randn(1, RATE))


def test_reverb_is_the_convolution_with_the_response(tmp_path):
    rir = np.zeros(3000)
    rir[700] = 1.0  # the direct sound: what comes before is cut
    rir[900:2500] = 0.1 * np.random.default_rng(0).standard_normal(1600)
    add_reverb = AddReverb(**write_clips(tmp_path, {"rir": rir}))
    dry = torch.randn(3, 6000)
    wet = add_reverb(dry)
    for d, w in zip(dry.numpy(), wet.numpy()):
        expected = np.convolve(d, rir[700:])[:6000]
        expected *= np.sqrt((d**2).mean() / (expected**2).mean())
        np.testing.assert_allclose(w, expected, atol=5e-3)


def test_made_rooms_decay_by_60_db_in_their_reverberation_time():
    rirs = made_rirs(400, 16000, RATE, "cpu")
    assert (rirs[:, 0] == 1).all()
    rirs = rirs[:, 1:]
    ratio = -10 * rirs.square().sum(1).log10()
    assert -3.01 < ratio.min() < -2
    assert 11 < ratio.max() < 12.01
    energy = rirs.square().flip(1).cumsum(1).flip(1)  # Schroeder integration
    level = 10 * (energy / energy[:, :1]).log10()
    # Time from -5 to -25 dB, three times that is RT60.
    first = (level > -5).sum(1)
    last = (level > -25).sum(1)
    rt60 = 3 * (last - first) / RATE
    assert rt60.min() > 0.15
    assert rt60.max() < 0.9
    assert rt60.max() - rt60.min() > 0.4


def test_equaliser_differs_between_crops_and_keeps_the_level():
    noise = torch.randn(1, RATE).repeat(20, 1)
    filtered = Equalise(gain=6.0)(noise)
    torch.testing.assert_close(
        filtered.square().mean(1), noise.square().mean(1)
    )
    power = torch.fft.rfft(filtered).abs().square().unfold(1, 500, 500)
    level = 10 * power.mean(-1).log10()
    assert level.std(0).mean() > 2.0


def test_an_equaliser_is_linear_in_decibel_from_octave_to_octave():
    """From 62.5 Hz to 8 kHz; what is below is as at 62.5 Hz."""
    clicks = torch.eye(1, 1000).repeat(3, 1)
    torch.manual_seed(1)
    filtered = Equalise(gain=6.0, band_limit_prob=0)(clicks)
    level = 20 * torch.fft.rfft(filtered).abs().log10().numpy()
    torch.manual_seed(1)
    points = 6 * torch.randn(3, 8).numpy()
    octaves = np.log2(np.linspace(0, 8000, 501).clip(62.5) / 62.5)
    for found, drawn in zip(level, points):
        expected = np.interp(octaves, np.arange(8), drawn)
        # All but the level, which is kept
        np.testing.assert_allclose(
            found - found[0], expected - expected[0], atol=0.01
        )


@pytest.mark.parametrize("limited", [0, 1])
def test_a_band_limit_keeps_what_is_inside(limited):
    noise = torch.randn(8, RATE)
    limits = {"low": [300, 300], "high": [3000, 3000]}
    equalise = Equalise(gain=0.0, band_limit_prob=limited, **limits)
    filtered = equalise(noise)
    level = 20 * torch.fft.rfft(filtered).abs().log10()
    below, inside, above = (
        level[:, band].mean(1) for band in np.s_[20:280, 400:2900, 3100:7900]
    )
    for outside in (below, above):
        cut = inside - outside
        assert (cut > 40 if limited else cut.abs() < 3).all()


@pytest.mark.parametrize("ratio", [(7, 8), (9, 8), (3, 2)])
def test_a_tone_is_shifted_where_it_is_and_keeps_the_level(ratio):
    """440 Hz from 0.5 to 0.8 s, in a crop of 1 s."""
    times = torch.arange(RATE) / RATE
    inside = (times > 0.5) & (times < 0.8)
    tone = (2 * torch.pi * 440 * times).sin() * inside
    (shifted,) = ShiftPitch([ratio])(tone[None])
    assert shifted.shape == tone.shape
    assert shifted.square().mean() == pytest.approx(tone.square().mean().item())
    peak = torch.fft.rfft(shifted).abs().argmax().item()
    assert peak == pytest.approx(440 * ratio[0] / ratio[1], abs=5)
    level = shifted.square().unfold(0, 160, 160).mean(-1)  # each 10 ms
    heard = (level > level.max() / 4).nonzero()
    assert abs(heard.min().item() - 50) <= 2
    assert abs(heard.max().item() - 79) <= 2


def test_each_crop_is_shifted_by_a_ratio_of_its_own():
    times = torch.arange(RATE) / RATE
    tone = (2 * torch.pi * 1000 * times).sin().repeat(60, 1)
    peaks = torch.fft.rfft(ShiftPitch([(4, 5), (5, 4)])(tone)).abs().argmax(1)
    low, high = (((peaks - hertz).abs() < 5).sum() for hertz in (800, 1250))
    assert low + high == 60
    assert 15 < low < 45


@pytest.mark.parametrize("samples", [1, 511, 15999])
def test_crops_of_any_length_are_shifted(samples):
    shifted = ShiftPitch()(torch.randn(8, samples))
    assert shifted.shape == (8, samples)
    assert shifted.isfinite().all()


def test_a_ratio_that_is_none_is_refused():
    for ratios in ([[9, 0]], [[9]], [[1.125, 1]]):
        with pytest.raises(ValueError, match="give pairs of whole numbers"):
            ShiftPitch(ratios)


def test_probabilities_choose_crops_one_by_one():
    clean = torch.randn(2000, 100)
    augment = CropAugmenter([AddNoise(), AddReverb()], [0.5, 0.0])
    changed = (augment(clean) != clean).any(1).float().mean()
    assert 0.45 < changed < 0.55
    untouched = CropAugmenter([AddNoise()], [0.0])(clean)
    assert torch.equal(untouched, clean)


def test_speechbrains_augmentations_fit_in():
    drop = DropChunk(100, 200, 1, 1, drop_start=0, drop_end=900)
    wavs = torch.ones(8, 1000)
    dropped = CropAugmenter([drop], [1.0])(wavs)
    assert (dropped == 0).any(1).all()
    assert wavs.all()  # the input is left alone


@pytest.mark.parametrize("kind", [AddNoise, AddReverb, Equalise, ShiftPitch])
def test_half_precision_of_a_step_is_not_heard(kind):
    wavs, found = torch.randn(4, RATE), []
    for half in (False, True):
        torch.manual_seed(3)
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            found.append(CropAugmenter([kind()], [1.0])(wavs))
    assert torch.equal(*found)


def test_silence_stays_finite():
    silence = torch.zeros(2, 1000)
    for augmentation in (AddNoise(), AddReverb(), Equalise(), ShiftPitch()):
        assert torch.isfinite(augmentation(silence)).all()


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="one for each"):
        CropAugmenter([AddNoise()], [0.5, 0.5])


def test_a_direct_sound_that_comes_late_is_found(tmp_path):
    rir = np.zeros(16000)
    rir[9000] = 1.0  # behind the half second that is kept
    add_reverb = AddReverb(**write_clips(tmp_path, {"rir": rir}))
    dry = torch.randn(2, 4000)
    torch.testing.assert_close(add_reverb(dry), dry, atol=1e-3, rtol=0)


def test_a_broken_noise_file_is_left_out_and_counted(tmp_path, caplog):
    clips = {
        "good": np.tile([0.5, 0.49], RATE // 2),
        "bad": np.tile([0.5, 0.49], RATE // 2),
    }
    source = write_clips(tmp_path, clips)
    (tmp_path / "bad.wav").write_text("no audio")
    add_noise = AddNoise(**source, clip_seconds=1.0)
    assert torch.isfinite(add_noise(torch.randn(4, 1000))).all()
    assert "1 clips" in caplog.text
    assert "bad.wav" in caplog.text
    (tmp_path / "good.wav").write_text("no audio")
    with pytest.raises(AudioError):
        AddNoise(**source, clip_seconds=1.0)(torch.randn(4, 1000))


@pytest.mark.parametrize("crops", [0, 1, CPU_ROWS, CPU_ROWS + 1, 3 * CPU_ROWS])
def test_every_crop_is_augmented_whatever_the_batch(crops):
    clean = torch.randn(crops, 4000)
    kept = clean.clone()
    noisy = CropAugmenter([AddNoise(snr_low=3, snr_high=12)], [1.0])(clean)
    assert noisy.shape == clean.shape
    assert torch.equal(clean, kept)
    values = snr(clean, noisy)
    assert ((values > 2.9) & (values < 12.1)).all()


def test_each_crop_gets_exactly_one_of_them():
    class Add(torch.nn.Module):
        def __init__(self, value):
            super().__init__()
            self.value = value

        def forward(self, wavs):
            return wavs + self.value

    one_of = OneOf([Add(1), Add(10), Add(100)], [1, 0, 3])
    augmented = one_of(torch.zeros(4000, 2))
    assert augmented.unique().tolist() == [1, 100]
    assert 0.2 < (augmented[:, 0] == 1).float().mean() < 0.3
    with pytest.raises(ValueError, match="2 augmentations and 1 weights"):
        OneOf([Add(1), Add(2)], [1])


def test_the_share_of_augmented_crops_follows_a_schedule():
    """Within 4 standard deviations; none at 0, as without a schedule at 1."""
    strength = LinearSchedule(start=0, end=1, epochs=10)
    parts = [AddNoise(), Equalise()]
    augment = CropAugmenter(parts[:1], [0.8], strength)
    clean = torch.randn(3000, 400)
    for position in (0.0, 2.5, 7.5):
        set_position(augment, position)
        changed = (augment(clean) != clean).any(1).double().mean()
        share = 0.8 * position / 10
        deviation = (share * (1 - share) / len(clean)) ** 0.5
        assert abs(changed - share) <= 4 * deviation
    grown = CropAugmenter(parts, [0.8, 0.5], strength)
    set_position(grown, 12.0)
    ever = CropAugmenter(parts, [0.8, 0.5])
    torch.manual_seed(1)
    expected = ever(clean[:50])
    torch.manual_seed(1)
    assert torch.equal(grown(clean[:50]), expected)


def test_one_of_them_in_a_growing_share_of_crops():
    one_of = OneOf([AddNoise(), Equalise()], [1, 3])
    clean = torch.randn(3000, 400)
    one_of.strength = LinearSchedule(start=0, end=1, epochs=10)
    assert torch.equal(one_of(clean), clean)
    set_position(CropAugmenter([one_of], [1.0]), 2.5)
    changed = (one_of(clean) != clean).any(1).double().mean()
    assert 0.22 < changed < 0.28
    set_position(one_of, 10.0)
    torch.manual_seed(1)
    grown = one_of(clean)
    assert (grown != clean).any(1).all()
    # At its end it is bit for bit as if there was no schedule
    one_of.strength = None
    torch.manual_seed(1)
    assert torch.equal(one_of(clean), grown)


def test_the_snr_follows_a_schedule():
    shift = LinearSchedule(start=20, end=0, epochs=10)
    inner = AddNoise(snr_low=3, snr_high=12, snr_shift=shift)
    augment = CropAugmenter([OneOf([inner])], [1.0])
    clean = torch.randn(200, 4000)
    for position, low in ((0.0, 23), (5.0, 13), (20.0, 3)):
        set_position(augment, position)
        values = snr(clean, augment(clean))
        assert low - 0.01 < values.min() < low + 1
        assert low + 8 < values.max() < low + 9.01


def test_an_augmentation_may_be_a_function_or_have_a_bank_of_its_own():
    class WithBank(torch.nn.Module):
        bank = "of its own"

    for augmentation in (torch.neg, WithBank()):
        set_position(augmentation, 2.0)
        refresh_banks(augmentation, 3)
