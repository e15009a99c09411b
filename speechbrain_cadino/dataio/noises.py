"""Noises and rooms: clips of files held in memory, or made ones."""

import torch
import torch.nn.functional as F
from tqdm import tqdm

from speechbrain.utils.distributed import if_main_process
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.audio import AudioError, AudioReader
from speechbrain_cadino.dataio.manifest import read_manifest

logger = get_logger(__name__)


class ClipBank:
    """Pieces of audio files in memory, drawn at random.

    Loaded at first use, as the manifest may be prepared later than this
    object is made. With more files than ``max_clips``, ``refresh`` takes
    others each epoch.

    Arguments
    ---------
    manifest : str or pathlib.Path
        CSV file.
    data_folder : str or pathlib.Path
        The folder that ``$data_root`` in it stands for.
    clip_samples : int
        Length of a piece; shorter files are repeated, or padded with zeros if
        they are impulse responses.
    max_clips : int
        The number of pieces that are held, at most.
    sample_rate : int
        The sample rate, in Hz.
    impulses : bool
        Whether these are impulse responses, to be cut before their peak.
    """

    def __init__(
        self,
        manifest,
        data_folder,
        clip_samples,
        max_clips,
        sample_rate,
        impulses=False,
    ):
        self.manifest = manifest
        self.data_folder = data_folder
        self.clip_samples = clip_samples
        self.max_clips = max_clips
        self.sample_rate = sample_rate
        self.impulses = impulses
        self._pieces = None
        self._epoch = 0
        self._loaded = None

    def refresh(self, epoch):
        """Chooses the epoch, and with it the pieces of a larger set.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        """
        self._epoch = epoch

    def draw(self, count, samples, device):
        """Draws pieces at random.

        Arguments
        ---------
        count : int
            The number of pieces.
        samples : int
            The length of each, at most ``clip_samples``.
        device : torch.device
            The device that they are made on.

        Returns
        -------
        torch.Tensor
            Pieces, (count, samples), float32.

        Raises
        ------
        ValueError
            If the crops are longer than the pieces of noise.
        """
        if samples > self.clip_samples:
            raise ValueError(
                f"A crop of {samples} samples is longer than the noise pieces "
                f"of {self.clip_samples}: raise clip_seconds."
            )
        clips = self._load(device)
        which = torch.randint(len(clips), (count,), device=device)
        spare = 0 if self.impulses else self.clip_samples - samples
        first = torch.randint(spare + 1, (count,), device=device)
        # A view of all pieces there are: rows are copied, not samples looked up
        return clips.unfold(1, samples, 1)[which, first].float()

    def _load(self, device):
        """The clips of the current epoch, (clips, samples), half precision."""
        if self._pieces is None:
            self._pieces = self._list_pieces()
        everything = len(self._pieces) <= self.max_clips
        wanted = 0 if everything else self._epoch
        if self._loaded is None or self._loaded[0] != wanted:
            pieces = self._pieces
            if not everything:
                generator = torch.Generator().manual_seed(self._epoch)
                chosen = torch.randperm(len(pieces), generator=generator)
                pieces = [pieces[i] for i in chosen[: self.max_clips]]
            logger.info(f"Reading {len(pieces)} clips of {self.manifest}")
            self._loaded = wanted, self._read_all(pieces)
        # Moved once, unless it is heard on several devices by turns
        self._loaded = wanted, self._loaded[1].to(device)
        return self._loaded[1]

    def _read_all(self, pieces):
        """The pieces that can be read, (clips, samples)."""
        clips, errors = [], []
        bar = tqdm(
            pieces,
            "Reading clips",
            leave=False,
            disable=not if_main_process(),
        )
        for piece in bar:
            try:
                clips.append(self._read(*piece))
            except AudioError as error:
                errors.append(error)
        if not clips:
            raise errors[0]
        if errors:
            logger.warning(
                f"{len(errors)} clips of {self.manifest} are left out, "
                f"the first: {errors[0]}"
            )
        return torch.stack(clips)

    def _list_pieces(self):
        """(file, first sample) of every piece; a file gives at least one."""
        table = read_manifest(self.manifest, self.data_folder)
        pieces = []
        for wav, start, stop in zip(
            table["wav"], table["start"], table["stop"]
        ):
            last = stop - self.clip_samples
            firsts = range(start, last + 1, self.clip_samples)
            if self.impulses or last < start:
                firsts = [start]
            pieces.extend((wav, first, stop) for first in firsts)
        return pieces

    def _read(self, wav, first, stop):
        """One piece at peak 1."""
        if not self.impulses:
            stop = min(stop, first + self.clip_samples)
        with AudioReader(wav, self.sample_rate) as audio:
            clip = audio.read(first, stop)
        if not len(clip):
            raise AudioError(f"{wav}: empty.")
        if self.impulses:
            clip = clip[clip.abs().argmax() :][: self.clip_samples]
            clip = F.pad(clip, (0, self.clip_samples - len(clip)))
        else:
            repeats = -(-self.clip_samples // len(clip))
            clip = clip.repeat(repeats)[: self.clip_samples]
        return (clip / clip.abs().max().clamp(1e-6)).half()


def made_noise(count, samples, device):
    """Noise of a random spectral slope, its level changing slowly.

    Arguments
    ---------
    count, samples : int
        The shape wanted.
    device : torch.device
        The device that they are made on.

    Returns
    -------
    torch.Tensor
        Noises, (count, samples).

    Example
    -------
    >>> made_noise(2, 1000, "cpu").shape
    torch.Size([2, 1000])
    """
    spectrum = torch.fft.rfft(torch.randn(count, samples, device=device))
    freqs = torch.arange(1, spectrum.shape[1] + 1, device=device)
    # From white (0) to brown (1): amplitude falls as 1 / f ** slope.
    slope = torch.rand(count, 1, device=device)
    noise = torch.fft.irfft(spectrum / freqs**slope, n=samples)
    level = torch.randn(count, 1, 8, device=device)
    level = F.interpolate(level, samples, mode="linear").squeeze(1)
    return noise * 10 ** (level * 3 / 20)


def made_rirs(count, samples, sample_rate, device):
    """Room impulse responses: a direct sound and decaying noise behind it.

    Reverberation times between 0.2 and 0.8 s, direct-to-reverberant ratios
    between -3 and 12 dB.

    Arguments
    ---------
    count, samples : int
        The shape wanted.
    sample_rate : int
        The sample rate, in Hz.
    device : torch.device
        The device that they are made on.

    Returns
    -------
    torch.Tensor
        Impulse responses, (count, samples), the direct sound first.

    Example
    -------
    >>> made_rirs(2, 8000, 16000, "cpu")[:, 0]
    tensor([1., 1.])
    """
    rt60 = torch.empty(count, 1, device=device).uniform_(0.2, 0.8)
    seconds = torch.arange(samples, device=device) / sample_rate
    # 60 dB down after rt60 seconds: a factor of 10 ** -3.
    tail = torch.randn(count, samples, device=device)
    tail = tail * 10 ** (-3 * seconds / rt60)
    tail[:, 0] = 0.0
    ratio = torch.empty(count, 1, device=device).uniform_(-3, 12)
    energy = tail.square().sum(1, keepdim=True).sqrt()
    rirs = tail / energy / 10 ** (ratio / 20)
    rirs[:, 0] = 1.0
    return rirs
