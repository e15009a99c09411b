"""From an encoder and a manifest to a manifest with pseudo labels."""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.clusterer import find_clusters, sized
from speechbrain_cadino.clustering.kmeans import (
    SphericalKMeans,
    run_clustering,
    whole_number,
)
from speechbrain_cadino.clustering.quality import write_clusters
from speechbrain_cadino.clustering.sweep import check_candidates, choose_number
from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    PSEUDO_LABELS,
    TRUSTED,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.embeddings.store import readable_embeddings
from speechbrain_cadino.process.outputs import check_inputs_stay

logger = get_logger(__name__)


def label_manifest(table, ids, labels, min_cluster_size=1):
    """Puts pseudo labels into a manifest.

    Arguments
    ---------
    table : pandas.DataFrame
        A manifest. It is left as it is.
    ids : list of str
        The N utterances that have a label. The others are left out.
    labels : numpy.ndarray
        Shape (N,): their clusters, 0 ... K - 1; below 0, an utterance is left
        out.
    min_cluster_size : int
        The smallest size of a cluster: utterances of smaller ones are left out.

    Returns
    -------
    pandas.DataFrame
        The rows that are left, in the order of the table, with the number of
        the cluster as ``spk_id``: text, with leading zeros.

    Raises
    ------
    ValueError
        If a label's utterance is not in the table, or if no cluster is large
        enough.

    Example
    -------
    >>> table = pd.DataFrame({"ID": ["a", "b", "c", "d"]})
    >>> label_manifest(table, ["d", "c", "a"], np.array([7, 10, 7]), 2)
      ID spk_id
    0  a     07
    3  d     07
    """
    rows = pd.Index(table["ID"]).get_indexer(ids)
    if (rows < 0).any():
        raise ValueError(
            f"'{ids[(rows < 0).argmax()]}' has a label but is not in the "
            "manifest: embed the manifest's own utterances."
        )
    labels = np.asarray(labels)
    sizes = np.bincount(labels[labels >= 0], minlength=1)
    large = (sizes[np.maximum(labels, 0)] >= min_cluster_size) & (labels >= 0)
    if not large.any():
        raise ValueError(
            f"min_cluster_size={min_cluster_size}: the largest cluster has "
            f"{sizes.max()} utterances."
        )
    width = len(str(labels.max()))
    names = pd.Series(labels[large], rows[large]).astype(str).str.zfill(width)
    # Labels of clusters are none that were given
    kept = table.iloc[np.sort(rows[large])].drop(
        columns=TRUSTED, errors="ignore"
    )
    kept[LABEL] = names.sort_index().to_numpy()
    return kept


