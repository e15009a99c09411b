"""The filter: which utterances of a manifest are one voice that speaks.

Audio in the wild is music, noise, dead air and several voices beside what a
training wants. No label tells them apart, but four scores do, each of which
may have a rule: see ``filter_manifest``.
"""

import pathlib

import numpy as np
import pandas as pd

from speechbrain.utils.distributed import run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    LABEL,
    read_manifest,
    write_manifest,
)
from speechbrain_cadino.embeddings.confidence import score
from speechbrain_cadino.embeddings.embedder import LONGEST, Embedder
from speechbrain_cadino.embeddings.segments import Segments
from speechbrain_cadino.embeddings.store import load_embeddings
from speechbrain_cadino.prepare.plots import plot_filter
from speechbrain_cadino.prepare.rules import rule_of
from speechbrain_cadino.process.files import write_json
from speechbrain_cadino.process.outputs import check_inputs_stay
from speechbrain_cadino.process.ranks import LONG_PATIENCE, patience
from speechbrain_cadino.process.tables import write_csv

logger = get_logger(__name__)

# In this order: noise is more consistent than speech, and is to be gone before
# consistencies are looked at.
SCORES = ["speech", "consistency", "density", "agreement"]

# Figures and examples, which are there before the manifest is
REPORT = "filter.json"

# Digits of the scores in confidence.csv, by which utterances are kept
DIGITS = 4

# Utterances that are named of each kind
EXAMPLES = 3

# What is listened to of a long utterance: so many stretches, in seconds
STRETCH, STRETCHES = 30, 10

# Utterances that are listened to at once, at least
BATCH = 64


def filter_manifest(
    output_folder,
    embedder,
    manifest,
    audio=None,
    data_folder=None,
    embeddings=None,
    detector=None,
    speech="auto",
    consistency="mixture",
    density=None,
    agreement=None,
    mixture=None,
    pieces=None,
    shard_size=5_000,
):
    """Scores the utterances of a manifest, and writes the manifest of those
    that are kept.

    The scores are ``speech``, the share of speech by a detector; and those of
    the embeddings of segments, ``consistency``, ``density`` and, if the
    manifest has labels, ``agreement``: see ``embeddings.confidence``. Each may
    have a rule, and an utterance is kept if it passes all. They are asked in
    the order of ``SCORES``, each of what the ones before have kept. What has no
    such score, as one segment has no consistency, passes, and is counted. What
    cannot be read, or is silent, is dropped.

    Under torchrun all processes embed and listen, and the main one does the
    rest. Killed and started again, it goes on where it was: see ``extract``.

    Arguments
    ---------
    output_folder : str or pathlib.Path
        The folder that gets ``segments/`` and ``speech/``, embeddings of both
        kinds; ``confidence.csv``, all utterances with their scores and whether
        each is kept; ``filter.json``, figures and examples;
        ``plots/confidence.png``; and last ``filtered.csv``, the manifest.
    embedder : Embedder
        The encoder, which keeps segments; None with ``embeddings``.
    manifest : str, pathlib.Path or pandas.DataFrame
        The manifest, or its table. A ``$data_root`` in it stays there.
    audio : pandas.DataFrame, optional
        The table of the files to read for that one's, by default its own.
    data_folder : str or pathlib.Path, optional
        The folder that ``$data_root`` stands for.
    embeddings : str or pathlib.Path, optional
        A folder of anyone's embeddings, of utterances or of their segments: see
        ``embeddings.confidence.SegmentRows``.
    detector : torch.nn.Module, optional
        The detector of speech, of the manifest's rate: see ``dataio.speech``.
        Without one there is no such score.
    speech, consistency, density, agreement : str, float or object, optional
        The rule of each score: see ``rule_of``.
    mixture : Mixture, optional
        The rule that "mixture" stands for.
    pieces : str or pathlib.Path, optional
        The manifest of pieces of the same files: those that lie in what is kept
        go to ``filtered_pieces.csv``.
    shard_size : int
        See ``extract``.

    Returns
    -------
    dict
        The content of ``filter.json``.

    Raises
    ------
    FileNotFoundError
        If a file is missing. This and other mistakes in the arguments show
        before anything is embedded.
    ValueError
        If a rule makes no sense, nothing is kept, or a manifest that is read
        would be replaced.
    """
    folder = pathlib.Path(output_folder)
    made = [folder / name for name in ["filtered.csv", "filtered_pieces.csv"]]
    check_inputs_stay([manifest, pieces], made)
    for path in made:
        if path.exists() and not (folder / REPORT).is_file():
            raise ValueError(
                f"{path} is there, was not made by this step, and would be "
                "replaced: give another output folder."
            )
    table, audio = _tables(manifest, audio, data_folder)
    rules = {
        name: rule_of(name, value, mixture, detector)
        for name, value in zip(
            SCORES, [speech, consistency, density, agreement]
        )
    }
    _check_rules(rules, embedder, detector, table)
    if pieces is not None:
        pieces = read_manifest(pieces, DATA_ROOT)
    source = embeddings or folder / "segments"
    if embeddings is None:
        embedder.extract(source, audio, shard_size)
    if detector is not None:
        listen(folder / "speech", audio, detector, embedder, shard_size)

    def finish():
        for path in made:
            path.unlink(missing_ok=True)
        heard = None if detector is None else folder / "speech"
        scores = _scores(source, heard, table)
        if rules["consistency"] is not None and scores["segments"].max() < 2:
            logger.warning(
                "No utterance has two segments: there is no consistency, and "
                "nobody looks for recordings of several voices. Give longer "
                "recordings, embeddings of segments, or consistency=null."
            )
        kept, report = decide(table["ID"], scores, rules)
        _write(folder, table, scores, kept, report)
        if pieces is not None:
            inside = within(pieces, table[kept])
            if not inside.any():
                raise ValueError("No piece lies in what is kept.")
            write_manifest(made[1], pieces[inside])
        write_manifest(made[0], table[kept])
        logger.info(describe_filter(report))
        logger.info(
            f"The manifest of what is kept is {made[0]}. Listen to the "
            f"examples in {folder / REPORT}, and look at "
            f"{folder / 'plots' / 'confidence.png'}."
        )
        return report

    # Millions of utterances take hours
    with patience(LONG_PATIENCE):
        return run_on_main(finish)


