"""The work of the commands: each takes parsed arguments and returns the text
for stdout, if any."""

import contextlib
import functools
import os
import pathlib
import tempfile

import numpy as np
import pandas as pd
from sklearn.metrics import silhouette_score

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.clustering.map import plot_map
from speechbrain_cadino.clustering.ward import (
    MOST_LEAVES,
    check_number,
    find_speakers,
    stability,
)
from speechbrain_cadino.commands import inference
from speechbrain_cadino.config.device import check_device
from speechbrain_cadino.dataio.labels import labels_of, read_labels
from speechbrain_cadino.dataio.manifest import spread_rows
from speechbrain_cadino.dataio.names import check_writable_name
from speechbrain_cadino.dataio.speech import load_detector
from speechbrain_cadino.embeddings.store import (
    DURATIONS,
    check_our_embeddings,
    drop_unreadable,
    load_embeddings,
)
from speechbrain_cadino.encoders.calibration import (
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.export import check_no_encoder
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.prepare.filter import SCORES, filter_manifest
from speechbrain_cadino.prepare.folder import prepare_folder
from speechbrain_cadino.process.files import state_of, write_csv
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.runs.adapt import adapt as adapt_encoder
from speechbrain_cadino.runs.adapt import check_request
from speechbrain_cadino.verification import threshold
from speechbrain_cadino.verification.compare import compare as compare_scores
from speechbrain_cadino.verification.compare import format_comparison
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.scoring import unit

logger = get_logger(__name__)

# What the filter compares of a file: those of filter.yaml
SEGMENT_SECONDS = 1.5
MAX_SEGMENTS = 6

# Killed, a command embeds at most so many files again.
SHARD_SIZE = 100

# A fifth of fewer files is none.
FEWEST_OF_STABILITY = 5

ONE_VOICE = (
    "All are of one voice, by a calibration that was made on other audio. If "
    "that cannot be, scores mean something else here: "
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


def prepare(arguments):
    """Writes a manifest, or a part of it."""
    _check_folder(arguments.output)
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
    check_device(arguments.device)
    files = inference.find_files(arguments.inputs)
    _check_folder(arguments.output)
    check_no_encoder(arguments.output)
    check_our_embeddings(arguments.output)
    loaded = _load(arguments.encoder, arguments)
    calibration = read_calibration(arguments.encoder)
    before = read_calibration(arguments.output)
    with _archive(arguments.output, files, loaded.sample_rate) as (audio, _):
        loaded.extract(arguments.output, audio, SHARD_SIZE, trim=False)
        ids, embeddings = drop_unreadable(arguments.output)
        lengths = (audio["stop"] - audio["start"]) / loaded.sample_rate
        table = audio[["ID"]].assign(duration=lengths)
        write_csv(
            pathlib.Path(arguments.output, DURATIONS),
            table[table["ID"].isin(ids)],
        )
        there = read_calibration(arguments.output)
        if calibration and not there:
            write_calibration(arguments.output, calibration)
        elif there and there != calibration:
            logger.warning(
                f"{arguments.output} keeps its own calibration, which is not "
                "that of the encoder: remove its calibration.json, and embed "
                "again, to take that."
            )
        if before not in (None, there, calibration):
            logger.warning(
                f"The calibration that was in {arguments.output} is replaced "
                "by that of the encoder, if it has one, as other files or "
                "another encoder have been embedded: if it was of your own, "
                "calibrate again."
            )
    logger.info(
        f"{len(ids)} embeddings of {embeddings.shape[1]} dimensions are in "
        f"{arguments.output}."
    )


@contextlib.contextmanager
def _archive(output, files, rate):
    """The readable ones of many files as a table, whose IDs are their paths,
    and which of them had to be converted, while the folder of the results is
    locked.

    Killed and started again, the work goes on, as copies have the same names;
    they are in a hidden folder of ours, as they are deleted in the end.
    """
    copies = pathlib.Path(output, ".converted")
    inside = os.path.realpath(copies) + os.sep
    if copies.exists() and any(
        os.path.realpath(file).startswith(inside) for file in files
    ):
        raise ValueError(
            f"{copies} is deleted in the end: give recordings somewhere else."
        )
    with (
        locked(output),
        inference.audio_table(files, rate, copies) as (recordings, table),
    ):
        inference.warn_of_skipped(files, recordings)
        converted = [
            file
            for file, recording in zip(files, recordings)
            if recording.path != file
        ]
        named = [files[int(number)] for number in table["ID"]]
        states = [state_of(file) for file in named]
        yield table.assign(ID=named, state=states), converted


def verify(arguments):
    """Gives a table: test file, score, and where it is known the answer."""
    check_device(arguments.device)
    enrol = _files(arguments, [arguments.enrol])
    tests = _files(arguments, arguments.tests)
    if arguments.threshold is not None and not -1 <= arguments.threshold <= 1:
        raise ValueError(
            f"--threshold={arguments.threshold}: scores are from -1 to 1."
        )
    if arguments.csv is not None:
        _check_file(arguments.csv)
    table = inference.verify_files(
        _encoder(arguments),
        enrol,
        tests,
        arguments.threshold,
        arguments.device,
        trusted=arguments.trusted,
    )
    if arguments.csv is not None:
        write_csv(arguments.csv, table)
    return _format(table)


def calibrate(arguments):
    """Writes a calibration into an encoder folder; gives its figures."""
    check_device(arguments.device)
    if arguments.trials and arguments.inputs:
        raise ValueError(
            "--trials names the files to calibrate on: give no others, and "
            "--data_folder if they are not beside the list."
        )
    if arguments.data_folder and not arguments.trials:
        raise ValueError("--data_folder is for the files of --trials.")
    folder = _encoder(arguments)
    if not pathlib.Path(folder).is_dir():
        raise ValueError(
            f"{folder} is no folder: a calibration is kept in the encoder's, "
            "so copy that first."
        )
    _check_folder(folder)
    loaded = _load(folder, arguments)
    if not (loaded.hears or arguments.embeddings):
        raise ValueError(
            f"{folder} holds embeddings alone: give them by "
            f"--embeddings={folder}; audio files are IDs then."
        )
    before = read_calibration(folder)
    if arguments.trials:
        trials = TrialEvaluator(
            arguments.trials,
            arguments.data_folder or pathlib.Path(arguments.trials).parent,
            loaded.sample_rate,
            embeddings=arguments.embeddings,
        )
        found = threshold.calibrate_by_trials(loaded, trials)
    elif arguments.embeddings:
        loaded.check_known(arguments.inputs)
        names = list(dict.fromkeys(arguments.inputs)) or loaded.ids
        table = pd.DataFrame({"ID": names})
        found = threshold.calibrate(
            loaded, table, arguments.method, before=before
        )
    elif not arguments.inputs:
        raise ValueError("Give audio files or folders, or --trials=LIST.")
    else:
        files = _some(
            inference.find_files(arguments.inputs), threshold.MOST_RECORDINGS
        )
        with inference.audio_table(files, loaded.sample_rate) as audio:
            recordings, table = audio
            inference.warn_of_skipped(files, recordings)
            found = threshold.calibrate(
                loaded, table, arguments.method, before=before
            )
    write_calibration(folder, found)
    logger.info(f"The calibration is in {folder}.")
    different, same = found.bounds
    content = {
        "threshold": [found.threshold],
        "different_below": [different],
        "same_above": [same],
        "method": [found.method],
        "n_pairs": [found.n_pairs],
        "n_same": [found.n_same],
    }
    return _format(pd.DataFrame(content))


def _some(files, wanted):
    """Files evenly spread over all, twice as many as are wanted, as some may
    not be readable: the others need not be converted."""
    return [files[row] for row in spread_rows(len(files), 2 * wanted)]


def adapt(arguments):
    """Writes an adapted encoder, if it is better; gives the figures."""
    check_device(arguments.device)
    files = _some(inference.find_files(arguments.inputs), MOST_LEAVES)
    _check_named(arguments.output)
    _check_folder(pathlib.Path(arguments.output).parent)
    check_request(arguments.encoder, arguments.output, arguments.map)
    loaded = _load(arguments.encoder, arguments)
    rate = loaded.sample_rate
    with inference.audio_table(files, rate) as (recordings, table):
        inference.warn_of_skipped(files, recordings)
        others = [r.rate for r in recordings if not r.problem and r.rate < rate]
        if others:
            logger.info(
                f"{len(others)} of {len(table)} recordings have fewer than "
                f"{rate} samples a second, such as {others[0]}: they are "
                "resampled, and without the upper frequencies."
            )
        found = adapt_encoder(
            loaded,
            table,
            arguments.output,
            arguments.map,
            trusted=arguments.trusted,
        )
    logger.info(found.verdict)
    if found.calibration is None:
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
    return _format(found.figures.rename_axis("map").reset_index())


def cluster(arguments):
    """Writes a table of file and cluster; gives the sizes of the clusters."""
    check_device(arguments.device)
    files = _files(arguments, arguments.inputs)
    _check_file(arguments.csv)
    encoder, number = _encoder(arguments), arguments.num_clusters
    theirs = read_calibration(encoder)
    if number is not None or len(files) < 2:
        check_number(len(files), number, theirs)
    found = inference.embed_files(
        encoder,
        files,
        arguments.device,
        trusted=arguments.trusted,
        recording_lda=arguments.recording_lda,
        self_calibrate=number is None,
    )
    long = _long_enough(found.seconds, arguments.shortest)
    choose = functools.partial(
        find_speakers,
        num_clusters=number,
        calibration=found.calibration,
    )
    embeddings = found.embeddings[long]
    labels = choose(embeddings)
    by_theirs = number is None and theirs and found.calibration == theirs
    if by_theirs and len(labels) > 1 and labels.max() == 0:
        few = arguments.embeddings or len(labels) < threshold.FEWEST_RECORDINGS
        logger.warning(ONE_VOICE + (TO_TELL if few else TO_CALIBRATE))
    own = number is None and found.calibration not in (None, theirs)
    if own and FEWEST_OF_DOUBT <= len(labels) <= MOST_LEAVES:
        _doubt(embeddings, labels.max() + 1)
    logger.info(
        f"{len(labels)} files, {labels.max() + 1} cluster(s): {arguments.csv}"
        + _how_chosen(number, found.calibration, own)
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
    write_csv(arguments.csv, table)
    return _format(table.groupby("cluster").agg(**figures).reset_index())


def _doubt(embeddings, found):
    """Warns if a calibration on files of few voices finds too many: it has
    taken every two files for two voices."""
    labels = find_speakers(embeddings)
    apart = labels.max() + 1
    if found <= SUSPICIOUS * apart:
        return
    if silhouette_score(unit(embeddings), labels, metric="cosine") > APART:
        logger.warning(
            f"{found} voices, by a calibration on these files, which holds "
            f"where most of them are of different voices; {apart} clusters lie "
            f"well apart. If the voices are few, give --num_clusters={apart}, "
            "or an encoder that has a calibration."
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
        f"Stability {np.nanmean(values):.2f}: 1 if files stay together where a "
        "fifth of them is left out, which gives "
        f"{low if low == high else f'{low} to {high}'} clusters."
    )
    return values


def _how_chosen(number, calibration, own):
    """What the log says of the number of clusters."""
    if number is not None:
        return ""
    if calibration is None:
        return (
            ", the number by their silhouette, which cannot find just one: "
            "with a calibration of the encoder it could"
        )
    return (
        f", the number by {'a' if own else 'the'} calibration "
        f"({calibration.method}: the same voice above "
        f"{calibration.threshold:.2f})"
        + (" on these files, if they are of many voices" if own else "")
    )


def filter_files(arguments):
    """Writes a manifest of what is one voice; gives what each rule did."""
    check_device(arguments.device)
    files = inference.find_files(arguments.inputs)
    _check_folder(arguments.output)
    check_no_encoder(arguments.output)
    rules = {name: getattr(arguments, name, None) for name in SCORES}
    loaded = _load(
        arguments.encoder,
        arguments,
        segment_seconds=SEGMENT_SECONDS,
        max_segments=MAX_SEGMENTS,
        keep_segments=True,
    )
    detector = load_detector(arguments.detector, loaded.sample_rate)
    with _archive(arguments.output, files, loaded.sample_rate) as found:
        audio, converted = found
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
            shard_size=SHARD_SIZE,
            **rules,
        )
    table = pd.DataFrame(
        [
            (name, found["threshold"], found["dropped"], found["without"])
            for name, found in report["scores"].items()
        ],
        columns=["score", "threshold", "dropped", "without"],
    )
    return _format(table.astype({"threshold": float}))


def _load(source, arguments, **options):
    """An encoder, on the device and trusted as the flags say."""
    return load_encoder(
        source,
        arguments.device,
        trusted=arguments.trusted,
        **options,
    )


def _encoder(arguments):
    """The encoder, or the folder of embeddings in its place."""
    if arguments.embeddings is None:
        return arguments.encoder
    _check_named(arguments.embeddings)
    return arguments.embeddings


def _files(arguments, inputs):
    """Audio files; or IDs, of which none are all."""
    if arguments.embeddings is None:
        return inference.find_files(inputs)
    _check_named(arguments.embeddings)
    named = list(dict.fromkeys(inputs))
    return named or load_embeddings(arguments.embeddings)[0]


def draw_map(arguments):
    """Draws embeddings in two dimensions."""
    _check_file(arguments.plot)
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
        _check_folder(arguments.output)
    speakers = arguments.speakers and read_labels(arguments.speakers)
    files = dict(arguments.scores)
    if len(files) < len(arguments.scores):
        raise ValueError("Give each score file a name of its own.")
    results = compare_scores(
        arguments.trials, files, speakers, folder=arguments.output
    )
    return format_comparison(results) + "\n"


def _check_file(path):
    """Raises before the work if it could not be written there."""
    _check_named(path)
    check_writable_name(path)
    _check_folder(pathlib.Path(path).parent)


def _check_named(path):
    """Raises if there is no name, which would be that of the current folder."""
    if not str(path):
        raise ValueError(
            "The name of a file or folder is empty: is a variable unset?"
        )


def _check_folder(folder):
    """Makes a folder; raises before the work if nothing can be put there."""
    _check_named(folder)
    try:
        pathlib.Path(folder).mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OSError(
            f"Nothing can be written into {folder} ({error.strerror}): give "
            "another place for the results."
        ) from error


def _format(table):
    """A table as lines with tabs between the columns."""
    return table.to_csv(
        sep="\t", index=False, float_format="%.4f", lineterminator="\n"
    )
