import functools
import io
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import forked
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score, silhouette_score
from torchaudio.functional import resample

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain_cadino.clustering.speakers import find_speakers
from speechbrain_cadino.commands import audio_files, cluster, embed, verify
from speechbrain_cadino.commands.audio_files import (
    audio_table,
    embed_files,
    find_files,
)
from speechbrain_cadino.commands.main import main
from speechbrain_cadino.commands.verify import verify_files
from speechbrain_cadino.embeddings.recording_lda import RecordingLDA
from speechbrain_cadino.embeddings.store import load_embeddings, save_embeddings
from speechbrain_cadino.encoders.calibration import (
    ScoreCalibration,
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.prepare import convert
from speechbrain_cadino.prepare.recordings import read_headers
from speechbrain_cadino.process.lock import locked
from speechbrain_cadino.verification import halves, threshold
from speechbrain_cadino.verification.threshold import calibrate

FILES = ["anne/mono 16k.wav", "anne/téléphone.wav", "bob/stereo.flac"]


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Audio of three rates, among it what is none."""
    folder = tmp_path_factory.mktemp("some speech")
    rng = np.random.default_rng(0)
    for name, rate, channels in zip(FILES, [16000, 8000, 44100], [1, 1, 2]):
        (folder / name).parent.mkdir(exist_ok=True)
        wav = rng.uniform(-0.3, 0.3, (rate // 2, channels))
        soundfile.write(folder / name, wav, rate)
    (folder / "broken.wav").write_text("no audio")
    (folder / "empty.flac").touch()
    soundfile.write(folder / "short.wav", np.zeros(100), 16000)
    (folder / "notes.txt").write_text("is not even tried")
    return folder


@pytest.fixture(scope="module")
def stock(encoder_folder, speech):
    """What SpeechBrain itself makes of the audio."""
    encoder = EncoderClassifier.from_hparams(source=str(encoder_folder))
    embeddings = []
    for name in FILES:
        wav, rate = soundfile.read(speech / name, always_2d=True)
        wav = torch.from_numpy(wav).float().mean(1)
        wav = resample(wav, rate, 16000)
        embeddings.append(encoder.encode_batch(wav[None])[0, 0].numpy())
    return np.stack(embeddings)


def cos(one, other):
    return one @ other / np.linalg.norm(one) / np.linalg.norm(other)


def run(*arguments, cwd=None):
    """A process of its own; returns what it did."""
    return subprocess.run(
        [sys.executable, "-m", "speechbrain_cadino", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


def call(capsys, *arguments):
    """Runs a command here; returns its stdout as a table."""
    main([str(argument) for argument in arguments])
    lines = capsys.readouterr().out.splitlines()
    header, *rows = [line.split("\t") for line in lines]
    return pd.DataFrame(rows, columns=header)


def test_embed_gives_what_speechbrain_gives(
    encoder_folder, speech, stock, tmp_path, monkeypatch, capsys, caplog
):
    monkeypatch.chdir(speech.parent)
    output = tmp_path / "new" / "embeddings"
    main(["embed", str(encoder_folder), speech.name, f"--output={output}"])
    assert capsys.readouterr().out == ""
    ids, embeddings = load_embeddings(tmp_path / "new" / "embeddings")
    assert ids == [f"{speech.name}/{name}" for name in FILES]
    np.testing.assert_allclose(embeddings, stock, rtol=1e-3, atol=1e-4)
    for name, reason in [
        ("broken.wav", "not readable as audio"),
        ("empty.flac", "not readable as audio"),
        ("short.wav", "shorter than 0.1 s"),
    ]:
        assert f"Skipped {speech.name}/{name}: {reason}" in caplog.text
    assert "3 of 6 files are skipped" in caplog.text
    assert "notes.txt" not in caplog.text
    skipped = pd.read_csv(output / "skipped.csv", index_col="file")["problem"]
    assert len(skipped) == 3
    assert "shorter than 0.1 s" in skipped[f"{speech.name}/short.wav"]
    assert "1 of 3 recordings have fewer than 16000 samples" in caplog.text
    assert "1 of 3 recordings have several channels" in caplog.text
    assert f"such as 8000 of {speech.name}/{FILES[1]}" in caplog.text


def test_embeddings_of_other_files_are_not_lost(
    encoder_folder, speech, tmp_path, caplog
):
    """More files may come; an input that is mistyped costs no hours."""
    words = ["embed", str(encoder_folder), f"--output={tmp_path / 'out'}"]
    files = [str(speech / name) for name in FILES]
    main([*words, *files[:2]])
    before = (tmp_path / "out" / "embeddings.npy").read_bytes()
    with pytest.raises(SystemExit):
        main([*words, files[0], files[2]])
    assert "2 files, 1 of which are not given now, such as" in caplog.text
    assert files[1] in caplog.text
    assert (tmp_path / "out" / "embeddings.npy").read_bytes() == before
    main([*words, *files])
    assert load_embeddings(tmp_path / "out")[0] == files


def test_embeddings_of_deleted_files_may_go(
    encoder_folder, speech, tmp_path, caplog, monkeypatch
):
    words = ["embed", str(encoder_folder), f"--output={tmp_path / 'out'}"]
    files = [str(tmp_path / f"{number}.wav") for number in range(3)]
    for name, file in zip(FILES, files):
        shutil.copy(speech / name, file)
    main([*words, *files])
    before = (tmp_path / "out" / "embeddings.npy").read_bytes()
    os.unlink(files[1])
    with pytest.raises(SystemExit):
        main([*words, files[2], files[0]])
    assert "give --drop_missing if they have been deleted" in caplog.text
    main([*words, "--drop_missing", files[2], files[0]])
    assert "1 files are there no longer, such as" in caplog.text
    ids, embeddings = load_embeddings(tmp_path / "out")
    assert ids == [files[2], files[0]]
    np.testing.assert_array_equal(embeddings[1], np.load(io.BytesIO(before))[0])
    # One that cannot be looked at is none that was deleted
    whole = pathlib.Path(files[0]).read_bytes()
    pathlib.Path(files[0]).write_bytes(b"")
    caplog.clear()
    with monkeypatch.context() as patch:
        patch.setattr(embed, "_state", lambda file: None)
        with pytest.raises(SystemExit):
            main([*words, "--drop_missing", files[2], files[0]])
    pathlib.Path(files[0]).write_bytes(whole)
    assert "cannot be read now" in caplog.text
    assert "drop_missing" not in caplog.text
    # One that is there has been forgotten, not deleted
    with pytest.raises(SystemExit):
        main([*words, "--drop_missing", files[0]])
    assert "another --output, or remove that folder" in caplog.text
    assert "drop_missing" not in caplog.text
    assert load_embeddings(tmp_path / "out")[0] == ids
    # Nor is one that a list does not have any more; its own may have gone
    listed = tmp_path / "list.csv"
    listed.write_text(f"file\n{files[0]}\n")
    with pytest.raises(SystemExit):
        main([*words, str(listed)])
    assert "embed all files, and give it beside --embeddings" in caplog.text
    listed.write_text("\n".join(["file", *files]))
    with pytest.raises(SystemExit):
        main([*words, str(listed)])
    assert f"1 of the 3 files that {listed} names are not there" in caplog.text
    main([*words, "--drop_missing", str(listed)])
    assert load_embeddings(tmp_path / "out")[0] == [files[0], files[2]]


def test_an_encoder_is_looked_for_before_an_archive_is(
    tmp_path, caplog, monkeypatch
):
    monkeypatch.setattr(audio_files, "find_files", None)
    with pytest.raises(SystemExit):
        main(["embed", "./typo", str(tmp_path), f"--output={tmp_path / 'out'}"])
    assert "There is no folder ./typo" in caplog.text


def test_embeddings_of_links_to_nothing_may_go(
    encoder_folder, speech, tmp_path, caplog
):
    folder = tmp_path / "links"
    folder.mkdir()
    for file, name in zip(FILES, ["0.wav", "1.wav"]):
        shutil.copy(speech / file, tmp_path / name)
        (folder / name).symlink_to(tmp_path / name)
    words = ["embed", str(encoder_folder), str(folder)]
    words.append(f"--output={tmp_path / 'out'}")
    main(words)
    (tmp_path / "0.wav").unlink()
    with pytest.raises(SystemExit):
        main(words)
    assert "give --drop_missing if they have been deleted" in caplog.text
    main([*words, "--drop_missing"])
    assert load_embeddings(tmp_path / "out")[0] == [str(folder / "1.wav")]


def test_what_cannot_be_read_for_a_while_is_not_lost(
    encoder_folder, speech, write_m4a, tmp_path, caplog, monkeypatch
):
    """As where PyAV is missing; one that was replaced since has no embedding
    any longer."""
    folder = tmp_path / "archive"
    folder.mkdir()
    wav = soundfile.read(speech / FILES[0])[0]
    write_m4a(folder / "a.m4a", wav)
    soundfile.write(folder / "b.wav", wav, 16000)
    out = tmp_path / "out"
    words = ["embed", str(encoder_folder), str(folder), f"--output={out}"]
    main(words)
    before = (out / "embeddings.npy").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(audio_files, "has_av", lambda: False)
        main(words)
    assert (out / "embeddings.npy").read_bytes() == before
    (folder / "a.m4a").write_bytes(b"something else")
    main(words)
    assert load_embeddings(out)[0] == [str(folder / "b.wav")]
    # Nor where a disk goes after it was listed
    list_files = audio_files.find_files

    def goes(*inputs):
        files = list_files(*inputs)
        (folder / "b.wav").unlink()
        return files

    before = (out / "embeddings.npy").read_bytes()
    soundfile.write(folder / "aa.wav", wav, 16000)
    monkeypatch.setattr(audio_files, "find_files", goes)
    with pytest.raises(SystemExit):
        main(words)
    said = caplog.records[-1].getMessage()
    assert "1 files that cannot be read now, such as" in said
    assert "b.wav: no such file" in said
    assert (out / "embeddings.npy").read_bytes() == before


def test_a_recording_of_the_speaker_and_a_clip_tell_nothing(
    encoder_folder, speech, tmp_path, caplog
):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    write_calibration(folder, ScoreCalibration(0.0, 100.0, "crops", 400, 40))
    anne, phone, bob = (speech / name for name in FILES)
    table = verify_files(folder, [anne], [anne, phone, bob])
    assert set(table["speaker"]) == {"unsure"}
    assert f"{anne} is the recording of the speaker itself" in caplog.text
    assert "3 of 3 are unsure whatever the score: files of less" in caplog.text
    caplog.clear()
    verify_files(folder, [anne, phone], [anne, bob], threshold=0.5)
    assert "itself" not in caplog.text
    assert "unsure" not in caplog.text


def test_a_name_that_is_not_utf_8_ends_nothing(
    encoder_folder, speech, tmp_path
):
    """It is in the lists of what is skipped, in plain characters."""
    folder = shutil.copytree(speech / "anne", tmp_path / "anne")
    odd = os.fsencode(folder) + b"/latin\xe9.wav"
    shutil.copy(os.fsencode(speech / FILES[0]), odd)
    out = tmp_path / "out"
    csv = ["--csv", tmp_path / "a.csv", "--num_clusters", 1, "--shortest=0.1"]
    for words in (
        ["embed", encoder_folder, folder, "--output", out],
        ["filter", encoder_folder, folder, "--output", tmp_path / "filtered"],
        ["cluster", encoder_folder, folder, *csv],
    ):
        rules = ["--speech=null", "--consistency=null"]
        words += rules if words[0] == "filter" else []
        main([str(word) for word in words])
    for path in ("out/skipped", "filtered/filter_skipped", "a"):
        text = (tmp_path / f"{path}.csv").read_text(encoding="utf-8")
        assert "dce9.wav" in text
        assert "not in UTF-8" in text
    # And what a power cut has damaged is made anew
    array = out / "embeddings.npy"
    whole = array.read_bytes()
    array.write_bytes(whole[:100])
    main(["embed", str(encoder_folder), str(folder), f"--output={out}"])
    assert array.read_bytes() == whole


def test_lists_of_stored_embeddings(tmp_path, capsys, caplog):
    """Such as filtered.csv, whose wav are whole paths."""
    points = np.repeat(np.eye(3), 4, axis=0) + 0.01 * np.eye(12, 3)
    names = [f"calls/{number}.wav" for number in range(12)]
    save_embeddings(tmp_path, names, points)
    stored, csv = f"--embeddings={tmp_path}", f"--csv={tmp_path / 'a.csv'}"
    listed = tmp_path / "filtered.csv"
    for text in ("ID,wav\n{},/x/a.wav\n", "file,cluster\n{},0\n"):
        heading, line = text.splitlines()
        lines = [heading, *(line.format(name) for name in names[:8])]
        listed.write_text("\n".join(lines))
        main(
            ["cluster", stored, str(listed), names[0], csv, "--num_clusters=2"]
        )
        found = pd.read_csv(tmp_path / "a.csv")
        assert found["file"].tolist() == names[:8]
        assert found["cluster"].value_counts().tolist() == [4, 4]
    # An empty one is not all that there is
    for text in ("wav\n/x/a.wav\n", "file\n"):
        listed.write_text(text)
        caplog.clear()
        with pytest.raises(SystemExit):
            main(["cluster", stored, str(listed), csv])
        assert "filtered.csv is no list of embeddings" in caplog.text


def test_a_speaker_of_all_embeddings_is_compared_with_none(tmp_path, caplog):
    save_embeddings(tmp_path, ["a.wav", "b.wav"], np.eye(2))
    listed = tmp_path / "all.csv"
    listed.write_text("file\na.wav\nb.wav\n")
    with pytest.raises(SystemExit):
        main(["verify", f"--embeddings={tmp_path}", str(listed)])
    assert "all.csv names all that there are embeddings of" in caplog.text


def test_a_list_may_name_what_could_not_be_embedded(tmp_path, capsys, caplog):
    save_embeddings(tmp_path, ["a.wav", "b.wav"], np.eye(2))
    (tmp_path / "skipped.csv").write_text("file,problem\nbad.wav,cut off\n")
    listed = tmp_path / "new.csv"
    listed.write_text("file\nb.wav\nbad.wav\n")
    stored = f"--embeddings={tmp_path}"
    table = call(capsys, "verify", stored, "a.wav", listed)
    assert table["file"].tolist() == ["b.wav", "bad.wav"]
    assert table["note"].tolist() == ["", "no embedding"]
    listed.write_text("file\nb.wav\nbad.wav\nnobody.wav\n")
    with pytest.raises(SystemExit):
        main(["verify", stored, "a.wav", str(listed)])
    assert "no embedding of 1 of 3 utterances, such as nob" in caplog.text


def test_clusters_of_embeddings_that_are_the_same_tell_nothing(
    tmp_path, capsys, caplog
):
    save_embeddings(tmp_path, list("abc"), np.ones((3, 4)))
    csv = f"--csv={tmp_path / 'a.csv'}"
    main(["cluster", f"--embeddings={tmp_path}", csv])
    assert "All 3 embeddings are the same" in caplog.text
    assert "Then clusters tell nothing." in caplog.text


def test_with_embeddings_an_encoder_is_one_thing_too_many(tmp_path, caplog):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    stored, csv = f"--embeddings={tmp_path}", f"--csv={tmp_path / 'a.csv'}"
    with pytest.raises(SystemExit):
        main(["cluster", "encoder", stored, csv])
    assert "such as encoder: give names as its ids.txt has them" in caplog.text


@pytest.mark.parametrize("name", ["embeddings.npy", "ids.txt"])
def test_a_table_takes_the_place_of_no_embeddings(tmp_path, caplog, name):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    before = (tmp_path / name).read_bytes()
    words = [f"--embeddings={tmp_path}", "a", "b", f"--csv={tmp_path / name}"]
    for command in ("cluster", "verify"):
        with pytest.raises(SystemExit):
            main([command, *words])
        said = caplog.records[-1].getMessage()
        assert f"{tmp_path / name} belongs to embeddings" in said
    assert (tmp_path / name).read_bytes() == before


def test_killed_embed_goes_on(encoder_folder, speech, stock, tmp_path):
    """And finished, it starts anew where a file was replaced."""
    for number in range(100):
        shutil.copy(speech / FILES[number % 2], tmp_path / f"{number:02}.wav")
    # One file a shard, in the place of some hundreds of files
    program = (
        "import sys\n"
        "from speechbrain_cadino.commands import embed, main\n"
        "embed.shard_size = lambda files: 1\n"
        "main.main(sys.argv[1:])\n"
    )
    words = ["embed", str(encoder_folder), ".", "--output", "out"]
    command = ["-c", program, *words]
    process = forked.start(*command, cwd=tmp_path)
    while not list(tmp_path.glob("out/.more/shards/0*.npy")):
        assert process.is_alive()
        time.sleep(0.001)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "out" / "embeddings.npy").exists()
    done = len(list(tmp_path.glob("out/.more/shards/0*.npy")))
    code, output = forked.run(*command, cwd=tmp_path)
    assert code == 0, output
    assert f"{done} of 100 shards in out/.more are there already" in output
    ids, embeddings = load_embeddings(tmp_path / "out")
    assert ids == [f"{number:02}.wav" for number in range(100)]
    expected = np.tile(stock[:2], (50, 1))
    np.testing.assert_allclose(embeddings, expected, rtol=1e-3, atol=1e-4)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [
        "durations.csv",
        "embeddings.npy",
        "extraction.json",
        "ids.txt",
    ]
    code, output = forked.run(*command, cwd=tmp_path)
    assert code == 0, output
    assert "are up to date" in output
    samples, rate = soundfile.read(tmp_path / "00.wav", dtype="int16")
    soundfile.write(tmp_path / "00.wav", samples[::-1], rate)
    code, output = forked.run(*command, cwd=tmp_path)
    assert code == 0, output
    assert "99 of 100 files are embedded" in output
    assert not np.allclose(load_embeddings(tmp_path / "out")[1][0], stock[0])


def test_what_is_embedded_is_neither_opened_nor_converted_again(
    encoder_folder, speech, tmp_path, monkeypatch, caplog, write_m4a
):
    """An archive grows each night, and a job of hours may be asked to end."""
    pytest.importorskip("av", reason="needs [convert]")
    wav, rate = soundfile.read(speech / FILES[0])
    write_m4a(tmp_path / "b.m4a", wav)
    soundfile.write(tmp_path / "a.wav", wav, rate)
    words = ["embed", str(encoder_folder), str(tmp_path)]
    words += ["--output", str(tmp_path / "out")]

    def stop(*arguments):
        raise SystemExit(143)  # as if asked to end

    with monkeypatch.context() as patch:
        patch.setattr(embed, "embed_more", stop)
        with pytest.raises(SystemExit):
            main(words)
    assert len(list(tmp_path.glob("out/.converted/*.flac"))) == 1
    monkeypatch.setattr(convert, "_decode", stop)
    main(words)
    assert not (tmp_path / "out" / ".converted").exists()
    before, first = load_embeddings(tmp_path / "out")
    first = np.array(first)
    # A file has come: the others are not looked into
    soundfile.write(tmp_path / "c.wav", wav[::-1], rate)
    opened = []
    monkeypatch.setattr(
        audio_files,
        "read_headers",
        lambda recordings: (
            opened.extend(r.path for r in recordings)
            or read_headers(recordings)
        ),
    )
    main(words)
    ids, embeddings = load_embeddings(tmp_path / "out")
    assert ids == [*before, str(tmp_path / "c.wav")]
    np.testing.assert_array_equal(embeddings[:2], first)
    assert opened == [str(tmp_path / "c.wav")]
    caplog.clear()
    main(words)
    assert "are up to date" in caplog.text


def test_a_blank_in_front_of_a_name_is_no_other_name(
    encoder_folder, tmp_path, monkeypatch
):
    """As where a table of the files is read again."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    soundfile.write(" a.wav", 0.1 * rng.standard_normal(32000), 16000)
    command = ["embed", str(encoder_folder), ".", "--output", "out"]
    main(command)
    assert pathlib.Path("out", "ids.txt").read_text() == "./ a.wav\n"
    main(command)


def test_embed_is_exact(encoder_folder, tmp_path):
    """To the last sample, as verify is: on no grid of lengths."""
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 8177)
    soundfile.write(tmp_path / "voice.wav", wav, 16000)
    main(["embed", str(encoder_folder), str(tmp_path), f"--output={tmp_path}"])
    _, embeddings = load_embeddings(tmp_path)
    one = embed_files(encoder_folder, tmp_path / "voice.wav").embeddings
    np.testing.assert_array_equal(embeddings, one)


