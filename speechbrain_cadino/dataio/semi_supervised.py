"""Labelled crops beside stretches of all utterances, labelled or not."""

import numpy as np

from speechbrain_cadino.dataio.with_labelled import WithLabelled


class SemiSupervisedDataset(WithLabelled):
    """Each item is one of a small labelled set, and one of a large other.

    An epoch is one of the large set; meanwhile the labelled one is gone through
    as often as there is room, each time in another order and with other crops.
    As in both, an item depends on (seed, epoch, index) alone.

    Arguments
    ---------
    labelled : callable
        The function that makes the labelled set, a PseudoLabelDataset.
    manifest : str or pathlib.Path
        The manifest of the others: see MultiCropDataset. Labels in it are not
        looked at.
    data_root : str or pathlib.Path, optional
        See MultiCropDataset.
    other_seconds : float
        The length of a stretch of the others, in seconds.
    **options
        The other arguments of MultiCropDataset, but for the crops.

    Raises
    ------
    ValueError
        If the labelled set has epochs of a length of its own, or is of one
        speaker.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_cadino.dataio.crops import PseudoLabelDataset
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
    ...     lambda: PseudoLabelDataset(
    ...         folder / "labelled.csv", crop_seconds=1.0
    ...     ),
    ...     folder / "train.csv",
    ...     other_seconds=4.0,
    ... )
    >>> item = data[0]
    >>> len(data), item["id"] in "ab", item["wav"].shape, item["other"].shape
    (2, True, torch.Size([16000]), torch.Size([64000]))
    """

    def __init__(
        self, labelled, manifest, data_root=None, other_seconds=6.0, **options
    ):
        super().__init__(
            labelled,
            "The labelled set",
            manifest,
            data_root,
            global_crops=1,
            global_seconds=other_seconds,
            local_crops=0,
            **options,
        )
        self._labelled_orders = None, {}  # of which epoch, by time through

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
        row = self._labelled_rows(time)[place] + time * self.labelled.samples
        labelled, other = self.labelled[int(row)], super().__getitem__(index)
        return {
            **labelled,
            "other": other["globals"][0],
            "problem": labelled["problem"] or other["problem"],
        }

    def _labelled_rows(self, time):
        """The order of the labelled samples in one time through them."""
        if self._labelled_orders[0] != self.epoch:
            self._labelled_orders = self.epoch, {}
        orders = self._labelled_orders[1]
        if time not in orders:
            rng = np.random.default_rng((self.labelled.seed, self.epoch, time))
            orders[time] = rng.permutation(self.labelled.samples)
        return orders[time]