def _tables(manifest, audio, data_folder):
    """The table of a manifest, and that of the files to read for it."""
    table, read = manifest, manifest
    if not isinstance(manifest, pd.DataFrame):
        table = read_manifest(manifest, DATA_ROOT)
        if audio is None:
            read = read_manifest(manifest, data_folder)
    # Rows are numbered as the scores are
    return table.reset_index(drop=True), read if audio is None else audio


def _check_rules(rules, embedder, detector, table):
    """Raises if there is a rule of a score that there will not be."""
    whole = isinstance(embedder, Embedder) and not embedder.keep_segments
    if rules["consistency"] is not None and whole:
        raise ValueError(
            "The rule of consistency compares the segments of an utterance, "
            "and the encoder gives one embedding of each: load it with "
            "segment_seconds=1.5 and keep_segments=True."
        )
    if rules["speech"] is not None and detector is None:
        raise ValueError(
            "There is a rule of speech, and there is no detector: give "
            "speech=null."
        )
    if rules["agreement"] is not None and LABEL not in table:
        raise ValueError(
            f"The manifest has no column {LABEL}, so there are no labels to "
            "agree with: leave agreement out."
        )


def _scores(embeddings, speech, table):
    """All scores of utterances: by the folders of their segments and, maybe, of
    their shares of speech."""
    labels = table[LABEL].replace("", None) if LABEL in table else None
    scores = score(embeddings, table["ID"], labels)
    if speech is not None:
        ids, shares = load_embeddings(speech)
        shares = pd.Series(np.asarray(shares[:, 0], np.float64))
        stretches = shares.groupby(np.asarray(ids, object))
        # A silent stretch has none; nor has a file that cannot be read
        found = stretches.sum(min_count=1) / stretches.size()
        scores["speech"] = found.reindex(table["ID"]).to_numpy()
    return scores.round(DIGITS)


