import shutil

import numpy as np
import pytest
import soundfile
import torch

from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain_cadino.commands.main import main
from speechbrain_cadino.embeddings.store import save_embeddings
from speechbrain_cadino.encoders.calibration import (
    ScoreCalibration,
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.runs import adapt as room
from speechbrain_cadino.runs.adapt import NONE, Heard, choose, try_maps
from speechbrain_cadino.verification.threshold import (
    fit,
    pairs_of,
    score_halves,
)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    """36 recordings of 2.1 s, each of a voice of two sounds, by turns."""
    folder = tmp_path_factory.mktemp("archive")
    rng = np.random.default_rng(0)
    turns = np.arange(33600) // 2000 % 2
    for number in range(36):
        sounds = [
            np.convolve(rng.standard_normal(33600), sound, "same")
            for sound in rng.standard_normal((2, 32))
        ]
        wav = np.where(turns, *sounds)
        soundfile.write(folder / f"{number:02}.wav", 0.02 * wav, 16000)
    return folder


@pytest.fixture(autouse=True)
def fewer_replicates(monkeypatch):
    monkeypatch.setattr(room, "REPLICATES", 50)


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
        return room.learn_nothing(recordings)

    monkeypatch.setattr(room, "MAPS", {NONE: spy})
    whole = heard(nuisance=1, count=30)
    tried = []
    agreement = room._agreement
    monkeypatch.setattr(
        room, "_agreement", lambda h: tried.append(h) or agreement(h)
    )
    try_maps(whole)
    for learnt, held_out in zip(seen, tried, strict=True):
        first = {row.tobytes() for row in learnt[0].astype(np.float32)}
        other = {row.tobytes() for row in held_out[0]}
        assert len(first) == 20
        assert len(other) == 10
        assert not first & other


def test_a_threshold_is_not_that_of_recordings_that_the_map_has_learnt():
    """As it would be far off: recordings to come tell."""
    known = heard(nuisance=3, count=60, width=40, of_voice=1)
    to_come = heard(3, count=300, width=40, seed=1, of_voice=1)
    learn = room.MAPS["whitening"]
    pairs = pairs_of(known.count)
    learnt = score_halves(known.mapped(learn(known)).halves, *pairs)
    scores, enrol, test = room.score_held_out(known, learn)
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


def run(capsys, *arguments):
    main(["adapt", *map(str, arguments)])
    return capsys.readouterr().out.splitlines()


def test_an_adapted_folder(encoder_folder, archive, tmp_path, capsys, caplog):
    output = tmp_path / "adapted"
    lines = run(
        capsys,
        *(encoder_folder, archive, "--output", output),
        *("--map", "mean"),
    )
    assert [line.split("\t")[0] for line in lines] == ["map", *room.MAPS]
    found = read_calibration(output)
    assert (
        f"above a score of {found.threshold:.3f} (95% interval" in caplog.text
    )
    card = (output / "README.md").read_text()
    assert "Adapted without labels to 36 recordings" in card
    assert f"{found.threshold:.3f} (crops)" in card
    # Stock SpeechBrain's embeddings are the encoder's, mapped linearly
    wavs = torch.randn(20, 9000) * 0.02
    before = load_encoder(encoder_folder).encode_batch(wavs, torch.ones(20))
    stock = SpeakerRecognition.from_hparams(source=str(output))
    after = stock.encode_batch(wavs)[:, 0].double()
    design = torch.cat([before[:, 0], torch.ones(20, 1)], 1).double()
    solved = torch.linalg.lstsq(design, after).solution
    torch.testing.assert_close(design @ solved, after, rtol=1e-3, atol=1e-3)
    # and centred on the archive
    assert load_encoder(output).mean == pytest.approx(0, abs=1e-4)
    embeddings = load_encoder(output).embed(room_table(archive))
    assert np.abs(embeddings.mean(0)).max() < 0.5 * embeddings.std(0).max()


def room_table(folder):
    """A manifest of a folder."""
    from speechbrain_cadino.commands.inference import audio_table, find_files

    with audio_table(find_files([folder]), 16000) as (_, table):
        return table


def test_no_better_than_before(
    encoder_folder, archive, tmp_path, capsys, caplog, monkeypatch
):
    monkeypatch.setattr(room, "choose", lambda figures: NONE)
    output = tmp_path / "adapted"
    lines = run(capsys, encoder_folder, archive, "--output", output)
    assert len(lines) == len(room.MAPS) + 1
    assert "nothing is written" in caplog.text
    assert not list(tmp_path.iterdir())
    assert "still the encoder" not in caplog.text
    shutil.copytree(encoder_folder, output)
    run(capsys, encoder_folder, archive, "--output", output)
    assert f"{output} is still the encoder that was there" in caplog.text


def test_bad_input_is_a_sentence_and_nothing_is_written(
    encoder_folder, archive, tmp_path, caplog
):
    output = tmp_path / "adapted"

    def refused(encoder, *arguments, output=output):
        caplog.clear()
        words = ["adapt", encoder, *arguments, "--output", output]
        with pytest.raises(SystemExit):
            main([str(word) for word in words])
        assert not (tmp_path / "adapted").exists()
        return caplog.text

    files = sorted(archive.iterdir())
    for count in [5, 24]:
        some = refused(encoder_folder, *files[:count])
        assert f"{count} recordings of 2 s or more are too few to learn" in some
        assert "give 30 or more" in some
    save_embeddings(tmp_path / "stored", ["a"], np.ones((1, 4)))
    assert "holds embeddings alone" in refused(tmp_path / "stored", archive)
    assert "give one of mean, whitening" in refused(
        encoder_folder, archive, "--map=lda"
    )
    # One voice in three rooms, of which nobody knows a calibration
    voice = tmp_path / "voice"
    voice.mkdir()
    sound = np.random.default_rng(0).standard_normal((3, 32))
    for number in range(36):
        noise = np.random.default_rng(number).standard_normal(33600)
        wav = np.convolve(noise, sound[number % 3], "same")
        soundfile.write(voice / f"{number:02}.wav", 0.02 * wav, 16000)
    said = refused(encoder_folder, voice, "--map=recording_lda")
    assert "they are of few voices" in said
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "letter.txt").write_text("Dear")
    assert "other things than an encoder" in refused(
        encoder_folder, archive, output=mine
    )
    assert (mine / "letter.txt").is_file()
    assert "is the encoder itself" in refused(
        encoder_folder, archive, output=encoder_folder
    )


def test_what_scores_meant_elsewhere_refuses_no_archive(
    encoder_folder, archive, tmp_path
):
    """In another domain those of two voices may be above the threshold."""
    source = tmp_path / "calibrated"
    shutil.copytree(encoder_folder, source)
    write_calibration(source, ScoreCalibration(5.0, 1.0, "crops", 100, 10))
    words = ["adapt", source, archive, f"--output={tmp_path / 'adapted'}"]
    main([*map(str, words), "--map=recording_lda"])
    found = read_calibration(tmp_path / "adapted")
    assert -0.5 < found.threshold < 1


def test_no_folder_of_others_is_replaced_from_python(
    encoder_folder, archive, tmp_path
):
    embedder, table = load_encoder(encoder_folder), room_table(archive)
    (tmp_path / "thesis.txt").write_text("...")
    for output, only, reason in [
        (tmp_path, None, "other things than an encoder"),
        (encoder_folder, None, "is the encoder itself"),
        (tmp_path / "new", "lda", "give one of mean, whitening"),
    ]:
        with pytest.raises(ValueError, match=reason):
            room.adapt(embedder, table, output, only)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
