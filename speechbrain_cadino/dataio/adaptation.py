"""Data of an adaptation: a labelled source beside an unlabelled target."""

import functools
import os

import numpy as np

from speechbrain_cadino.dataio.with_labelled import WithLabelled


class AdaptationDataset(WithLabelled):
    """Crops of the target, each item with a labelled crop of the source.

    An epoch is one of the target, whatever the sizes of both. Which utterance
    of the source goes with an item, and its crop, depend on (seed, epoch,
    index) alone, as the crops of the target do: they are fresh in each, and
    the same after a resume.

    Arguments
    ---------
    source : callable
        The function that makes the source, a PseudoLabelDataset.
    manifest : str or pathlib.Path
        The manifest of the target: see MultiCropDataset. Labels in it are not
        looked at.
    *args, **options
        The other arguments of MultiCropDataset.

    Raises
    ------
    ValueError
        If the source is of one speaker, has an utterance of the target, or a
        number of samples for an epoch.

    Example
    -------
    >>> import soundfile
    >>> from speechbrain_cadino.dataio.crops import PseudoLabelDataset
    >>> folder = getfixture("tmp_path")
    >>> for name in "abc":
    ...     wav = np.random.randn(64000)
    ...     soundfile.write(folder / f"{name}.wav", wav, 16000)
    >>> head = "ID,duration,wav,start,stop"
    >>> row = "{0},4.0,$data_root/{0}.wav,0,64000"
    >>> _ = (folder / "source.csv").write_text(
    ...     f"{head},spk_id\\n{row.format('a')},anne\\n{row.format('b')},bob\\n"
    ... )
    >>> _ = (folder / "target.csv").write_text(f"{head}\\n{row.format('c')}\\n")
    >>> data = AdaptationDataset(
    ...     lambda: PseudoLabelDataset(folder / "source.csv", folder),
    ...     folder / "target.csv",
    ...     folder,
    ... )
    >>> item = data[0]
    >>> item["id"], item["source_id"] in "ab", item["source"].shape
    ('c', True, torch.Size([48000]))
    """

    def __init__(self, source, manifest, *args, **options):
        super().__init__(source, "The source", manifest, *args, **options)
        check_files_apart(self.labelled.crops.wavs, self.crops.wavs)

    def __getitem__(self, index):
        """The crops of one utterance of the target, and one of the source.

        Returns
        -------
        dict
            The item of MultiCropDataset, with ``source``, (samples,),
            ``label``, its class, and ``source_id``.
        """
        item = super().__getitem__(index)
        rng = np.random.default_rng((self.seed, self.epoch, index, 2))
        samples = self.labelled.samples
        # An index of its own for each item: the same utterance, another crop
        place = int(rng.integers(samples)) + index * samples
        source = self.labelled[place]
        return {
            **item,
            "source": source["wav"],
            "label": source["label"],
            "source_id": source["id"],
            "problem": item["problem"] or source["problem"],
        }


def check_disjoint(source, target, what):
    """Raises if source and target have something in common.

    Arguments
    ---------
    source, target : iterable of str
        The names of what is on each side.
    what : str
        The word for what is named, for the error, such as "files".

    Example
    -------
    >>> check_disjoint(["a.wav", "b.wav"], ["b.wav"], "files")
    Traceback (most recent call last):
    ...
    ValueError: Source and target have 1 files in common, such as b.wav: ...
    """
    common = set(source) & set(target)
    if common:
        raise ValueError(
            f"Source and target have {len(common)} {what} in common, such as "
            f"{min(common)}: they are to be different recordings, under "
            "different names."
        )


def check_files_apart(source, target):
    """Raises if source and target have files in common, however their folders
    are spelled.

    Arguments
    ---------
    source, target : iterable of str
        The paths of the files on each side.

    Example
    -------
    >>> check_files_apart(["calls/a.wav"], ["calls/../calls//a.wav"])
    Traceback (most recent call last):
    ...
    ValueError: Source and target have 1 files in common, such as ...a.wav: ...
    """
    folder = functools.cache(os.path.realpath)

    def real(path):
        head, name = os.path.split(path)
        return os.path.join(folder(head), name)

    own = set(map(real, source))
    shared = [path for path in target if real(path) in own]
    check_disjoint(shared, shared, "files")
