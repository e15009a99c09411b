"""Augmentation in batch, on the training device: every crop on its own.

Without folders of noises and impulse responses, a built-in generator serves.
All randomness comes from torch's global generators: which crops, from that of
the CPU, and how, from that of the device.
"""

import functools
import inspect
import math

import torch
from scipy.fft import next_fast_len
from torchaudio.functional import phase_vocoder, resample

from speechbrain_cadino.dataio.noises import ClipBank, made_noise, made_rirs

# Crops augmented at a time on a CPU: what is computed of more of them does not
# stay in the cache, and is given new memory each time.
CPU_ROWS = 16

# On a GPU, crops are augmented in numbers that this divides: cuFFT makes a plan
# for each new number, which takes it longer than to carry it out.
GPU_STEP = 16

# Longer impulse responses are cut; of more, some are drawn anew each epoch, and
# the others are not held in memory.
LONGEST_RESPONSE = 0.5  # seconds
MOST_RESPONSES = 2000

VOCODER_WINDOW = 512  # samples


class CropAugmenter(torch.nn.Module):
    """Augmentations one after the other, each with its own odds per crop.

    Arguments
    ---------
    augmentations : list of torch.nn.Module
        (batch, samples) to (batch, samples), drawn anew for each row: those of
        this file, or SpeechBrain's DropChunk. Its DropFreq draws one filter
        for all rows.
    probs : list of float
        The probabilities that a crop goes through each of them.
    strength : callable, optional
        The function from the position in training, in epochs, to a factor of
        all probabilities, such as LinearSchedule: see ``set_position``.

    Raises
    ------
    ValueError
        If there is not one probability for each augmentation.

    Example
    -------
    >>> from speechbrain.augment.time_domain import DropChunk
    >>> augment = CropAugmenter([AddNoise(), DropChunk()], [1.0, 0.5])
    >>> augment(torch.randn(8, 16000)).shape
    torch.Size([8, 16000])
    """

    position = 0.0

    def __init__(self, augmentations, probs, strength=None):
        super().__init__()
        if len(augmentations) != len(probs):
            raise ValueError(
                f"{len(augmentations)} augmentations and {len(probs)} "
                "probabilities: give one for each."
            )
        self.augmentations = torch.nn.ModuleList(augmentations)
        self.probs = probs
        self.strength = strength

    @torch.no_grad()
    def forward(self, wavs):
        """Augments each crop on its own.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples).

        Returns
        -------
        torch.Tensor
            A new tensor of the same shape.
        """
        wavs = wavs.clone()
        rows = CPU_ROWS if wavs.device.type == "cpu" else max(len(wavs), 1)
        for part in wavs.split(rows):
            self._augment(part)
        return wavs

    def _augment(self, wavs):
        """Augments crops in place."""
        strength = 1 if self.strength is None else self.strength(self.position)
        for augmentation, prob in zip(self.augmentations, self.probs):
            # Drawn by the host, which would have to wait for a GPU's answer
            chosen = torch.rand(len(wavs)) < strength * prob
            chosen = chosen.nonzero().squeeze(1)
            _change(augmentation, wavs, chosen)


class OneOf(torch.nn.Module):
    """Each crop goes through exactly one of several augmentations.

    Arguments
    ---------
    augmentations : list of torch.nn.Module
        See CropAugmenter, among whose augmentations it may be.
    weights : list of float, optional
        The odds of each; equal by default.
    strength : callable, optional
        The function from the position in training, in epochs, to the
        probability that a crop is augmented at all; 1 without it. See
        ``set_position``.

    Raises
    ------
    ValueError
        If there is not one weight for each augmentation.

    Example
    -------
    >>> clean = torch.randn(8, 16000)
    >>> (OneOf([AddNoise(), AddReverb()])(clean) != clean).any(1).all()
    tensor(True)
    """

    position = 0.0

    def __init__(self, augmentations, weights=None, strength=None):
        super().__init__()
        weights = [1.0] * len(augmentations) if weights is None else weights
        if len(augmentations) != len(weights):
            raise ValueError(
                f"{len(augmentations)} augmentations and {len(weights)} "
                "weights: give one for each."
            )
        self.augmentations = torch.nn.ModuleList(augmentations)
        self.weights = weights
        self.strength = strength

    @torch.no_grad()
    def forward(self, wavs):
        """(batch, samples) to (batch, samples), a new tensor."""
        weights = torch.tensor(self.weights, dtype=torch.float32)
        turns = weights.multinomial(len(wavs), replacement=True)
        strength = 1 if self.strength is None else self.strength(self.position)
        if strength < 1:  # else nothing is drawn: all is as without
            turns[torch.rand(len(wavs)) >= strength] = -1  # nobody's
        return _take_turns(self.augmentations, wavs, turns)


