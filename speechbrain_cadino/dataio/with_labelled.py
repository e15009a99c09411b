"""Utterances beside a labelled set, some of which goes with each."""

import zlib

from speechbrain_cadino.dataio.crops import MultiCropDataset
from speechbrain_cadino.dataio.labels import check_speakers


class WithLabelled(MultiCropDataset):
    """Crops of utterances, which an epoch is one of, beside a labelled set.

    Arguments
    ---------
    labelled : callable
        The function that makes the labelled set, a PseudoLabelDataset.
    name : str
        The name of the labelled set, for errors.
    manifest : str or pathlib.Path
        The manifest of the utterances: see MultiCropDataset. Labels in it are
        not looked at.
    *args, **options
        The other arguments of MultiCropDataset.

    Raises
    ------
    ValueError
        If the labelled set has a number of samples for an epoch, or is of one
        speaker.
    """

    def __init__(self, labelled, name, manifest, *args, **options):
        super().__init__(manifest, *args, **options)
        self.labelled = labelled()
        if self.labelled.samples_per_epoch is not None:
            raise ValueError(
                f"{name} has samples_per_epoch: leave it out, as an epoch is "
                "one of the other utterances."
            )
        check_speakers(self.labelled.labels, name)

    @property
    def classes(self):
        """Those of the labelled set."""
        return self.labelled.classes

    def set_epoch(self, epoch):
        """See MultiCropDataset."""
        super().set_epoch(epoch)
        self.labelled.set_epoch(epoch)

    def fingerprint(self):
        """See MultiCropDataset; and of the labelled set."""
        own = super().fingerprint()
        return zlib.crc32(own.to_bytes(4, "big"), self.labelled.fingerprint())
