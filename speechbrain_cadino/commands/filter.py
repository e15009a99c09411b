"""The command ``filter``: which files of an archive are one voice."""

import os
import pathlib

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.commands import audio_files
from speechbrain_cadino.commands.arguments import as_text, check_output, load
from speechbrain_cadino.commands.embed import (
    archive,
    check_given,
    check_hears,
    shard_size,
    write_skipped,
)
from speechbrain_cadino.dataio.speech import load_detector
from speechbrain_cadino.embeddings.store import SKIPPED
from speechbrain_cadino.prepare.filter import SCORES, filter_manifest
from speechbrain_cadino.prepare.rules import rule_of
from speechbrain_cadino.process.tables import read_csv

logger = get_logger(__name__)

# What the filter compares of a file: those of filter.yaml
SEGMENT_SECONDS = 1.5
MAX_SEGMENTS = 6


def _check_scored(folder, files):
    """As ``check_given``, of what a filter has found."""
    path = pathlib.Path(folder, "confidence.csv")
    if path.is_file():
        before = pd.Index(read_csv(path)["ID"])
        check_given(folder, before, files, "scores", f"remove {path}")


def filter_files(arguments):
    """Writes a manifest of what is one voice; gives what each rule did."""
    files = audio_files.find_files(arguments.inputs)
    check_output(arguments.output)
    _check_scored(arguments.output, files)
    rules = {name: getattr(arguments, name, None) for name in SCORES}
    for name, value in rules.items():
        rule_of(name, value)  # a slip shows before the work
    loaded = load(
        arguments.encoder,
        arguments,
        segment_seconds=SEGMENT_SECONDS,
        max_segments=MAX_SEGMENTS,
        keep_segments=True,
    )
    check_hears(loaded)
    detector = load_detector(arguments.detector, loaded.sample_rate)
    with archive(arguments.output, files, loaded.sample_rate) as found:
        audio, converted, skipped = found
        if converted:
            logger.warning(
                f"{len(converted)} files had to be converted, such as "
                f"{converted[0]}, and a training may not read them as they "
                "are: the command prepare makes copies (--convert_folder)."
            )
        report = filter_manifest(
            arguments.output,
            loaded,
            # For a training in whatever folder
            audio.assign(wav=audio["ID"].map(os.path.abspath)),
            audio,
            detector=detector,
            shard_size=shard_size(files),
            **rules,
        )
        # Those that are silent are in confidence.csv
        path = pathlib.Path(arguments.output, f"filter_{SKIPPED}")
        write_skipped(path, skipped)
    table = pd.DataFrame(
        [
            (name, found["threshold"], found["dropped"], found["without"])
            for name, found in report["scores"].items()
        ],
        columns=["score", "threshold", "dropped", "without"],
    )
    return as_text(table.astype({"threshold": float}))