class AddNoise(torch.nn.Module):
    """Adds noise, music or babble at a random signal-to-noise ratio.

    Arguments
    ---------
    data_folder : str or pathlib.Path, optional
        Folder of the noise files. Without it, noise of a random spectral slope
        and random slow level changes is made.
    manifest : str or pathlib.Path, optional
        The files to use of that folder; without a folder it is not looked at.
    snr_low, snr_high : float
        The limits of the ratio, in dB, of all that is added. 0 to 15 for noise
        and 5 to 15 for music in the x-vector recipe (Snyder et al., 2018),
        where each clip of babble has 13 to 20, so that the sum is louder.
    clips : list of int
        The least and the largest number of files that are mixed: [1, 1] for
        noise, [3, 7] of speech for babble there.
    snr_shift : callable, optional
        The function from the position in training, in epochs, to dB that are
        added to both limits, such as LinearSchedule: see ``set_position``.
    bank_minutes : float
        The minutes of noise held in memory; a larger set is sampled anew each
        epoch.
    clip_seconds : float
        Length of a piece in memory; no crop may be longer.
    sample_rate : int
        The sample rate, in Hz.

    Example
    -------
    >>> add_noise = AddNoise(snr_low=10, snr_high=10)
    >>> clean = torch.randn(4, 16000)
    >>> noise = add_noise(clean) - clean
    >>> ratio = clean.square().mean(1) / noise.square().mean(1)
    >>> torch.allclose(10 * ratio.log10(), torch.tensor(10.0), atol=1e-3)
    True
    """

    position = 0.0

    def __init__(
        self,
        data_folder=None,
        manifest=None,
        snr_low=0,
        snr_high=15,
        clips=(1, 1),
        snr_shift=None,
        bank_minutes=60,
        clip_seconds=5.0,
        sample_rate=16000,
    ):
        super().__init__()
        self.snr_low = snr_low
        self.snr_high = snr_high
        self.clips = clips
        self.snr_shift = snr_shift
        self.bank = None
        if data_folder is not None:
            self.bank = ClipBank(
                manifest,
                data_folder,
                clip_samples=round(clip_seconds * sample_rate),
                max_clips=math.ceil(bank_minutes * 60 / clip_seconds),
                sample_rate=sample_rate,
            )

    def forward(self, wavs):
        """(batch, samples) to (batch, samples)."""
        noise = self._noise(wavs)
        snr = torch.empty(len(wavs), 1, device=wavs.device)
        snr = snr.uniform_(self.snr_low, self.snr_high)
        if self.snr_shift is not None:
            snr += self.snr_shift(self.position)
        gain = _rms(wavs) / _rms(noise) / 10 ** (snr / 20)
        return torch.addcmul(wavs, gain, noise)

    def _noise(self, wavs):
        """Noise of the shape of ``wavs``."""
        if self.bank is None:
            return made_noise(*wavs.shape, wavs.device)
        low, high = self.clips
        count = torch.randint(low, high + 1, (len(wavs), 1))
        count = count.to(wavs.device)
        noise = torch.zeros_like(wavs)
        for clip in range(high):
            drawn = self.bank.draw(*wavs.shape, wavs.device)
            noise += drawn.mul_(clip < count)
        return noise


class AddReverb(torch.nn.Module):
    """Convolves with a random room impulse response.

    The response is cut so that the direct sound comes first, no delay, and to
    ``LONGEST_RESPONSE``.

    Arguments
    ---------
    data_folder : str or pathlib.Path, optional
        Folder of the impulse responses. Without it, exponentially decaying
        noise after a direct sound is made, as in a room of a random
        reverberation time.
    manifest : str or pathlib.Path, optional
        The files to use of that folder; without a folder it is not looked at.
    sample_rate : int
        The sample rate, in Hz.

    Example
    -------
    >>> click = torch.zeros(2, 8000)
    >>> click[:, 100] = 1.0
    >>> wet = AddReverb()(click)
    >>> wet.abs().argmax(1)
    tensor([100, 100])
    """

    def __init__(
        self,
        data_folder=None,
        manifest=None,
        sample_rate=16000,
    ):
        super().__init__()
        self.max_samples = round(LONGEST_RESPONSE * sample_rate)
        self.sample_rate = sample_rate
        self.bank = None
        if data_folder is not None:
            self.bank = ClipBank(
                manifest,
                data_folder,
                clip_samples=self.max_samples,
                max_clips=MOST_RESPONSES,
                sample_rate=sample_rate,
                impulses=True,
            )

    def forward(self, wavs):
        """(batch, samples) to (batch, samples), at the same level."""
        if self.bank is None:
            rirs = made_rirs(
                len(wavs), self.max_samples, self.sample_rate, wavs.device
            )
        else:
            rirs = self.bank.draw(len(wavs), self.max_samples, wavs.device)
        samples = wavs.shape[1]
        size = _fft_size(samples + self.max_samples - 1)
        spectrum = torch.fft.rfft(wavs, size) * torch.fft.rfft(rirs, size)
        wet = torch.fft.irfft(spectrum, size)[:, :samples]
        return wet * (_rms(wavs) / _rms(wet))


