"""Shares of an embedding that are of the voice, and of the microphone.

> python tests/benchmarks/channel.py DATA TRAIN OUTPUT ENCODER [ENCODER ...]

DATA has wav/SPEAKER/SESSION/FILE and meta/veri_{cross,within}_{hard,easy}.txt;
TRAIN is a manifest of other speakers' files, from SPEAKER/SESSION/FILE, which
recording LDA learns from. ``log_mel`` stands for log-mel statistics,
``untrained:ENCODER`` for fresh weights of its architecture, by ``--seed``, with
BatchNorm statistics of TRAIN.

Of each encoder, and of the layer before its last one, a table has the EER on
the four lists, of cosines with the mean of the test files subtracted, without
and with recording LDA; and on the test files

* ``channel``: how often a pair of one session is more alike than a pair of two
  sessions, both of one speaker: 50% if the session does not matter;
* ``speaker``, ``session``, ``file``: the shares of the variance, by a nested
  analysis of variance of the unit embeddings (method of moments);
* ``probe``: the accuracy of logistic regression over speakers, tested on a
  session that it has not seen, and on a file of a session that it has;
* ``dimensions``: over how many directions they spread (participation ratio).

OUTPUT gets channel.md and a score file of each, for ``compare``.
"""

import argparse
import pathlib

import numpy as np
import pandas as pd
import torch
from lists import of_voxmulti
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import StandardScaler

from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.losses.meters import effective_dimensions
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    random_encoder,
)
from speechbrain_cadino.verification.metrics import (
    eer,
    error_rates,
    min_dcf,
)
from speechbrain_cadino.verification.scoring import write_scores

LISTS = ["cross_hard", "cross_easy", "within_hard", "within_easy"]


