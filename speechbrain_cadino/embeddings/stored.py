"""Embeddings that are there already, in the place of an encoder."""

import os
import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.dataio.names import match
from speechbrain_cadino.embeddings.extract import check_kept
from speechbrain_cadino.embeddings.store import (
    DURATIONS,
    NAMES,
    SKIPPED,
    check_our_embeddings,
    forget,
    load_embeddings,
    save_embeddings,
)
from speechbrain_cadino.process.files import wait_for
from speechbrain_cadino.process.tables import read_csv


class StoredEmbeddings:
    """Embeddings that somebody made, in the place of an Embedder.

    Arguments
    ---------
    folder : str or pathlib.Path
        The folder with ``embeddings.npy`` and ``ids.txt``.
    device : str, optional
        The device that works on them, such as for k-means.

    Raises
    ------
    ValueError
        If two rows have the same ID. See ``load_embeddings`` for others.

    Example
    -------
    >>> import pandas as pd
    >>> folder = getfixture("tmp_path")
    >>> save_embeddings(folder, ["a", "b"], np.eye(2))
    >>> table = pd.DataFrame({"ID": ["b"]})
    >>> StoredEmbeddings(folder).embed(table)
    array([[0., 1.]], dtype=float32)
    """

    hears = False
    sample_rate = 16000
    mean = encoder = None

    def __init__(self, folder, device=None):
        self.source = folder
        self.device = device
        self.ids, self.embeddings = load_embeddings(folder)
        self.rows = pd.Index(self.ids)
        if self.rows.has_duplicates:
            name = self.rows[self.rows.duplicated()][0]
            raise ValueError(
                f"{folder}: ids.txt names {name} more than once, so its "
                "embedding is not known."
            )

    def replace(self, **options):
        """See ``Embedder.replace``: nothing of it matters here."""
        return self

    def own_names(self, names):
        """The IDs of names that may be spelled otherwise, such as those of a
        trial list, which have a suffix.

        Arguments
        ---------
        names : sequence of str
            The names.

        Returns
        -------
        list of str
            The ID of each that is there, or that is skipped, by
            ``dataio.names.match``; the name itself if there is none.
        """
        if self.rows.isin(names).sum() == len(set(names)):
            return list(names)
        # What extract has skipped has a row, too
        known = list(dict.fromkeys([*self.ids, *sorted(self.skipped())]))
        return [
            name if row < 0 else known[row]
            for name, row in zip(names, match(names, known))
        ]

    def check_known(self, names):
        """Raises if there is no embedding of an utterance, but for those that
        are skipped.

        Arguments
        ---------
        names : sequence of str
            The IDs.

        Raises
        ------
        ValueError
            Naming one that is not there.
        """
        names = pd.Index(names)
        unknown = ~names.isin(self.rows)
        if unknown.any():
            unknown &= ~names.isin(self.skipped())
        if unknown.any():
            raise self._missing(names, unknown)

    def _missing(self, names, missing):
        """The error that some names have no embedding."""
        return ValueError(
            f"{self.source} has no embedding of {missing.sum()} of "
            f"{len(names)} utterances, such as {names[missing][0]}: give names "
            "as its ids.txt has them, in a manifest or a trial list too, and "
            "no encoder beside it."
        )

    def skipped(self):
        """The files that had no embedding, as they could not be read.

        Returns
        -------
        set of str
            The names in ``skipped.csv``, if that is there.
        """
        path = pathlib.Path(self.source, SKIPPED)
        if not path.is_file():
            return set()
        table = read_csv(path)
        # Of the command embed, or of extract; else it is of somebody else
        names = [name for name in ("file", "ID") if name in table]
        return set(table[names[0]]) if names else set()

    def durations(self, names):
        """How long files are.

        Arguments
        ---------
        names : list of str
            The N IDs.

        Returns
        -------
        numpy.ndarray
            Shape (N,), in seconds; NaN where the command ``embed`` has not
            written it.
        """
        path = pathlib.Path(self.source, DURATIONS)
        if not path.is_file():
            return np.full(len(names), np.nan)
        table = read_csv(path, {"duration": float}).set_index("ID")
        return table["duration"].reindex(names).to_numpy()

    def embed(self, table, skip_unreadable=False):
        """The embeddings of utterances, by their IDs.

        Arguments
        ---------
        table : pandas.DataFrame
            A manifest, of which only ``ID`` counts.
        skip_unreadable : bool
            Whether an utterance without an embedding, or one of which is not
            finite, gets a row of NaN.

        Returns
        -------
        numpy.ndarray
            Embeddings, shape (N, D), float32.

        Raises
        ------
        ValueError
            If an utterance has no embedding, or one that is zero or not finite,
            unless that is skipped; or if there is none of them at all.
        """
        if not len(table):
            raise ValueError("There is no utterance to look up.")
        rows = self.rows.get_indexer(table["ID"])
        missing = rows < 0
        if missing.all() or (missing.any() and not skip_unreadable):
            raise self._missing(pd.Index(table["ID"]), missing)
        found = np.asarray(self.embeddings[rows], np.float32)
        fine = np.isfinite(found).all(1) & found.any(1)
        broken = ~fine & ~missing
        if (broken | missing).all() or (broken.any() and not skip_unreadable):
            name = table["ID"].iloc[broken.argmax()]
            raise ValueError(
                f"{self.source}: {broken.sum()} of {len(table)} embeddings are "
                f"zero or not finite, such as that of {name}."
            )
        found[missing | broken] = np.nan
        return found

    def extract(self, folder, table, shard_size=None, keep=None):
        """See ``Embedder.extract``; copies the rows that are wanted.

        Raises
        ------
        ValueError
            If the folder is that of the embeddings themselves.
        """
        if os.path.realpath(folder) == os.path.realpath(self.source):
            raise ValueError(
                f"{folder} holds the embeddings that are given, and would get "
                "those of the manifest alone: give another output_folder."
            )

        # The main process alone: of many rows, one copy fills the memory
        def save():
            embeddings = self.embed(table, skip_unreadable=True)
            check_our_embeddings(folder)
            if keep:
                check_kept(folder, {})
            forget(folder)
            save_embeddings(folder, list(table["ID"]), embeddings)

        run_on_main(save)
        for name in NAMES:
            wait_for(pathlib.Path(folder, name))
        return load_embeddings(folder)
