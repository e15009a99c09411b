"""Random crops of utterances, and the data sets of both stages."""

import math
import zlib
from fractions import Fraction

import numpy as np
import pandas as pd
import torch
from torch.utils.data import Dataset

from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.crop_reader import CropReader, crop_samples
from speechbrain_cadino.dataio.labels import check_speakers
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    pseudo_labels,
    read_manifest,
    trusted_rows,
)
from speechbrain_cadino.dataio.packed import PackedStrings
from speechbrain_cadino.dataio.rates import check_rate
from speechbrain_cadino.dataio.sampling import Sampling
from speechbrain_cadino.process.ranks import launched_processes

# Of a recording, what the crops of one item hear at most, in seconds: 2 x 2.5
# and 4 x 1.5 in small_dino.yaml are 11
VISIT_SECONDS = 10


def _fractions(speeds):
    """Speeds as fractions, which resampling is quick by; raises if one is none
    of small numbers, or two are the same."""
    found = [
        Fraction(speed).limit_denominator(20)
        for speed in speeds
        if 0 < speed < math.inf  # not NaN
    ]
    near = all(abs(f - s) <= 1e-3 for f, s in zip(found, speeds))
    if not (found and near and len(set(found)) == len(speeds)):
        raise ValueError(
            f"speeds={list(speeds)}: give different ones above 0, each a "
            "fraction of at most twentieths, such as 0.9, 0.95 and 1.1."
        )
    return found


