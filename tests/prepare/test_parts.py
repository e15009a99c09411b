"""The parts of a corpus, prepared by real processes side by side."""

import logging
import multiprocessing
import os
import signal
import time

import forked
import pytest

from speechbrain_cadino.prepare.folder import prepare_folder

pytest.importorskip("av", reason="needs [convert]")


@pytest.fixture
def data(tmp_path, write_tone):
    """Files of three rates, one too short, one no audio, one there twice."""
    folder = tmp_path / "data"
    for i in range(14):
        path = folder / f"speaker{i // 4}" / "video" / f"{i:02}.wav"
        # The third to be converted takes long enough to be killed in it
        seconds = 60 if i == 4 else 1.5 + i / 10
        write_tone(path, seconds, [16000, 8000, 44100][i % 3])
    write_tone(folder / "speaker9" / "video" / "short.wav", 0.3)
    (folder / "speaker9" / "video" / "text.wav").write_text("I am no audio.")
    write_tone(folder / "speaker9" / "video" / "01.flac")
    write_tone(folder / "speaker9" / "video" / "01.wav")
    (tmp_path / "trials.txt").write_text(
        "0 speaker3/video/13.wav speaker9/video/01.wav\n"
    )
    return folder


def options(folder, data):
    return {
        "data_folder": data,
        "manifest_folder": folder / "save",
        "convert_folder": folder / "flac",
        "cut_seconds": 1,
        "exclude": [data.parent / "trials.txt"],
        "id_parts": 3,
    }


def command(folder, data, part):
    """A job, by the command line."""
    return forked.run(
        "-m",
        "speechbrain_cadino",
        "prepare",
        data,
        "--output",
        folder / "save",
        "--convert_folder",
        folder / "flac",
        "--cut_seconds",
        1,
        "--exclude",
        data.parent / "trials.txt",
        "--id_parts",
        3,
        "--num_workers",
        1,
        "--part",
        part,
    )


def contents(folder):
    """The files of a folder, whose own path is not in them."""
    here = str(folder).encode()
    return {
        path.relative_to(folder): path.read_bytes().replace(here, b"HERE")
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }


def test_parts_of_jobs_make_the_bytes_of_one(data, tmp_path, caplog):
    one, parts = tmp_path / "one", tmp_path / "parts"
    prepare_folder(**options(one, data))
    code, said = command(parts, data, "2/3")
    assert code == 0, said
    assert "Part 2/3 is done; to come: part_1_of_3, part_3_of_3." in said
    assert not (parts / "save" / "train.csv").exists()
    # A job that is killed amid its files; its temporary one is gone later
    killed = multiprocessing.get_context("fork").Process(
        target=prepare_folder,
        kwargs={**options(parts, data), "part": "1/3", "num_workers": 1},
    )
    before = len(list(parts.rglob("*.flac")))
    killed.start()
    while len(list(parts.rglob("*.flac"))) == before:
        assert killed.is_alive()
        time.sleep(0.001)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join()
    assert not (parts / "save" / "train_parts" / "part_1_of_3.json").exists()
    # In a folder of that name
    mine = parts / "save" / "train_parts" / "mine.csv"
    mine.touch()
    for part in ("3/3", "1/3"):
        code, said = command(parts, data, part)
        assert code == 0, said
    assert "All 3 parts are joined" in said
    assert list(mine.parent.iterdir()) == [mine]
    mine.unlink()
    mine.parent.rmdir()
    assert contents(parts) == contents(one)
    # Whoever asks for any part then, or for all as a training does, has it
    for part in ("2/3", "1/2"):
        assert "nothing has changed" in command(parts, data, part)[1]
    with caplog.at_level(logging.INFO):
        prepare_folder(**options(parts, data))
    assert "nothing has changed" in caplog.text


def test_parts_of_other_settings_or_files_do_not_count(
    data, tmp_path, write_tone, caplog
):
    save = {"manifest_folder": tmp_path / "save", "num_workers": 1}
    manifest = tmp_path / "save" / "train.csv"
    prepare_folder(data, **save, part="1/2")
    with caplog.at_level(logging.INFO):
        prepare_folder(data, **save, part="2/2", min_duration=2)
    assert "part_1_of_2 (there is one of other files or" in caplog.text
    assert not manifest.exists()
    prepare_folder(data, **save, part="1/2", min_duration=2)
    assert manifest.exists()
    manifest.unlink()
    prepare_folder(data, **save, part="1/2")
    write_tone(data / "new.wav")
    prepare_folder(data, **save, part="2/2")
    assert not manifest.exists()
    # A file that is damaged, such as by a power cut, is made anew
    (tmp_path / "save" / "train_parts" / "part_2_of_2.json").write_bytes(b"[")
    prepare_folder(data, **save, part="1/2")
    assert not manifest.exists()
    prepare_folder(data, **save, part="2/2")
    assert "new" in manifest.read_text()


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("0/3", "--part=0/3: give 1/3 to 3/3"),
        ("3", "--part=3: give 1/8"),
        ("1/99", "--part=1/99: 17 recordings do not make 99 parts"),
    ],
)
def test_senseless_parts_are_refused(data, tmp_path, part, sentence):
    code, said = command(tmp_path, data, part)
    assert code == 1
    assert sentence in said
    assert "Traceback" not in said


def test_a_copy_that_has_gone_is_made_again(tmp_path, write_tone):
    """Or the manifest would name a file that is not there."""
    for name in "ab":
        write_tone(tmp_path / "in" / f"{name}.wav", rate=8000)
    folders, copy = [tmp_path / "in", tmp_path], tmp_path / "flac" / "a.flac"
    prepare_folder(*folders, convert_folder=copy.parent, part="1/2")
    copy.unlink()
    prepare_folder(*folders, convert_folder=copy.parent, part="2/2")
    assert not (tmp_path / "train.csv").exists()
    prepare_folder(*folders, convert_folder=copy.parent, part="1/2")
    assert (tmp_path / "train.csv").exists()
    assert copy.is_file()
