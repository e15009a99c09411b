"""The work of the commands: each takes parsed arguments and returns the text
for stdout, if any."""

import os
import pathlib

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.speakers import MOST_LEAVES
from speechbrain_cadino.clustering.tsne import plot_map
from speechbrain_cadino.commands import audio_files
from speechbrain_cadino.commands.arguments import (
    as_text,
    check_file,
    check_output,
    load,
    some_of,
)
from speechbrain_cadino.commands.calibrate import calibrate
from speechbrain_cadino.commands.cluster import cluster
from speechbrain_cadino.commands.embed import embed
from speechbrain_cadino.commands.filter import filter_files
from speechbrain_cadino.commands.verify import verify
from speechbrain_cadino.dataio.labels import labels_of, read_labels
from speechbrain_cadino.embeddings.store import (
    SKIPPED,
    load_embeddings,
)
from speechbrain_cadino.prepare.channels import split_channels
from speechbrain_cadino.prepare.folder import prepare_folder
from speechbrain_cadino.process.outputs import (
    check_folder,
)
from speechbrain_cadino.runs.adapt import adapt as adapt_encoder
from speechbrain_cadino.runs.adapt import check_request
from speechbrain_cadino.verification.compare import compare as compare_scores
from speechbrain_cadino.verification.compare import format_comparison

logger = get_logger(__name__)

# What ``main`` calls by name
__all__ = [
    "adapt",
    "calibrate",
    "cluster",
    "compare",
    "draw_map",
    "embed",
    "filter_files",
    "prepare",
    "split",
    "verify",
]


def prepare(arguments):
    """Writes a manifest, or a part of it."""
    check_output(arguments.output)
    if pathlib.Path(arguments.output, "ids.txt").exists():
        raise ValueError(
            f"{arguments.output} holds embeddings, which have a {SKIPPED} of "
            "their own: give another --output."
        )
    prepare_folder(
        arguments.folders,
        arguments.output,
        glob=arguments.glob,
        min_duration=arguments.min_duration,
        max_duration=arguments.max_duration,
        sample_rate=arguments.sample_rate,
        convert_folder=arguments.convert_folder,
        cut_seconds=arguments.cut_seconds,
        exclude=arguments.exclude,
        id_parts=arguments.id_parts,
        num_workers=arguments.num_workers,
        part=arguments.part,
    )


def split(arguments):
    """Writes each channel of recordings into a file of its own."""
    check_output(arguments.output)
    split_channels(
        arguments.folders,
        arguments.output,
        arguments.sample_rate,
        arguments.glob,
        arguments.num_workers,
    )


def adapt(arguments):
    """Writes an adapted encoder, if it is better; gives the figures."""
    # One result for any order of the inputs: what is drawn is drawn by row
    files = sorted(audio_files.find_files(arguments.inputs))
    files = some_of(files, MOST_LEAVES)
    check_folder(pathlib.Path(arguments.output).parent)
    check_request(arguments.encoder, arguments.output, arguments.map)
    loaded = load(arguments.encoder, arguments)
    rate = loaded.sample_rate
    with audio_files.audio_table(files, rate) as (recordings, table):
        audio_files.warn_of_files(files, recordings, rate)
        found = adapt_encoder(
            loaded,
            table,
            arguments.output,
            arguments.map,
            trusted=arguments.trusted,
        )
    logger.info(found.verdict)
    written = None if found.calibration is None else found.choice
    if written is None:
        logger.info(
            "No map is better than none: nothing is written. "
            "--map=recording_lda takes that one whatever the criteria say: "
            "see METHODS.md, Adaptation."
        )
        if os.path.exists(arguments.output):
            logger.warning(
                f"{arguments.output} is still the encoder that was there "
                "before, of other recordings or another map."
            )
    else:
        low, high = found.interval
        logger.info(
            f"{arguments.output} is the encoder with {found.choice}. The same "
            f"person is above a score of {found.calibration.threshold:.3f} "
            f"(95% interval {low:.3f} to {high:.3f})."
        )
    figures = found.figures.rename_axis("map").reset_index()
    return as_text(figures.assign(written=figures["map"] == written))


def draw_map(arguments):
    """Draws embeddings in two dimensions."""
    check_file(arguments.plot)
    ids, embeddings = load_embeddings(arguments.embeddings)
    labels = None
    if arguments.labels:
        labels = labels_of(arguments.labels, ids)
    logger.info("t-SNE takes up to a minute.")
    plot_map(embeddings, labels, arguments.plot)
    logger.info(f"The map is {arguments.plot}.")


def compare(arguments):
    """Gives the figures of each system, and their differences."""
    if arguments.output:
        check_output(arguments.output)
    speakers = arguments.speakers and read_labels(arguments.speakers)
    files = dict(arguments.scores)
    if len(files) < len(arguments.scores):
        raise ValueError("Give each score file a name of its own.")
    results = compare_scores(
        arguments.trials, files, speakers, folder=arguments.output
    )
    return format_comparison(results) + "\n"
