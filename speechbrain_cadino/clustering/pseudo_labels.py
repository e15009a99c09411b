"""From an encoder and a manifest to a manifest with pseudo labels."""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.joint import (
    cluster_jointly,
    each_alone,
    join,
)
from speechbrain_cadino.clustering.kmeans import check_options
from speechbrain_cadino.clustering.quality import write_report
from speechbrain_cadino.clustering.sweep import check_candidates
from speechbrain_cadino.clustering.sweep import sweep as sweep_numbers
from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.embeddings.extract import extract_manifest
from speechbrain_cadino.embeddings.store import load_embeddings
from speechbrain_cadino.embeddings.whitening import check_power, whiten

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
        Shape (N,): their clusters, 0 ... K - 1.
    min_cluster_size : int
        Utterances of smaller clusters are left out.

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
    sizes = np.bincount(labels)
    large = sizes[labels] >= min_cluster_size
    if not large.any():
        raise ValueError(
            f"min_cluster_size={min_cluster_size}: the largest cluster has "
            f"{sizes.max()} utterances."
        )
    width = len(str(labels.max()))
    names = pd.Series(labels[large], rows[large]).astype(str).str.zfill(width)
    kept = table.iloc[np.sort(rows[large])].copy()
    kept[LABEL] = names.sort_index().to_numpy()
    return kept


def pseudo_label(
    output_folder,
    encoder,
    manifest,
    data_folder=None,
    num_clusters=7500,
    merge_to=None,
    sweep=None,
    engine="sklearn",
    iterations=20,
    seed=0,
    whitening=0,
    min_cluster_size=1,
    speakers=None,
    face_encoder=None,
    face_manifest=None,
    face_folder=None,
    face_weight=1.0,
    device=None,
    **extract_options,
):
    """Embeds the utterances of a manifest, clusters them, and writes the
    manifest with the clusters as labels.

    With an encoder of faces, voice and face of an utterance are clustered
    together: see ``clustering.joint``.

    Under torchrun all processes embed, and the main one does the rest.
    Started again, it does not embed again what is there: see ``extract``.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        Gets ``embeddings/`` and, of faces, ``face_embeddings/``, the report
        (``clusters.json`` and ``plots/clusters.png``) and last,
        ``pseudo_labels.csv``.
    encoder : str or pathlib.Path
        An encoder folder or a hub id.
    manifest : str or pathlib.Path
        The manifest. A ``$data_root`` in it stays in ``pseudo_labels.csv``.
    data_folder : str or pathlib.Path, optional
        What ``$data_root`` stands for.
    num_clusters : int or float, optional
        K; below 1, the share of the utterances that it is; None to take the
        choice of the sweep.
    merge_to : int or float, optional
        See ``cluster``; a share of the utterances, too, if it is below 1.
    sweep : list of int, optional
        Numbers of clusters to compare first, before any merging: see
        ``clustering.sweep``. Writes ``sweep.json`` and ``plots/sweep.png``.
    engine : str
        See ``cluster``.
    iterations : int
        See ``cluster``.
    seed : int
        See ``cluster``.
    whitening : float
        The power of ``clustering.whitening.whiten``, which comes before the
        clustering and the sweep; 0 for none.
    min_cluster_size : int
        Utterances of smaller clusters are left out of the new manifest.
    speakers : str or pathlib.Path, optional
        The true speakers, ``speakers.csv``: for figures in the reports. They
        change no label. With faces, ``clusters.json`` also tells how good the
        clusters of voices alone and of faces alone would be.
    face_encoder : str or pathlib.Path, optional
        An encoder folder of faces.
    face_manifest : str or pathlib.Path, optional
        Face tracks under the IDs of the manifest: see ``prepare.faces``.
    face_folder : str or pathlib.Path, optional
        What ``$data_root`` in face_manifest stands for.
    face_weight : float
        How much a face counts beside a voice: 1 for as much.
    device : str, optional
        Of the encoder, and of the torch engine.
    **extract_options
        Further arguments of ``extract``.

    Returns
    -------
    dict
        What is in ``clusters.json``.

    Raises
    ------
    FileNotFoundError
        If a file is missing. This and other mistakes in the arguments show
        before anything is embedded.
    ValueError
        If an argument makes no sense.
    """
    table = read_manifest(manifest, DATA_ROOT)
    if sweep is not None:
        check_candidates(sweep)
    elif num_clusters is None:
        raise ValueError("Give num_clusters, or in sweep a list of candidates.")
    num_clusters = whole_number(num_clusters, len(table))
    merge_to = whole_number(merge_to, len(table))
    numbers = [num_clusters, *(sweep or [])]
    for number in [number for number in numbers if number is not None]:
        check_options(len(table), number, merge_to, engine)
    check_power(whitening)
    if face_encoder is not None:
        read_manifest(face_manifest, face_folder)
    if speakers is not None:
        speakers = labels_of(speakers, table["ID"])
    folder = pathlib.Path(output_folder)
    extract_manifest(
        folder / "embeddings",
        *(encoder, manifest, data_folder, device),
        **extract_options,
    )
    if face_encoder is not None:
        extract_manifest(
            folder / "face_embeddings",
            *(face_encoder, face_manifest, face_folder, device),
            **extract_options,
        )

    def finish():
        (folder / "pseudo_labels.csv").unlink(missing_ok=True)
        (folder / "sweep.json").unlink(missing_ok=True)
        ids, points, truth = _points(folder, whitening, speakers)
        width, seen = points.shape[1], np.full(len(points), True)
        if face_encoder is not None:
            faces = _faces(folder, ids, whitening)
            points, seen = join(points, faces, face_weight)
        options = {
            "engine": engine,
            "iterations": iterations,
            "seed": seed,
            "device": device,
        }
        number = num_clusters
        if sweep is not None:
            choice = sweep_numbers(
                folder,
                points[seen],
                sweep,
                None if truth is None else truth[seen],
                **options,
            )
            number = choice if number is None else number
        clusters = cluster_jointly(
            *(points, seen, width, number, merge_to), **options
        )
        more = {}
        if face_encoder is not None:
            more["with_face"] = int(seen.sum())
            if truth is not None:
                more["alone"] = each_alone(
                    *(points, seen, width, truth, number, merge_to), **options
                )
        report = write_report(folder, ids, clusters, points, truth, more)
        kept = label_manifest(table, ids, clusters.labels, min_cluster_size)
        write_manifest(folder / "pseudo_labels.csv", kept)
        logger.info(
            f"{len(kept)} of {len(table)} utterances have one of "
            f"{kept[LABEL].nunique()} pseudo labels; {len(table) - len(ids)} "
            f"have no embedding, {len(ids) - len(kept)} are in clusters of "
            f"fewer than {min_cluster_size}."
        )
        return report

    return run_on_main(finish)