def main():
    """Measures, prints and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("train", help="a manifest")
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("encoders", nargs="+")
    parser.add_argument("--train_folder", help="$data_root of the manifest")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    flags.output.mkdir(parents=True, exist_ok=True)
    lists = of_voxmulti(flags.data, LISTS)
    train = read_manifest(flags.train, flags.train_folder)
    rows = []
    for source in flags.encoders:
        for layer, embedder in layers(source, train, flags.seed):
            for step in ("", "recording_lda"):
                if step:
                    embedder = (
                        RecordingLDA().learn(embedder, train).after(embedder)
                    )
                name = source
                if source.startswith("untrained:"):
                    name = f"untrained_{flags.seed}"
                system = "_".join(
                    filter(None, [pathlib.Path(name).name, layer, step])
                )
                row = measure(embedder, lists, flags.output / system)
                rows.append({"system": system, **row})
                print(rows[-1], flush=True)
    lines = [list(rows[0]), ["---"] * len(rows[0])]
    lines += [
        [f"{x:.3g}" if isinstance(x, float) else str(x) for x in row.values()]
        for row in rows
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    (flags.output / "channel.md").write_text(table + "\n", encoding="utf-8")


def layers(source, train=None, seed=0):
    """The embedders of an encoder: of its embeddings, and of the layer before
    the last one; of an untrained one, with statistics of a training set."""
    if source == "log_mel":
        return [("", Embedder(LogMelStats()))]
    if source.startswith("untrained:"):
        trained = load_encoder(source.removeprefix("untrained:"))
        return [("", random_encoder(trained, train, seed))]
    embedder = load_encoder(source, batch_size=16)
    seen = {}
    embedder.encoder.mods.embedding_model.asp_bn.register_forward_hook(
        lambda module, inputs, output: seen.update(before=output)
    )

    def before(wavs, lens):
        embedder.encode_batch(wavs, lens)
        return seen["before"].flatten(1)

    return [("", embedder), ("before", embedder.replace(encode_batch=before))]


def measure(embedder, lists, output):
    """All figures of one system."""
    points = lists.points(embedder)
    scores, found = lists.scores(points), {}
    for name, trials in lists.trials.items():
        p_miss, p_fa, *_ = error_rates(scores[name], trials["target"])
        found[name] = 100 * eer(p_miss, p_fa)
        found[f"{name}, minDCF(0.05)"] = min_dcf(p_miss, p_fa, p_target=0.05)
        write_scores(f"{output}_{name}.txt", trials, scores[name])
    return {**found, **channel(points, lists, scores)}


def channel(points, lists, scores):
    """What tells of sessions."""
    cross, within = (
        scores[name][lists.trials[name]["target"].to_numpy()]
        for name in ("cross_hard", "within_hard")
    )
    same = np.repeat([0, 1], [len(cross), len(within)])
    parts = lists.files["ID"].str.split("/", expand=True)
    speakers = parts[0].to_numpy()
    sessions = (parts[0] + "/" + parts[1]).to_numpy()
    shares = variance_shares(points, speakers, sessions)
    return {
        "channel": 100 * roc_auc_score(same, np.concatenate([cross, within])),
        **{name: 100 * share for name, share in shares.items()},
        **probes(points, speakers, sessions),
        "dimensions": effective_dimensions(torch.tensor(points)[None]).item(),
    }


def variance_shares(points, speakers, sessions):
    """The components of a nested, unbalanced analysis of variance (Searle,
    Casella and McCulloch 1992, section 3.6), summed over dimensions."""
    speaker_of = pd.Series(speakers, index=sessions)
    speaker_of = speaker_of[~speaker_of.index.duplicated()]
    total = len(points)
    grand = points.mean(0)
    in_session = pd.DataFrame(points).groupby(sessions)
    in_speaker = pd.DataFrame(points).groupby(speakers)
    n_session, n_speaker = in_session.size(), in_speaker.size()
    owner = speaker_of[n_session.index].to_numpy()
    m_session, m_speaker = in_session.mean(), in_speaker.mean()
    between = (n_speaker * ((m_speaker - grand) ** 2).sum(1)).sum()
    middle = m_session - m_speaker.loc[owner].to_numpy()
    middle = (n_session * (middle**2).sum(1)).sum()
    inner = points - m_session.loc[sessions].to_numpy()
    a, b = len(n_speaker), len(n_session)
    file = (inner**2).sum() / (total - b)
    own = (n_session**2).groupby(owner).sum() / n_speaker
    k1 = (total - own.sum()) / (b - a)
    k2 = (own.sum() - (n_session**2).sum() / total) / (a - 1)
    k3 = (total - (n_speaker**2).sum() / total) / (a - 1)
    session = (middle / (b - a) - file) / k1
    speaker = (between / (a - 1) - file - k2 * session) / k3
    parts = {"speaker": speaker, "session": session, "file": file}
    whole = sum(max(part, 0) for part in parts.values())
    return {name: max(part, 0) / whole for name, part in parts.items()}


def probes(points, speakers, sessions):
    """Accuracies of a linear probe for the speaker: on another session than
    those it has learnt from, and on another file of one of these."""
    table = pd.DataFrame({"speaker": speakers, "session": sessions})
    counts = table.groupby("speaker")["session"].nunique()
    many = table[table["speaker"].map(counts) > 1]
    last = many.groupby("speaker")["session"].transform("max")
    other = many.index[many["session"] == last]
    rest = many[many["session"] != last]
    files = rest.groupby("session").cumcount(ascending=False)
    size = rest.groupby("session")["speaker"].transform("size")
    seen = rest.index[(files == 0) & (size > 1)]
    learnt = rest.index.difference(seen)
    scaler = StandardScaler().fit(points[learnt])
    probe = LogisticRegression(C=1.0, max_iter=500)
    probe.fit(scaler.transform(points[learnt]), speakers[learnt])
    return {
        name: 100 * probe.score(scaler.transform(points[rows]), speakers[rows])
        for name, rows in [("probe, new", other), ("probe, seen", seen)]
    }


if __name__ == "__main__":
    main()