class Equalise(torch.nn.Module):
    """Filters with a random smooth frequency response, and often a band limit.

    It stands for microphones, lines and codecs: what tells recordings apart
    and must not tell voices apart.

    Arguments
    ---------
    gain : float
        Standard deviation of the response in dB, at points one octave apart.
    band_limit_prob : float
        The probability that what is below ``low`` and above ``high`` is cut as
        well.
    low, high : list of float
        Ranges of the limits in Hz.
    sample_rate : int
        The sample rate, in Hz.

    Example
    -------
    >>> Equalise()(torch.randn(4, 16000)).shape
    torch.Size([4, 16000])
    """

    def __init__(
        self,
        gain=6.0,
        band_limit_prob=0.3,
        low=(50, 400),
        high=(3000, 7500),
        sample_rate=16000,
    ):
        super().__init__()
        self.gain = gain
        self.band_limit_prob = band_limit_prob
        self.low = low
        self.high = high
        self.sample_rate = sample_rate

    def forward(self, wavs):
        """(batch, samples) to (batch, samples), at the same level."""
        spectrum = torch.fft.rfft(wavs)
        response = self._response(spectrum.shape, wavs.device)
        filtered = torch.fft.irfft(spectrum * response, n=wavs.shape[1])
        return filtered * (_rms(wavs) / _rms(filtered))

    def _response(self, shape, device):
        """Gains, (batch, frequencies)."""
        batch, size = shape
        freqs = torch.linspace(0, self.sample_rate / 2, size, device=device)
        octaves = 8
        points = self.gain * torch.randn(batch, octaves, device=device)
        # Position of each frequency on the octave scale, 62.5 Hz at 0.
        position = (freqs / (self.sample_rate / 256)).clamp(1).log2()
        position = position.clamp(max=octaves - 1 - 1e-4)
        left = position.long()
        weight = position - left
        decibel = points[:, left] * (1 - weight) + points[:, left + 1] * weight
        limits = torch.empty(2, batch, 1, device=device)
        limits[0].uniform_(*self.low)
        limits[1].uniform_(*self.high)
        passed = (freqs > limits[0]) & (freqs < limits[1])
        unlimited = torch.rand(batch, 1, device=device) > self.band_limit_prob
        decibel = decibel - 50.0 * (~passed & ~unlimited)
        return 10 ** (decibel / 20)


class ShiftPitch(torch.nn.Module):
    """Moves all frequencies by a random ratio, and leaves sounds where they
    are in time: another voice says the same.

    It is for encoders of frames, which are to find the same phones in it; to
    one of speakers it is a change of what it is to know. A phase vocoder
    stretches the crop (torchaudio's), resampling undoes the stretch.

    Arguments
    ---------
    ratios : list of (list of int)
        New to old frequencies: [9, 8] is two semitones up, [8, 9] two down.
        Small numbers are fast. Ours.

    Raises
    ------
    ValueError
        If a ratio is not one of two whole numbers.

    Example
    -------
    >>> ShiftPitch()(torch.randn(4, 16000)).shape
    torch.Size([4, 16000])
    """

    def __init__(self, ratios=((7, 8), (8, 9), (9, 8), (8, 7))):
        super().__init__()
        for ratio in ratios:
            whole = all(isinstance(number, int) for number in ratio)
            if len(ratio) != 2 or not whole or min(ratio) < 1:
                raise ValueError(
                    f"ratios={ratios}: give pairs of whole numbers, such as "
                    "[9, 8] for two semitones up."
                )
        self.shifts = torch.nn.ModuleList(_Shift(*ratio) for ratio in ratios)

    def forward(self, wavs):
        """(batch, samples) to (batch, samples), at the same level."""
        turns = torch.randint(len(self.shifts), (len(wavs),))
        shifted = _take_turns(self.shifts, wavs, turns)
        return shifted * (_rms(wavs) / _rms(shifted))


