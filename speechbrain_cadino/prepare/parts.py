"""Parts of a corpus, prepared by jobs that know nothing of each other.

What takes long is reading headers and converting files: each part does that
for a stretch of the recordings, and leaves a file of what it found in a folder
beside the manifest. The job that finishes last writes the manifest.
"""

import contextlib
import dataclasses
import json
import os

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.prepare.recordings import Recording
from speechbrain_cadino.process.files import (
    read_json,
    remove_leftovers,
    write_text,
)
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.process.parts import (
    JOINING,
    OTHER,
    check_parts,
    part_name,
    read_part,
    say_missing,
    stretches,
)

logger = get_logger(__name__)

# What a part finds out of a recording: all but its ID
FOUND = [field.name for field in dataclasses.fields(Recording)][1:]


def prepare_part(made, part, recordings, measure, finish):
    """Measures a part of the recordings, and writes the manifest if it was the
    last.

    Arguments
    ---------
    made : Preparation
        The making of the manifest: a part of other inputs is none.
    part : str
        See ``read_part``.
    recordings : list of Recording
        All recordings that can be used, in the same order in each job.
    measure : callable
        The function that reads the headers of some of them, and converts what
        has to be.
    finish : callable
        The function that writes it, once all recordings are measured.

    Raises
    ------
    ValueError
        If there are more parts than recordings.
    """
    number, parts = read_part(part)
    check_parts(part, len(recordings), "recordings")
    folder = made.manifest.with_name(f"{made.manifest.stem}_parts")
    remove_leftovers(folder)
    pieces = {
        folder / f"{part_name(i, parts)}.json": recordings[first:last]
        for i, (first, last) in enumerate(stretches(len(recordings), parts), 1)
    }
    path, mine = list(pieces.items())[number - 1]
    if not _take(path, made.inputs, mine):
        measure(mine)
        rows = [[getattr(one, name) for name in FOUND] for one in mine]
        write_text(path, json.dumps({"inputs": made.inputs, "rows": rows}))
    with locked(made.manifest.parent, JOINING):
        if made.is_done:
            return
        # First without a look into them, as each has many rows
        missing = [path.stem for path in pieces if not path.exists()] or [
            path.stem + OTHER
            for path, piece in pieces.items()
            if not _take(path, made.inputs, piece)
        ]
        if missing:
            say_missing(part, missing)
            return
        finish()
    for path in folder.glob(f"{part_name('*', '*')}.json"):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not empty
        folder.rmdir()
    logger.info(f"All {parts} parts are joined in {made.manifest}.")


def _take(path, inputs, recordings):
    """Fills in what a part has found, if it is there."""
    content = read_json(path)
    if content is None or content["inputs"] != inputs:
        return False
    rows = [dict(zip(FOUND, row)) for row in content["rows"]]
    # Converted files may have been deleted since
    if not all(
        os.path.isfile(row["path"])
        for recording, row in zip(recordings, rows)
        if row["path"] != recording.path
    ):
        return False
    for recording, row in zip(recordings, rows):
        for name, value in row.items():
            setattr(recording, name, value)
    return True
