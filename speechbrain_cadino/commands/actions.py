"""The work of the commands: each takes parsed arguments and returns the text
for stdout, if any."""

import contextlib
import os
import pathlib
import re

import pandas as pd

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.speakers import MOST_LEAVES
from speechbrain_cadino.clustering.tsne import plot_map
from speechbrain_cadino.commands import audio_files
from speechbrain_cadino.commands.arguments import (
    as_text,
    check_file,
    check_output,
    encoder_of,
    files_of,
    load,
    some_of,
)
from speechbrain_cadino.commands.calibrate import calibrate
from speechbrain_cadino.commands.cluster import cluster
from speechbrain_cadino.dataio.labels import labels_of, read_labels
from speechbrain_cadino.dataio.manifest import read_csv
from speechbrain_cadino.dataio.speech import load_detector
from speechbrain_cadino.embeddings.grow import (
    check_working_folders,
    embed_more,
    held,
    move_finished,
    told_before,
)
from speechbrain_cadino.embeddings.store import (
    SKIPPED,
    check_our_embeddings,
    load_embeddings,
)
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.prepare.filter import SCORES, filter_manifest
from speechbrain_cadino.prepare.folder import prepare_folder
from speechbrain_cadino.prepare.parallel import in_threads
from speechbrain_cadino.prepare.rules import rule_of
from speechbrain_cadino.process.console import printable
from speechbrain_cadino.process.files import (
    check_folder,
    check_inputs_stay,
    check_only,
    state_of,
    write_csv,
)
from speechbrain_cadino.process.lock import locked
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
    "verify",
]

# What the filter compares of a file: those of filter.yaml
SEGMENT_SECONDS = 1.5
MAX_SEGMENTS = 6

# What helps where files that were embedded have gone
DROP = "give --drop_missing if they have been deleted"
# and where a list leaves some out that were embedded
LISTED = (
    " A list that changes, such as that of filter, is for cluster: embed all "
    "files, and give it beside --embeddings."
)

# The columns of the list of what is not used
PROBLEMS = ["file", "problem"]
SILENT = "silent, or not readable to its end"


