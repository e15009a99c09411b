import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.embeddings.stored import StoredEmbeddings
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.verification.back_ends import BackEnds, Background
from speechbrain_cadino.verification.baselines import (
    LogMelStats,
    random_encoder,
)
from speechbrain_cadino.verification.calibration import (
    Calibration,
    quality_measures,
)
from speechbrain_cadino.verification.compare import compare
from speechbrain_cadino.verification.evaluate import (
    TrialEvaluator,
    _timed,
    verify,
)
from speechbrain_cadino.verification.metrics import summary
from speechbrain_cadino.verification.results import Assessor
from speechbrain_cadino.verification.scoring import read_scores, unit
from speechbrain_cadino.verification.trials import read_trials, write_trials

SYSTEMS = ["encoder", "random_encoder", "log_mel_stats"]
SYSTEMS.append("log_mel_stats+recording_lda")


def test_scores_are_those_of_each_pair_and_files_are_read_once(corpus):
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    seen = []

    def encode_batch(wavs, wav_lens):
        seen.extend(wavs)
        assert wav_lens.tolist() == [1] * len(wavs)
        return wavs[:, None, :5]

    embedder = Embedder(encode_batch)
    scores = evaluator.scores(embedder)
    assert len(seen) == 12
    table = read_manifest(corpus / "train.csv", corpus).set_index("ID")
    for line, score in zip(open(corpus / "trials.txt"), scores):
        _, *pair = line.split()
        a, b = embedder.embed(table.loc[pair].reset_index())
        expected = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert score == pytest.approx(expected, abs=1e-6)


def test_metrics_of_an_encoder_that_hears_the_spectrum(corpus):
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    metrics = evaluator(Embedder(LogMelStats()))
    assert list(metrics) == ["eer", "min_dcf_0.01", "min_dcf_0.05"]
    assert metrics["eer"] < 10


def test_one_kind_of_trial_is_refused_at_once(tmp_path):
    (tmp_path / "trials.txt").write_text("1 a.wav b.wav\n")
    with pytest.raises(ValueError, match=r"trials.txt holds target trials"):
        TrialEvaluator(tmp_path / "trials.txt", tmp_path)


def test_one_kind_that_is_left_is_not_said_of_the_list(tmp_path, write_tone):
    for name in "ab":
        write_tone(tmp_path / f"{name}.wav")
    soundfile.write(tmp_path / "silent.wav", np.zeros(16000), 16000)
    lines = "1 a.wav b.wav\n0 a.wav silent.wav\n"
    (tmp_path / "trials.txt").write_text(lines)
    evaluator = TrialEvaluator(tmp_path / "trials.txt", tmp_path)
    said = r"What can be used of .*trials.txt holds target trials only"
    with pytest.raises(ValueError, match=said):
        evaluator(Embedder(LogMelStats()))


def test_trials_of_another_rate_are_refused(corpus):
    """They would be a half of each file."""
    trials = TrialEvaluator(corpus / "trials.txt", corpus, sample_rate=8000)
    embedder = Embedder(lambda wavs, lens: wavs[:, :4])
    with pytest.raises(ValueError, match=r"takes 16000 .* sample_rate=8000"):
        trials(embedder)


def test_trials_that_no_back_end_scores_are_refused(corpus, tmp_path):
    lists = [TrialEvaluator(corpus / "trials.txt", corpus) for _ in range(2)]
    lists[0].keep_unseen = True  # as one of faces may
    with pytest.raises(ValueError, match="keep_unseen is for scores of voices"):
        verify(tmp_path, None, lists[0])
    with pytest.raises(ValueError, match="for a back-end with calibrated"):
        verify(tmp_path, None, lists[1], calibration_trials=lists[1])


def test_verify_writes_all_systems(encoder_folder, corpus, tmp_path):
    results = verify(
        tmp_path,
        load_encoder(encoder_folder),
        TrialEvaluator(corpus / "trials.txt", corpus),
        background=Background(corpus / "train.csv", corpus, seed=3),
        baselines=True,
        assessor=functools.partial(Assessor, seed=3),
    )
    assert json.loads((tmp_path / "metrics.json").read_text()) == results
    assert (results["trials"], results["targets"]) == (66, 12)
    assert list(results["systems"]) == SYSTEMS
    targets = [line[0] == "1" for line in open(corpus / "trials.txt")]
    embedder = load_encoder(encoder_folder)
    table = read_manifest(corpus / "train.csv", corpus)
    log_mel = Embedder(LogMelStats())
    lda = RecordingLDA(seed=3).learn(log_mel, table)
    expected = [
        embedder,
        random_encoder(embedder, table, 3),
        log_mel,
        lda.after(log_mel),
    ]
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    for (system, figures), one in zip(results["systems"].items(), expected):
        lines = (tmp_path / f"scores_{system}.txt").read_text().splitlines()
        scores = np.array([line.split()[2] for line in lines], np.float32)
        assert figures == summary(scores, targets)
        np.testing.assert_allclose(scores, evaluator.scores(one), atol=1e-5)


