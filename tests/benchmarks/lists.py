"""Several trial lists over the same files, embedded once."""

import functools
import pathlib

import numpy as np
import pandas as pd

from speechbrain_cadino.verification.scoring import unit
from speechbrain_cadino.verification.trial_files import trial_files
from speechbrain_cadino.verification.trials import read_trials


class Lists:
    """Trial lists of one folder.

    Arguments
    ---------
    paths : dict
        The file of each list by its name.
    data_folder : str or pathlib.Path
        The folder that the names in them start from.

    Attributes
    ----------
    trials : dict of str:pandas.DataFrame
        The trials of each list, by its name.
    files : pandas.DataFrame
        The files of all lists, as a manifest.
    """

    def __init__(self, paths, data_folder):
        self.trials = {name: read_trials(path) for name, path in paths.items()}
        self.folder = data_folder

    @functools.cached_property
    def files(self):
        """Looked for when something is to be embedded: a report needs none."""
        return trial_files(pd.concat(self.trials.values()), self.folder)

    def points(self, embedder, centred=True):
        """The embeddings of the files, of unit length; their mean subtracted
        before if they are to be centred."""
        embeddings = embedder.embed(self.files)
        return unit(embeddings - centred * embeddings.mean(0))

    def scores(self, points):
        """The cosines of all trials of each list, by name."""
        place = pd.Series(range(len(self.files)), self.files["ID"])
        return {
            name: np.einsum(
                "td,td->t",
                *(points[place[trials[s]]] for s in ("enrol", "test")),
            )
            for name, trials in self.trials.items()
        }


def of_voxmulti(data, names):
    """The lists in meta/veri_NAME.txt of a folder like VoxCeleb's."""
    data = pathlib.Path(data)
    paths = {name: data / "meta" / f"veri_{name}.txt" for name in names}
    return Lists(paths, data)