def _shard_size(files):
    """Killed, a command embeds at most so many files again; of many more, as
    reading processes start anew for each shard."""
    return min(max(100, len(files) // 1000), 5000)


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


def embed(arguments):
    """Writes embeddings.npy and ids.txt."""
    files = audio_files.find_files(arguments.inputs, arguments.drop_missing)
    check_output(arguments.output)
    check_our_embeddings(arguments.output)
    gone = _check_held(arguments, files)
    if gone:
        logger.info(
            f"{len(gone)} files are there no longer, such as "
            f"{printable(gone[0])}: their embeddings are dropped."
        )
    loaded = load(arguments.encoder, arguments)
    _check_hears(loaded)
    calibration = read_calibration(arguments.encoder)
    rate = loaded.sample_rate
    with _archive(arguments.output, files, rate, grows=True) as found:
        audio, _, skipped = found
        # Again, as another run may have ended since
        _check_held(arguments, files)
        _check_readable(arguments, skipped)
        ids, embeddings = embed_more(
            loaded, arguments.output, audio, _shard_size(files)
        )
        heard = audio["ID"].isin(ids)
        silent = dict.fromkeys(audio["ID"][~heard], SILENT)
        path = pathlib.Path(arguments.output, SKIPPED)
        _write_skipped(path, {**skipped, **silent})
        there = read_calibration(arguments.output)
        if calibration and not there:
            write_calibration(arguments.output, calibration)
        elif calibration and there != calibration:
            logger.warning(
                f"{arguments.output} keeps its own calibration, which is not "
                "that of the encoder: to take the encoder's, remove "
                "calibration.json from that folder, and embed again."
            )
    logger.info(
        f"{len(ids)} embeddings of {embeddings.shape[1]} dimensions are in "
        f"{arguments.output}."
    )


def _check_hears(embedder):
    """Raises if there are embeddings in the place of an encoder."""
    if not embedder.hears:
        raise ValueError(
            f"{embedder.source} holds embeddings alone, by which no file can "
            "be embedded: give an encoder."
        )


def _check_given(
    folder, before, files, what="embeddings", otherwise=DROP, hint=""
):
    """Raises if what a folder holds of other files would be lost, perhaps of
    hours."""
    lost = before.difference(files)
    if len(lost):
        raise ValueError(
            f"{folder} holds {what} of {len(before)} files, {len(lost)} of "
            f"which are not given now, such as {printable(lost[0])}: their "
            f"{what} would be lost. Give these files under the names they had "
            f"then, or another --output, or {otherwise}.{hint}"
        )


def _check_held(arguments, files):
    """As ``_check_given``, of embeddings; those of files that have gone may be
    dropped. Returns these."""
    before = held(arguments.output).index
    gone = []
    if arguments.drop_missing:
        gone = [*filter(_has_gone, before.difference(files))]
        if len(gone) == len(before) > 0:
            raise ValueError(
                f"None of the {len(before)} files of {arguments.output} is "
                f"there, such as {printable(gone[0])}: start from the folder "
                "that they were named from; or remove it, if all are deleted."
            )
    listed = any(name.lower().endswith(".csv") for name in arguments.inputs)
    _check_given(
        arguments.output,
        before.difference(gone),
        files,
        hint=LISTED if listed else "",
    )
    return gone


def _has_gone(file):
    """Whether a file is there no longer: not where it cannot be looked at."""
    try:
        os.stat(file)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def _check_scored(folder, files):
    """As ``_check_given``, of what a filter has found."""
    path = pathlib.Path(folder, "confidence.csv")
    if path.is_file():
        before = pd.Index(read_csv(path)["ID"])
        _check_given(folder, before, files, "scores", f"remove {path}")


def _check_readable(arguments, problems):
    """Raises if embeddings of files would be lost that are as they were, and
    cannot be read here and now; those of links to files that have gone may be
    dropped."""
    before = held(arguments.output).reindex(problems).dropna()
    if arguments.drop_missing:
        before = before[[not _has_gone(name) for name in before.index]]
    lost = [
        name
        for name, state in before.items()
        # Where it was replaced, what it said is gone
        if _state(name) is None or state in ("", _state(name))
    ]
    if lost:
        gone = "" if arguments.drop_missing else f", or {DROP}"
        raise ValueError(
            f"{arguments.output} holds embeddings of {len(lost)} files that "
            f"cannot be read now, such as {lost[0]}: {problems[lost[0]]}. They "
            f"would be lost: give another --output, or remove it{gone}."
        )


def _state(file):
    """The state of a file; None if it has gone."""
    try:
        return state_of(file)
    except OSError:
        return None


def _write_skipped(path, problems):
    """Lists what is not used and why, or nothing where all is."""
    if problems:
        write_csv(path, pd.DataFrame(problems.items(), columns=PROBLEMS))
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def _archive(output, files, rate, grows=False):
    """The readable ones of many files as a table, whose IDs are their paths,
    which of them had to be converted, and the problems of the others, while the
    folder of the results is locked.

    Killed and started again, the work goes on, as copies have the same names;
    they are in a hidden folder of ours, as they are deleted in the end. Where
    the archive grows, nothing is opened or converted that is embedded already.
    """
    # Absolute, as a record of a filter tells their names
    copies = pathlib.Path(output, ".converted").absolute()
    check_only(copies, re.compile(r"[0-9a-f]{24}\.flac").fullmatch)
    if grows:
        check_working_folders(output)
    with locked(output):
        # Before they are read: what is replaced meanwhile is embedded again
        states = in_threads(_state, files)
        known = pd.DataFrame()
        if grows:
            move_finished(output)
            known = told_before(output, dict(zip(files, states)), rate)
        there = {} if known.empty else set(known["ID"])
        new = [row for row, file in enumerate(files) if file not in there]
        if new and not known.empty:
            logger.info(
                f"{len(known)} of {len(files)} files are embedded already, "
                f"{len(new)} are looked at."
            )
        files = [files[row] for row in new]
        with audio_files.audio_table(
            files, rate, copies, required=known.empty
        ) as (recordings, table):
            skipped = audio_files.warn_of_files(files, recordings, rate)
            converted = [
                file
                for file, recording in zip(files, recordings)
                if recording.path != file
            ]
            rows = table["ID"].astype(int)
            table = table.assign(
                ID=[files[row] for row in rows],
                state=[states[new[row]] for row in rows],
                place=[new[row] for row in rows],
            )
            parts = [part for part in (known, table) if len(part)]
            table = pd.concat(parts).sort_values("place", ignore_index=True)
            yield table.drop(columns="place"), converted, skipped


def verify(arguments):
    """Gives a table: test file, score, and where it is known the answer."""
    enrol = files_of(arguments, [arguments.enrol])
    tests = files_of(arguments, arguments.tests)
    if not arguments.tests:  # all, but the speaker's own
        own = set(enrol)
        tests = [name for name in tests if name not in own]
        if not tests:
            raise ValueError(
                f"{arguments.enrol} names all that there are embeddings of, so "
                "none is left to compare with: name fewer."
            )
    if arguments.threshold is not None and not -1 <= arguments.threshold <= 1:
        raise ValueError(
            f"--threshold={arguments.threshold}: scores are from -1 to 1."
        )
    if arguments.csv is not None:
        check_file(arguments.csv)
        check_inputs_stay([arguments.enrol, *arguments.tests], [arguments.csv])
    loaded = load(encoder_of(arguments), arguments)
    table = audio_files.verify_files(loaded, enrol, tests, arguments.threshold)
    if not arguments.tests:  # what the folder has none of, either
        others = sorted(loaded.skipped() - {*tests, *enrol})
        notes = dict.fromkeys(others, audio_files.NO_EMBEDDING)
        rows = pd.DataFrame(notes.items(), columns=["file", "note"])
        table = pd.concat([table, rows]) if others else table
    if arguments.csv is not None:
        write_csv(arguments.csv, table)
    return as_text(table)


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
    _check_hears(loaded)
    detector = load_detector(arguments.detector, loaded.sample_rate)
    with _archive(arguments.output, files, loaded.sample_rate) as found:
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
            shard_size=_shard_size(files),
            **rules,
        )
        # Those that are silent are in confidence.csv
        path = pathlib.Path(arguments.output, f"filter_{SKIPPED}")
        _write_skipped(path, skipped)
    table = pd.DataFrame(
        [
            (name, found["threshold"], found["dropped"], found["without"])
            for name, found in report["scores"].items()
        ],
        columns=["score", "threshold", "dropped", "without"],
    )
    return as_text(table.astype({"threshold": float}))


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
