"""Voice and face of an utterance, clustered together."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.clusterer import find_clusters
from speechbrain_cadino.clustering.kmeans import Clusters, directions
from speechbrain_cadino.clustering.pseudo_labels import pseudo_label
from speechbrain_cadino.clustering.quality import quality
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.store import chunks, readable_embeddings
from speechbrain_cadino.encoders.load import check_kind

logger = get_logger(__name__)

# What is told of the clusters of voices or of faces alone.
MEASURES = ["nmi", "ami", "ari", "purity"]

# A larger share of utterances without a face is told
MOST_UNSEEN = 0.1


def pseudo_label_jointly(
    output_folder,
    embedder,
    face_embedder,
    manifest,
    face_manifest,
    clusterer,
    face_folder=None,
    face_weight=1.0,
    **options,
):
    """``pseudo_label`` by voice and face together.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The folder that gets what ``pseudo_label`` writes, and
        ``face_embeddings/``; with speakers, ``clusters.json`` also tells how
        good the clusters of voices alone and of faces alone would be. See
        ``pseudo_label``, also for the errors.
    embedder : Embedder
        The encoder of voices.
    face_embedder : Embedder
        The encoder of faces.
    manifest : str or pathlib.Path
        The manifest of the voices.
    face_manifest : str or pathlib.Path
        The manifest of the faces: tracks under the IDs of the voices. See
        Faces.
    clusterer : object
        See ``pseudo_label``.
    face_folder : str or pathlib.Path, optional
        The folder that ``$data_root`` in ``face_manifest`` stands for.
    face_weight : float
        The weight of a face beside a voice, above 0: 1 for as much.
    **options
        Further arguments of ``pseudo_label``.

    Returns
    -------
    dict
        The content of ``clusters.json``.
    """
    check_kind(face_embedder, "faces")
    faces = Faces(face_embedder, face_manifest, face_folder, face_weight)
    return pseudo_label(
        output_folder,
        embedder,
        manifest,
        clusterer,
        companion=faces,
        **options,
    )


class Faces:
    """The faces of the utterances whose voices are clustered: a ``companion``
    of ``pseudo_label``.

    Arguments
    ---------
    embedder : Embedder
        The encoder of faces.
    manifest : str or pathlib.Path
        Face tracks under the IDs of the voices' manifest: see
        ``audio_visual.prepare``.
    data_folder : str or pathlib.Path, optional
        The folder that ``$data_root`` in it stands for.
    weight : float
        The weight of a face beside a voice: 1 for as much.
    """

    def __init__(self, embedder, manifest, data_folder=None, weight=1.0):
        self.embedder = embedder
        self.manifest = manifest
        self.data_folder = data_folder
        self.weight = weight

    def check(self, transform):
        """Raises if a transform is of voices alone, or the weight makes no
        sense."""
        _check_weight(self.weight)
        if hasattr(transform, "learn"):
            raise ValueError(
                f"transform: {type(transform).__name__} learns from recordings "
                "of voices, and would map faces by that: give Whitening, or "
                "null."
            )

    def count(self, ids):
        """How many of some utterances have a face: these are clustered. Raises
        if there is no manifest of faces."""
        table = read_manifest(self.manifest, self.data_folder)
        return int(pd.Index(ids).isin(table["ID"]).sum())

    def extract(self, folder, shard_size):
        """Embeds the faces, into ``face_embeddings`` in a folder."""
        table = read_manifest(self.manifest, self.data_folder)
        self.embedder.extract(folder / "face_embeddings", table, shard_size)

    def join(self, folder, ids, voices, transform):
        """Puts the faces beside the voices.

        Arguments
        ---------
        folder : pathlib.Path
            The folder, as of ``extract``.
        ids : list of str
            The N utterances.
        voices : numpy.ndarray
            Embeddings of the voices, shape (N, D).
        transform : object, optional
            See ``pseudo_label``.

        Returns
        -------
        Joined
            The voices and faces of the N utterances, side by side.
        """
        _, names, found = readable_embeddings(
            folder / "face_embeddings", transform
        )
        rows = pd.Index(names).get_indexer(ids)
        faces = found[rows]
        faces[rows < 0] = np.nan
        return join(voices, faces, self.weight)


def _check_weight(weight):
    """Raises if faces have no weight."""
    if not weight > 0:
        raise ValueError(
            f"face_weight={weight}: give a number above 0, or take "
            "pseudo_label.yaml for voices alone."
        )


class Joined(NamedTuple):
    """Voices and faces side by side: see ``join``.

    Arguments
    ---------
    points : numpy.ndarray
        Shape (N, D + E), float32; the face's part is null where there is none.
    seen : numpy.ndarray
        Shape (N,), bool: which utterances have a face.
    width : int
        D, the size of the voice's part.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import SphericalKMeans
    >>> voices = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]])
    >>> faces = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [np.nan, np.nan]])
    >>> clusters, _ = join(voices, faces).cluster(SphericalKMeans(2))
    >>> bool(clusters.labels[4] == clusters.labels[3] != clusters.labels[0])
    True
    """

    points: np.ndarray
    seen: np.ndarray
    width: int

    def cluster(self, clusterer):
        """Clusters utterances that have a face; those that have none join the
        cluster whose voice is the nearest to theirs.

        Arguments
        ---------
        clusterer : object
            See ``find_clusters``, also for the errors.

        Returns
        -------
        clusters : Clusters
            The clusters of the utterances that are ``within``.
        within : numpy.ndarray
            Shape (N,), bool: all but the utterances with a face that the
            clusterer leaves out.
        """
        found, inside = find_clusters(clusterer, self.points[self.seen])
        voices = found.centroids[:, : self.width]
        voices = directions(voices, np.zeros_like(voices))
        labels = np.empty(len(self.points), np.int64)
        within = np.full(len(self.points), True)
        within[self.seen] = inside
        labels[self.seen & within] = found.labels
        unseen = np.flatnonzero(~self.seen)
        if len(unseen) > MOST_UNSEEN * len(labels):
            logger.warning(
                f"{len(unseen)} of {len(labels)} utterances have no face, and "
                "join the clusters of those that have one: speakers who never "
                "have a face are taken for others. pseudo_label.yaml clusters "
                "voices alone."
            )
        for piece in chunks(len(unseen)):
            rows = unseen[piece]
            own = self.points[rows, : self.width]
            labels[rows] = (own @ voices.T).argmax(1)
        return Clusters(labels[within], found.centroids), within

    def report(self, clusterer, speakers, clusters, within):
        """What ``clusters.json`` gets besides.

        Arguments
        ---------
        clusterer : object
            See ``find_clusters``.
        speakers : numpy.ndarray or None
            Shape (N,), see ``quality``.
        clusters : Clusters
            The clusters that ``cluster`` has found.
        within : numpy.ndarray
            Shape (N,), bool: which utterances are in them, of ``cluster``.

        Returns
        -------
        dict
            ``with_face``, their number; with speakers ``alone``, the
            ``MEASURES`` of clusters of their voices, ``audio``, of their
            faces, ``face``, and, of the same utterances, of ``both``.
        """
        more = {"with_face": int(self.seen.sum())}
        if speakers is not None:
            alone = self._alone(clusterer, speakers[self.seen])
            seen = self.seen[within]
            labels = np.unique(clusters.labels[seen], return_inverse=True)[1]
            both = clusters._replace(labels=labels)
            alone["both"] = _measures(both, speakers[within][seen])
            more["alone"] = alone
        return more

    def _alone(self, clusterer, speakers):
        """How good the clusters of either signal alone are."""
        points = self.points[self.seen]
        parts = {
            "audio": points[:, : self.width],
            "face": points[:, self.width :],
        }
        found = {}
        for signal, part in parts.items():
            clusters, within = find_clusters(clusterer, part)
            found[signal] = _measures(clusters, speakers[within])
        return found


def _measures(clusters, speakers):
    """``MEASURES`` of clusters."""
    figures = quality(clusters, speakers=speakers)
    return {name: figures[name] for name in MEASURES}


def join(voices, faces, weight=1.0):
    """Puts the embeddings of an utterance's voice and face side by side.

    Arguments
    ---------
    voices : numpy.ndarray
        Embeddings of the voices, shape (N, D), of any length.
    faces : numpy.ndarray
        Embeddings of the faces, shape (N, E), of any length; NaN where there
        is no face.
    weight : float
        The length of the face's part beside that of the voice, which is 1.

    Returns
    -------
    Joined
        The points, (N, D + E), which of them have a face, and D.

    Raises
    ------
    ValueError
        If the weight is not above 0, or no utterance has a face.

    Example
    -------
    >>> joined = join(np.array([[2.0], [3.0]]), np.array([[5], [np.nan]]))
    >>> joined.points.tolist(), joined.seen.tolist(), joined.width
    ([[1.0, 1.0], [1.0, 0.0]], [True, False], 1)
    """
    _check_weight(weight)
    seen = np.isfinite(faces).all(1)
    if not seen.any():
        raise ValueError(
            "None of the utterances has a face: does face_manifest have the "
            "IDs of the manifest?"
        )
    width = voices.shape[1]
    points = np.zeros((len(voices), width + faces.shape[1]), "f4")
    points[:, :width] = unit_rows(voices)
    points[seen, width:] = weight * unit_rows(faces[seen])
    return Joined(points, seen, width)
