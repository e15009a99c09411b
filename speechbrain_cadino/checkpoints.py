"""A Checkpointer that never leaves half a checkpoint behind."""

import logging
import os
import shutil

from speechbrain.utils.checkpoints import Checkpoint, Checkpointer
from speechbrain.utils.distributed import if_main_process, run_on_main
from speechbrain.utils.logger import get_logger

logger = get_logger(__name__)

PARTIAL = "partial+"


class AtomicCheckpointer(Checkpointer):
    """SpeechBrain's Checkpointer, safe against being killed while it saves.

    SpeechBrain writes the meta file of a checkpoint first: if the process dies
    before the rest is there, the next run takes the torso for the newest
    checkpoint and fails. Here a checkpoint is written under another name, and
    renamed once it is whole.

    Arguments
    ---------
    checkpoints_dir : str or pathlib.Path
        Folder of the checkpoints.
    **kwargs : dict
        As for SpeechBrain's Checkpointer.

    Example
    -------
    >>> import torch
    >>> folder = getfixture("tmp_path")
    >>> model = torch.nn.Linear(1, 1)
    >>> checkpointer = AtomicCheckpointer(folder, recoverables={"m": model})
    >>> checkpoint = checkpointer.save_checkpoint()
    >>> sorted(path.name for path in checkpoint.path.iterdir())
    ['CKPT.yaml', 'm.ckpt']
    >>> checkpoint.path.name.startswith("CKPT+")
    True
    """

    def __init__(self, checkpoints_dir, **kwargs):
        super().__init__(checkpoints_dir, **kwargs)
        if if_main_process():
            for torso in self._torsos():
                shutil.rmtree(torso)

    def _torsos(self):
        """What is left of a killed process that was saving, or deleting."""
        yield from self.checkpoints_dir.glob(PARTIAL + "*")
        for path in self.checkpoints_dir.glob("CKPT+*"):
            if not self._is_checkpoint_dir(path):
                yield path

    def _new_checkpoint_dirpath(self):
        path = super()._new_checkpoint_dirpath()
        return path.with_name(PARTIAL + path.name)

    def _custom_checkpoint_dirpath(self, name):
        path = super()._custom_checkpoint_dirpath(name)
        return path.with_name(PARTIAL + path.name)

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
        checkpoint = super().save_checkpoint(
            meta, end_of_epoch, name, verbosity=logging.DEBUG
        )
        path = checkpoint.path
        final = path.with_name(path.name.removeprefix(PARTIAL))
        os.rename(path, final)
        kind = "end-of-epoch" if end_of_epoch else "intra-epoch"
        logger.log(verbosity, f"Saved an {kind} checkpoint in {final}")
        paramfiles = {
            name: final / file.name
            for name, file in checkpoint.paramfiles.items()
        }
        return Checkpoint(final, checkpoint.meta, paramfiles)