def test_one_recording_is_no_obstacle_to_baselines(
    encoder_folder, corpus, tmp_path, caplog
):
    """Pieces of a day of radio, say, of which LDA cannot learn."""
    table = read_manifest(corpus / "train.csv", corpus)[:1]
    pieces = pd.concat([table.assign(ID=name) for name in ["x/1", "x/2"]])
    write_manifest(tmp_path / "pieces.csv", pieces)
    results = verify(
        tmp_path / "out",
        load_encoder(encoder_folder),
        TrialEvaluator(corpus / "trials.txt", corpus),
        background=Background(tmp_path / "pieces.csv", corpus),
        baselines=True,
    )
    assert list(results["systems"]) == SYSTEMS[:-1]
    assert "There is no log_mel_stats+recording_lda: LDA learns" in caplog.text


@pytest.fixture(scope="module")
def labelled(corpus, tmp_path_factory):
    """The training set with its speakers as pseudo labels."""
    table = read_manifest(corpus / "train.csv", corpus)
    path = tmp_path_factory.mktemp("labels") / "pseudo_labels.csv"
    write_manifest(path, table.assign(spk_id=table["ID"].str[0]))
    return path


def run(folder, encoder_folder, corpus, **options):
    """Verifies; the results, and the scores of each system."""
    results = verify(
        folder,
        load_encoder(encoder_folder),
        TrialEvaluator(corpus / "trials.txt", corpus),
        **options,
    )
    return results, {
        system: np.loadtxt(folder / f"scores_{system}.txt", usecols=2)
        for system in results["systems"]
    }


def test_recording_lda_learns_on_crops_of_the_training_set(
    encoder_folder, corpus, tmp_path
):
    lda = RecordingLDA(crop_seconds=0.3, seed=5)
    _, scores = run(
        tmp_path,
        encoder_folder,
        corpus,
        back_ends=BackEnds(["recording_lda"], recording_lda=lda),
        background=Background(corpus / "train.csv", corpus),
    )
    table = read_manifest(corpus / "train.csv", corpus)
    embedder = load_encoder(encoder_folder)
    again = RecordingLDA(crop_seconds=0.3, seed=5).learn(embedder, table)
    sides = unit(again.transform(embedder.embed(table)))
    rows = dict(zip(table["ID"], sides))
    lines = (tmp_path / "scores_encoder+recording_lda.txt").read_text()
    expected = [
        rows[enrol] @ rows[test]
        for enrol, test, _ in map(str.split, lines.splitlines())
    ]
    found = scores["encoder+recording_lda"]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_back_ends_of_an_encoder(encoder_folder, corpus, labelled, tmp_path):
    """Each row is what its name says, worked out by hand."""
    names = ["cosine", "mean", "s_norm", "mean+as_norm"]
    _, scores = run(
        tmp_path,
        encoder_folder,
        corpus,
        back_ends=BackEnds(names, top_cohort=3),
        background=Background(labelled),
    )
    assert list(scores) == [
        "encoder",
        "encoder+mean",
        "encoder+s_norm",
        "encoder+mean+as_norm",
    ]
    table = read_manifest(corpus / "train.csv", corpus)
    raw = dict(zip(table["ID"], load_encoder(encoder_folder).embed(table)))
    stored = np.arange(1, 13, dtype=np.float32) / 100
    trials = [line.split()[1:] for line in open(corpus / "trials.txt")]
    for mean, plain, normed, top in [
        (0, "encoder", "encoder+s_norm", 4),
        (stored, "encoder+mean", "encoder+mean+as_norm", 3),
    ]:
        units = {
            k: (v - mean) / np.linalg.norm(v - mean) for k, v in raw.items()
        }
        cohort = np.stack(
            [
                np.mean([units[f"{name}/{i}.wav"] for i in range(3)], axis=0)
                for name in "abcd"
            ]
        )
        cohort /= np.linalg.norm(cohort, axis=1, keepdims=True)
        for row, (enrol, test) in enumerate(trials):
            score = units[enrol] @ units[test]
            assert scores[plain][row] == pytest.approx(score, abs=1e-5)
            sides = [
                np.sort(cohort @ units[name])[-top:] for name in (enrol, test)
            ]
            expected = np.mean([(score - x.mean()) / x.std() for x in sides])
            assert scores[normed][row] == pytest.approx(expected, abs=2e-2)