def test_embed_leaves_out_what_is_silent(
    encoder_folder, tmp_path, monkeypatch, caplog
):
    """Which shows only when it is read: no row of NaN for others to find."""
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 8000)
    soundfile.write(tmp_path / "voice.wav", wav, 16000)
    soundfile.write(tmp_path / "a dead line.wav", np.zeros(8000), 16000)
    monkeypatch.chdir(tmp_path)
    main(["embed", str(encoder_folder), ".", "--output=out"])
    ids, embeddings = load_embeddings(tmp_path / "out")
    assert ids == ["voice.wav"]
    assert np.isfinite(embeddings).all()
    assert "a dead line.wav. All are listed in skipped.csv." in caplog.text
    assert "a dead line.wav" in (tmp_path / "out" / "skipped.csv").read_text()
    assert "are up to date" not in caplog.text
    main(["embed", str(encoder_folder), ".", "--output=out"])
    assert "are up to date" in caplog.text
    assert load_embeddings(tmp_path / "out")[0] == ["voice.wav"]


def test_verify_prints_cosines_and_nothing_else(encoder_folder, speech, stock):
    one, *others = [str(speech / name) for name in FILES]
    process = run("verify", encoder_folder, one, *others, "--device", "cpu")
    assert process.returncode == 0, process.stderr
    header, *rows = [line.split("\t") for line in process.stdout.splitlines()]
    assert header == ["file", "score"]
    assert [name for name, _ in rows] == others
    for (_, score), other in zip(rows, stock[1:]):
        assert float(score) == pytest.approx(cos(stock[0], other), abs=1e-3)


