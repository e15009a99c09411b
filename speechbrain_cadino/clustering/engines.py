"""Engines of k-means: which centroid is the nearest to each utterance."""

import numpy as np
import torch
from sklearn.metrics import pairwise_distances_argmin_min

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.process.precision import full_precision

logger = get_logger(__name__)

# Similarities that the torch engine holds at once: 256 MiB.
SIMILARITIES = 2**26


def find_engine(name, device=None):
    """What finds the nearest centroids.

    Arguments
    ---------
    name : str
        The engine: "sklearn", "faiss" or "torch". See ``cluster``, also for
        the errors.
    device : str, optional
        The device of the torch engine; a GPU by default if there is one.

    Returns
    -------
    callable
        The function from points (N, D) and centroids (K, D), float32 and of
        unit length, to the labels of the nearest centroids (N,), int64, and
        the cosines to them (N,), float32.

    Example
    -------
    >>> nearest = find_engine("torch", "cpu")
    >>> points = np.eye(2, dtype=np.float32)
    >>> nearest(points, points[::-1].copy())
    (array([1, 0]), array([1., 1.], dtype=float32))
    """
    if name == "sklearn":
        return _nearest_sklearn
    if name == "faiss":
        try:
            import faiss  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "The engine 'faiss' is not installed: "
                'pip install "speechbrain_cadino[faiss]", or choose "sklearn" '
                'or "torch".'
            ) from error
        return _nearest_faiss
    if name == "torch":
        device = engine_device(device)
        return lambda *pair: _nearest_torch(*pair, device)
    raise ValueError(
        f"There is no engine {name!r}: choose 'sklearn', 'faiss' or 'torch'."
    )


def engine_device(device=None):
    """The device of the torch engine: a GPU by default, if there is one."""
    return device or ("cuda" if torch.cuda.is_available() else "cpu")


def _nearest_sklearn(points, centroids):
    labels, distances = pairwise_distances_argmin_min(points, centroids)
    return labels.astype(np.int64), 1 - np.square(distances) / 2


def _nearest_faiss(points, centroids):
    import faiss

    index = faiss.IndexFlatIP(centroids.shape[1])
    index.add(centroids)
    cosines, labels = index.search(points, 1)
    return labels[:, 0], cosines[:, 0]


def _nearest_torch(points, centroids, device, similarities=SIMILARITIES):
    """In chunks that hold at most so many similarities."""
    labels = np.empty(len(points), np.int64)
    cosines = np.empty(len(points), np.float32)
    centroids = torch.from_numpy(centroids).to(device).T
    size = max(1, similarities // centroids.shape[1])
    first = 0
    while first < len(points):
        rows = slice(first, first + size)
        try:
            chunk = torch.from_numpy(points[rows]).to(device)
            with full_precision(chunk.device.type):
                best = (chunk @ centroids).max(1)
            cosines[rows] = best.values.cpu()
            labels[rows] = best.indices.cpu()
        except torch.cuda.OutOfMemoryError:
            if size == 1:
                raise
            size //= 2
            logger.warning(f"Out of GPU memory: on with chunks of {size} rows.")
        else:
            first += size
    return labels, cosines