def test_a_cohort_of_few_clusters_makes_no_adaptive_norm(
    encoder_folder, corpus, labelled, tmp_path, caplog
):
    run(
        tmp_path,
        encoder_folder,
        corpus,
        back_ends=BackEnds(["as_norm"]),
        background=Background(labelled, corpus),
    )
    assert "as_norm is s_norm: the cohort is of 4 clusters" in caplog.text


def test_plda_and_whitening_run_and_embed_once(
    encoder_folder, corpus, labelled, tmp_path
):
    options = {
        "background": Background(labelled),
        "assessor": functools.partial(Assessor, replicates=20),
    }
    back_ends = BackEnds(["whiten", "whiten+s_norm"])
    arguments = tmp_path, encoder_folder, corpus
    results, _ = run(*arguments, back_ends=back_ends, **options)
    written = tmp_path / "training_set" / "embeddings.npy"
    before = written.stat().st_mtime_ns
    again, _ = run(*arguments, back_ends=back_ends, **options)
    assert written.stat().st_mtime_ns == before
    assert again == results
    for figures in results["systems"].values():
        low, high = figures["intervals"]["eer"]
        assert low <= high
    assert results["speakers"] == 4
    with pytest.raises(ValueError, match="more utterances than dimensions"):
        run(*arguments, back_ends=BackEnds(["plda"]), **options)


def test_back_ends_that_learn_anew_whiten_anew():
    rng = np.random.default_rng(0)
    first, second, sides = rng.standard_normal((3, 20, 4))
    pairs = np.arange(10), np.arange(10, 20)
    back_ends = BackEnds(["whiten"])
    (whiten,) = back_ends
    back_ends.learn(embeddings=first).scores(whiten, sides, *pairs)
    again = back_ends.learn(embeddings=second).scores(whiten, sides, *pairs)
    fresh = BackEnds(["whiten"]).learn(embeddings=second)
    assert (again == fresh.scores(whiten, sides, *pairs)).all()


def test_calibration_on_other_files(encoder_folder, corpus, tmp_path):
    """Half of the speakers to calibrate on, half to test on."""
    lines = (corpus / "trials.txt").read_text().splitlines(keepends=True)
    for name, speakers in [("test", "ab"), ("fit", "cd")]:
        chosen = [
            line
            for line in lines
            if {side[0] for side in line.split()[1:]} <= set(speakers)
        ]
        (tmp_path / name).write_text("".join(chosen))
    embedder = load_encoder(encoder_folder)
    evaluator = TrialEvaluator(tmp_path / "test", corpus)
    results = verify(
        tmp_path,
        embedder,
        evaluator,
        BackEnds(["cosine", "calibrated"]),
        calibration_trials=TrialEvaluator(tmp_path / "fit", corpus),
    )
    # Learnt on the other list
    others = TrialEvaluator(tmp_path / "fit", corpus)
    sides = others.embed(embedder), others.enrol, others.test
    learnt = Calibration(
        others.scores(embedder),
        others.trials["target"],
        quality_measures(others.files, *sides, others.sample_rate),
    )
    figures = results["systems"]["encoder+calibrated"]
    assert {"cllr", "min_cllr", "act_dcf_0.01"} <= set(figures)
    assert "cllr" not in results["systems"]["encoder"]
    weights = figures["calibration"]
    assert weights == pytest.approx(learnt.weights(), rel=1e-3)
    files = evaluator.files.set_index("ID")
    seconds = (files["stop"] / 16000).to_dict()
    embeddings = embedder.embed(files.reset_index())
    norms = dict(zip(files.index, np.linalg.norm(embeddings, axis=1)))
    plain = np.loadtxt(tmp_path / "scores_encoder.txt", usecols=2)
    ratios = np.loadtxt(tmp_path / "scores_encoder+calibrated.txt", usecols=2)
    for line, score, ratio in zip(open(tmp_path / "test"), plain, ratios):
        _, *pair = line.split()
        short, long = sorted(np.log(seconds[name]) for name in pair)
        small, large = sorted(np.log(norms[name]) for name in pair)
        expected = (
            weights["offset"]
            + weights["score"] * score
            + weights["shorter log seconds"] * short
            + weights["longer log seconds"] * long
            + weights["smaller log norm"] * small
            + weights["larger log norm"] * large
        )
        assert ratio == pytest.approx(expected, abs=1e-3)