def test_a_folder_is_one_speaker(
    encoder_folder, speech, stock, tmp_path, capsys, caplog
):
    """The mean of the scores with each of its files, as the calibration is of
    single ones; one of them is compared with the others."""
    anne, phone, other = stock
    expected = [cos(anne, phone), cos(phone, anne)]
    expected += [(cos(anne, other) + cos(phone, other)) / 2]
    threshold = (max(expected) + min(expected)) / 2
    table = call(
        capsys,
        "verify",
        encoder_folder,
        speech / "anne",
        speech,
        "--threshold",
        threshold,
        "--csv",
        tmp_path / "scores.csv",
    )
    written = pd.read_csv(tmp_path / "scores.csv")
    names = ["file", "score", "speaker", "note"]
    assert list(written) == list(table) == names
    # Last those that cannot be used
    assert written["note"].notna().tolist() == 3 * [False] + 3 * [True]
    assert written["score"][3:].isna().all()
    table, written = table[:3], written[:3]
    assert list(written["file"]) == [str(speech / name) for name in FILES]
    np.testing.assert_allclose(written["score"], expected, atol=1e-3)
    np.testing.assert_allclose(table["score"].astype(float), expected, 1e-3)
    same = ["same" if score >= threshold else "different" for score in expected]
    assert list(table["speaker"]) == list(written["speaker"]) == same
    assert set(same) == {"same", "different"}
    assert "3 of 6 files are skipped" in caplog.text


def test_many_scores_are_not_held_at_once(tmp_path, monkeypatch):
    """Whatever the size of a part, where a test file is of the speaker too."""
    rng = np.random.default_rng(0)
    names = [f"{number}.wav" for number in range(9)]
    points = rng.standard_normal((9, 4)).astype(np.float32)
    save_embeddings(tmp_path, names, points)
    loaded = load_encoder(tmp_path)
    found = []
    for scores in (1, 7, 2**22):
        monkeypatch.setattr(verify, "SCORES", scores)
        table = verify_files(loaded, names[:3], names[2:])
        found.append(table["score"].to_numpy())
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    cosines = unit @ unit.T
    expected = [cosines[2, :2].mean(), *cosines[3:, :3].mean(1)]
    for scores in found:
        np.testing.assert_allclose(scores, expected, atol=1e-6)


