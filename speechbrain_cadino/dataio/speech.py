"""Speech: how much of a signal it is.

The one home of this question: the filter of manifests asks it. Each detector is
a module from waveforms (B, samples), and lengths, to the share of speech in
each, (B, 1), so that an Embedder can carry it through a manifest as it carries
an encoder.
"""

import torch

from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

# At lower levels Silero VAD loses speech: 0.9 at -40 dB of full scale is 0.8 to
# 0.4 at -60, and 0.1 at -80. And above full scale, in part.
FAINT = 0.005  # RMS, -46 dB

HINT = 'pip install "speechbrain_cadino[vad]"'


class Silero(torch.nn.Module):
    """The mean probability of speech by Silero VAD
    (https://github.com/snakers4/silero-vad), a network of 0.3 M parameters
    whose weights are in its wheel.

    Arguments
    ---------
    sample_rate : int
        The sample rate, 8000 or 16000 Hz.

    Attributes
    ----------
    least : float
        The score below which a signal is no utterance. Ours: 279 clips of
        Common Voice have 0.34 to 0.98; 50 of rain, sea, fire, clocks and
        engines 0.05 at most.

    Raises
    ------
    ImportError
        If it is not installed: it comes with the extra ``vad``.
    ValueError
        If it knows no such rate.
    """

    least = 0.2

    # Samples that it looks at, at each rate
    FRAMES = {8000: 256, 16000: 512}

    def __init__(self, sample_rate=16000):
        super().__init__()
        if sample_rate not in self.FRAMES:
            raise ValueError(
                f"Silero VAD takes 8000 and 16000 Hz, not {sample_rate}: take "
                "detector=modulation."
            )
        self.sample_rate = sample_rate
        self.network = _load_silero()

    def forward(self, wavs, wav_lens=None):
        """(B, samples), all whole, to the mean probability, (B, 1)."""
        return self.frames(wavs).mean(1, keepdim=True)

    def frames(self, wavs):
        """The probability of speech over time.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, shape (B, samples), float32.

        Returns
        -------
        torch.Tensor
            Probabilities of speech, shape (B, frames): of each 32 ms. Of an
            end that fills no frame there is none, unless there is nothing
            else.
        """
        wavs = _at_a_level(wavs)
        size = self.FRAMES[self.sample_rate]
        missing = max(size - wavs.shape[1], 0)
        wavs = torch.nn.functional.pad(wavs, (0, missing))
        self.network.reset_states()
        # Its optimised form computes other digits after a few calls
        with torch.inference_mode(), torch.jit.optimized_execution(False):
            frames = [
                self.network(frame, self.sample_rate).flatten()
                for frame in wavs.split(size, 1)
                if frame.shape[1] == size
            ]
        return torch.stack(frames, 1)


def _at_a_level(wavs):
    """Signals (B, samples): faint ones raised, those beyond full scale lowered;
    all others as they are."""
    rms = wavs.square().mean(1, keepdim=True).sqrt()
    peak = wavs.abs().amax(1, keepdim=True)
    gain = (FAINT / rms.clamp(1e-10, FAINT)) / peak.clamp(min=1)
    return wavs * gain


