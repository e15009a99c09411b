"""A Checkpointer that never leaves half a checkpoint behind."""

import contextlib
import json
import logging
import math
import os
import pathlib
import shutil
import time
import zlib
from pickle import UnpicklingError

import yaml

from speechbrain.utils.checkpoints import (
    CKPT_PREFIX,
    METAFNAME,
    Checkpoint,
    Checkpointer,
    mark_as_loader,
    mark_as_saver,
    register_checkpoint_hooks,
)
from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.files import (
    removed_if_full,
    sync,
    wait_for,
    write_json,
)

logger = get_logger(__name__)

PARTIAL = "partial+"

# In what PyTorch and SpeechBrain say of a checkpoint that does not fit
OTHER_SETTINGS = ["size mismatch", "Missing key", "missing a load path"]


def has_checkpoint(folder):
    """Whether there is something to go on from.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of checkpoints.

    Returns
    -------
    bool
        Whether there is a checkpoint, whole or damaged.

    Example
    -------
    >>> has_checkpoint(getfixture("tmp_path"))
    False
    """
    return any(pathlib.Path(folder).glob(f"{CKPT_PREFIX}+*"))


def has_ended(folder, epochs):
    """Whether a training has taken all its epochs.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of checkpoints.
    epochs : int
        The number of its epochs.

    Returns
    -------
    bool
        Whether there is a checkpoint of the end of that epoch.

    Example
    -------
    >>> has_ended(getfixture("tmp_path"), 1)
    False
    """
    for path in pathlib.Path(folder).glob(f"{CKPT_PREFIX}+*/{METAFNAME}"):
        try:
            meta = yaml.safe_load(path.read_text(encoding="utf-8"))
            ended = meta["end-of-epoch"] and meta["epoch"] == epochs
        # Damaged, or within an epoch
        except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError):
            continue
        if ended:
            return True
    return False


@contextlib.contextmanager
def checkpoint_errors(checkpointer):
    """Says what is wrong where a checkpoint that is loaded does not fit.

    Arguments
    ---------
    checkpointer : Checkpointer
        The checkpointer that loads it.

    Raises
    ------
    ValueError
        If it is of other settings, or holds more than weights.
    """
    try:
        yield
    except UnpicklingError as error:
        raise ValueError(
            f"A checkpoint in {checkpointer.checkpoints_dir} holds more than "
            f"weights, and is not loaded: {error}"
        ) from error
    except RuntimeError as error:
        if not any(sign in str(error) for sign in OTHER_SETTINGS):
            raise
        raise ValueError(
            f"The checkpoints in {checkpointer.checkpoints_dir} were made with "
            "other settings or with another number of classes. Give another "
            f"output_folder, or remove that one. {error}"
        ) from error


BROKEN = "broken+"

# The length and the CRC-32 of each other file of a checkpoint
CHECKSUMS = "checksums.json"

# Should the disk damage the newest, there is the one before.
KEPT = 2

# So often the newest checkpoint is looked for: a training may delete one while
# it is read
ATTEMPTS = 3