def whole_number(number, count):
    """A number of clusters that may be a share of the utterances.

    Arguments
    ---------
    number : int or float, optional
        If it is above 0 and below 1, a share; any other is left as it is.
    count : int
        The number of utterances.

    Returns
    -------
    int, float or None

    Example
    -------
    >>> whole_number(0.7, 865), whole_number(600, 865)
    (606, 600)
    """
    is_share = number is not None and 0 < number < 1
    return max(1, round(number * count)) if is_share else number


def _readable(folder, whitening):
    """Which utterances have an embedding, (N,); their IDs and embeddings,
    whitened if that is wanted."""
    ids, embeddings = load_embeddings(folder)
    readable = np.isfinite(embeddings).all(1)
    points = embeddings[readable]
    if whitening:
        points = whiten(points, whitening)
    return readable, [n for n, fine in zip(ids, readable) if fine], points


def _faces(folder, ids, whitening):
    """The faces of utterances, (N, E); NaN where there is none."""
    _, names, found = _readable(folder / "face_embeddings", whitening)
    rows = pd.Index(names).get_indexer(ids)
    faces = found[rows]
    faces[rows < 0] = np.nan
    return faces


def _points(folder, whitening, speakers):
    """What there is to cluster: IDs, embeddings, speakers if given."""
    readable, ids, points = _readable(folder / "embeddings", whitening)
    return ids, points, None if speakers is None else speakers[readable]