class Modulation(torch.nn.Module):
    """The share of a signal's slow changes that are as fast as syllables: 2 to
    8 changes a second, where the spectrum of the envelope of speech has its
    hill (Houtgast and Steeneken, 1985). It needs nothing to be installed.

    The envelopes are those of eight bands from 125 to 6000 Hz (ours), each with
    a power spectrum of its own; the shares of 2 to 8 Hz in these, of 0.5 to 50,
    are averaged. Steady noise has 0.14, as it has all rates alike.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.

    Attributes
    ----------
    least : float
        The score below which a signal is no utterance. Ours: 95% of the clips
        of Common Voice have 0.42 and more, rain, sea, fire and engines 0.22 in
        the median. It takes no chord for speech, but a dog or a clock.

    Example
    -------
    >>> time = torch.arange(48000) / 16000
    >>> tone = torch.sin(2 * torch.pi * 440 * time)
    >>> syllables = tone * (1 + torch.sin(2 * torch.pi * 4 * time))
    >>> noise = torch.randn(48000, generator=torch.manual_seed(0))
    >>> shares = Modulation()(torch.stack([syllables, noise]))
    >>> shares.flatten() > 0.5
    tensor([ True, False])
    """

    least = 0.33
    bands = 8
    edges = (125.0, 6000.0)  # Hz
    syllables = (2.0, 8.0)  # Hz
    rates = (0.5, 50.0)  # Hz

    def __init__(self, sample_rate=16000):
        super().__init__()
        self.sample_rate = sample_rate
        self.hop = round(0.01 * sample_rate)
        self.register_buffer("window", torch.hann_window(sample_rate // 40))
        low, high = (torch.tensor(edge).log() for edge in self.edges)
        edges = torch.linspace(low, high, self.bands + 1).exp()
        bins = torch.arange(len(self.window) // 2 + 1)
        frequencies = bins * sample_rate / len(self.window)
        inside = (frequencies >= edges[:-1, None]) & (
            frequencies < edges[1:, None]
        )
        self.register_buffer("filters", inside.float())

    def forward(self, wavs, wav_lens=None):
        """(B, samples), all whole, to the share of syllables, (B, 1)."""
        missing = max(2 * len(self.window) - wavs.shape[1], 0)
        spectrum = torch.stft(
            torch.nn.functional.pad(wavs, (0, missing)),
            len(self.window),
            self.hop,
            window=self.window,
            center=False,
            return_complex=True,
        )
        power = spectrum.real.square() + spectrum.imag.square()
        envelopes = (self.filters @ power).sqrt()  # (B, bands, frames)
        envelopes = envelopes - envelopes.mean(-1, keepdim=True)
        frames = envelopes.shape[-1]
        taper = torch.hann_window(frames, periodic=False, device=wavs.device)
        power = torch.fft.rfft(envelopes * taper).abs().square()
        rates = torch.arange(power.shape[-1], device=wavs.device) * 100 / frames
        within, syllables = (
            ((rates >= low) & (rates <= high)).to(power.dtype)
            for low, high in (self.rates, self.syllables)
        )
        shares = (power @ syllables) / (power @ within).clamp(1e-20)
        return shares.mean(1, keepdim=True)


DETECTORS = {"silero": Silero, "modulation": Modulation}


def load_detector(name="auto", sample_rate=16000):
    """A detector of speech.

    Arguments
    ---------
    name : str
        "silero", "modulation", or "auto": the former where it is installed,
        else the latter, which a line of the log says; None or "null" for
        none.
    sample_rate : int
        The sample rate, in Hz.

    Returns
    -------
    torch.nn.Module
        The detector, from (B, samples) to (B, 1); what has less than its
        ``least`` is no utterance. None for none.

    Raises
    ------
    ImportError
        If Silero VAD is asked for and not installed.
    ValueError
        If there is no such detector.

    Example
    -------
    >>> load_detector("modulation").least
    0.33
    >>> load_detector("ear")
    Traceback (most recent call last):
    ...
    ValueError: detector=ear: give silero, modulation or auto.
    """
    if name in (None, "null"):
        return None
    if name == "auto":
        try:
            return Silero(sample_rate)
        except (ImportError, ValueError) as reason:
            logger.info(f"Speech is told by its modulation. {reason}")
            return Modulation(sample_rate)
    if name not in DETECTORS:
        raise ValueError(
            f"detector={name}: give {', '.join(DETECTORS)} or auto."
        )
    return DETECTORS[name](sample_rate)


def _load_silero():
    """The network; its package sets the number of threads when imported."""
    threads = torch.get_num_threads()
    try:
        from silero_vad import load_silero_vad
    except ImportError as error:
        raise ImportError(
            f"Silero VAD tells speech best, and is not installed: {HINT}."
        ) from error
    finally:
        torch.set_num_threads(threads)
    return load_silero_vad()
