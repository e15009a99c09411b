"""Multi-crop: random pieces of one utterance, or of several of one cluster."""

from fractions import Fraction

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset
from torchaudio.functional import resample

from speechbrain_cadino.dataio.audio import AudioReader, MediaError
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    pseudo_labels,
    read_manifest,
)
from speechbrain_cadino.dataio.packed import PackedStrings

# Draws of another utterance before a batch is given up.
MAX_REPLACEMENTS = 10


class MultiCropDataset(Dataset):
    """Random global and local crops of the utterances of a manifest.

    The crops of an item come from one utterance, its anchor. Once clusters are
    set, they come from several distinct utterances of the anchor's cluster in
    turn, the anchor among them (CA-DINO, Han et al., 2023). Each utterance is
    the anchor equally often, so big clusters do not take over; in a cluster of
    one, the anchor is alone.

    Crops depend on (seed, epoch, index) and the clusters alone, so they are
    the same whatever the number of workers, and after a resume. An utterance
    shorter than a crop is repeated until it fills it. An anchor that cannot be
    read, or is silent, is replaced by another one; for another utterance of
    its cluster, the anchor stands in. The item says so.

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
    utterances_per_sample : int
        How many utterances of a cluster the crops of an item come from, at
        most. Without clusters it does not matter.
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
    reader : callable
        What opens a file, see ``embeddings.embed``. With that of faces, the
        crops are frames of a track.

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
        utterances_per_sample=1,
        speeds=(1.0,),
        passes_per_epoch=1,
        sample_rate=16000,
        seed=0,
        reader=AudioReader,
    ):
        if not 1 <= utterances_per_sample <= global_crops + local_crops:
            raise ValueError(
                f"utterances_per_sample={utterances_per_sample}: give 1 to "
                f"{global_crops + local_crops}, one for each crop."
            )
        table = self._read_manifest(manifest, data_root)
        # Columns that forked workers read without copying them; popped, so
        # that the text of one is gone when the next is packed.
        self.ids = PackedStrings(table.pop("ID"))
        self.wavs = PackedStrings(table.pop("wav"))
        self.starts = table["start"].to_numpy()
        self.stops = table["stop"].to_numpy()
        self.lengths = [round(global_seconds * sample_rate)] * global_crops
        self.lengths += [round(local_seconds * sample_rate)] * local_crops
        self.global_crops = global_crops
        self.utterances_per_sample = utterances_per_sample
        self.speeds = [Fraction(s).limit_denominator(20) for s in speeds]
        self.passes_per_epoch = passes_per_epoch
        self.sample_rate = sample_rate
        self.seed = seed
        self.reader = reader
        # In shared memory, so that persistent workers see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._clusters = _ClusterMap(len(self.ids))

    @property
    def table(self):
        """The utterances: a pandas.DataFrame with ``ID,wav,start,stop``."""
        return pd.DataFrame(
            {
                "ID": list(self.ids),
                "wav": list(self.wavs),
                "start": self.starts,
                "stop": self.stops,
            }
        )

    def set_clusters(self, labels):
        """Chooses which utterances belong together, between two epochs.

        Arguments
        ---------
        labels : array_like of int
            The cluster of each utterance, (N,), in the order of ``table``. A
            negative one stands for an utterance that belongs to no cluster.

        Raises
        ------
        ValueError
            If there are more or fewer labels than utterances.
        """
        self._clusters.assign(labels)

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
            ``id`` of the anchor; ``sample``, its row + N times the number of
            the speed; ``globals``, (global_crops, samples); ``locals``,
            (local_crops, samples); ``problem``, empty or why another utterance
            was replaced.
        """
        rng = np.random.default_rng((self.seed, self._epoch.item(), index))
        row, problem = index % len(self.ids), ""
        turn = index // len(self.ids) % len(self.speeds)
        for _ in range(MAX_REPLACEMENTS):
            try:
                crops, missed = self._read_crops(row, self.speeds[turn], rng)
                return {
                    "id": self.ids[row],
                    "sample": int(row + turn * len(self.ids)),
                    "globals": _stack(crops[: self.global_crops]),
                    "locals": _stack(crops[self.global_crops :]),
                    "problem": problem or missed,
                }
            except MediaError as error:
                problem = problem or str(error)
                row = rng.integers(len(self.ids))
        raise MediaError(
            f"{MAX_REPLACEMENTS} utterances in a row could not be read, the "
            f"first because: {problem}"
        )

    def _read_manifest(self, manifest, data_root):
        return read_manifest(manifest, data_root)

    def _read_crops(self, row, speed, rng):
        """All crops of an item, globals first: from each utterance in turn.

        The anchor stands in for an utterance that cannot be read, and the
        reason is returned too.
        """
        others = self._clusters.draw(row, self.utterances_per_sample - 1, rng)
        crops, problem = [None] * len(self.lengths), ""
        step = 1 + len(others)
        for turn, source in enumerate([row, *others]):
            lengths = self.lengths[turn::step]
            try:
                pieces = self._read_from(source, lengths, speed, rng)
            except MediaError as error:
                if source == row:
                    raise
                problem = str(error)
                pieces = self._read_from(row, lengths, speed, rng)
            crops[turn::step] = pieces
        return crops, problem

    def _read_from(self, row, lengths, speed, rng):
        """Crops of one utterance, from one opened file."""
        wav, start, stop = self.wavs[row], self.starts[row], self.stops[row]
        firsts, lasts = [], []
        for length in lengths:
            length = round(length * speed)
            spare = max(stop - start - length, 0)
            firsts.append(int(start + rng.integers(spare + 1)))
            lasts.append(int(min(firsts[-1] + length, stop)))
        with self.reader(wav, self.sample_rate) as audio:
            pieces = _read_pieces(audio, firsts, lasts)
        for first, piece in zip(firsts, pieces):
            if not piece.any():
                raise MediaError(f"{wav}: silent or black from {first} on.")
        return [
            _fill(_at_speed(piece, speed), length)
            for piece, length in zip(pieces, lengths)
        ]