def _write(folder, table, scores, kept, report):
    """Writes what came out; raises if nothing is kept."""
    columns = ["segments", *(n for n in SCORES if n in scores)]
    found = pd.concat([table["ID"], scores[columns]], axis=1)
    write_csv(folder / "confidence.csv", found.assign(kept=kept.astype(int)))
    write_json(folder / REPORT, report)
    plot_filter(folder / "plots" / "confidence.png", scores, kept, report)
    if not kept.any():
        raise ValueError(
            f"None of {len(table)} utterances is kept: see "
            f"{folder / 'confidence.csv'}, and ask less."
        )


def listen(folder, table, detector, embedder=None, shard_size=5_000):
    """Writes the share of speech in each utterance, an embedding of one
    dimension: of a long one, in each of some stretches, spread over all of it.

    Arguments
    ---------
    folder : pathlib.Path
        The folder of ``embeddings.npy`` and ``ids.txt``.
    table : pandas.DataFrame
        The manifest.
    detector : torch.nn.Module
        The detector of speech.
    embedder : Embedder, optional
        An encoder whose sample rate, batches and workers are taken.
    shard_size : int
        See ``extract``.
    """
    options = {"sample_rate": detector.sample_rate}
    if isinstance(embedder, Embedder):
        # Its network is small, and its time that of many short calls
        options["batch_size"] = max(embedder.batch_size, BATCH)
        options["num_workers"] = embedder.num_workers
    logger.info(f"Listening for speech ({type(detector).__name__}).")
    detector.eval()
    table = _in_stretches(table, detector.sample_rate)
    Embedder(detector, detector, **options).extract(folder, table, shard_size)


def _in_stretches(table, sample_rate):
    """A table in which what is longer than an embedder reads is cut."""
    table = table.reset_index(drop=True)
    long = table["stop"] - table["start"] > LONGEST * sample_rate
    segments = Segments(sample_rate, STRETCH, STRETCHES)
    cut = segments.cut(table[long], np.full(long.sum(), STRETCHES))
    return pd.concat([table[~long], cut]).sort_index(kind="stable")


def decide(ids, scores, rules):
    """Which utterances are kept.

    Arguments
    ---------
    ids : sequence of str
        The N utterances.
    scores : pandas.DataFrame
        N rows: ``segments``, the number of readable ones, and some of
        ``SCORES``; NaN where there is none.
    rules : dict of str:object
        The rule of each score: see ``rule_of``.

    Returns
    -------
    kept : numpy.ndarray
        The utterances that are kept, (N,), bool.
    report : dict
        ``utterances``, ``kept``, ``unreadable``, ``one_segment``; and of each
        score in ``scores`` the ``threshold`` (None where there is none), what
        it ``dropped``, the figures of its rule or the ``reason`` why there is
        no threshold, and ``examples``: the lowest, the last to be dropped, the
        first to be kept, the highest.

    Example
    -------
    >>> from speechbrain_cadino.prepare.rules import Least
    >>> scores = pd.DataFrame(
    ...     {"segments": [2, 2, 1], "speech": [0.9, 0.1, 0.8]}
    ... )
    >>> kept, report = decide(["a", "b", "c"], scores, {"speech": Least(0.5)})
    >>> kept, report["scores"]["speech"]["dropped"]
    (array([ True, False,  True]), 1)
    """
    ids = np.array(list(ids), object)
    kept = (scores["segments"] > 0).to_numpy()
    if "speech" in scores:
        kept = kept & scores["speech"].notna().to_numpy()
    report = {
        "utterances": len(ids),
        "kept": 0,
        "unreadable": int((~kept).sum()),
        "one_segment": int((scores["segments"] == 1).sum()),
        "scores": {},
    }
    for name in [name for name in SCORES if name in scores]:
        values = scores[name].to_numpy()
        asked = kept & np.isfinite(values)
        threshold, figures = None, {}
        rule = rules.get(name)
        if rule is not None and asked.any():
            threshold, figures = rule.threshold(values[asked])
        if isinstance(figures, str):
            logger.warning(
                f"{name}: no threshold, so nothing is dropped by it, as "
                f"{figures}."
            )
            figures = {"reason": figures}
        least = -np.inf if threshold is None else threshold
        dropped = asked & (values < least)
        report["scores"][name] = {
            "threshold": threshold,
            "without": int((kept & ~asked).sum()),
            "dropped": int(dropped.sum()),
            **figures,
            "examples": _examples(ids[asked], values[asked], least),
        }
        kept = kept & ~dropped
    report["kept"] = int(kept.sum())
    return kept, report