def test_from_files_to_clusters_to_a_map(
    encoder_folder, corpus, tmp_path, capsys
):
    clusters = tmp_path / "clusters.csv"
    inputs = [corpus / "wav" / "b", corpus / "wav", corpus / "wav/b/0.wav"]
    table = call(
        capsys,
        "cluster",
        encoder_folder,
        *inputs,
        "--num_clusters",
        4,
        "--csv",
        clusters,
        "--shortest",
        0.1,
    )
    assert list(table) == ["cluster", "files"]
    sizes = table["files"].astype(int)
    assert sizes.sum() == 12
    assert sizes.is_monotonic_decreasing
    written = pd.read_csv(clusters)
    speakers = [pathlib.Path(file).parent.name for file in written["file"]]
    assert speakers == list("bbbaaacccddd")
    assert list(np.bincount(written["cluster"])) == list(sizes)

    main(["embed", str(encoder_folder), str(corpus), "--output", str(tmp_path)])
    ids, embeddings = load_embeddings(tmp_path)
    assert sorted(ids) == sorted(written["file"])
    units = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    labels = AgglomerativeClustering(4).fit_predict(units)
    found = written.set_index("file")["cluster"][ids]
    assert adjusted_rand_score(labels, found) == 1
    plot = tmp_path / "plots" / "map.svg"
    main(["map", str(tmp_path), str(plot), "--labels", str(clusters)])
    assert plot.read_text(encoding="utf-8").count("<use") >= 12
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("voices", "files"), [(6, 5), (23, 2), (29, 2)])
def test_speakers_by_ward_and_silhouette(voices, files):
    """As scikit-learn's, for each number."""
    rng = np.random.default_rng(0)
    centres = rng.standard_normal((voices, 1, 16))
    noise = 0.2 if files == 2 else 0.4
    points = centres + noise * rng.standard_normal((voices, files, 16))
    points = points.reshape(-1, 16)
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    values = {}
    for number in range(2, len(points)):
        labels = AgglomerativeClustering(number).fit_predict(points)
        values[number] = silhouette_score(points, labels, metric="cosine")
        found = find_speakers(3 * points, number)
        assert adjusted_rand_score(labels, found) == 1
        sizes = np.bincount(found)
        assert len(sizes) == number
        assert (np.diff(sizes) <= 0).all()
    best = max(values, key=values.get)
    assert find_speakers(points).max() + 1 == best == voices
    assert not find_speakers(points, 1).any()


@pytest.fixture
def calibrated(encoder_folder, tmp_path):
    """The encoder folder, with a calibration."""
    folder = tmp_path / "calibrated"
    shutil.copytree(encoder_folder, folder)
    write_calibration(folder, ScoreCalibration(-20, 40.0, "trials", 66, 12))
    return folder


def test_an_answer_rather_than_a_number(calibrated, tmp_path, capsys, caplog):
    rng = np.random.default_rng(3)
    for number, seconds in enumerate([2, 2, 0.5]):
        wav = rng.uniform(-0.3, 0.3, int(16000 * seconds))
        soundfile.write(tmp_path / f"{number}.wav", wav, 16000)
    files = [tmp_path / f"{number}.wav" for number in range(3)]
    table = call(capsys, "verify", calibrated, files[0], *files)
    assert list(table) == ["file", "score", "llr", "speaker"]
    scores, ratios = table["score"].astype(float), table["llr"].astype(float)
    np.testing.assert_allclose(ratios, 40 * scores - 20, atol=0.01)
    # Noise is like noise; half a second is too little
    assert list(table["speaker"]) == ["same", "same", "unsure"]
    # On either side
    table = call(capsys, "verify", calibrated, files[2], files[0])
    assert list(table["speaker"]) == ["unsure"]
    # The first is compared with the last alone
    table = verify_files(calibrated, files[::2], files[:2])
    assert list(table["speaker"]) == ["unsure", "same"]
    csv = "--csv", tmp_path / "clusters.csv"
    assert call(capsys, "cluster", calibrated, files[0], *csv)[
        "files"
    ].tolist() == ["1"]
    assert "All are of one voice" not in caplog.text
    table = call(capsys, "cluster", calibrated, *files, *csv)
    assert "All are of one voice, by a calibration that" in caplog.text
    assert table["files"].tolist() == ["2"]
    written = pd.read_csv(tmp_path / "clusters.csv")
    assert written["cluster"].fillna(-1).tolist() == [0, 0, -1]
    assert written["note"].fillna("").tolist() == ["", "", "too short"]


# It hears the spectrum, as no mean is subtracted.
HEARS = """\
audio_normalizer: !new:speechbrain.dataio.preprocess.AudioNormalizer
compute_features: !new:speechbrain.lobes.features.Fbank {n_mels: 24}
mean_var_norm: !new:speechbrain.nnet.containers.LengthsCapableSequential
  - !new:torch.nn.Identity
embedding_model: !new:speechbrain.nnet.pooling.StatisticsPooling
modules:
  compute_features: !ref <compute_features>
  mean_var_norm: !ref <mean_var_norm>
  embedding_model: !ref <embedding_model>
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
  loadables: {}
"""


@pytest.fixture
def voices(tmp_path):
    """An encoder without a calibration, and twenty voices, noises of a spectrum
    each: six files of the first."""
    rng = np.random.default_rng(0)
    encoder, speech = tmp_path / "encoder", tmp_path / "speech"
    encoder.mkdir()
    (encoder / "hyperparams.yaml").write_text(HEARS)
    for voice in range(20):
        spectrum = rng.standard_normal(32)
        for number in range(6 if voice == 0 else 1):
            wav = np.convolve(rng.standard_normal(40000), spectrum, "same")
            path = speech / f"{voice}/{number}.wav"
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, 0.02 * wav, 16000)
    return encoder, speech


def test_from_calibration_without_labels_to_one_voice(
    voices, tmp_path, capsys, caplog
):
    encoder, speech = voices
    table = call(capsys, "calibrate", encoder, speech)
    assert table["method"].tolist() == ["crops"]
    assert table["n_same"].tolist() == ["25"]
    found = read_calibration(encoder)
    assert float(table["threshold"][0]) == pytest.approx(found.threshold, 1e-2)
    clusters, one = tmp_path / "clusters.csv", speech / "0"
    table = call(capsys, "cluster", encoder, one, "--csv", clusters)
    assert table["files"].tolist() == ["6"]
    assert float(table["stability"][0]) == 1
    # Embeddings are told apart by the calibration of their encoder
    stored = tmp_path / "embeddings"
    main(["embed", str(encoder), str(one), "--output", str(stored)])
    assert read_calibration(stored) == found
    table = call(capsys, "cluster", "--embeddings", stored, "--csv", clusters)
    assert table["files"].tolist() == ["6"]
    write_calibration(stored, ScoreCalibration(-20, 40.0, "trials", 66, 12))
    main(["embed", str(encoder), str(one), "--output", str(stored)])
    assert "keeps its own calibration" in caplog.text
    assert read_calibration(stored).method == "trials"
    main(["embed", str(encoder), str(speech), "--output", str(stored)])
    assert len(load_embeddings(stored)[0]) > 6
    assert read_calibration(stored).method == "trials"
    # That of an encoder which has none is not to be taken
    caplog.clear()
    (encoder / "calibration.json").unlink()
    main(["embed", str(encoder), str(speech), "--output", str(stored)])
    assert "its own calibration" not in caplog.text
    assert read_calibration(stored).method == "trials"


def write_voices(folder, count):
    """Writes recordings of noise, each of a spectrum of its own."""
    rng = np.random.default_rng(0)
    for number in range(count):
        spectrum = rng.standard_normal(32)
        wav = np.convolve(rng.standard_normal(40000), spectrum, "same")
        soundfile.write(folder / f"{number:03}.wav", 0.02 * wav, 16000)
    return find_files(sorted(folder.glob("[0-9]*.wav")))


def test_a_calibration_after_lda_is_not_on_what_it_has_learnt(
    voices, tmp_path, caplog
):
    encoder, _ = voices
    files = write_voices(tmp_path, 200)
    known, others = files[:40], files[40:]
    embedder = load_encoder(encoder)
    options = {"recording_lda": True, "self_calibrate": True}
    found = embed_files(embedder, known, **options).calibration.threshold
    with audio_table(known, 16000) as (_, table):
        mapped = RecordingLDA().learn(embedder, table).after(embedder)
        learnt = calibrate(mapped, table).threshold
    with audio_table(others, 16000) as (_, table):
        truth = calibrate(mapped, table).threshold
    assert abs(found - truth) < 0.5 * abs(learnt - truth), (
        found,
        learnt,
        truth,
    )
    # Too few to learn from some and to try on others
    few = embed_files(embedder, known[:25], **options)
    assert few.calibration is None
    assert "25 recordings of 2 s or more are too few" in caplog.text


