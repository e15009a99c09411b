"""Quality of the answers: the same voice or not, and how many voices.

> python tests/benchmarks/answers.py DATA TRAIN ENCODER [ENCODER ...] \
    [--train_folder=FOLDER] [--recording_lda]

DATA has wav/SPEAKER/SESSION/FILE and meta/veri_{cross,within}_hard.txt, TRAIN
is a manifest of other speakers, of which thresholds are learnt without labels.
``log_mel`` stands for log-mel statistics. With --recording_lda each is followed
by what it learns from TRAIN.

The first table has, for each threshold, the false alarms and misses at it, the
share of "unsure", how many of these and of the other answers are wrong, the
expected calibration error (ten bins) and Cllr: in %, both kinds of trials
weighing the same. The second one has draws of test speakers: how many voices
are found, the share of pairs that are right, and the F1 of pairs of one voice.
"""

import argparse
import pathlib

import numpy as np
from channel import layers
from lists import of_voxmulti

from speechbrain_cadino.clustering.speakers import find_speakers
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.verification.metrics import cllr
from speechbrain_cadino.verification.threshold import calibrate, fit

LISTS = ["cross_hard", "within_hard"]
DRAWS = [(5, 3), (3, 3), (1, 8), (30, 5)]  # voices, files of each
REPEATS = 10

# SpeechBrain's own, for the encoders that it publishes
SPEECHBRAIN = 0.25


def main():
    """Prints both tables for each encoder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("train", help="a manifest")
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--train_folder", help="$data_root of the manifest")
    parser.add_argument("--recording_lda", action="store_true")
    flags = parser.parse_args()
    lists = of_voxmulti(flags.data, LISTS)
    train = read_manifest(flags.train, flags.train_folder)
    for source in flags.encoders:
        _, embedder = layers(source)[0]
        if flags.recording_lda:
            embedder = RecordingLDA().learn(embedder, train).after(embedder)
        print(f"\n{source}{' + recording_lda' * flags.recording_lda}\n")
        report(embedder, lists, train)


def report(embedder, lists, train):
    """Both tables of an encoder."""
    points = lists.points(embedder, centred=False)
    scores = {
        name: (values, lists.trials[name]["target"].to_numpy())
        for name, values in lists.scores(points).items()
    }
    calibrations = {
        method: calibrate(embedder, train, method)
        for method in ("crops", "clusters")
    }
    calibrations["the list's own"] = fit(*scores["cross_hard"], "trials")
    head = "pairs|threshold|list|false alarms|misses|unsure|wrong of unsure"
    line(*f"{head}|wrong where sure|ECE|Cllr".split("|"))
    line(*["---"] * 10)
    for method, calibration in calibrations.items():
        for name, (values, right) in scores.items():
            found = errors(calibration, values, right)
            line(method, f"{calibration.threshold:.3f}", name, *found)
    for name, (values, right) in scores.items():
        rates = values[~right] >= SPEECHBRAIN, values[right] < SPEECHBRAIN
        rates = [f"{100 * rate.mean():.1f}" for rate in rates]
        line("SpeechBrain", SPEECHBRAIN, name, *rates)
    print()
    line("number by", *(f"{voices} x {each}" for voices, each in DRAWS))
    line(*["---"] * 5)
    speakers = lists.files["ID"].str.split("/").str[0].to_numpy()
    rules = {"silhouette": None, **calibrations}
    for name, rule in rules.items():
        line(name, *voices_found(points, speakers, rule))


def line(*cells):
    """Prints a line of a table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def errors(calibration, values, right):
    """The cells of the first table."""
    ratios = calibration.llr(values)
    posterior = 1 / (1 + np.exp(-ratios))
    weights = np.where(right, 0.5 / right.sum(), 0.5 / (~right).sum())
    answers = calibration.answers(values)
    unsure = answers == "unsure"
    wrong = (ratios >= 0) != right
    bins = np.minimum((10 * posterior).astype(int), 9)
    gaps = np.bincount(bins, weights * (posterior - right), minlength=10)
    percent = [
        wrong[~right].mean(),
        wrong[right].mean(),
        weights[unsure].sum(),
        weights[unsure & wrong].sum() / max(weights[unsure].sum(), 1e-9),
        weights[~unsure & wrong].sum() / max(weights[~unsure].sum(), 1e-9),
        np.abs(gaps).sum(),
    ]
    cells = [f"{100 * value:.1f}" for value in percent]
    return [*cells, f"{cllr(ratios, right):.3f}"]


def voices_found(points, speakers, calibration):
    """The cells of the second table: a mean number, pairs right, F1."""
    rng = np.random.default_rng(1)
    names, counts = np.unique(speakers, return_counts=True)
    for voices, each in DRAWS:
        found = []
        for _ in range(REPEATS):
            chosen = rng.choice(names[counts >= each], voices, replace=False)
            rows = np.concatenate(
                [
                    rng.choice(
                        np.flatnonzero(speakers == name), each, replace=False
                    )
                    for name in chosen
                ]
            )
            labels = find_speakers(points[rows], calibration=calibration)
            found.append(pairs_right(labels, speakers[rows]))
        number, right, f1 = np.mean(found, axis=0)
        yield f"{number:.1f}, {100 * right:.0f}% ({100 * f1:.0f})"


def pairs_right(labels, speakers):
    """How many clusters, the share of pairs that are right, and their F1."""
    upper = np.triu_indices(len(labels), 1)
    together, same = (
        (values[:, None] == values)[upper] for values in (labels, speakers)
    )
    f1 = 2 * (together & same).sum() / (together.sum() + same.sum())
    return len(set(labels)), (together == same).mean(), f1


if __name__ == "__main__":
    main()