class MultiCropDataset(Dataset):
    """Random global and local crops of the utterances of a manifest.

    The crops of an item come from one utterance, its anchor, and from the
    partners that the sampling gives it, in turn. They depend on (seed, epoch,
    index) and the sampling alone, so they are the same whatever the number of
    workers, and after a resume. How they are read, and what happens to files
    that cannot be read, see CropReader: the item says so.

    Arguments
    ---------
    manifest : str or pathlib.Path
        CSV file: see ``dataio.manifest``.
    data_root : str or pathlib.Path, optional
        The folder that ``$data_root`` in the manifest stands for.
    global_crops, local_crops : int
        The number of crops of each kind. 2 and 4 in WeSpeaker's DINO recipe for
        VoxCeleb.
    global_seconds, local_seconds : float
        The length of a crop of each kind, in seconds. 3 and 2 there.
    sampling : Sampling, optional
        The rule by which utterances make the items: each alone by default.
    speeds : list of float
        An utterance played faster or slower is one of another voice: each
        speed makes utterances of their own. [1.0, 0.9, 1.1] triples the
        voices of a small corpus.
    passes_per_epoch : int
        The number of times that an epoch goes through the manifest: a small
        corpus makes very short epochs otherwise.
    samples_per_epoch : int, optional
        The length of an epoch, whatever the size of the corpus: it is no
        longer than so many passes, in which recordings of several times
        ``VISIT_SECONDS``, in the mean, count as often. Epochs go on through the
        manifest where the one before has ended, each time through in another
        order; where the sampling leaves some out, each is a draw of its own.
    sample_rate : int
        The sample rate, in Hz.
    seed : int
        The seed of the crop positions.
    reader : callable
        The opener of a file, see Embedder. With that of faces, the crops are
        frames of a track.

    Raises
    ------
    ValueError
        If a number makes no sense.

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
        sampling=None,
        speeds=(1.0,),
        passes_per_epoch=1,
        samples_per_epoch=None,
        sample_rate=16000,
        seed=0,
        reader=AudioReader,
    ):
        if global_crops < 1 or local_crops < 0:
            raise ValueError(
                f"global_crops={global_crops}, local_crops={local_crops}: give "
                "1 or more global ones, which the teacher sees, and 0 or more "
                "local ones."
            )
        samples = 1 if samples_per_epoch is None else samples_per_epoch
        if min(passes_per_epoch, samples) < 1 or seed < 0:
            raise ValueError(
                f"passes_per_epoch={passes_per_epoch}, samples_per_epoch="
                f"{samples_per_epoch}, seed={seed}: give 1 or more passes and "
                "samples, and a seed of 0 or more."
            )
        sampling = Sampling() if sampling is None else sampling
        most = global_crops + local_crops
        if not 1 <= sampling.utterances_per_sample <= most:
            raise ValueError(
                f"utterances_per_sample={sampling.utterances_per_sample}: give "
                f"1 to {most}, one for each crop."
            )
        table = self._read_manifest(manifest, data_root)
        check_rate(table, sample_rate)
        # Columns that forked workers read without copying them; popped, so
        # that the text of one is gone when the next is packed.
        self.ids = PackedStrings(table.pop("ID"))
        groups = (global_crops, global_seconds), (local_crops, local_seconds)
        lengths = [
            crop_samples(seconds, sample_rate)
            for count, seconds in groups
            for _ in range(count)
        ]
        self.crops = CropReader(
            PackedStrings(table.pop("wav")),
            table["start"].to_numpy(),
            table["stop"].to_numpy(),
            lengths,
            sample_rate,
            reader,
        )
        self.sampling = sampling.attach(len(self.ids), self.crops.wavs)
        self.global_crops = global_crops
        self.speeds = _fractions(speeds)
        self.passes_per_epoch = passes_per_epoch
        self.samples_per_epoch = samples_per_epoch
        seconds = 3600 * (self.hours or 0) / len(self.ids)
        self._visits = max(1, round(seconds / VISIT_SECONDS))
        self.seed = seed
        # In shared memory, so that persistent workers see it change.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()
        self._order = self._drawn = None, None  # of which epoch

    @property
    def table(self):
        """The utterances: a pandas.DataFrame with ``ID,wav,start,stop``."""
        return pd.DataFrame(
            {
                "ID": list(self.ids),
                "wav": list(self.crops.wavs),
                "start": self.crops.starts,
                "stop": self.crops.stops,
            }
        )

    def fingerprint(self):
        """A checksum of what a training goes on with: which utterances there
        are, in which order, and which samples of their files they are."""
        found = self.ids.checksum()
        for array in (self.crops.starts, self.crops.stops):
            found = zlib.crc32(np.ascontiguousarray(array), found)
        return found

    @property
    def hours(self):
        """The length of all utterances; None for frames of faces, which are
        numbered."""
        if self.crops.sample_rate == 1:
            return None
        samples = np.sum(self.crops.stops - self.crops.starts)
        return float(samples) / self.crops.sample_rate / 3600

    def set_epoch(self, epoch):
        """Chooses the epoch, whose crops differ from those of the others.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        """
        self._epoch.fill_(epoch)

    @property
    def epoch(self):
        """The epoch that was chosen."""
        return self._epoch.item()

    @property
    def samples(self):
        """How many samples there are: each utterance at each speed."""
        return len(self.ids) * len(self.speeds)

    def clusters_of_samples(self, clusters):
        """The cluster of each sample, of those of the utterances.

        Arguments
        ---------
        clusters : numpy.ndarray
            Shape (N,), int, negative for no cluster.

        Returns
        -------
        numpy.ndarray
            Shape (samples,): an utterance at another speed is another voice,
            of no cluster.
        """
        nowhere = np.full_like(clusters, -1)
        return np.concatenate(
            [clusters if speed == 1 else nowhere for speed in self.speeds]
        )

    def __len__(self):
        whole = self.samples * self.passes_per_epoch
        if self.samples_per_epoch is None:
            return whole
        return min(self.samples_per_epoch, whole * self._visits)

    def __iter__(self):
        """The items of an epoch. An index may be larger: it is of another crop
        of an utterance, so that Python would find no end by itself."""
        return (self[index] for index in range(len(self)))

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
        epoch = self.epoch
        rng = np.random.default_rng((self.seed, epoch, index))
        turn, place = divmod(self._sample(epoch, index), len(self.ids))
        row, crops, problem = self.crops.read(
            self._rows(epoch)[place],
            self.speeds[turn],
            rng,
            self.sampling.partners,
        )
        return {
            "id": self.ids[row],
            "sample": int(row + turn * len(self.ids)),
            "globals": _stack(crops[: self.global_crops]),
            "locals": _stack(crops[self.global_crops :]),
            "problem": problem,
        }

    def _sample(self, epoch, index):
        """Which of the samples an item is, at which place in their order."""
        if self.samples_per_epoch is None:
            return index % self.samples
        if self._drawn[0] != epoch:
            self._drawn = epoch, self._draw(epoch)
        return int(self._drawn[1][index])

    def _draw(self, epoch):
        """The samples of an epoch that is as long as it is told to be."""
        rows = self._rows(epoch)
        if _is_repeated(rows):
            return self._draw_evenly(rows, epoch)
        size, total = len(self), self.samples
        first = max(epoch - 1, 0) * size
        last = first + size
        drawn = []
        for number in range(first // total, -(-last // total)):
            samples = np.random.default_rng((self.seed, number)).permutation(
                total
            )
            begin = number * total
            drawn.append(samples[max(first - begin, 0) : last - begin])
        # A copy, as each worker keeps it: not of the samples of other epochs
        return np.concatenate(drawn)

    def _draw_evenly(self, rows, epoch):
        """The samples of an epoch whose order has some utterances several times
        and others not at all: each comes for the second time once all have
        come."""
        rng = np.random.default_rng((self.seed, epoch))
        drawn = []
        for _ in range(-(-len(self) // len(rows))):
            places = rng.permutation(len(rows))
            times = pd.Series(rows[places]).groupby(rows[places]).cumcount()
            drawn.append(places[np.argsort(times, kind="stable")])
        places = np.concatenate(drawn)[: len(self)]
        turns = rng.integers(len(self.speeds), size=len(self))
        return places + turns * len(rows)

    def _rows(self, epoch):
        """The utterances of an epoch's items."""
        if type(self.sampling).order is Sampling.order:
            # All in turn, without an array of them in each worker
            return range(len(self.ids))
        if self._order[0] != epoch:
            rows = np.asarray(self.sampling.order(epoch))
            if rows.shape != (len(self.ids),):
                raise ValueError(
                    f"{type(self.sampling).__name__} gives {len(rows)} samples "
                    f"for {len(self.ids)} utterances: epochs are of equal "
                    "length, so give one for each; repeat some to leave "
                    "others out."
                )
            self._order = epoch, rows
        return self._order[1]

    def _read_manifest(self, manifest, data_root):
        return read_manifest(manifest, data_root)