@pytest.mark.parametrize("recording_lda", [False, True])
def test_a_calibration_is_the_same_for_any_order(
    voices, tmp_path, recording_lda
):
    encoder, _ = voices
    files = write_voices(tmp_path, 40)
    embedder = load_encoder(encoder)
    found = [
        embed_files(
            embedder,
            order,
            recording_lda=recording_lda,
            self_calibrate=True,
        ).calibration
        for order in (files, files[::-1])
    ]
    # But for the rounding of batches: another draw differs by three thousandths
    assert found[0].threshold == pytest.approx(found[1].threshold, abs=1e-3)


def test_embeddings_know_how_long_their_files_are(
    voices, tmp_path, capsys, caplog
):
    encoder, speech = voices
    wav, rate = soundfile.read(speech / "0/0.wav")
    soundfile.write(speech / "short.wav", wav[:8000], rate)
    csv, stored = tmp_path / "clusters.csv", tmp_path / "embeddings"
    flags = "--num_clusters", 3, "--csv", csv
    call(capsys, "cluster", encoder, speech, *flags)
    expected = pd.read_csv(csv)
    assert expected["note"].notna().sum() == 1
    main(["embed", str(encoder), str(speech), "--output", str(stored)])
    call(capsys, "cluster", "--embeddings", stored, *flags)
    pd.testing.assert_frame_equal(pd.read_csv(csv), expected)
    call(capsys, "calibrate", encoder, speech)
    main(["embed", str(encoder), str(speech), "--output", str(stored)])
    first, *_, short = sorted(map(str, speech.rglob("*.wav")))
    table = call(capsys, "verify", "--embeddings", stored, first, short)
    assert table["speaker"].tolist() == ["unsure"]
    # Another tool's say nothing about it
    assert "How long files are is not known" not in caplog.text
    ids, points = load_embeddings(stored)
    save_embeddings(stored, ids, points)
    call(capsys, "cluster", "--embeddings", stored, *flags)
    assert "How long files are is not known" in caplog.text
    assert "note" not in pd.read_csv(csv)


def test_embeddings_in_the_place_of_an_encoder_are_no_encoder(
    tmp_path, speech, caplog
):
    save_embeddings(tmp_path, ["0", "1"], np.eye(2))
    with pytest.raises(SystemExit):
        main(["calibrate", str(tmp_path), str(speech), "--method=clusters"])
    assert f"--embeddings={tmp_path}" in caplog.text


def test_few_files_that_are_left_are_not_doubted(voices, tmp_path, capsys):
    encoder, speech = voices
    wav, rate = soundfile.read(speech / "0/0.wav")
    soundfile.write(speech / "long.wav", np.tile(wav, 4), rate)
    csv = tmp_path / "clusters.csv"
    table = call(
        capsys, "cluster", encoder, speech, "--csv", csv, "--shortest", 5
    )
    assert table["files"].tolist() == ["1"]


def test_a_reason_is_told_once_and_a_folder_is_none(
    encoder_folder, speech, tmp_path, caplog
):
    path = tmp_path / "2024: anne.wav"
    soundfile.write(path, np.zeros(16000), 16000)
    embed_files(encoder_folder, [speech / FILES[0], path, tmp_path])
    assert f"Skipped {path}: silent, from 0 on." in caplog.text
    assert f"Skipped {tmp_path}: a folder that cannot be entered" in caplog.text


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["calls", "--trials=list.txt"], "give no others, and --data_folder"),
        (["calls", "--data_folder=calls"], "is for the files of --trials"),
        (["--trials=l.txt", "--method=clusters"], "without labels: leave it"),
        (["calls", "--trials="], "folder is empty: is a variable unset"),
        (["--trials=l.txt", "--data_folder="], "is a variable unset"),
    ],
)
def test_calibrate_takes_what_it_needs(calibrated, flags, sentence, caplog):
    with pytest.raises(SystemExit):
        main(["calibrate", str(calibrated), *flags])
    assert sentence in caplog.text


@pytest.mark.parametrize("name", ["README.md", "calibration.json"])
def test_nothing_is_written_where_a_link_of_a_stranger_leads(
    name, encoder_folder, speech, tmp_path, caplog
):
    theirs = shutil.copytree(encoder_folder, tmp_path / "theirs")
    (theirs / name).unlink(missing_ok=True)
    (theirs / name).symlink_to(tmp_path / "mine" / name)
    with pytest.raises(SystemExit):
        main(["calibrate", str(theirs), str(speech), "--untrusted"])
    assert f"{name} holds something that is not known to be" in caplog.text
    assert not (tmp_path / "mine").exists()


def test_a_file_of_no_use_where_a_calibration_is_made(
    voices, tmp_path, capsys, caplog
):
    encoder, speech = voices
    soundfile.write(speech / "silent.wav", np.zeros(40000), 16000)
    (speech / "text.wav").write_text("no audio")
    table = call(
        capsys, "cluster", encoder, speech, "--csv", tmp_path / "clusters.csv"
    )
    assert table["files"].astype(int).sum() == 25
    assert "silent.wav: silent" in caplog.text
    assert "2 of 27 files are skipped" in caplog.text
    caplog.clear()
    call(capsys, "calibrate", encoder, speech)
    assert "Skipped" in caplog.text
    assert "text.wav: " in caplog.text


def test_embeddings_of_anyone(tmp_path, capsys, caplog):
    rng = np.random.default_rng(1)
    owners = np.repeat(np.arange(40), 4)
    embeddings = 4 * rng.standard_normal((40, 32))[owners]
    embeddings += rng.standard_normal(embeddings.shape)
    ids = [f"{owner}/{row}.wav" for row, owner in enumerate(owners)]
    folder = tmp_path / "theirs"
    save_embeddings(folder, ids, embeddings)
    theirs = ["--embeddings", folder]
    table = call(capsys, "calibrate", *theirs, "--method", "clusters")
    assert table["method"].tolist() == ["clusters"]
    clusters = tmp_path / "clusters.csv"
    call(capsys, "cluster", *theirs, "--csv", clusters)
    written = pd.read_csv(clusters)
    assert written["file"].tolist() == ids
    assert adjusted_rand_score(owners, written["cluster"]) > 0.95
    some = ids[:8]
    table = call(capsys, "cluster", *theirs, "--csv", clusters, *some)
    assert table["files"].tolist() == ["4", "4"]
    # Also in the folder of some experiment
    (folder / "hyperparams.yaml").write_text("of: an experiment")
    table = call(capsys, "verify", *theirs, ids[0], ids[1], ids[9])
    assert table["speaker"].tolist() == ["same", "different"]
    # Where is this voice? Among all that there are
    table = call(capsys, "verify", *theirs, ids[0])
    assert table["file"].tolist() == ids[1:]
    assert table["speaker"].tolist()[:3] == ["same"] * 3
    table = call(capsys, "verify", ids[0], *theirs, ids[1], ids[9])
    assert table["file"].tolist() == [ids[1], ids[9]]
    # In comparisons, beside a score file
    trials = tmp_path / "trials.txt"
    lines = [
        f"{int(a // 4 == b // 4)} {ids[a]} {ids[b]}\n"
        for a in range(160)
        for b in range(0, a, 5)
    ]
    trials.write_text("".join(lines))
    main(["compare", str(trials), f"theirs={folder}", f"again={folder}"])
    shown = capsys.readouterr().out
    assert re.search(r"theirs +\d", shown)
    embeddings[7, 3] = np.nan
    # A Japanese blank, which a terminal is not shown, is in tables as it is
    ids[7] = f"\u3000{ids[7]}"
    save_embeddings(tmp_path / "nan", ids, embeddings)
    save_embeddings(tmp_path / "twice", ids[:1] * 160, embeddings)
    csv = f"--csv={clusters}"
    # What was not readable is left out, and said
    skipped = tmp_path / "nan" / "skipped.csv"
    skipped.write_text(f"file,problem\nsilent.wav,silent\n{ids[7]},cut off\n")
    call(capsys, "cluster", "--embeddings", tmp_path / "nan", csv)
    written = pd.read_csv(clusters)
    left_out = [ids[7], "silent.wav"]
    assert written["file"].tolist() == ids[:7] + ids[8:] + left_out
    assert written["note"].dropna().tolist() == ["no embedding"] * 2
    assert written["cluster"].isna().sum() == 2
    assert f"1 of 160 have no embedding in {tmp_path / 'nan'}" in caplog.text
    table = call(capsys, "verify", "--embeddings", tmp_path / "nan", ids[0])
    assert table["file"][table["note"] != ""].tolist() == left_out
    one, other = ids[0], ids[9]
    table = call(capsys, "verify", *theirs, one, other, other)
    assert table["file"].tolist() == [other]
    # A flag is not shortened: the first ID would be the encoder
    for command in (["verify", one, other], ["cluster", csv, one, other]):
        with pytest.raises(SystemExit, match="2"):
            main([command[0], "--embed", str(folder), *command[1:]])
    for name, what, sentence in [
        (
            "theirs",
            ["nobody.wav", ids[0]],
            "no embedding of 1 of 2 .*nobody.wav",
        ),
        ("twice", [], "more than once"),
    ]:
        with pytest.raises(SystemExit):
            main(["cluster", f"--embeddings={tmp_path / name}", csv, *what])
        assert re.search(sentence, caplog.records[-1].getMessage())
    # Of the next embeddings the calibration says nothing
    assert read_calibration(folder)
    save_embeddings(folder, ids, -embeddings)
    assert read_calibration(folder) is None
    flat = tmp_path / "flat"
    save_embeddings(flat, ids, embeddings)
    np.save(flat / "embeddings.npy", embeddings[:, 0])
    with pytest.raises(ValueError, match=r"shape \(160,\)"):
        load_embeddings(flat)


