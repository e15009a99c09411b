import functools

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.runs import maps
from speechbrain_cadino.runs.maps import NONE, Heard, choose, try_maps
from speechbrain_cadino.verification.halves import pairs_of, score_halves
from speechbrain_cadino.verification.threshold import fit


@pytest.fixture(autouse=True)
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(maps, "REPLICATES", 50)


def heard(nuisance, count=150, width=8, crops=4, seed=0, of_voice=3):
    """Voices of three recordings each, or of so many; crops and halves differ
    by noise, and along the first axis by so much more."""
    rng = np.random.default_rng(seed)
    voices = rng.standard_normal((count, width))[np.arange(count) // of_voice]
    scale = np.append(nuisance, np.ones(width - 1)) * 0.5

    def said(times):
        noise = rng.standard_normal((times, count, width)) * scale
        return voices + noise

    recordings = np.tile(np.arange(count), crops)
    parts = np.arange(crops).repeat(count) % 2
    return Heard(said(2), said(crops).reshape(-1, width), recordings, parts)


def test_the_map_that_takes_the_nuisance_away_is_chosen():
    figures = try_maps(heard(nuisance=12))
    assert choose(figures) != NONE
    lda, none = figures.loc["recording_lda"], figures.loc[NONE]
    assert lda["eer"] < 0.7 * none["eer"]
    assert lda["difference_high"] < 0
    assert lda["agreement"] > none["agreement"] + 0.1
    assert none["difference"] == 0
    assert none["eer_low"] < none["eer"] < none["eer_high"]


def test_where_nothing_is_wrong_nothing_is_better():
    figures = try_maps(heard(nuisance=1))
    assert choose(figures) == NONE


def test_a_map_learns_from_other_recordings_than_it_is_tried_on(monkeypatch):
    seen = []

    def spy(recordings):
        seen.append(recordings.halves)
        return maps.learn_nothing(recordings)

    monkeypatch.setattr(maps, "MAPS", {NONE: spy})
    whole = heard(nuisance=1, count=30)
    tried = []
    agreement = maps._agreement
    monkeypatch.setattr(
        maps, "_agreement", lambda h: tried.append(h) or agreement(h)
    )
    try_maps(whole)
    for learnt, held_out in zip(seen, tried, strict=True):
        first = {row.tobytes() for row in learnt[0].astype(np.float32)}
        other = {row.tobytes() for row in held_out[0]}
        assert len(first) == 20
        assert len(other) == 10
        assert not first & other


def test_both_halves_of_a_recording_are_of_its_cluster(monkeypatch):
    seen = {}

    class Spy:
        def fit(self, points, labels):
            seen.update(points=points, labels=labels)

    monkeypatch.setattr(maps, "LDA", Spy)
    whole = heard(nuisance=1, count=60)
    maps.learn_cluster_lda(whole, 4)
    first, last = seen["labels"].reshape(2, 60)
    assert first.tolist() == last.tolist()
    assert len(set(first)) == 15
    assert np.array_equal(seen["points"].reshape(2, 60, -1), whole.halves)


def test_clusters_agree_less_if_they_do_in_each_third():
    rng = np.random.default_rng(0)
    enrol, test = rng.integers(20, size=(2, 400))
    agreement = {
        NONE: [0.5, 0.5, 0.5],
        "mean": [0.6, 0.4, 0.4],
        "whitening": [0.4, 0.4, 0.4],
    }
    scores = {name: rng.standard_normal(400) for name in agreement}
    found = maps._table(scores, enrol, test, agreement)["agrees_less"]
    assert found.tolist() == [False, False, True]


def test_copies_are_no_two_voices():
    """Recordings that are there twice are not scored as two."""
    once = heard(nuisance=1, count=60)
    rows = np.arange(60).repeat(2)
    twice = once.take(rows)
    scores, enrol, test = maps.score_held_out(twice, maps.learn_nothing)
    assert ((enrol == test) | (rows[enrol] != rows[test])).all()
    assert len(scores) < 120 + 10 * 120
    assert (enrol == test).sum() == 120


def test_a_threshold_is_not_that_of_recordings_that_the_map_has_learnt():
    """As it would be far off: recordings to come tell."""
    known = heard(nuisance=3, count=60, width=40, of_voice=1)
    to_come = heard(3, count=300, width=40, seed=1, of_voice=1)
    learn = maps.MAPS["whitening"]
    pairs = pairs_of(known.count)
    learnt = score_halves(known.mapped(learn(known)).halves, *pairs)
    scores, enrol, test = maps.score_held_out(known, learn)
    assert sorted(enrol[enrol == test]) == [*range(known.count)]
    others = pairs_of(to_come.count)
    expected = score_halves(to_come.mapped(learn(known)).halves, *others)
    optimist, honest, truth = (
        fit(found, np.equal(*sides), "crops").threshold
        for found, sides in (
            (learnt, pairs),
            (scores, (enrol, test)),
            (expected, others),
        )
    )
    assert abs(honest - truth) < 0.3 * abs(optimist - truth)


def test_crops_are_of_the_halves_that_they_are_said_to_be_of(
    tmp_path, monkeypatch
):
    """Each half of each recording has a level of its own."""
    count, size = 34, 32000
    rows = []
    for number in range(count):
        levels = np.repeat([number, number + 0.5], size) / 100 + 0.01
        wav = levels * np.tile([1.0, -1.0], size)
        soundfile.write(tmp_path / f"{number}.wav", wav, 16000, "FLOAT")
        path = str(tmp_path / f"{number}.wav")
        rows.append((f"u{number}", 4.0, path, 0, len(wav)))
    columns = ["ID", "duration", "wav", "start", "stop"]
    table = pd.DataFrame(rows, columns=columns)

    def encode_batch(wavs, wav_lens):
        size = wavs.square().mean(1, keepdim=True).sqrt()
        return torch.cat([size, 1 + size], 1)

    clean = functools.partial(RecordingLDA, augment=lambda wavs: wavs)
    monkeypatch.setattr(maps, "RecordingLDA", clean)
    heard = maps.hear(Embedder(encode_batch, sample_rate=16000), table)
    told = (100 * (heard.crops[:, 0] - 0.01)).round(1)
    np.testing.assert_allclose(told, heard.recordings + heard.parts / 2)
    enrol, test = maps._pairs_of_crops(heard, np.random.default_rng(0))
    assert (heard.parts[enrol] == 0).all()
    assert (heard.parts[test] == 1).all()
    same = heard.recordings[enrol] == heard.recordings[test]
    assert same.any()
    assert not same.all()


def test_recordings_of_each_third_are_others(monkeypatch):
    """Intervals are over recordings: those of two thirds are no one."""
    seen, real = [], maps.Bootstrap

    def spy(scores, targets, enrol, test, replicates):
        seen.extend([enrol, test])
        return real(scores, targets, enrol, test, replicates)

    monkeypatch.setattr(maps, "Bootstrap", spy)
    monkeypatch.setattr(maps, "MAPS", {NONE: maps.learn_nothing})
    try_maps(heard(nuisance=1, count=60))
    assert [len(np.unique(side)) for side in seen] == [60, 60]


def test_recordings_that_are_too_short_have_no_crops(monkeypatch):
    """They would be taken for crops of the next ones."""
    stops = np.where(np.arange(40) % 4 == 1, 1000, 64000)
    table = pd.DataFrame({"start": 0, "stop": stops, "row": range(40)})
    rows = np.flatnonzero(stops == 64000)
    halves = lambda embedder, table: (np.ones((2, 30, 4)), rows)  # noqa: E731
    crops = lambda lda, _, table: (table[["row"]], np.arange(len(table)))  # noqa: E731
    monkeypatch.setattr(maps, "embed_halves", halves)
    monkeypatch.setattr(maps.RecordingLDA, "embed_crops", crops)
    found = maps.hear(Embedder(None), table)
    assert found.crops["row"].tolist() == [*rows, *rows]
    assert found.recordings.tolist() == [*range(30)] * 2
