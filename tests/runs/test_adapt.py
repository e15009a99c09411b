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
from speechbrain_cadino.runs import maps
from speechbrain_cadino.runs.maps import NONE


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
    monkeypatch.setattr(maps, "REPLICATES", 50)


HEARD = {}


@pytest.fixture(autouse=True)
def heard_once(monkeypatch):
    """What the encoder hears in a table: there is one encoder in here."""

    def hear(embedder, table):
        files = tuple(table["wav"])
        if files not in HEARD:
            HEARD[files] = maps.hear(embedder, table)
        return HEARD[files]

    monkeypatch.setattr(room, "hear", hear)


def run(capsys, *arguments):
    main(["adapt", *map(str, arguments)])
    return capsys.readouterr().out.splitlines()


def test_an_adapted_folder(encoder_folder, archive, tmp_path, capsys, caplog):
    output = tmp_path / "adapted"
    shutil.copytree(encoder_folder, output)
    write_calibration(output, ScoreCalibration(0.0, 9.0, "trials", 400, 40))
    lines = run(
        capsys, encoder_folder, archive, "--output", output, "--map", "mean"
    )
    assert f"{output} had a threshold by trials" in caplog.text
    rows = [line.split("\t") for line in lines]
    assert [row[0] for row in rows] == ["map", *room.MAPS]
    written = [row[0] for row in rows if row[-1] == "True"]
    assert (rows[0][-1], written) == ("written", ["mean"])
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


@pytest.mark.parametrize("name", ["recording_lda", "cluster_lda_2"])
def test_the_mean_in_the_folder_is_that_of_the_archive(
    encoder_folder, archive, tmp_path, capsys, name
):
    """Not of the noisy crops that a map has learnt from."""
    output = tmp_path / "adapted"
    flags = ["--map", name]
    run(capsys, encoder_folder, archive, "--output", output, *flags)
    embedder = load_encoder(output)
    embeddings = embedder.embed(room_table(archive))
    off = embedder.mean - embeddings.mean(0)
    assert np.abs(off).max() < 0.5 * embeddings.std(0).max()
    if name == "recording_lda":
        assert np.abs(embedder.mean).max() > np.abs(off).max()


@pytest.mark.parametrize("asked", [True, False])
def test_the_map_in_the_folder_is_the_one_that_is_told(
    encoder_folder, archive, tmp_path, capsys, monkeypatch, asked
):
    """That which was asked for, and that which was chosen."""
    monkeypatch.setattr(room, "choose", lambda figures: "whitening")
    output = tmp_path / "adapted"
    flags = ["--map", "whitening"] * asked
    run(capsys, encoder_folder, archive, "--output", output, *flags)
    assert "whitening" in (output / "README.md").read_text()
    embedder, table = load_encoder(encoder_folder), room_table(archive)
    learnt = maps.MAPS["whitening"](room.hear(embedder, table))
    np.testing.assert_allclose(
        load_encoder(output).embed(table),
        learnt.transform(embedder.embed(table)),
        rtol=1e-3,
        atol=1e-4,
    )


def room_table(folder):
    """A manifest of a folder."""
    from speechbrain_cadino.commands.audio_files import audio_table, find_files

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
    trained = tmp_path / "run" / "encoder"
    shutil.copytree(encoder_folder, trained)
    (tmp_path / "run" / "save" / "CKPT+1").mkdir(parents=True)
    for output, only, reason in [
        (tmp_path, None, "other things than an encoder"),
        (trained, None, "is the encoder of a training, and would be repl"),
        (encoder_folder, None, "is the encoder itself"),
        (tmp_path / "new", "lda", "give one of mean, whitening"),
    ]:
        with pytest.raises(ValueError, match=reason):
            room.adapt(embedder, table, output, only)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["run", "thesis.txt"]