def test_a_format_that_has_to_be_converted(
    encoder_folder, speech, write_m4a, tmp_path, capsys
):
    converted = tmp_path / "a.m4a"
    write_m4a(converted, soundfile.read(speech / FILES[0])[0])
    table = call(capsys, "verify", encoder_folder, speech / FILES[0], converted)
    assert list(table["file"]) == [str(converted)]
    assert float(table["score"][0]) > 0.999


def test_what_cannot_be_used_is_skipped_and_named(
    encoder_folder, tmp_path, capsys, caplog
):
    wav = np.random.default_rng(0).uniform(-0.3, 0.3, 8000)
    names = ["fine.wav", "two\nlines.wav", os.fsdecode(b"latin\xe9.wav")]
    for name in names:
        soundfile.write(tmp_path / "a.wav", wav, 16000)
        (tmp_path / "a.wav").rename(tmp_path / name)
    wav[5000] = np.nan
    soundfile.write(tmp_path / "nan.wav", wav, 16000, "FLOAT")
    table = call(
        capsys, "verify", encoder_folder, tmp_path / "fine.wav", tmp_path
    )
    assert table["file"][0] == str(tmp_path / "fine.wav")
    assert table["note"].ne("").tolist() == [False, True, True, True]
    assert "holds samples that are NaN" in table["note"][2]
    for text in [
        "two\\nlines.wav: a name with control characters",
        "latin\\udce9.wav: a name with",
        "nan.wav: holds samples that are NaN",
        "3 of 4 files are skipped",
    ]:
        assert text in caplog.text


def test_a_table_lists_files(tmp_path, monkeypatch):
    """As that of a filter, whose wav are whole paths, or one of clusters."""
    monkeypatch.chdir(tmp_path)
    for name in ["a.wav", "b.wav", "c.wav"]:
        (tmp_path / name).touch()
    soundfile.write("long.wav", np.zeros(48000), 16000)
    wavs = ["a.wav", str(tmp_path / "b.wav")]
    table = pd.DataFrame({"ID": ["x", "y"], "wav": wavs})
    table.to_csv("some.csv", index=False)
    assert find_files(["c.wav", "some.csv", "a.wav"]) == [
        "c.wav",
        "a.wav",
        str(tmp_path / "b.wav"),
    ]
    # As the other tables of a filter have them, from where it ran
    table["ID"] = ["a.wav", "b.wav"]
    table.to_csv("some.csv", index=False)
    assert find_files(["some.csv"]) == ["a.wav", "b.wav"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    table["wav"] = [str(tmp_path / "a.wav"), wavs[1]]
    table.to_csv(tmp_path / "some.csv", index=False)
    assert find_files(tmp_path / "some.csv") == table["wav"].tolist()
    monkeypatch.chdir(tmp_path)
    for text, sentence in [
        (
            "file\ngone.wav\na.wav\nalso.wav\n",
            r"2 of the 3 files that some\.csv names are not there, such as 'g",
        ),
        ("ID\na\n", "some.csv is no list of files"),
        ("file;n\na.wav;1\n", "It has semicolons between file n"),
        ("wav\n$data_root/a.wav\n", "does not tell the folder"),
        ("wav,start\na.wav,0\na.wav,9\n", "is a manifest of pieces"),
        ("wav,start\na.wav,9\nb.wav,0\n", "is a manifest of pieces"),
        ("wav,duration\na.wav,1.0\nlong.wav,1.0\n", "a manifest of pieces"),
    ]:
        (tmp_path / "some.csv").write_text(text)
        with pytest.raises((ValueError, FileNotFoundError), match=sentence):
            find_files("some.csv")


def test_files_and_folders(tmp_path):
    for name in ["b.wav", "sub/a.FLAC", "sub/notes.txt", ".hidden.wav"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "speech").touch()
    (tmp_path / "b too.wav").symlink_to(tmp_path / "b.wav")
    link = tmp_path.with_name(f"{tmp_path.name} again")
    link.symlink_to(tmp_path, target_is_directory=True)
    again = [f"{tmp_path}/./b.wav", f"{tmp_path}/../{tmp_path.name}", link]
    files = find_files([tmp_path / "speech", tmp_path, *again])
    names = [os.path.relpath(file, tmp_path) for file in files]
    assert names == ["speech", "b too.wav", "b.wav", "sub/a.FLAC"]


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("embed ENC nowhere --output OUT", "no file or folder 'nowhere'"),
        ("embed ENC EMPTY --output OUT", "no audio file in .*empty"),
        ("embed ./nowhere WAV --output OUT", "no folder ./nowhere"),
        ("embed EMPTY WAV --output OUT", "no hyperparams.yaml"),
        ("embed ENC BAD --output WAV", "written into .*wav .File exists"),
        ("embed ENC BAD --output /proc", "Nothing can be written into /proc"),
        ("embed ENC BAD --output OUT --device warp:9", "No device warp:9: "),
        ("embed ENC BAD --output OUT", "None of 1 files .*broken.wav: not"),
        ("verify ENC BAD WAV", "None of the enrolment files"),
        ("verify ENC WAV BAD", "None of the test files"),
        ("verify ENC BAD BAD --csv EMPTY", "empty is a folder"),
        ("cluster ENC BAD --csv OUT", r"1 file\(s\) are too few"),
        ("cluster ENC BAD --csv OUT --num_clusters 2", "cannot make 2"),
        ("cluster ENC BAD --csv EMPTY --num_clusters 1", "empty is a folder"),
        ("verify ENC WAV WAV --csv WAV", "is the name of a recording"),
        ("cluster ENC BAD --csv OUT --shortest nan", "nan: give 0 s or more"),
        ("cluster ENC --csv WAV BAD", "is the name of a recording"),
        ("verify ENC WAV BAD --threshold nan", "scores are from -1 to 1"),
        ("embed ENC --output OUT ''", "name of a file or folder is empty"),
        ("embed WAV BAD --output OUT", "mono 16k.wav is a file. Give an enc"),
        ("embed ENC BAD --output ''", "name of a file or folder is empty"),
        ("embed ENC BAD --output ENC", "is the folder of an encoder"),
        ("filter ENC BAD --output ENC", "is the folder of an encoder"),
        ("filter ENC BAD --output OUT --density most", "most: give mixture"),
        ("filter ENC BAD --output OUT --density 80", "80% keeps that share"),
        ("embed ENC BAD --output OTHERS", "embeddings.npy would be replaced"),
        ("embed ENC BAD --output HIDDEN", "mine.wav was not made here, and"),
        ("filter ENC BAD --output HIDDEN2", "mine.wav was not made here, and"),
        ("cluster ENC LIST --csv LIST", "list.csv is read, and would be repl"),
        ("verify ENC BAD LIST --csv LIST", "list.csv is read, and would be"),
        ("adapt ENC BAD --output ''", "name of a file or folder is empty"),
        (
            "calibrate --embeddings OTHERS x --method clusters",
            "no embedding of",
        ),
        ("calibrate --embeddings ENC x", "has no embeddings.npy"),
        ("prepare EMPTY --output OTHERS", "holds embeddings, which have a"),
        ("compare nowhere a=WAV --speakers ''", "folder is empty: is a var"),
        ("map OTHERS OUT --labels ''", "name of a file or folder is empty"),
        ("cluster ENC BAD --csv ''", "name of a file or folder is empty"),
        ("verify ENC BAD WAV --csv ''", "name of a file or folder is empty"),
        ("cluster --embeddings '' --csv OUT", "folder is empty: is a variable"),
        ("verify ENC BAD WAV --device meta", "No device meta: "),
        ("prepare EMPTY --output OUT --id_parts 1", "id_parts=1: give 2"),
        ("prepare EMPTY --output OUT --sample_rate 0", "sample_rate=0: give"),
        ("prepare REC --output OUT --num_workers -3", "num_workers=-3: give"),
        ("embed OTHERS WAV --output OUT", "others holds embeddings alone"),
        ("filter OTHERS WAV --output OUT", "others holds embeddings alone"),
        ("map EMPTY OUT", "has no embeddings.npy"),
        ("map EMPTY EMPTY", "empty is a folder"),
        ("compare nowhere a=WAV", "nowhere"),
        ("compare nowhere a=WAV a=BAD", "a name of its own"),
        ("compare nowhere a=WAV --output WAV", "written into .*wav"),
        ("compare nowhere a=WAV --speakers EMPTY", "There is no file"),
    ],
)
def test_a_mistake_is_one_sentence(
    command, sentence, encoder_folder, speech, tmp_path, caplog, capsys
):
    """With BAD audio: before it is read, or there would be another."""
    (tmp_path / "empty").mkdir()
    save_embeddings(tmp_path / "others", ["a"], np.ones((1, 4)))
    for name in ("hidden/.done", "hidden2/.converted"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "mine.wav").touch()
    (tmp_path / "list.csv").write_text(f"file\n{speech / FILES[0]}\n")
    places = {
        "OTHERS": tmp_path / "others",
        "HIDDEN": tmp_path / "hidden",
        "HIDDEN2": tmp_path / "hidden2",
        "LIST": tmp_path / "list.csv",
        "ENC": encoder_folder,
        "REC": speech,
        "WAV": speech / FILES[0],
        "BAD": speech / "broken.wav",
        "EMPTY": tmp_path / "empty",
        "OUT": tmp_path / "out",
    }
    with pytest.raises(SystemExit) as error:
        main([str(places.get(word, word)) for word in shlex.split(command)])
    assert error.value.code == 1
    last = caplog.records[-1]
    assert last.levelname == "ERROR"
    assert re.search(sentence, last.getMessage())
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("command", [[], ["verify"], ["compare"]])
def test_help_waits_for_no_library(command):
    """It is to be there in less than a second: torch alone takes more."""
    code = (
        "import sys; from speechbrain_cadino.commands.main import main\n"
        "try: main()\n"
        "finally: print(sorted({'torch', 'pandas'} & set(sys.modules)))"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, *command, "--help"],
        env={**os.environ, "NO_COLOR": "1"},
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert process.stdout.startswith("usage: speechbrain-cadino")
    assert process.stdout.endswith("[]\n")


