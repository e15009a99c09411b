"""Voice and face of an utterance, clustered together."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from speechbrain_cadino.clustering.clusterer import find_clusters
from speechbrain_cadino.clustering.kmeans import Clusters
from speechbrain_cadino.clustering.pseudo_labels import pseudo_label
from speechbrain_cadino.clustering.quality import quality
from speechbrain_cadino.clustering.rows import CHUNK, unit_rows
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.store import readable_embeddings

# What is told of the clusters of voices or of faces alone.
MEASURES = ["nmi", "ami", "ari", "purity"]


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
        See ``pseudo_label``, as for what is not said here. It gets
        ``face_embeddings/``, too; with speakers, ``clusters.json`` also tells
        how good the clusters of voices alone and of faces alone would be.
    embedder : Embedder
        The encoder of voices.
    face_embedder : Embedder
        The encoder of faces.
    manifest : str or pathlib.Path
        The manifest of the voices.
    face_manifest : str or pathlib.Path
        See Faces, as for ``face_folder`` and ``face_weight``.
    clusterer : object
        See ``pseudo_label``.
    face_folder : str or pathlib.Path, optional
    face_weight : float
    **options
        Further arguments of ``pseudo_label``.

    Returns
    -------
    dict
        What is in ``clusters.json``.
    """
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
        """Raises if there is no manifest of faces, or a transform is of voices
        alone."""
        if hasattr(transform, "learn"):
            raise ValueError(
                f"transform: {type(transform).__name__} learns from recordings "
                "of voices, and would map faces by that: give Whitening, or "
                "null."
            )
        read_manifest(self.manifest, self.data_folder)

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
            Shape (N, D).
        transform : object, optional
            See ``pseudo_label``.

        Returns
        -------
        joined : Joined
            Which utterances have a face.
        points : numpy.ndarray
            Shape (N, D + E), see ``join``.
        """
        _, names, found = readable_embeddings(
            folder / "face_embeddings", transform
        )
        rows = pd.Index(names).get_indexer(ids)
        faces = found[rows]
        faces[rows < 0] = np.nan
        points, seen = join(voices, faces, self.weight)
        return Joined(seen, voices.shape[1]), points


class Joined(NamedTuple):
    """Voices and faces side by side.

    Arguments
    ---------
    seen : numpy.ndarray
        Shape (N,), bool: which utterances have a face.
    width : int
        D, the size of the voice's part.
    """

    seen: np.ndarray
    width: int

    def cluster(self, clusterer, points):
        """See ``cluster_jointly``."""
        return cluster_jointly(points, self.seen, self.width, clusterer)

    def report(self, clusterer, points, speakers):
        """What ``clusters.json`` gets besides: see ``each_alone``."""
        more = {"with_face": int(self.seen.sum())}
        if speakers is not None:
            more["alone"] = each_alone(
                points, self.seen, self.width, speakers, clusterer
            )
        return more


def join(voices, faces, weight=1.0):
    """Puts the embeddings of an utterance's voice and face side by side.

    Arguments
    ---------
    voices : numpy.ndarray
        Shape (N, D), of any length.
    faces : numpy.ndarray
        Shape (N, E), of any length; NaN where there is no face.
    weight : float
        The length of the face's part beside that of the voice, which is 1.

    Returns
    -------
    points : numpy.ndarray
        Shape (N, D + E), float32; the face's part is null where there is none.
    seen : numpy.ndarray
        Shape (N,), bool: which utterances have a face.

    Raises
    ------
    ValueError
        If the weight is not above 0, or no utterance has a face.

    Example
    -------
    >>> points, seen = join(np.array([[2.0], [3.0]]), np.array([[5], [np.nan]]))
    >>> points.tolist(), seen.tolist()
    ([[1.0, 1.0], [1.0, 0.0]], [True, False])
    """
    if not weight > 0:
        raise ValueError(
            f"face_weight={weight}: give a number above 0, or no face_encoder."
        )
    seen = np.isfinite(faces).all(1)
    if not seen.any():
        raise ValueError(
            "None of the utterances has a face: does face_manifest have the "
            "IDs of the manifest?"
        )
    points = np.zeros((len(voices), voices.shape[1] + faces.shape[1]), "f4")
    points[:, : voices.shape[1]] = unit_rows(voices)
    points[seen, voices.shape[1] :] = weight * unit_rows(faces[seen])
    return points, seen


def cluster_jointly(points, seen, width, clusterer):
    """Clusters utterances that have a face; those that have none join the
    cluster whose voice is the nearest to theirs.

    Arguments
    ---------
    points : numpy.ndarray
        The points of ``join``.
    seen : numpy.ndarray
        The mask of the utterances with a face, of ``join``.
    width : int
        D, the size of the voice's part.
    clusterer : object
        See ``find_clusters``, also for the errors.

    Returns
    -------
    clusters : Clusters
        Of the utterances that are in.
    within : numpy.ndarray
        Shape (N,), bool: all but the utterances with a face that the
        clusterer leaves out.

    Example
    -------
    >>> from speechbrain_cadino.clustering.kmeans import SphericalKMeans
    >>> voices = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]])
    >>> faces = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [np.nan, np.nan]])
    >>> joined = join(voices, faces)
    >>> clusters, _ = cluster_jointly(*joined, 2, SphericalKMeans(2))
    >>> bool(clusters.labels[4] == clusters.labels[3] != clusters.labels[0])
    True
    """
    found, inside = find_clusters(clusterer, points[seen])
    voices = found.centroids[:, :width]
    norms = np.linalg.norm(voices, axis=1)
    voices = voices / np.maximum(norms, 1e-12)[:, None]
    labels = np.empty(len(points), np.int64)
    within = np.full(len(points), True)
    within[seen] = inside
    labels[seen & within] = found.labels
    unseen = np.flatnonzero(~seen)
    for first in range(0, len(unseen), CHUNK):
        rows = unseen[first : first + CHUNK]
        labels[rows] = (points[rows, :width] @ voices.T).argmax(1)
    return Clusters(labels[within], found.centroids), within


def each_alone(points, seen, width, speakers, clusterer):
    """How good the clusters of voices alone and of faces alone are.

    Arguments
    ---------
    points : numpy.ndarray
        The points of ``join``.
    seen : numpy.ndarray
        The mask of the utterances with a face, of ``join``: the others do not
        count.
    width : int
        D, the size of the voice's part.
    speakers : numpy.ndarray
        Shape (N,), see ``quality``.
    clusterer : object
        See ``find_clusters``.

    Returns
    -------
    dict of dict
        The ``MEASURES`` of ``audio`` and of ``face``.
    """
    parts = {"audio": points[seen, :width], "face": points[seen, width:]}
    report = {}
    for signal, part in parts.items():
        clusters, within = find_clusters(clusterer, part)
        figures = quality(clusters, speakers=speakers[seen][within])
        report[signal] = {name: figures[name] for name in MEASURES}
    return report
