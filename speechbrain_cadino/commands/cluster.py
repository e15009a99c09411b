"""The command ``cluster``: who speaks in which file, and how sure that is."""

import functools

import numpy as np
import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.quality import silhouettes
from speechbrain_cadino.clustering.rows import unit_rows
from speechbrain_cadino.clustering.speakers import (
    MOST_LEAVES,
    check_number,
    find_speakers,
    stability,
)
from speechbrain_cadino.commands.arguments import (
    as_text,
    check_file,
    encoder_of,
    files_of,
    load,
)
from speechbrain_cadino.commands.audio_files import NO_EMBEDDING, embed_files
from speechbrain_cadino.embeddings.store import sameness
from speechbrain_cadino.encoders.calibration import read_calibration
from speechbrain_cadino.process.outputs import check_inputs_stay
from speechbrain_cadino.process.tables import write_csv
from speechbrain_cadino.runs.maps import FEWEST
from speechbrain_cadino.verification.halves import FEWEST_RECORDINGS

logger = get_logger(__name__)

# A fifth of fewer files is none.
FEWEST_OF_STABILITY = 5

ONE_VOICE = (
    "All are of one voice, by a calibration that was made on other audio. If "
    "that cannot be, the calibration does not hold for these files: "
)

TO_CALIBRATE = (
    "remove calibration.json from the encoder folder, or from a copy of it, "
    "and cluster again. That calibrates on these files."
)

# Of few files, and of embeddings alone, no calibration is made.
TO_TELL = "say how many voices there are, --num_clusters."

# Of fewer files no number is found without a calibration.
FEWEST_OF_DOUBT = 3

# So many times more voices than clusters are suspicious, where these lie apart
# by such a mean silhouette: ours.
SUSPICIOUS = 2
APART = 0.3


def cluster(arguments):
    """Writes a table of file and cluster.

    Arguments
    ---------
    arguments : argparse.Namespace
        The parsed arguments of the command.

    Returns
    -------
    str
        A table of the sizes of the clusters.
    """
    files = files_of(arguments, arguments.inputs)
    check_file(arguments.csv)
    check_inputs_stay(arguments.inputs, [arguments.csv])
    if not arguments.shortest >= 0:  # or NaN
        raise ValueError(f"--shortest={arguments.shortest}: give 0 s or more.")
    encoder, number = encoder_of(arguments), arguments.num_clusters
    theirs = read_calibration(encoder)
    if number is not None or len(files) < 2:
        check_number(len(files), number, theirs)
    loaded = load(encoder, arguments)
    found = embed_files(
        loaded,
        files,
        recording_lda=arguments.recording_lda,
        self_calibrate=number is None,
    )
    skipped = found.skipped
    if not arguments.inputs:  # all that has been embedded
        others = sorted(loaded.skipped() - {*files})
        skipped = {**skipped, **dict.fromkeys(others, NO_EMBEDDING)}
    long = _long_enough(found.seconds, arguments.shortest)
    choose = functools.partial(
        find_speakers,
        num_clusters=number,
        calibration=found.calibration,
        device=loaded.device,
    )
    embeddings = found.embeddings[long]
    if same := sameness(embeddings):
        logger.warning(f"{same} Then clusters tell nothing.")
    labels = choose(embeddings)
    chosen = ""
    if number is None:
        _judge_number(arguments, embeddings, labels, found.calibration, theirs)
        own = found.calibration != theirs
        chosen = _how_chosen(found.calibration, own, arguments.recording_lda)
    logger.info(
        f"{len(labels)} files, {labels.max() + 1} cluster(s): {arguments.csv}"
        f"{chosen}"
    )
    table = pd.DataFrame({"file": found.files})
    table.loc[long, "cluster"] = labels
    table["cluster"] = table["cluster"].astype("Int64")
    if not long.all():
        table.loc[~long, "note"] = "too short"
    figures = {"files": ("file", "count")}
    if MOST_LEAVES >= len(labels) >= FEWEST_OF_STABILITY and number is None:
        table.loc[long, "stability"] = _stability(embeddings, labels, choose)
        figures["stability"] = ("stability", "mean")
    if skipped:
        skipped = pd.DataFrame(skipped.items(), columns=["file", "note"])
        table = pd.concat([table, skipped], ignore_index=True)
    write_csv(arguments.csv, table)
    return as_text(table.groupby("cluster").agg(**figures).reset_index())


