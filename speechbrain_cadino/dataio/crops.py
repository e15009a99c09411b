"""Multi-crop: several random pieces of one utterance, read in one go."""

from fractions import Fraction

import numpy as np
import torch
from torch.utils.data import Dataset
from torchaudio.functional import resample

from speechbrain_cadino.dataio.audio import AudioError, AudioReader
from speechbrain_cadino.dataio.manifest import read_manifest

# Draws of another utterance before a batch is given up.
MAX_REPLACEMENTS = 10


class MultiCropDataset(Dataset):
    """Random global and local crops of the utterances of a manifest.

    Crops depend on (seed, epoch, index) alone, so they are the same whatever
    the number of workers, and after a resume. An utterance shorter than a crop
    is repeated until it fills it. One that cannot be read, or is silent, is
    replaced by another one, and the item says so.

    Arguments
    ---------
    manifest : str or pathlib.Path
        CSV file: see ``dataio.manifest``.
    data_root : str or pathlib.Path, optional
        What ``$data_root`` in the manifest stands for.
    global_crops, local_crops : int
        How many of each. 2 and 4 in WeSpeaker's DINO recipe for VoxCeleb.
    global_seconds, local_seconds : float
        Their lengths. 3 and 2 seconds there.
    speeds : list of float
        An utterance played faster or slower is one of another voice: each
        speed makes utterances of their own. [1.0, 0.9, 1.1] triples the
        voices of a small corpus.
    passes_per_epoch : int
        How often an epoch goes through the manifest: a small corpus makes
        very short epochs otherwise.
    sample_rate : int
        In Hz.
    seed : int
        Of the crop positions.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", np.random.randn(64000), 16000)
    >>> _ = (folder / "train.csv").write_text(
    ...     "ID,duration,wav,start,stop\\na,4.0,$data_root/a.wav,0,64000\\n"
    ... )
    >>> crops = MultiCropDataset(folder / "train.csv", folder)
    >>> item = crops[0]
    >>> item["id"], item["globals"].shape, item["locals"].shape
    ('a', torch.Size([2, 48000]), torch.Size([4, 32000]))
    """

    def __init__(
        self,
        manifest,
        data_root=None,
        global_crops=2,
        global_seconds=3.0,
        local_crops=4,
        local_seconds=2.0,
        speeds=(1.0,),
        passes_per_epoch=1,
        sample_rate=16000,
        seed=0,
    ):
        table = read_manifest(manifest, data_root)
        # Columns, not a dict per row: a fraction of the memory.
        self.ids = table["ID"].to_numpy()
        self.wavs = table["wav"].to_numpy()
        self.starts = table["start"].to_numpy()
        self.stops = table["stop"].to_numpy()
        self.lengths = [round(global_seconds * sample_rate)] * global_crops
        self.lengths += [round(local_seconds * sample_rate)] * local_crops
        self.global_crops = global_crops
        self.speeds = [Fraction(s).limit_denominator(20) for s in speeds]
        self.passes_per_epoch = passes_per_epoch
        self.sample_rate = sample_rate
        self.seed = seed
        # In shared memory, so that persistent workers see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch):
        """Chooses the epoch, whose crops differ from those of the others.

        Arguments
        ---------
        epoch : int
            Counted from 1.
        """
        self._epoch.fill_(epoch)

    def __len__(self):
        return len(self.ids) * len(self.speeds) * self.passes_per_epoch

    def __getitem__(self, index):
        """The crops of one utterance.

        Returns
        -------
        dict
            ``id``; ``globals``, (global_crops, samples); ``locals``,
            (local_crops, samples); ``problem``, empty or why another
            utterance was replaced by this one.
        """
        rng = np.random.default_rng((self.seed, self._epoch.item(), index))
        row, problem = index % len(self.ids), ""
        speed = self.speeds[index // len(self.ids) % len(self.speeds)]
        for _ in range(MAX_REPLACEMENTS):
            try:
                crops = self._read_crops(row, speed, rng)
                return {
                    "id": self.ids[row],
                    "globals": _stack(crops[: self.global_crops]),
                    "locals": _stack(crops[self.global_crops :]),
                    "problem": problem,
                }
            except AudioError as error:
                problem = problem or str(error)
                row = rng.integers(len(self.ids))
        raise AudioError(
            f"{MAX_REPLACEMENTS} utterances in a row could not be read, the "
            f"first because: {problem}"
        )

    def _read_crops(self, row, speed, rng):
        """All crops of one utterance, globals first, from one opened file."""
        wav, start, stop = self.wavs[row], self.starts[row], self.stops[row]
        firsts, lasts = [], []
        for length in self.lengths:
            length = round(length * speed)
            spare = max(stop - start - length, 0)
            firsts.append(int(start + rng.integers(spare + 1)))
            lasts.append(int(min(firsts[-1] + length, stop)))
        with AudioReader(wav, self.sample_rate) as audio:
            pieces = _read_pieces(audio, firsts, lasts)
        for first, piece in zip(firsts, pieces):
            if not piece.any():
                raise AudioError(f"{wav}: silent from sample {first} on.")
        return [
            np.resize(_at_speed(piece, speed), length)  # repeats a short one
            for piece, length in zip(pieces, self.lengths)
        ]


def _read_pieces(audio, firsts, lasts):
    """Reads stretches of a file, decoding as little as possible.

    Crops of a short utterance overlap so much that their common span is less
    to decode than they are one by one.
    """
    begin, end = min(firsts), max(lasts)
    if end - begin > sum(lasts) - sum(firsts):
        return [audio.read(*piece).numpy() for piece in zip(firsts, lasts)]
    span = audio.read(begin, end).numpy()
    return [
        span[first - begin : last - begin] for first, last in zip(firsts, lasts)
    ]


def _at_speed(piece, speed):
    """A piece played at another speed, its pitch with it."""
    if speed == 1:
        return piece
    wav = torch.from_numpy(piece)
    return resample(wav, speed.numerator, speed.denominator).numpy()


def _stack(crops):
    """Stacks crops; no crops give an empty tensor."""
    return torch.from_numpy(np.stack(crops)) if crops else torch.empty(0)
