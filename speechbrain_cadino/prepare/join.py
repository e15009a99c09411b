"""Joined manifests: labels that are given beside labels that were guessed."""

import os
import pathlib

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.adaptation import (
    check_disjoint,
    check_files_apart,
)
from speechbrain_cadino.dataio.labels import check_speakers
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    TRUSTED,
    pseudo_labels,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.dataio.names import check_writable_name
from speechbrain_cadino.dataio.rates import alike, counted_rate
from speechbrain_cadino.prepare.inputs import check_folders
from speechbrain_cadino.process.outputs import check_folder, check_inputs_stay

logger = get_logger(__name__)


def join_manifests(
    source, target, output, source_folder=None, target_folder=None
):
    """Joins a manifest of true labels and one of pseudo labels, for stage II.

    The labels become ``s_...`` and ``t_...``, so that no speaker of the one is
    a cluster of the other, and the column ``trusted`` says which were given.
    ``train_dlg_lc.py`` never drops or corrects these.

    Arguments
    ---------
    source : str or pathlib.Path
        The manifest with true labels as ``spk_id``.
    target : str or pathlib.Path
        The manifest with pseudo labels, such as ``pseudo_label.py`` writes.
    output : str or pathlib.Path
        The manifest to write.
    source_folder, target_folder : str or pathlib.Path, optional
        The folder in the place of ``$data_root`` in each; by default
        ``$data_root`` stays, and is one folder of both.

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or the first file is not below it.
    OSError
        If the output cannot be written.
    ValueError
        If one has no labels or is joined already, the source is of one
        speaker, both have an utterance in common or count at different rates,
        or the output is one of them.

    Example
    -------
    >>> folder = getfixture("tmp_path")
    >>> head = "ID,duration,wav,start,stop,spk_id\\n"
    >>> for name, labels in (("a", ["anne", "bob"]), ("b", ["0", "0"])):
    ...     rows = [
    ...         f"{name}{i},4.0,$data_root/{name}{i}.wav,0,64000,{label}\\n"
    ...         for i, label in enumerate(labels)
    ...     ]
    ...     _ = (folder / f"{name}.csv").write_text(head + "".join(rows))
    >>> paths = [folder / name for name in ("a.csv", "b.csv", "joined.csv")]
    >>> join_manifests(*paths)
    >>> print(paths[2].read_text().strip())
    ID,duration,wav,start,stop,spk_id,trusted
    a0,4.0,$data_root/a0.wav,0,64000,s_anne,1
    a1,4.0,$data_root/a1.wav,0,64000,s_bob,1
    b0,4.0,$data_root/b0.wav,0,64000,t_0,0
    b1,4.0,$data_root/b1.wav,0,64000,t_0,0
    """
    tables = [
        _read(path, folder, kind).assign(**{TRUSTED: trusted})
        for path, folder, kind, trusted in (
            (source, source_folder, "source", 1),
            (target, target_folder, "target", 0),
        )
    ]
    check_writable_name(output)
    check_inputs_stay([source, target], [output])
    rates = [counted_rate(table) for table in tables]
    if None not in rates and not alike(*rates):
        raise ValueError(
            f"{source} counts {rates[0]:.0f} samples a second and {target} "
            f"{rates[1]:.0f}: prepare both at one sample_rate."
        )
    check_speakers(tables[0][LABEL], source)
    check_disjoint(*(table["ID"] for table in tables), "IDs")
    check_files_apart(*(table["wav"] for table in tables))
    check_folder(pathlib.Path(output).parent)
    table = pd.concat(tables)
    write_manifest(output, table)
    counts = [f"{len(t)} of {t[LABEL].nunique()} labels" for t in tables]
    logger.info(
        f"{output}: {counts[0]} that are given, {counts[1]} that were guessed."
    )


def _read(path, folder, kind):
    """A manifest whose labels have a prefix."""
    data_root = DATA_ROOT
    if folder:
        (data_root,) = check_folders(folder, key=f"{kind}_folder")
    table = read_manifest(path, data_root)
    first = table["wav"].iloc[0]
    if folder and not os.path.exists(first):
        raise FileNotFoundError(
            f"There is no {first}, the first file of {path}: is {kind}_folder "
            "right?"
        )
    if TRUSTED in table:
        raise ValueError(
            f"{path} has a column {TRUSTED}: it is joined already. Give the "
            "manifests that it was made of."
        )
    return table.assign(**{LABEL: f"{kind[0]}_" + pseudo_labels(table, path)})