def _is_repeated(rows):
    """Whether an order has utterances several times, as often as each other."""
    if isinstance(rows, range):  # all in turn: no array of them
        return False
    _, counts = np.unique(rows, return_counts=True)
    return counts.max() > 1 and np.ptp(counts) <= 1


class PseudoLabelDataset(MultiCropDataset):
    """One random crop of each utterance of a manifest, and its pseudo label.

    As MultiCropDataset reads and replaces utterances. An utterance played at
    another speed is of another class: there are speeds times labels classes.

    Arguments
    ---------
    manifest : str or pathlib.Path
        CSV file with a column ``spk_id``: see ``dataio.manifest``.
    data_root : str or pathlib.Path, optional
        The folder that ``$data_root`` in the manifest stands for.
    crop_seconds : float
        The length of a crop, in seconds.
    speeds : list of float
        See MultiCropDataset.
    samples_per_epoch : int, optional
        See MultiCropDataset.
    sample_rate : int
        The sample rate, in Hz.
    seed : int
        The seed of the crop positions.
    reader : callable
        See MultiCropDataset.

    Attributes
    ----------
    labels : numpy.ndarray
        The label of each row, (N,): its place among the sorted ``spk_id``.
    trusted : numpy.ndarray
        Mask of the given labels, (N,), bool: see ``trusted_rows``.
    classes : int
        The number of classes, at all speeds.

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
        samples_per_epoch=None,
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
            samples_per_epoch=samples_per_epoch,
            sample_rate=sample_rate,
            seed=seed,
            reader=reader,
        )
        self.classes = (int(self.labels.max()) + 1) * len(self.speeds)

    def sample_labels(self):
        """The class of each sample.

        Returns
        -------
        numpy.ndarray
            (samples,), int64: as ``label`` of the items says.
        """
        labels = self.classes // len(self.speeds)
        turns = np.arange(len(self.speeds))[:, None]
        return (self.labels + turns * labels).ravel()

    def fingerprint(self):
        """See MultiCropDataset; and of their labels."""
        labels = zlib.crc32(self.labels.tobytes(), super().fingerprint())
        return zlib.crc32(self.trusted.tobytes(), labels)

    def _read_manifest(self, manifest, data_root):
        table = super()._read_manifest(manifest, data_root)
        names = pseudo_labels(table, manifest)
        self.labels, _ = pd.factorize(names, sort=True)
        self.trusted = trusted_rows(table)
        return table

    def __getitem__(self, index):
        """A crop of an utterance.

        Returns
        -------
        dict
            ``id``, ``sample`` and ``problem`` as of MultiCropDataset;
            ``label``, the class; ``trusted``, whether that is given; ``wav``,
            (samples,).
        """
        item = super().__getitem__(index)
        turn, row = divmod(item["sample"], len(self.ids))
        labels = self.classes // len(self.speeds)
        return {
            "id": item["id"],
            "sample": item["sample"],
            "label": int(self.labels[row]) + turn * labels,
            "trusted": bool(self.trusted[row]),
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
        See PseudoLabelDataset.

    Returns
    -------
    int
        The number of labels times that of speeds.

    Raises
    ------
    ValueError
        If all have one label.
    """
    labels = pseudo_labels(read_manifest(manifest, DATA_ROOT), manifest)
    check_speakers(labels, manifest)
    return labels.nunique() * len(speeds)


def samples_of_steps(steps, batch_size):
    """The number of samples of so many optimiser steps, for an epoch.

    Arguments
    ---------
    steps : int
        The steps; None for as many as the manifest makes.
    batch_size : int
        Utterances per process and step, gradient accumulation counted in.

    Returns
    -------
    int
        The samples of all processes that torchrun started (its WORLD_SIZE; 1
        without it); None if ``steps`` is.

    Raises
    ------
    ValueError
        If ``steps`` is no whole number above 0.

    Example
    -------
    >>> samples_of_steps(85, batch_size=32)
    2720
    """
    if steps is None:
        return None
    if not isinstance(steps, int) or steps < 1:
        raise ValueError(f"steps_per_epoch={steps}: give 1 or more, or null.")
    return steps * batch_size * launched_processes()


def _stack(crops):
    """Stacks crops; no crops give an empty tensor."""
    return torch.from_numpy(np.stack(crops)) if crops else torch.empty(0)