@register_checkpoint_hooks
class SameData:
    """Refuses to go on from a checkpoint of another training set.

    Arguments
    ---------
    fingerprint : int
        A checksum of the training set.
    """

    def __init__(self, fingerprint):
        self.fingerprint = fingerprint

    @mark_as_saver
    def _save(self, path):
        pathlib.Path(path).write_text(f"{self.fingerprint}\n")

    @mark_as_loader
    def _load(self, path, end_of_epoch):
        if pathlib.Path(path).read_text().strip() != str(self.fingerprint):
            raise ValueError(
                f"{path} is of another training set: utterances, or labels of "
                "them, have changed since. Put back what was there, or give "
                "another output_folder."
            )


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed while it saves.

    SpeechBrain writes the meta file of a checkpoint first: if the process dies
    before the rest is there, the next run takes the leftover for the newest
    checkpoint and fails. Here a checkpoint is written under another name, and
    renamed once it is whole. Where there is no space for it, nothing of it
    stays.

    A checkpoint that has been damaged since (``checksums.json`` tells) is set
    aside under another name, and the one before is loaded: two are kept.

    The newest is the one that was saved last, also if the clock went back in
    between: the time in a meta file never goes back.

    Arguments
    ---------
    checkpoints_dir : str or pathlib.Path
        Folder of the checkpoints.
    **kwargs : dict
        The arguments of SpeechBrain's Checkpointer.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> model = torch.nn.Linear(1, 1)
    >>> checkpointer = AtomicCheckpointer(folder, recoverables={"m": model})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> sorted(path.name for path in checkpoint.path.iterdir())
    ['CKPT.yaml', 'checksums.json', 'm.ckpt']
    >>> checkpoint.path.name.startswith("CKPT+")
    True
    """

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(PARTIAL + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(PARTIAL + path.name)

    def save_and_keep_only(
        self, meta=None, end_of_epoch=True, num_to_keep=KEPT, **kwargs
    ):
        """See ``Checkpointer.save_and_keep_only``."""
        super().save_and_keep_only(
            meta or {},
            end_of_epoch,
            num_to_keep=num_to_keep,
            # SpeechBrain adds to its default
            **{"importance_keys": [], **kwargs},
        )

    def delete_checkpoints(self, **kwargs):
        """See ``Checkpointer.delete_checkpoints``; the main process does it:
        on a shared disk, others may see a checkpoint later."""
        run_on_main(super().delete_checkpoints, kwargs=kwargs)

    def recover_if_possible(self, *args, **kwargs):
        """See ``Checkpointer.recover_if_possible``; the main process chooses
        the checkpoint, for all.

        Raises
        ------
        ValueError
            If there are checkpoints, and all of them are damaged; or if a
            process does not see the one that was chosen.
        """
        run_on_main(self._set_broken_aside)
        chosen = run_on_main(self.find_checkpoint, args, kwargs)
        if chosen is not None:
            wait_for(chosen.path / METAFNAME)
            self.load_checkpoint(chosen)
        return chosen

    def load_newest(self):
        """Loads the newest checkpoint that is whole, and touches none: the
        training that they are of may be at work.

        Returns
        -------
        Checkpoint
            The checkpoint; None if there is none.
        """
        for _ in range(ATTEMPTS - 1):
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
                return self._load_newest()
        return self._load_newest()

    def _load_newest(self):
        there = {one.path: one for one in self.list_checkpoints()}
        for folder in reversed(self._folders()):
            if folder in there and not _problem(folder):
                self.load_checkpoint(there[folder])
                return there[folder]
        return None

    def _folders(self):
        """Those of all checkpoints, the newest last."""
        folders = self.checkpoints_dir.glob(f"{CKPT_PREFIX}+*")
        return sorted(folders, key=lambda folder: (_time(folder), folder))

    def _set_broken_aside(self):
        folders = self._folders()
        problems = {folder: _problem(folder) for folder in folders}
        whole = [folder for folder in folders if not problems[folder]]
        if folders and not whole:
            newest = folders[-1]
            raise ValueError(
                f"No checkpoint in {self.checkpoints_dir} is whole; of the "
                f"last one, {newest.name}, {problems[newest]}. Restore one "
                "from a copy, or remove them all to start from scratch."
            )
        for folder in folders:
            if folder in whole:
                continue
            if folders.index(folder) < folders.index(whole[-1]):
                # Not needed: such as one that a killed process was deleting
                shutil.rmtree(folder)
                continue
            aside = folder.with_name(BROKEN + folder.name)
            folder.rename(aside)
            logger.warning(
                f"{folder} is damaged, {problems[folder]}: the checkpoint "
                f"before it is used. What is left of it is {aside}, and may "
                "be deleted."
            )

    def save_checkpoint(
        self, meta=None, end_of_epoch=True, name=None, verbosity=logging.INFO
    ):
        """See ``Checkpointer.save_checkpoint``; the main process does it."""
        return run_on_main(
            self._save_checkpoint,
            args=[meta or {}, end_of_epoch, name, verbosity],
        )

    def _save_checkpoint(self, meta, end_of_epoch, name, verbosity):
        # SpeechBrain has all processes write some of the files, the same ones
        # at the same time: here only the main process gets to this point.
        for leftover in self.checkpoints_dir.glob(PARTIAL + "*"):
            shutil.rmtree(leftover)
        partial = (
            self._new_checkpoint_dirpath()
            if name is None
            else self._custom_checkpoint_dirpath(name)
        )
        final = partial.with_name(partial.name.removeprefix(PARTIAL))
        name = final.name.removeprefix(f"{CKPT_PREFIX}+")
        with removed_if_full(partial, final, self._needed()):
            checkpoint = super().save_checkpoint(
                meta, end_of_epoch, name, verbosity=logging.DEBUG
            )
            checksums = {
                path.name: _checksum(path) for path in partial.iterdir()
            }
            write_json(partial / CHECKSUMS, checksums)
            for path in [*partial.iterdir(), partial]:
                sync(path)
            os.rename(partial, final)
            sync(final.parent)
        kind = "end-of-epoch" if end_of_epoch else "intra-epoch"
        logger.log(verbosity, f"Saved an {kind} checkpoint in {final}")
        paramfiles = {
            name: final / file.name
            for name, file in checkpoint.paramfiles.items()
        }
        return Checkpoint(final, checkpoint.meta, paramfiles)

    def _save_checkpoint_metafile(
        self, fpath, meta_to_include=None, end_of_epoch=True
    ):
        times = map(_time, self._list_checkpoint_dirs())
        before = max(times, default=0)
        now = max(time.time(), math.nextafter(before, math.inf))
        meta = {**(meta_to_include or {}), "unixtime": now}
        return super()._save_checkpoint_metafile(fpath, meta, end_of_epoch)

    def _needed(self):
        """The size of the largest checkpoint that is there, in bytes."""
        sizes = [
            sum(file.stat().st_size for file in folder.iterdir())
            for folder in self._list_checkpoint_dirs()
        ]
        return max(sizes, default=None)


def _time(folder):
    """When a checkpoint was saved; what is left of one that was being deleted
    has no meta file, but files of then."""
    try:
        meta = yaml.safe_load((folder / METAFNAME).read_text("utf-8"))
        return float(meta["unixtime"])
    except (OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile
            files = [path.stat().st_mtime for path in folder.iterdir()]
            return max(files, default=0)
        return 0


def _checksum(path):
    """The length and the CRC-32 of a file."""
    length = crc = 0
    with open(path, "rb") as file:
        while block := file.read(2**20):
            length += len(block)
            crc = zlib.crc32(block, crc)
    return [length, crc]


def _problem(folder):
    """What is wrong with a checkpoint; empty if it is whole."""
    try:
        expected = json.loads((folder / CHECKSUMS).read_text("utf-8"))
        for name, checksum in expected.items():
            if _checksum(folder / name) != checksum:
                return f"{name} is not what was written"
    except OSError as error:
        return f"{pathlib.Path(error.filename).name}: {error.strerror}"
    except (ValueError, AttributeError):
        return f"{CHECKSUMS} is damaged"
    return ""