class PseudoLabelDataset(MultiCropDataset):
    """One random crop of each utterance of a manifest, and its pseudo label.

    As MultiCropDataset reads and replaces utterances. An utterance played at
    another speed is of another class: there are speeds times labels classes.

    Arguments
    ---------
    manifest : str or pathlib.Path
        CSV file with a column ``spk_id``: see ``dataio.manifest``.
    data_root : str or pathlib.Path, optional
        What ``$data_root`` in the manifest stands for.
    crop_seconds : float
        The length of a crop.
    speeds : list of float
        See MultiCropDataset.
    sample_rate : int
        In Hz.
    seed : int
        Of the crop positions.
    reader : callable
        See MultiCropDataset.

    Attributes
    ----------
    labels : numpy.ndarray
        The label of each row, (N,): its place among the sorted ``spk_id``.
    classes : int
        How many classes there are, at all speeds.

    Raises
    ------
    ValueError
        If the manifest has no labels.

    Example
    -------
    >>> import soundfile
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", np.random.randn(64000), 16000)
    >>> _ = (folder / "labels.csv").write_text(
    ...     "ID,duration,wav,start,stop,spk_id\\n"
    ...     "a,4.0,$data_root/a.wav,0,64000,7\\n"
    ...     "b,3.0,$data_root/a.wav,0,48000,5\\n"
    ... )
    >>> data = PseudoLabelDataset(
    ...     folder / "labels.csv", folder, crop_seconds=2.0, speeds=[1.0, 0.9]
    ... )
    >>> item = data[2]  # the first utterance again, but slower
    >>> item["id"], item["sample"], item["label"], item["wav"].shape
    ('a', 2, 3, torch.Size([32000]))
    """

    def __init__(
        self,
        manifest,
        data_root=None,
        crop_seconds=3.0,
        speeds=(1.0,),
        sample_rate=16000,
        seed=0,
        reader=AudioReader,
    ):
        super().__init__(
            manifest,
            data_root,
            global_crops=1,
            global_seconds=crop_seconds,
            local_crops=0,
            speeds=speeds,
            sample_rate=sample_rate,
            seed=seed,
            reader=reader,
        )
        self.classes = (int(self.labels.max()) + 1) * len(self.speeds)

    def _read_manifest(self, manifest, data_root):
        table = super()._read_manifest(manifest, data_root)
        names = pseudo_labels(table, manifest)
        self.labels, _ = pd.factorize(names, sort=True)
        return table

    def __getitem__(self, index):
        """A crop of an utterance.

        Returns
        -------
        dict
            ``id``, ``sample`` and ``problem`` as of MultiCropDataset;
            ``label``, the class; ``wav``, (samples,).
        """
        item = super().__getitem__(index)
        turn, row = divmod(item["sample"], len(self.ids))
        labels = self.classes // len(self.speeds)
        return {
            "id": item["id"],
            "sample": item["sample"],
            "label": int(self.labels[row]) + turn * labels,
            "wav": item["globals"][0],
            "problem": item["problem"],
        }


def count_classes(manifest, speeds=(1.0,)):
    """The number of classes of a PseudoLabelDataset, for the classifier.

    Arguments
    ---------
    manifest : str or pathlib.Path
        See PseudoLabelDataset, as for the errors.
    speeds : list of float
        See there.

    Returns
    -------
    int
    """
    table = read_manifest(manifest, DATA_ROOT)
    return pseudo_labels(table, manifest).nunique() * len(speeds)


class _ClusterMap:
    """The cluster of each utterance; at first, each is alone.

    In shared memory of a fixed size: persistent workers see it change, and
    changing it takes no new memory.
    """

    def __init__(self, size):
        # All rows, cluster by cluster, in ascending order within each.
        self.members = torch.arange(size).share_memory_()
        # For each row: where its cluster begins there, and how big it is.
        self.begins = torch.arange(size).share_memory_()
        self.sizes = torch.ones(size, dtype=torch.int64).share_memory_()

    def assign(self, labels):
        labels = np.array(labels, np.int64)
        if labels.shape != (len(self.members),):
            raise ValueError(
                f"{labels.size} cluster labels for {len(self.members)} "
                "utterances: cluster the utterances of this manifest."
            )
        alone = np.flatnonzero(labels < 0)
        labels[alone] = labels.max(initial=0) + 1 + np.arange(len(alone))
        _, which, sizes = np.unique(
            labels, return_inverse=True, return_counts=True
        )
        members = np.argsort(which, kind="stable")
        begins = np.cumsum(sizes) - sizes
        self.members.copy_(torch.from_numpy(members))
        self.begins.copy_(torch.from_numpy(begins[which]))
        self.sizes.copy_(torch.from_numpy(sizes[which]))

    def draw(self, row, count, rng):
        """Up to count other rows of the row's cluster, all distinct."""
        others = int(self.sizes[row]) - 1
        count = min(count, others)
        if not count:
            return []
        begin = int(self.begins[row])
        members = self.members.numpy()[begin : begin + others + 1]
        picks = rng.choice(others, count, replace=False)
        picks += picks >= np.searchsorted(members, row)  # not itself
        return members[picks].tolist()


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


def _fill(piece, length):
    """A piece cut, or repeated, to a length; not copied if it has it."""
    return piece if len(piece) == length else np.resize(piece, length)


def _stack(crops):
    """Stacks crops; no crops give an empty tensor."""
    return torch.from_numpy(np.stack(crops)) if crops else torch.empty(0)