def test_embeddings_that_tell_how_long_files_are_are_calibrated_so(
    corpus, tmp_path, caplog
):
    """As the encoder that they are of; else it is said."""
    trials = read_trials(corpus / "trials.txt")
    names = sorted(set(trials["enrol"]) | set(trials["test"]))
    rng = np.random.default_rng(0)
    save_embeddings(tmp_path, names, rng.standard_normal((len(names), 8)))
    stored = StoredEmbeddings(tmp_path)
    lists = TrialEvaluator(corpus / "trials.txt", embeddings=tmp_path)
    assert _timed(lists, stored) is lists.files
    assert "does not tell how long files are" in caplog.text
    seconds = rng.uniform(2, 9, len(names))
    table = pd.DataFrame({"ID": names, "duration": seconds})
    table.to_csv(tmp_path / "durations.csv", index=False)
    files = _timed(lists, stored).set_index("ID")
    np.testing.assert_allclose(files.loc[names, "stop"] / 16000, seconds)


@pytest.mark.parametrize("suffix", ["", ".flac"])
def test_embeddings_of_files_that_could_not_be_read_cost_their_trials(
    corpus, tmp_path, caplog, suffix
):
    """Of a row of NaN, as extract leaves, and of one that embed has skipped;
    not of a file that nobody knows. IDs of extract have no suffix, which the
    names of a list may have."""
    trials = read_trials(corpus / "trials.txt")
    names = sorted(set(trials["enrol"]) | set(trials["test"]))
    points = np.random.default_rng(0).standard_normal((len(names), 8))
    points[1] = np.nan
    save_embeddings(tmp_path, names[1:], points[1:])
    for side in ("enrol", "test"):
        trials[side] += suffix
    write_trials(tmp_path / "trials.txt", trials)

    def evaluate():
        lists = TrialEvaluator(tmp_path / "trials.txt", embeddings=tmp_path)
        return lists, lists.scores(StoredEmbeddings(tmp_path))

    with pytest.raises(ValueError, match="no embedding of 1 of 12 utter"):
        evaluate()
    skipped = pd.DataFrame({"file": names[:2], "problem": "silent"})
    skipped.to_csv(tmp_path / "skipped.csv", index=False)
    lists, scores = evaluate()
    assert "2 files cannot be used" in caplog.text
    lost = [name + suffix for name in names[:2]]
    gone = trials[["enrol", "test"]].isin(lost).any(axis=1)
    assert len(scores) == len(lists.trials) == (~gone).sum()
    kept = trials[~gone]
    rows = pd.Series(range(len(names)), [name + suffix for name in names])
    enrol, test = (unit(points[rows[kept[n]]]) for n in ("enrol", "test"))
    np.testing.assert_allclose(scores, (enrol * test).sum(1), atol=1e-6)
    with pytest.raises(ValueError, match="all systems are to have the same"):
        compare(tmp_path / "trials.txt", {"one": tmp_path})


@pytest.mark.parametrize(
    ("back_end", "given", "message"),
    [
        ("as_norm+mean", [], r"There is no back-end 'as_norm\+mean'"),
        ("cosine+plda", [], "There is no back-end"),
        ("whiten", [], "back-end whiten needs train_manifest"),
        ("calibrated", [], "needs calibration_trials"),
        (
            "calibrated",
            ["calibration_trials"],
            "12 file.s. are in trials and in calibration_trials",
        ),
        ("s_norm", ["background"], "no column spk_id"),
        ("cosine", ["baselines"], "baselines=True needs train_manifest"),
    ],
)
def test_mistakes(back_end, given, message, encoder_folder, corpus, tmp_path):
    options = {
        "background": Background(corpus / "train.csv", corpus),
        "baselines": True,
        "calibration_trials": TrialEvaluator(corpus / "trials.txt", corpus),
    }
    with pytest.raises(ValueError, match=message):
        run(
            tmp_path,
            encoder_folder,
            corpus,
            back_ends=BackEnds([back_end]),
            **{name: options[name] for name in given},
        )