def test_calibrate_asks_no_hub(caplog):
    with pytest.raises(SystemExit):
        main(["calibrate", "speechbrain/spkrec-ecapa-voxceleb", "calls"])
    assert "a calibration is kept in the encoder's, so copy" in caplog.text
    assert "hub" not in caplog.text


def test_which_system_is_better(tmp_path, capsys):
    files = [f"{i // 2}/{i}.wav" for i in range(12)]
    for name, sign in [("trials", 0), ("good", 1), ("bad", -1)]:
        lines = [
            f"{a} {b} {sign * int(a[0] == b[0])}"
            if sign
            else f"{int(a[0] == b[0])} {a} {b}"
            for a in files
            for b in files
        ]
        (tmp_path / name).write_text("\n".join(lines))
    scores = [f"{name}={tmp_path / name}" for name in ["good", "bad"]]
    output = tmp_path / "comparison"
    main(["compare", f"{tmp_path / 'trials'}", *scores, f"--output={output}"])
    assert "bad  +100.00 [100.00, 100.00]  p = 0." in capsys.readouterr().out
    assert (output / "comparison.json").is_file()


def test_scores_without_a_name(capsys):
    with pytest.raises(SystemExit):
        main(["compare", "trials.txt", "scores.txt"])
    assert "'scores.txt' is not NAME=FILE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "meant"),
    [
        (["cluster", "e", "calls", "--cvs=a.csv"], "--csv"),
        (["embed", "e", "calls", "--output=o", "--devise=cpu"], "--device"),
    ],
)
def test_a_misspelt_flag_is_named(flags, meant, capsys):
    with pytest.raises(SystemExit):
        main(flags)
    assert f"Did you mean {meant}?" in capsys.readouterr().err


@pytest.mark.parametrize("name", [".converted", "segments/converted"])
def test_recordings_where_copies_go_stay(
    name, encoder_folder, speech, tmp_path, caplog
):
    """The folder of converted copies is deleted in the end."""
    folder = tmp_path / name
    folder.mkdir(parents=True)
    shutil.copy(speech / FILES[0], folder / "mine.wav")
    words = ["filter", encoder_folder, folder, "--output", tmp_path]
    with pytest.raises(SystemExit, match="1"):
        main([str(word) for word in words])
    refused = "was not made here, and would be removed" in caplog.text
    assert refused == (name == ".converted")
    assert (folder / "mine.wav").is_file()


def test_two_commands_do_not_write_into_one_folder(
    encoder_folder, speech, tmp_path, caplog, monkeypatch
):
    impatient = functools.partial(locked, patience=0.1)
    monkeypatch.setattr("speechbrain_cadino.commands.embed.locked", impatient)
    room = "speechbrain_cadino.commands.calibrate.locked"
    monkeypatch.setattr(room, impatient)
    copy = shutil.copytree(encoder_folder, tmp_path.parent / "copied_encoder")
    with locked(copy), pytest.raises(SystemExit):
        main(["calibrate", str(copy), str(speech)])
    assert "Another run" in caplog.records[-1].getMessage()
    for command in ("embed", "filter"):
        arguments = [command, encoder_folder, speech, "--output", tmp_path]
        with locked(tmp_path), pytest.raises(SystemExit):
            main([str(argument) for argument in arguments])
        assert "Another run" in caplog.records[-1].getMessage()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["prepare", "embed", "filter", "compare"])
@pytest.mark.parametrize("what", ["an encoder", "a training"])
def test_no_results_among_those_of_others(
    encoder_folder, speech, tmp_path, caplog, command, what
):
    folder = tmp_path / "run"
    if what == "an encoder":
        shutil.copytree(encoder_folder, folder)
    else:
        (folder / "save" / "CKPT+1").mkdir(parents=True)
    before = sorted(folder.rglob("*"))
    words = {
        "prepare": [speech],
        "compare": [speech / "trials.txt", "a=a.txt"],
    }.get(command, [encoder_folder, speech])
    with pytest.raises(SystemExit):
        main([command, *map(str, words), f"--output={folder}"])
    said = caplog.records[-1].getMessage()
    assert f"{folder} is the folder of {what}" in said
    assert sorted(folder.rglob("*")) == before


