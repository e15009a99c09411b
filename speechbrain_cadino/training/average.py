"""The mean of the weights of the last epochs."""

import pathlib

import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.files import atomic_path

logger = get_logger(__name__)


class LastEpochs:
    """Keeps the weights of the last epochs, a file each, and averages them.

    WeSpeaker scores with the mean of the last ten teachers of its DINO recipe,
    and of the last ten models of its supervised one (``num_avg``).

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder of the files.
    count : int
        The number of the last epochs to average; with 1 nothing is kept or
        averaged.

    Raises
    ------
    ValueError
        If the number is not 1 or more.

    Example
    -------
    >>> last = LastEpochs(getfixture("tmp_path"), count=2)
    >>> layer = torch.nn.Linear(1, 1, bias=False)
    >>> for epoch in (1, 2, 3):
    ...     _ = torch.nn.init.constant_(layer.weight, epoch)
    ...     last.keep(epoch, layer)
    >>> last.average(layer, epoch=3)
    True
    >>> layer.weight.item()
    2.5
    """

    def __init__(self, folder, count):
        if count < 1:
            raise ValueError(f"average_epochs={count}: give 1 or more.")
        self.folder = pathlib.Path(folder)
        self.count = count

    def keep(self, epoch, module):
        """Keeps a module as it is after an epoch, in the place of that of
        ``count`` epochs before: a limit of steps may end the training here.

        Arguments
        ---------
        epoch : int
            The epoch, counted from 1.
        module : torch.nn.Module
            The module to be averaged.
        """
        if self.count == 1:
            return
        with atomic_path(self._path(epoch)) as temporary:
            torch.save(module.state_dict(), temporary)
        self._path(epoch - self.count).unlink(missing_ok=True)

    def average(self, module, epoch):
        """Gives a module the mean of what was kept: of weights and of
        BatchNorm statistics.

        Arguments
        ---------
        module : torch.nn.Module
            The module given to ``keep``, which is changed in place.
        epoch : int
            The last epoch.

        Returns
        -------
        bool
            Whether it has: not of one epoch alone.

        Raises
        ------
        ValueError
            If a file of the last epochs is gone.
        """
        if self.count == 1:
            return False
        first = max(1, epoch - self.count + 1)
        paths = [self._path(each) for each in range(first, epoch + 1)]
        missing = [str(path) for path in paths if not path.is_file()]
        if missing:
            raise ValueError(
                f"average_epochs={self.count}, and there is no {missing[0]}: "
                "the training is to be done again."
            )
        mean = {}
        for path in paths:
            state = torch.load(path, weights_only=True, map_location="cpu")
            for name, value in state.items():
                if value.is_floating_point():
                    value = value.double() / len(paths) + mean.get(name, 0)
                mean[name] = value
        module.load_state_dict(mean)
        logger.info(f"The mean of the last {len(paths)} epochs is evaluated.")
        return True

    def _path(self, epoch):
        return self.folder / f"epoch{epoch:03}.ckpt"