def _judge_number(arguments, embeddings, labels, calibration, theirs):
    """Warns where the number of clusters that was found may be wrong.

    Arguments
    ---------
    arguments : argparse.Namespace
        The parsed arguments of the command.
    embeddings : numpy.ndarray
        Embeddings of the files, shape (N, D).
    labels : numpy.ndarray
        Shape (N,): the cluster of each.
    calibration, theirs : ScoreCalibration or None
        The calibration by which the number was found, and the encoder's.
    """
    count, number = len(labels), labels.max() + 1
    if count > MOST_LEAVES:
        if number > MOST_LEAVES // 2:
            logger.warning(
                f"{number} clusters are near {MOST_LEAVES}, the largest number "
                "that is found: if there may be more voices, say how many, "
                "--num_clusters."
            )
    elif calibration is not None and calibration.method != "trials":
        _doubt(embeddings, number)
    if calibration and calibration == theirs and count > 1 and number == 1:
        few = arguments.embeddings or count < FEWEST_RECORDINGS
        logger.warning(ONE_VOICE + (TO_TELL if few else TO_CALIBRATE))


def _doubt(embeddings, found):
    """Warns if a calibration without labels finds too many voices, as one does
    that was made on files of few: it has taken every two of them for two."""
    if len(embeddings) < FEWEST_OF_DOUBT:
        return
    labels = find_speakers(embeddings)
    apart = labels.max() + 1
    if found <= SUSPICIOUS * apart:
        return
    if silhouettes(unit_rows(embeddings), labels).mean() > APART:
        logger.warning(
            f"{found} voices, by a calibration without labels. It holds only "
            "if most files that it was made on are of different voices, and "
            f"here {apart} clusters lie well apart. If the voices are few, "
            f"give --num_clusters={apart}, or calibrate by trials."
        )


def _long_enough(seconds, shortest):
    """Which files are; raises if none is."""
    long = ~(seconds < shortest)
    if not long.any():
        raise ValueError(
            f"All {len(long)} files are shorter than {shortest} s, too little "
            "to tell a voice by: see --shortest."
        )
    if not long.all():
        logger.warning(
            f"{(~long).sum()} files are shorter than {shortest} s, too little "
            "to tell a voice by: they are in no cluster."
        )
    return long


def _stability(embeddings, labels, choose):
    """How stable the cluster of each file is, also in words."""
    values, numbers = stability(embeddings, labels, choose)
    low, high = np.quantile(numbers, [0.1, 0.9], method="nearest")
    logger.info(
        f"Stability {np.nanmean(values):.2f}: 1 if files stay together when a "
        "fifth of them is left out. Without that fifth there are "
        f"{low if low == high else f'{low} to {high}'} clusters."
    )
    return values


def _how_chosen(calibration, own, mapped):
    """What the log says of how the number of clusters was found."""
    if calibration is None:
        could = "with a calibration of the encoder it could"
        if mapped:  # after which that of the encoder does not hold
            could = f"with {FEWEST} recordings, or without --recording_lda by "
            could += "a calibration of the encoder, it could"
        return (
            ", the number by their silhouette, which cannot find just one: "
            + could
        )
    return (
        f", the number by {'a' if own else 'the'} calibration "
        f"({calibration.method}: the same voice above "
        f"{calibration.threshold:.2f})"
        + (" on these files, if they are of many voices" if own else "")
    )
