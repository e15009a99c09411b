"""Folders of noises (MUSAN) and of rooms (OpenRIR) to manifests."""

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.prepare.folder import prepare_folder

logger = get_logger(__name__)


def prepare_noise(data_folder, manifest_folder, manifest, **options):
    """Writes the manifest of a folder of noises, if there is such a folder.

    Arguments
    ---------
    data_folder : str or pathlib.Path, optional
        The folder; None leaves the augmentation to its built-in generator.
    manifest_folder : str or pathlib.Path
        The folder that the manifest goes to.
    manifest : str
        The file name of the manifest, such as ``noise.csv``.
    **options
        Further arguments of ``prepare_folder``: ``glob`` picks a subset.

    Example
    -------
    >>> prepare_noise(None, getfixture("tmp_path"), "noise.csv")
    """
    if data_folder is None:
        logger.info(f"No folder for {manifest}: a built-in generator serves.")
        return
    prepare_folder(
        data_folder,
        manifest_folder,
        min_duration=0,
        manifest=manifest,
        **options,
    )