def test_the_list_that_prepare_has_left_stays(
    encoder_folder, speech, tmp_path, caplog
):
    words = ["prepare", speech, f"--output={tmp_path}", "--min_duration=0.2"]
    main([str(word) for word in words])
    before = (tmp_path / "skipped.csv").read_bytes()
    words = ["filter", encoder_folder, speech, f"--output={tmp_path}"]
    rules = ["--speech=null", "--consistency=null"]
    main([str(word) for word in [*words, *rules]])
    assert (tmp_path / "skipped.csv").read_bytes() == before
    table = pd.read_csv(tmp_path / "filter_skipped.csv")
    assert len(table) == 3
    before = (tmp_path / "filtered.csv").read_bytes()
    other = tmp_path / "other.wav"
    shutil.copy(speech / FILES[0], other)
    mistyped = ["filter", encoder_folder, other, f"--output={tmp_path}"]
    with pytest.raises(SystemExit):
        main([str(word) for word in [*mistyped, *rules]])
    said = caplog.records[-1].getMessage()
    assert "holds scores of" in said
    assert "which are not given now" in said
    assert (tmp_path / "filtered.csv").read_bytes() == before
    (tmp_path / "filter.json").unlink()
    with pytest.raises(SystemExit):
        main([str(word) for word in [*words, *rules]])
    said = caplog.records[-1].getMessage()
    assert "filtered.csv is there, was not made by this step" in said


def test_inputs_may_follow_a_flag(encoder_folder, speech, caplog):
    """Also where there need be none."""
    method = ["--method", "clusters"]
    with pytest.raises(SystemExit, match="1"):
        main(["calibrate", str(encoder_folder), *method, str(speech)])
    assert "3 recording(s) that can be" in caplog.records[-1].getMessage()
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", str(encoder_folder), *method, "--nothing", "x"])


def test_a_reader_that_has_gone_is_no_error(tmp_path):
    """As with ``| head``."""
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    reads, writes = os.pipe()
    os.close(reads)
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "speechbrain_cadino",
            "verify",
            "--embeddings",
            tmp_path,
            "a",
            "b",
        ],
        stdout=writes,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        check=False,
    )
    os.close(writes)
    assert process.returncode == 0
    assert "process" not in process.stderr


def test_files_as_they_are_given_in_python(encoder_folder, speech, stock):
    one, other, third = (speech / name for name in FILES)
    assert find_files(one) == find_files(str(one)) == [str(one)]
    assert len(find_files(speech)) == 6
    encoder = load_encoder(encoder_folder)
    found = embed_files(encoder, one)
    assert found.files == [str(one)]
    np.testing.assert_allclose(found.embeddings, stock[:1], rtol=1e-3)
    tests = (path for path in (other, third))
    table = verify_files(encoder, one, tests)
    assert table["file"].tolist() == [str(other), str(third)]
    assert table["score"][0] == pytest.approx(cos(*stock[:2]), abs=1e-3)
    with pytest.raises(ValueError, match="no file to embed"):
        embed_files(encoder, [])


def test_names_with_other_blanks_are_listed(encoder_folder, speech, tmp_path):
    """Of macOS and of Japan; of the terminal, they are escaped."""
    names = ["Take\u202f9.wav", "\u3000voice.wav", "no\u00a0break.wav"]
    for name in names:
        shutil.copy(speech / FILES[0], tmp_path / name)
    found = embed_files(encoder_folder, find_files(tmp_path))
    assert sorted(pathlib.Path(file).name for file in found.files) == sorted(
        names
    )


def test_a_home_behind_a_flag(tmp_path, monkeypatch, capsys):
    """Where no shell expands it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    save_embeddings(tmp_path / "theirs", ["a", "b"], np.eye(2))
    words = ["--embeddings=~/theirs", "--csv=~/a.csv", "--num_clusters=2"]
    call(capsys, "cluster", *words)
    assert len(pd.read_csv(tmp_path / "a.csv")) == 2
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "theirs"]


def test_a_device_is_no_place_for_a_table(tmp_path, caplog):
    save_embeddings(tmp_path / "theirs", ["a", "b"], np.eye(2))
    os.mkfifo(tmp_path / "pipe")
    words = [f"--embeddings={tmp_path / 'theirs'}", "--num_clusters=2"]
    with pytest.raises(SystemExit):
        main(["cluster", *words, f"--csv={tmp_path / 'pipe'}"])
    assert "no plain file" in caplog.text


def test_a_notebook_has_a_backend_that_is_not_here(tmp_path):
    save_embeddings(tmp_path, ["a", "b"], np.eye(2))
    backend = "module://matplotlib_inline_of_the_notebook"
    process = subprocess.run(
        [
            sys.executable,
            "-m",
            "speechbrain_cadino",
            "verify",
            "--embeddings",
            tmp_path,
            "a",
            "b",
        ],
        env={**os.environ, "MPLBACKEND": backend},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 0, process.stderr


def test_what_pyav_would_read_says_so(
    encoder_folder, speech, tmp_path, caplog, monkeypatch
):
    """And not what another command would do of it."""
    monkeypatch.setattr(audio_files, "has_av", lambda: False)
    shutil.copy(speech / FILES[0], tmp_path / "a.wav")
    (tmp_path / "call.m4a").write_bytes(b"...")
    found = embed_files(encoder_folder, find_files(tmp_path))
    assert found.files == [str(tmp_path / "a.wav")]
    assert "call.m4a: PyAV reads it: pip install" in caplog.text
    assert "convert_folder" not in caplog.text


@pytest.mark.parametrize("method", ["crops", "trials"])
def test_a_calibration_of_the_encoder_is_doubted_too(tmp_path, caplog, method):
    """As after ``calibrate`` of a few informants, but not by true pairs."""
    rng = np.random.default_rng(0)
    points = np.repeat(rng.standard_normal((3, 64)), 10, axis=0)
    points += 0.3 * rng.standard_normal(points.shape)
    names = [f"{number}.wav" for number in range(30)]
    save_embeddings(tmp_path, names, points)
    write_calibration(
        tmp_path, ScoreCalibration(-99.0, 100.0, method, 400, 100)
    )
    csv = f"--csv={tmp_path / 'clusters.csv'}"
    main(["cluster", f"--embeddings={tmp_path}", csv])
    doubted = "30 voices, by a calibration without labels" in caplog.text
    assert doubted == (method == "crops")
    assert ("--num_clusters=3" in caplog.text) == doubted


@pytest.mark.parametrize(
    ("people", "files", "doubted"), [(3, 10, True), (20, 1, False)]
)
def test_a_calibration_on_files_of_few_voices_is_doubted(
    people, files, doubted, caplog
):
    rng = np.random.default_rng(0)
    same, other = rng.standard_normal((2, people * files, 192))
    same = np.repeat(same[:people], files, axis=0)
    cluster._doubt(0.8 * same + 0.6 * other, found=25)
    assert (f"give --num_clusters={people}" in caplog.text) == doubted


def test_pieces_of_a_recording_are_no_pair_without_their_manifest(
    tmp_path, monkeypatch, caplog
):
    """Of embeddings that extract.py has made, whose IDs tell."""
    # Files of others that look like pieces, and pieces of 20 recordings
    names = [f"common_voice_en_{number:08}" for number in range(40)]
    names += [f"{number // 4}_{number % 4 + 1:04}" for number in range(80)]
    points = np.random.default_rng(0).standard_normal((120, 8))
    save_embeddings(tmp_path, names, points)
    seen = []
    monkeypatch.setattr(
        threshold, "_clusters", lambda embedder, table: seen.append(table) or 1
    )
    words = ["calibrate", f"--embeddings={tmp_path}", "--method=clusters"]
    for record in (None, '{"pieces": false}', '{"pieces": true}', "{}"):
        if record is not None:
            (tmp_path / "extraction.json").write_text(record)
        with pytest.raises(TypeError):
            main(words)
    found = [len(set(halves.number_recordings(table))) for table in seen]
    # Whole files, numbered by their owner, are pieces of none
    assert found == [120, 120, 40 + 20, 40 + 20]
    assert "80 of 120 are taken for pieces of 20 recordings" in caplog.text


def test_what_is_unsure_is_told(voices, capsys):
    encoder, speech = voices
    table = call(capsys, "calibrate", encoder, speech)
    low, high = (
        float(table[name][0]) for name in ("different_below", "same_above")
    )
    scores = [low - 0.01, (low + high) / 2, high + 0.01]
    answers = read_calibration(encoder).answers(scores)
    assert answers.tolist() == ["different", "unsure", "same"]