def test_an_encoder_without_a_mean(encoder_folder, corpus, tmp_path):
    """As of SpeechBrain's recipes that never saved mean_var_norm_emb."""
    folder = tmp_path / "foreign"
    folder.mkdir()
    text = (encoder_folder / "hyperparams.yaml").read_text()
    text = text.replace("    mean_var_norm_emb: !ref <mean_var_norm_emb>\n", "")
    (folder / "hyperparams.yaml").write_text(text)
    weights = "embedding_model.ckpt"
    (folder / weights).write_bytes((encoder_folder / weights).read_bytes())
    with pytest.raises(ValueError, match="mean needs train_manifest"):
        run(tmp_path, folder, corpus, back_ends=BackEnds(["mean"]))
    _, scores = run(
        tmp_path,
        folder,
        corpus,
        back_ends=BackEnds(["mean"]),
        background=Background(corpus / "train.csv", corpus),
    )
    embedder = load_encoder(encoder_folder)
    table = read_manifest(corpus / "train.csv", corpus)
    mean = embedder.mean_embedding(table)
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    units = unit(embedder.embed(evaluator.files) - mean)
    expected = (units[evaluator.enrol] * units[evaluator.test]).sum(1)
    # The training set is embedded at lengths cut by up to 2%.
    np.testing.assert_allclose(scores["encoder+mean"], expected, atol=0.05)


def test_segments_are_averaged(encoder_folder, corpus):
    """Two of 0.15 s, each in the middle of its half."""
    evaluator = TrialEvaluator(corpus / "trials.txt", corpus)
    embedder = load_encoder(
        encoder_folder, segment_seconds=0.15, max_segments=2
    )
    embeddings = embedder.embed(evaluator.files)
    file, size = evaluator.files.iloc[0], 2400
    assert file["stop"] >= 2 * size
    starts = [int(share * file["stop"] - size / 2) for share in (0.25, 0.75)]
    pieces = pd.DataFrame(
        {
            "ID": ["a", "b"],
            "wav": [file["wav"]] * 2,
            "start": starts,
            "stop": [start + size for start in starts],
        }
    )
    parts = load_encoder(encoder_folder).embed(pieces)
    expected = unit(parts).mean(0) * np.linalg.norm(parts, axis=1).mean()
    np.testing.assert_allclose(embeddings[0], expected, rtol=1e-4, atol=1e-6)


def test_an_encoder_that_hears_no_difference_is_told_of(
    corpus, tmp_path, caplog
):
    lists = TrialEvaluator(corpus / "trials.txt", corpus)
    verify(tmp_path / "some", Embedder(lambda wavs, lens: wavs[:, :5]), lists)
    assert "are the same" not in caplog.text
    deaf = Embedder(lambda wavs, lens: wavs[:, :5] * 0 + 3)
    verify(tmp_path / "none", deaf, lists)
    assert "All 12 embeddings are the same: did the training" in caplog.text


def test_a_silent_file_is_left_out_with_its_trials(corpus, tmp_path, caplog):
    shutil.copytree(corpus / "wav", tmp_path / "wav")
    soundfile.write(tmp_path / "wav" / "a" / "0.wav", np.zeros(8000), 16000)
    evaluator = TrialEvaluator(corpus / "trials.txt", tmp_path)
    before = len(evaluator.trials)
    embedder = Embedder(lambda wavs, lengths: wavs[:, :8])
    # As after each epoch of a training
    evaluator(embedder)
    results = verify(tmp_path / "out", embedder, evaluator)
    assert results["trials"] == before - 11
    assert "11 of 66 trials are left out: 1 files" in caplog.text
    assert "a/0.wav: silent" in caplog.text
    # What was scored is a list that goes with the scores
    path = tmp_path / "out" / "scored_trials.txt"
    scored = read_trials(path)
    assert len(scored) == before - 11
    scores = read_scores(tmp_path / "out" / "scores_encoder.txt", scored)
    assert len(scores) == before - 11
    with pytest.raises(ValueError, match=r"scored_trials\.txt: give that"):
        read_scores(
            tmp_path / "out" / "scores_encoder.txt",
            read_trials(corpus / "trials.txt"),
        )