class _Shift(torch.nn.Module):
    """Moves all frequencies by one ratio."""

    def __init__(self, new, old):
        super().__init__()
        self.new = new
        self.old = old

    def forward(self, wavs):
        samples, hop = wavs.shape[1], VOCODER_WINDOW // 4
        options = {
            "n_fft": VOCODER_WINDOW,
            "hop_length": hop,
            "window": torch.hann_window(VOCODER_WINDOW, device=wavs.device),
        }
        spectra = torch.stft(
            wavs, **options, pad_mode="constant", return_complex=True
        )
        advance = torch.linspace(0, math.pi * hop, spectra.shape[1])
        stretched = phase_vocoder(
            spectra, self.old / self.new, advance[:, None].to(wavs.device)
        )
        length = -(-samples * self.new // self.old)
        stretched = torch.istft(stretched, **options, length=length)
        return resample(stretched, self.new, self.old)[:, :samples]


def refresh_banks(module, epoch):
    """Tells every bank of noises in a module which epoch begins.

    Arguments
    ---------
    module : torch.nn.Module
        The module, such as a CropAugmenter.
    epoch : int
        The epoch, counted from 1.
    """
    for part in _parts(module):
        if isinstance(getattr(part, "bank", None), ClipBank):
            part.bank.refresh(epoch)


def augment_some(augment, chosen, wavs):
    """Augments some crops, and leaves the others as they are.

    Arguments
    ---------
    augment : callable
        The augmentation of all rows that it is given, such as CropAugmenter.
    chosen : torch.Tensor
        The crops to augment, (batch,), bool, on the CPU.
    wavs : torch.Tensor
        Signals, (batch, samples).

    Returns
    -------
    torch.Tensor
        A new tensor of the same shape.

    Example
    -------
    >>> chosen = torch.tensor([True, False])
    >>> augment_some(torch.neg, chosen, torch.ones(2, 3)).tolist()
    [[-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]]
    """
    wavs = wavs.clone()
    _change(augment, wavs, chosen.nonzero().squeeze(1))
    return wavs


def set_position(module, position):
    """Tells all that has a position in a module, such as augmentations, how
    far training is.

    Arguments
    ---------
    module : torch.nn.Module
        The module, such as a CropAugmenter.
    position : float
        The position, in epochs.

    Example
    -------
    >>> from speechbrain_cadino.training.schedules import LinearSchedule
    >>> strength = LinearSchedule(start=0, end=1, epochs=10)
    >>> augment = CropAugmenter([AddNoise()], [1.0], strength)
    >>> clean = torch.randn(8, 16000)
    >>> bool((augment(clean) == clean).all())
    True
    >>> set_position(augment, 10.0)
    >>> bool((augment(clean) == clean).any())
    False
    """
    for part in _parts(module):
        if hasattr(part, "position"):
            part.position = position


def _parts(augmentation):
    """The modules of an augmentation; a function has none."""
    if isinstance(augmentation, torch.nn.Module):
        return augmentation.modules()
    return ()


def _fft_size(samples):
    """A size not below samples that transforms fast.

    Many factors of two help: 56250 takes 1.6 times as long as 57600.
    """
    return 256 * next_fast_len(-(-samples // 256), real=True)


def _rms(wavs):
    """Root mean square of each row, (batch, 1)."""
    norm = torch.linalg.vector_norm(wavs, dim=1, keepdim=True)
    return (norm / wavs.shape[1] ** 0.5).clamp(1e-8)


def _change(augmentation, wavs, chosen):
    """Augments the chosen crops, indices on the host, in place."""
    count = len(chosen)
    if not count:
        return
    rows = chosen.to(wavs.device, non_blocking=True)
    if not wavs.is_cpu:
        spare = rows[:1].expand(-count % GPU_STEP)
        rows = torch.cat([rows, spare])
    augmented = _call(augmentation, wavs.index_select(0, rows))
    wavs.index_copy_(0, rows[:count], augmented[:count])


def _take_turns(augmentations, wavs, turns):
    """Each crop through the augmentation whose turn it is, in a new tensor."""
    augmented = wavs.clone()
    for turn, augmentation in enumerate(augmentations):
        chosen = (turns == turn).nonzero().squeeze(1)
        _change(augmentation, augmented, chosen)
    return augmented


@functools.cache
def _wants_lengths(kind):
    if not hasattr(kind, "forward"):  # a function
        return False
    return "lengths" in inspect.signature(kind.forward).parameters


def _call(augmentation, wavs):
    """Calls an augmentation; SpeechBrain's may want relative lengths too."""
    # A filter in bf16 would be heard
    with torch.autocast(wavs.device.type, enabled=False):
        if _wants_lengths(type(augmentation)):
            lengths = torch.ones(len(wavs), device=wavs.device)
            return augmentation(wavs, lengths)
        return augmentation(wavs)
