"""Voice and face of an utterance, clustered together."""

import numpy as np

from speechbrain_cadino.clustering.kmeans import (
    CHUNK,
    Clusters,
    cluster,
    unit_rows,
)
from speechbrain_cadino.clustering.quality import quality

# What is told of the clusters of voices or of faces alone.
MEASURES = ["nmi", "ami", "ari", "purity"]


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


def cluster_jointly(points, seen, width, num_clusters, *args, **options):
    """Clusters utterances that have a face; those that have none join the
    cluster whose voice is the nearest to theirs.

    Arguments
    ---------
    points : numpy.ndarray
        Of ``join``.
    seen : numpy.ndarray
        Of ``join``.
    width : int
        D, the size of the voice's part.
    num_clusters : int
        See ``cluster``, as for the others and for the errors.
    *args
    **options

    Returns
    -------
    Clusters

    Example
    -------
    >>> voices = np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1], [0.2, 1]])
    >>> faces = np.array([[1, 0], [1, 0], [0, 1], [0, 1], [np.nan, np.nan]])
    >>> clusters = cluster_jointly(*join(voices, faces), 2, num_clusters=2)
    >>> bool(clusters.labels[4] == clusters.labels[3] != clusters.labels[0])
    True
    """
    found = cluster(points[seen], num_clusters, *args, **options)
    voices = found.centroids[:, :width]
    norms = np.linalg.norm(voices, axis=1)
    voices = voices / np.maximum(norms, 1e-12)[:, None]
    labels = np.empty(len(points), np.int64)
    labels[seen] = found.labels
    unseen = np.flatnonzero(~seen)
    for first in range(0, len(unseen), CHUNK):
        rows = unseen[first : first + CHUNK]
        labels[rows] = (points[rows, :width] @ voices.T).argmax(1)
    return Clusters(labels, found.centroids)


def each_alone(points, seen, width, speakers, *args, **options):
    """How good the clusters of voices alone and of faces alone are.

    Arguments
    ---------
    points : numpy.ndarray
        Of ``join``.
    seen : numpy.ndarray
        Of ``join``: the others do not count.
    width : int
        D, the size of the voice's part.
    speakers : numpy.ndarray
        Shape (N,), see ``quality``.
    *args
        See ``cluster``, from the number of clusters on.
    **options

    Returns
    -------
    dict of dict
        The ``MEASURES`` of ``audio`` and of ``face``.
    """
    parts = {"audio": points[seen, :width], "face": points[seen, width:]}
    report = {}
    for sense, part in parts.items():
        clusters = cluster(part, *args, **options)
        figures = quality(clusters, speakers=speakers[seen])
        report[sense] = {name: figures[name] for name in MEASURES}
    return report
