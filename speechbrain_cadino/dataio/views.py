"""Views of a batch of signals: crops for self-distillation, cut on the device.

MultiCropDataset cuts crops while it reads, which spares most of the reading;
ViewCutter serves where a batch of padded signals is there already.
"""

import torch

from speechbrain_cadino.dataio.crop_reader import MAX_SILENT, crop_samples
from speechbrain_cadino.dataio.signal import QUANTUM


class ViewCutter:
    """Global and local crops of padded signals, at random places.

    All of them lie within the true length of their signal. One that is shorter
    than a crop is repeated until it fills it. A crop that is silent is drawn
    again, as in MultiCropDataset: the teacher answers silence by nothing that
    tells voices apart.

    Arguments
    ---------
    sample_rate : int
        The sample rate, in Hz.
    global_crops, local_crops : int
        The number of crops of each kind. 2 and 4 in WeSpeaker's DINO recipe for
        VoxCeleb, 2 and 0 in DINO-VITS.
    global_seconds, local_seconds : float
        The length of a crop of each kind, in seconds. 3 and 2 in WeSpeaker's.

    Raises
    ------
    ValueError
        If there are no two crops to compare, or they have no length.

    Example
    -------
    >>> cut = ViewCutter(global_seconds=0.3, local_seconds=0.2)
    >>> groups = cut(torch.randn(8, 16000), torch.linspace(0.1, 1, 8))
    >>> [group.shape for group in groups]
    [torch.Size([16, 4800]), torch.Size([32, 3200])]
    """

    def __init__(
        self,
        sample_rate=16000,
        global_crops=2,
        global_seconds=3.0,
        local_crops=4,
        local_seconds=2.0,
    ):
        if (
            global_crops < 1
            or local_crops < 0
            or global_crops + local_crops < 2
        ):
            raise ValueError(
                f"global_crops={global_crops}, local_crops={local_crops}: DINO "
                "compares views of an utterance. Give at least one global crop "
                "and two crops in all."
            )
        self.groups = [
            (count, crop_samples(seconds, sample_rate))
            for count, seconds in [
                (global_crops, global_seconds),
                (local_crops, local_seconds),
            ]
            if count
        ]

    def __call__(self, wavs, lengths=None):
        """Cuts the crops.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples), on any device.
        lengths : torch.Tensor, optional
            The true lengths, relative to ``samples`` as SpeechBrain has them,
            (batch,). Without them, the signals are not padded.

        Returns
        -------
        list of torch.Tensor
            The global crops, (views * batch, samples), all of the first view
            first; then the local ones, if there are any.

        Raises
        ------
        ValueError
            If the signals are not of one channel.
        """
        if wavs.ndim != 2:
            raise ValueError(
                f"Signals of shape {tuple(wavs.shape)}: views are cut from "
                "(batch, samples), of one channel."
            )
        longest = wavs.shape[1]
        if lengths is None:
            lengths = torch.ones(len(wavs))
        ends = (lengths.to(wavs.device) * longest).round().long()
        ends = ends.clamp(1, longest)
        return [_cut(wavs, ends, *group) for group in self.groups]


def _cut(wavs, ends, count, samples):
    """So many crops of each signal, (count * batch, samples)."""
    rows = torch.arange(len(wavs), device=wavs.device).repeat(count)
    crops = _draw(wavs, ends, rows, samples)
    for _ in range(MAX_SILENT - 1):
        # Of what it fills there is one place
        silent = (crops.std(1, correction=0) <= QUANTUM) & (ends > samples)[
            rows
        ]
        if not silent.any():
            break
        crops[silent] = _draw(wavs, ends, rows[silent], samples)
    return crops


def _draw(wavs, ends, rows, samples):
    """A crop at a random place of each of these rows."""
    ends = ends[rows]
    spare = (ends - samples).clamp(min=0)
    # Drawn by the host, as what is drawn there is the same for any device
    places = torch.rand(len(rows)).to(wavs.device)
    first = (places * (spare + 1)).long().minimum(spare)
    index = first[:, None] + torch.arange(samples, device=wavs.device)
    return wavs[rows[:, None], index % ends[:, None]]
