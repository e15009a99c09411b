"""Labelled crops beside stretches of all utterances, labelled or not."""

import numpy as np
from torch.utils.data import Dataset

from speechbrain_cadino.dataio.adaptation import check_speakers


class SemiSupervisedDataset(Dataset):
    """Each item is one of a small labelled set, and one of a large other.

    An epoch is one of the large set; meanwhile the labelled one is gone through
    as often as there is room, each time in another order and with other crops.
    As in both, an item depends on (seed, epoch, index) alone.

    Arguments
    ---------
    labelled : PseudoLabelDataset
        The labelled utterances.
    others : MultiCropDataset
        The others: of their items, the first global crop.

    Raises
    ------
    ValueError
        If the labelled set has epochs of a length of its own, or is of one
        speaker.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_cadino.dataio.crops import (
    ...     MultiCropDataset,
    ...     PseudoLabelDataset,
    ... )
    >>> folder = getfixture("tmp_path")
    >>> soundfile.write(folder / "a.wav", np.random.randn(64000), 16000)
    >>> header = "ID,duration,wav,start,stop"
    >>> _ = (folder / "train.csv").write_text(
    ...     f"{header}\\na,4,a.wav,0,64000\\nb,2,a.wav,0,32000\\n".replace(
    ...         "a.wav", str(folder / "a.wav")
    ...     )
    ... )
    >>> _ = (folder / "labelled.csv").write_text(
    ...     f"{header},spk_id\\na,2,{folder / 'a.wav'},0,32000,anne\\n"
    ...     f"b,2,{folder / 'a.wav'},32000,64000,bob\\n"
    ... )
    >>> data = SemiSupervisedDataset(
    ...     PseudoLabelDataset(folder / "labelled.csv", crop_seconds=1.0),
    ...     MultiCropDataset(
    ...         folder / "train.csv",
    ...         global_crops=1,
    ...         global_seconds=4.0,
    ...         local_crops=0,
    ...     ),
    ... )
    >>> item = data[0]
    >>> len(data), item["id"] in "ab", item["wav"].shape, item["other"].shape
    (2, True, torch.Size([16000]), torch.Size([64000]))
    """

    def __init__(self, labelled, others):
        if labelled.samples_per_epoch is not None:
            raise ValueError(
                "An epoch is one of the other utterances: samples_per_epoch "
                "is theirs to have."
            )
        check_speakers(labelled.labels, "The labelled set")
        self.labelled = labelled
        self.others = others
        self.samples_per_epoch = others.samples_per_epoch
        self._orders = None, {}  # of which epoch, by time through

    @property
    def ids(self):
        """Those of the others, as the epoch is theirs."""
        return self.others.ids

    @property
    def hours(self):
        """The length of the others."""
        return self.others.hours

    @property
    def classes(self):
        """The number of classes: see PseudoLabelDataset."""
        return self.labelled.classes

    def set_epoch(self, epoch):
        """Chooses the epoch: see MultiCropDataset.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        """
        self.labelled.set_epoch(epoch)
        self.others.set_epoch(epoch)

    def __len__(self):
        return len(self.others)

    def __getitem__(self, index):
        """A labelled crop, and a stretch of another utterance.

        Returns
        -------
        dict
            ``id``, ``label``, ``wav`` and ``sample`` of the labelled crop, see
            PseudoLabelDataset; ``other``, (samples,); ``problem``, empty or why
            an utterance was replaced.
        """
        time, place = divmod(index, self.labelled.samples)
        # Another index each time, so that its crop is another one
        row = self._rows(time)[place] + time * self.labelled.samples
        labelled, other = self.labelled[int(row)], self.others[index]
        return {
            **labelled,
            "other": other["globals"][0],
            "problem": labelled["problem"] or other["problem"],
        }

    def _rows(self, time):
        """The order of the labelled samples in one time through them."""
        epoch = self.labelled.epoch
        if self._orders[0] != epoch:
            self._orders = epoch, {}
        orders = self._orders[1]
        if time not in orders:
            rng = np.random.default_rng((self.labelled.seed, epoch, time))
            orders[time] = rng.permutation(self.labelled.samples)
        return orders[time]


def semi_supervised(labelled, others):
    """A SemiSupervisedDataset of what two factories of a YAML file make, once
    the data are prepared.

    Arguments
    ---------
    labelled, others : callable
        The makers of both sets, without arguments.

    Returns
    -------
    SemiSupervisedDataset
    """
    return SemiSupervisedDataset(labelled(), others())