def pseudo_label(
    output_folder,
    embedder,
    manifest,
    clusterer,
    data_folder=None,
    transform=None,
    sweep=(),
    min_cluster_size=1,
    shard_size=5_000,
    speakers=None,
    companion=None,
):
    """Embeds the utterances of a manifest, clusters them, and writes the
    manifest with the clusters as labels.

    Under torchrun all processes embed and take part in k-means, and the main
    one does the rest.
    Started again, it does not embed again what is there: see ``extract``.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The folder that gets ``embeddings/``, the report (``clusters.json`` and
        ``plots/clusters.png``) and last, ``pseudo_labels.csv``.
    embedder : Embedder
        The encoder.
    manifest : str or pathlib.Path
        The manifest. A ``$data_root`` in it stays in ``pseudo_labels.csv``.
    clusterer : object
        SphericalKMeans, or any object with scikit-learn's ``fit_predict``: see
        ``find_clusters``. A ``check(count)``, if it has one, is called before
        anything is embedded.
    data_folder : str or pathlib.Path, optional
        The folder that ``$data_root`` stands for.
    transform : object, optional
        The object whose ``fit_transform`` changes the embeddings before they
        are clustered, such as Whitening. A ``learn(embedder, table)``, if it
        has one, is called first: RecordingLDA embeds crops of its own.
    sweep : list of int
        Numbers of clusters to compare first, before any merging: see
        ``clustering.sweep``. Writes ``sweep.json`` and ``plots/sweep.png``;
        the choice is the clusterer's ``n_clusters`` if that is None.
    min_cluster_size : int
        The smallest cluster whose utterances are in the new manifest.
    shard_size : int
        See ``extract``.
    speakers : str or pathlib.Path, optional
        The true speakers, ``speakers.csv``: for figures in the reports. They
        change no label.
    companion : object, optional
        A second signal of the utterances, to be clustered together with the
        first: see ``audio_visual.joint.Faces``.

    Returns
    -------
    dict
        The content of ``clusters.json``.

    Raises
    ------
    FileNotFoundError
        If a file is missing. This and other mistakes in the arguments show
        before anything is embedded.
    ValueError
        If an argument makes no sense, or the manifest would be replaced.
    """
    folder = pathlib.Path(output_folder)
    check_inputs_stay([manifest], [folder / PSEUDO_LABELS])
    table = read_manifest(manifest, DATA_ROOT)
    count = len(table)
    if companion is not None:
        companion.check(transform)
        count = companion.count(table["ID"])
    clusterer = _ready(clusterer, embedder, sweep, count)
    if speakers is not None:
        speakers = labels_of(speakers, table["ID"])
    embedder.extract(
        folder / "embeddings", read_manifest(manifest, data_folder), shard_size
    )
    if companion is not None:
        companion.extract(folder, shard_size)

    def finish():
        for name in [PSEUDO_LABELS, "sweep.json", "plots/sweep.png"]:
            (folder / name).unlink(missing_ok=True)
        if hasattr(transform, "learn"):
            transform.learn(embedder, read_manifest(manifest, data_folder))
        readable, ids, points = readable_embeddings(
            folder / "embeddings", transform
        )
        truth = _of(speakers, readable)
        joined = _Alone(points)
        if companion is not None:
            joined = companion.join(folder, ids, points, transform)
            points = joined.points
        if sweep:
            chosen = choose_number(
                folder,
                points[joined.seen],
                sweep,
                clusterer,
                _of(truth, joined.seen),
            )
            if clusterer.n_clusters is None:
                clusterer.n_clusters = chosen
        clusters, within = joined.cluster(clusterer)
        more = joined.report(clusterer, truth, clusters, within)
        outliers = int((~within).sum())
        if outliers:
            more["outliers"] = outliers
            ids = [name for name, inside in zip(ids, within) if inside]
            points, truth = points[within], _of(truth, within)
        report = write_clusters(folder, ids, clusters, points, truth, more)
        kept = label_manifest(table, ids, clusters.labels, min_cluster_size)
        write_manifest(folder / PSEUDO_LABELS, kept)
        logger.info(
            f"{len(kept)} of {len(table)} utterances have one of "
            f"{kept[LABEL].nunique()} pseudo labels; "
            f"{len(table) - len(ids) - outliers} have no embedding, "
            f"{outliers} are in no cluster, {len(ids) - len(kept)} are in "
            f"clusters of fewer than {min_cluster_size}."
        )
        known = report.get("ami")
        if known is not None:
            logger.info(
                f"AMI of the clusters and the true speakers: {known:.3f}"
            )
        logger.info(
            f"The manifest is {folder / PSEUDO_LABELS}; what the clusters look "
            f"like is in {folder / 'plots' / 'clusters.png'}."
        )
        return report

    return run_clustering(finish)


def _ready(clusterer, embedder, sweep, count):
    """A copy of a clusterer that knows its device and the number of all
    utterances; raises if it cannot cluster them."""
    clusterer = sized(clusterer, device=embedder.device)
    check_clusterer(clusterer, sweep, count)
    if sweep and clusterer.n_clusters is not None:
        logger.warning(
            "sweep is for its picture alone, as "
            f"num_clusters={clusterer.n_clusters} is given and used: with "
            "null, the number that sweep chooses is used."
        )
    # Shares are of all utterances, also of those that cannot be read.
    for name in ["n_clusters", "merge_to"]:
        number = whole_number(getattr(clusterer, name, None), count)
        if number is not None:
            setattr(clusterer, name, number)
    return clusterer


class _Alone:
    """One signal of each utterance, where no companion joins another one."""

    seen = slice(None)

    def __init__(self, points):
        self.points = points

    def cluster(self, clusterer):
        return find_clusters(clusterer, self.points)

    def report(self, clusterer, speakers, clusters, within):
        return {}


def check_clusterer(clusterer, sweep, count):
    """Raises if a clusterer cannot cluster so many utterances.

    Arguments
    ---------
    clusterer : object
        The clusterer: SphericalKMeans, or any with ``fit_predict``. See
        ``pseudo_label``.
    sweep : list of int
        The numbers of clusters to compare first; empty for none.
    count : int
        The number of utterances.
    """
    number = getattr(clusterer, "n_clusters", 1)
    if sweep:
        check_candidates(sweep)
        if not isinstance(clusterer, SphericalKMeans):
            raise ValueError(
                "sweep compares numbers of clusters of SphericalKMeans: leave "
                f"it out with {type(clusterer).__name__}."
            )
    elif number is None and isinstance(clusterer, SphericalKMeans):
        raise ValueError("Give num_clusters, or in sweep a list of candidates.")
    if hasattr(clusterer, "check"):
        for one in [number, *(sweep or [])]:
            if one is not None:
                sized(clusterer, one).check(count)


def _of(values, rows):
    return None if values is None else values[rows]