def _examples(ids, values, least):
    """Utterances to listen to, around a threshold and at both ends."""
    order = np.argsort(values, kind="stable")
    edge = int((values < least).sum())
    low, high = order[:edge], order[edge:]
    found = {
        "lowest": low[:EXAMPLES],
        "last_dropped": low[EXAMPLES:][-EXAMPLES:],
        "first_kept": high[:EXAMPLES],
        "highest": high[EXAMPLES:][-EXAMPLES:],
    }
    return {
        name: [[str(ids[row]), float(values[row])] for row in rows]
        for name, rows in found.items()
    }


def within(pieces, table):
    """Which pieces lie in an utterance of a table.

    Arguments
    ---------
    pieces : pandas.DataFrame
        A manifest.
    table : pandas.DataFrame
        The manifest of utterances of the same files.

    Returns
    -------
    numpy.ndarray
        The answer for each piece, bool. One across the border of two
        utterances of a file is in none.

    Example
    -------
    >>> table = pd.DataFrame({"wav": ["a"], "start": [0], "stop": [100]})
    >>> pieces = pd.DataFrame(
    ...     {"wav": ["a", "a", "b"], "start": [0, 80, 0], "stop": [50, 120, 50]}
    ... )
    >>> within(pieces, table)
    array([ True, False, False])
    """
    # Of the utterances that start before a piece, the one that ends last
    spans = table[["wav", "start", "stop"]].sort_values("start", kind="stable")
    spans["last"] = spans.groupby("wav")["stop"].cummax()
    order = np.argsort(pieces["start"].to_numpy(), kind="stable")
    ordered = pieces[["wav", "start", "stop"]].iloc[order]
    spans = spans[["wav", "start", "last"]]
    pairs = pd.merge_asof(ordered, spans, on="start", by="wav")
    found = np.zeros(len(pieces), bool)
    found[order] = (pairs["stop"] <= pairs["last"]).to_numpy()
    return found


def describe_filter(report):
    """What a filter did, in words.

    Arguments
    ---------
    report : dict
        The report of ``decide``.

    Returns
    -------
    str
        The lines for the log.

    Example
    -------
    >>> from speechbrain_cadino.prepare.rules import Least
    >>> scores = pd.DataFrame({"segments": [2, 0], "speech": [0.9, 0.1]})
    >>> _, report = decide(["a", "b"], scores, {"speech": Least(0.5)})
    >>> print(describe_filter(report))
    1 of 2 utterances are kept (50%); 1 cannot be read or are silent, ...
    speech, at least 0.5: 0 dropped
    """
    kept, total = report["kept"], report["utterances"]
    lines = [
        f"{kept} of {total} utterances are kept ({kept / total:.0%}); "
        f"{report['unreadable']} cannot be read or are silent, "
        f"{report['one_segment']} are of one segment, which has no "
        "consistency, and go by the other scores."
    ]
    for name, found in report["scores"].items():
        if found["threshold"] is None:
            continue
        examples = found["examples"]
        words = f"{name}, at least {found['threshold']:.3g}: "
        words += f"{found['dropped']} dropped"
        if examples["lowest"]:
            names = ", ".join(name for name, _ in examples["lowest"])
            words += f", such as {names}"
        lines.append(words)
    return "\n".join(lines)
