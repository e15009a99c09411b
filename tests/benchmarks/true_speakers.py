"""True speakers in the place of CA-DINO's clusters: what could partners give?

See the arm ``ca_dino_426_oracle`` of voxmulti.yaml.
"""

import pandas as pd

from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import DATA_ROOT, read_manifest


class TrueSpeakers:
    """A clusterer that knows the speakers of the training set.

    Arguments
    ---------
    manifest : str
        The manifest of the training set, all of which can be read.
    speakers : str
        The CSV file ``ID,spk_id`` of who speaks.
    """

    def __init__(self, manifest, speakers):
        self.manifest = manifest
        self.speakers = speakers

    def fit_predict(self, embeddings):
        """The speaker of each utterance, as a number."""
        table = read_manifest(self.manifest, DATA_ROOT)
        labels, _ = pd.factorize(labels_of(self.speakers, table["ID"]))
        if len(labels) != len(embeddings):
            raise ValueError(
                f"{len(embeddings)} of {len(labels)} utterances can be read."
            )
        return labels
