import logging
import pathlib
import re

import numpy as np
import pandas as pd
import pytest
import soundfile

from speechbrain_cadino.dataio.audio import AudioError
from speechbrain_cadino.verification.evaluate import TrialEvaluator
from speechbrain_cadino.verification.overlap import training_overlap
from speechbrain_cadino.verification.trial_files import trial_files
from speechbrain_cadino.verification.trials import (
    read_lists,
    read_trials,
    write_trials,
)


def write(path, text):
    path.write_text(text)
    return path


def write_wav(path, length=1600):
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, np.zeros(length), 16000)


@pytest.mark.parametrize(
    "text",
    [
        "1 a.wav b.wav\n0 a.wav c.wav\n",
        "1\ta.wav\tb.wav\r\n\r\n0  a.wav  c.wav",
        "a.wav b.wav target\na.wav c.wav nontarget\n",
        "a.wav\tb.wav\ttarget\na.wav\tc.wav\tnontarget\n",
        "a.wav b.wav 1\na.wav c.wav 0\n",
        "1\t\ta.wav\tb.wav\n0\ta.wav\t\tc.wav\t\n",
    ],
)
def test_both_forms(tmp_path, text):
    trials = read_trials(write(tmp_path / "trials.txt", text))
    assert trials["target"].tolist() == [True, False]
    assert trials["enrol"].tolist() == ["a.wav", "a.wav"]
    assert trials["test"].tolist() == ["b.wav", "c.wav"]


def test_names_may_have_blanks_where_tabs_are_between_them(tmp_path):
    text = (
        "1\tTape 1 A.mp3\tTape 2.mp3\teasy\n0\ta.wav\tT\u3000\u4e00.mp3\thard\n"
    )
    trials = read_trials(write(tmp_path / "trials.txt", text))
    assert trials["enrol"].tolist() == ["Tape 1 A.mp3", "a.wav"]
    assert trials["group"].tolist() == ["easy", "hard"]
    for some in (trials, trials[1:]):
        write_trials(tmp_path / "copy.txt", some)
        again = read_trials(tmp_path / "copy.txt")
        assert again.to_dict("records") == some.to_dict("records")


def test_a_list_that_is_not_in_utf_8_is_refused(tmp_path):
    """Else the speakers of its names are not those that are left out."""
    path = tmp_path / "trials.txt"
    path.write_bytes("1 Zo\xeb/1.wav Zo\xeb/2.wav\n0 a b\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"trials\.txt is not in UTF-8"):
        read_trials(path)


def test_names_may_be_numbers(tmp_path):
    text = "0 1 target\n1 5 nontarget\n"
    trials = read_trials(write(tmp_path / "trials.txt", text))
    assert trials["target"].tolist() == [True, False]
    assert trials[["enrol", "test"]].values.tolist() == [["0", "1"], ["1", "5"]]


def test_numbers_first_and_last_are_not_mixed(tmp_path):
    """Of files that are called by numbers, who knows which is the label."""
    path = write(tmp_path / "trials.txt", "7 5 1\n1 5 0\n")
    with pytest.raises(ValueError, match="first in line 2, and last in line 1"):
        read_trials(path)


@pytest.mark.parametrize("text", ["1 a b\r0 a c\r", "\ufeff1 a b\r\n0 a c"])
def test_texts_of_other_machines(tmp_path, text):
    (tmp_path / "trials.txt").write_bytes(text.encode())
    trials = read_trials(tmp_path / "trials.txt")
    assert trials["target"].tolist() == [True, False]


def test_utf_16_is_named(tmp_path):
    (tmp_path / "trials.txt").write_text("1 a b\n0 a c\n", "utf-16")
    with pytest.raises(ValueError, match=r"trials.txt is in UTF-16: save it"):
        read_trials(tmp_path / "trials.txt")


@pytest.mark.parametrize(
    "line", ["2 a b", "1 a", "1 a b c", "a b", "a b impostor", "\x00\xff"]
)
def test_a_line_that_is_no_trial_is_named(tmp_path, line):
    path = write(tmp_path / "trials.txt", f"1 a b\n\n{line}\n")
    with pytest.raises(ValueError, match=r"trials.txt, line 3: .* not a trial"):
        read_trials(path)


def test_a_binary_file_is_no_trial_list(tmp_path):
    write_wav(tmp_path / "a.wav")
    with pytest.raises(ValueError, match=r"a.wav, line 1"):
        read_trials(tmp_path / "a.wav")


def test_empty_list(tmp_path):
    with pytest.raises(ValueError, match=r"trials.txt is empty"):
        read_trials(write(tmp_path / "trials.txt", "\n"))


def test_missing_list(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No trial list at .*trials"):
        read_trials(tmp_path / "trials.txt")


def test_files_below_the_folder_and_below_wav(tmp_path, caplog):
    write_wav(tmp_path / "a" / "1.wav", 1600)
    write_wav(tmp_path / "wav" / "b" / "1.wav", 2400)
    write_wav(tmp_path / "wav" / "c" / "1.flac", 3200)
    trials = read_trials(
        write(
            tmp_path / "trials.txt",
            "1 c/1.wav a/1.wav\n0 a/1.wav b/1.wav\n",
        )
    )
    with caplog.at_level(logging.INFO):
        files = trial_files(trials, tmp_path)
    assert files["ID"].tolist() == ["a/1.wav", "b/1.wav", "c/1.wav"]
    assert files["stop"].tolist() == [1600, 2400, 3200]
    assert files["wav"][2] == str(tmp_path / "wav" / "c" / "1.flac")
    assert "1 of 3 files have another suffix" in caplog.text


def test_missing_files_are_counted_and_the_first_is_named(tmp_path):
    write_wav(tmp_path / "a.wav")
    trials = read_trials(
        write(tmp_path / "trials.txt", "1 a.wav x.wav\n0 a.wav y.wav\n")
    )
    with pytest.raises(
        FileNotFoundError, match=r"2 of the 3 files .* first is x.wav"
    ):
        trial_files(trials, tmp_path)


def test_data_may_lie_in_several_folders(tmp_path):
    """VoxCeleb1 and 2, say: a list and its files are looked for in both."""
    folders = [tmp_path / "vox2", tmp_path / "vox1"]
    write_wav(folders[0] / "a" / "1.wav")
    write_wav(folders[1] / "wav" / "b" / "1.wav")
    text = "1 a/1.wav a/1.wav\n0 a/1.wav b/1.wav\n"
    write(folders[1] / "veri_test2.txt", text)
    trials = TrialEvaluator("vox1-o", folders)
    found = [str(folders[0] / "a/1.wav"), str(folders[1] / "wav/b/1.wav")]
    assert trials.files["wav"].tolist() == found
    (folders[1] / "wav" / "b" / "1.wav").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"vox2 or .*vox1 or its folder"
    ):
        TrialEvaluator("vox1-o", folders)


def test_one_list_by_its_path(tmp_path):
    with pytest.raises(ValueError, match=r"'b.txt'\]: give one list"):
        TrialEvaluator(["a.txt", "b.txt"], tmp_path)
    with pytest.raises(FileNotFoundError, match="path of veri_test2"):
        read_lists("vox1-o")


def test_m4a_is_to_be_converted(tmp_path):
    write_wav(tmp_path / "a.wav")
    (tmp_path / "wav").mkdir()
    (tmp_path / "wav" / "b.m4a").touch()
    trials = read_trials(write(tmp_path / "trials.txt", "1 a.wav b.wav\n"))
    with pytest.raises(FileNotFoundError, match=r"as .m4a. .*--convert_folder"):
        trial_files(trials, tmp_path)


@pytest.mark.parametrize("name", ["/", "."])
def test_a_name_of_no_file_is_missing(tmp_path, name, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_wav(tmp_path / "a.wav")
    text = f"1 a.wav {name}\n"
    trials = read_trials(write(tmp_path / "trials.txt", text))
    message = rf"^1 of the 2 .*first is {re.escape(name)}\. Check that folder"
    with pytest.raises(FileNotFoundError, match=message):
        trial_files(trials, ".")


def test_unreadable_file(tmp_path):
    for name in ("a.wav", "c.wav"):
        write(tmp_path / name, "no audio")
    write_wav(tmp_path / "b.wav")
    text = "1 a.wav b.wav\n0 b.wav c.wav\n"
    trials = read_trials(write(tmp_path / "trials.txt", text))
    with pytest.raises(AudioError, match=r"^2 of the 3 .*a.wav: not readable"):
        trial_files(trials, tmp_path)


def test_a_copy_serves_where_a_file_cannot_be_read(tmp_path):
    """As convert_folder makes them, of another suffix."""
    data, copies = tmp_path / "data", tmp_path / "copies"
    data.mkdir()
    copies.mkdir()
    write(data / "a.m4a", "no audio")
    write_wav(copies / "a.flac")
    write_wav(data / "b.wav")
    text = "1 a.m4a b.wav\n"
    trials = read_trials(write(tmp_path / "trials.txt", text))
    table = trial_files(trials, [data, copies])
    assert [pathlib.Path(wav).name for wav in table["wav"]] == [
        "a.flac",
        "b.wav",
    ]


@pytest.mark.parametrize("prefix", ["", "./", "wav/", "{data}/wav/", "\\"])
def test_the_training_set_is_compared_however_names_are_spelled(
    tmp_path, prefix, caplog
):
    names = ["b/1.wav", "c/1.wav"]
    for name in names:
        write_wav(tmp_path / "wav" / name)
    line = " ".join(f"{prefix.format(data=tmp_path)}{name}" for name in names)
    if prefix == "\\":
        line = " ".join(names).replace("/", "\\")
    trials = read_trials(write(tmp_path / "trials.txt", f"0 {line}\n"))
    assert len(trial_files(trials, tmp_path)) == 2
    table = pd.DataFrame({"ID": ["wav/a/1", "wav/b/2"]})
    overlap = training_overlap(trials, tmp_path, table)
    assert overlap == {
        "test_speakers": 2,
        "trained_on": 1,
        "unknown_speakers": 0,
    }
    assert "1 of the 2 speakers of the trial list are in the" in caplog.text


def one_trial(enrol, test, target=False):
    return pd.DataFrame({"target": [target], "enrol": [enrol], "test": [test]})


@pytest.mark.parametrize("above", ["test", "VoxCeleb1/dev", "test/clean"])
def test_a_first_folder_that_is_of_all_speakers(above, caplog):
    """Trials say so; the speaker is then whichever folder was trained on, but
    for those that all have."""
    trials = one_trial(f"{above}/b/1.wav", f"{above}/c/1.wav")
    table = pd.DataFrame({"ID": ["train/clean/b/7", "dev/d/3"]})
    assert training_overlap(trials, "x", table) == {
        "test_speakers": 1,
        "trained_on": 1,
        "unknown_speakers": 1,
    }
    assert "1 of the 1 speakers of the trial list are in the" in caplog.text
    assert f"{above}/c/1.wav names no folder below x that" in caplog.text


@pytest.mark.parametrize("above", ["", "eval/"])
@pytest.mark.parametrize("below", ["", "anna/"])
def test_first_folders_that_are_of_a_side(above, below, caplog):
    """Target trials are across them: they are no speakers, and who speaks is a
    further folder's, or not to be told."""
    lines = [
        (True, f"enroll/{below}a1.wav", f"test/{below}a2.wav"),
        (False, f"enroll/{below}a1.wav", "test/bob/b2.wav"),
    ]
    trials = pd.DataFrame(lines, columns=["target", "enrol", "test"])
    trials[["enrol", "test"]] = above + trials[["enrol", "test"]]
    table = pd.DataFrame({"ID": ["anna/3", "carl/1"]})
    found = training_overlap(trials, "x", table)
    assert found["trained_on"] == bool(below)
    assert found["unknown_speakers"] == (1 if below else 3)
    assert "cannot be told" in caplog.text


def test_a_speaker_of_two_folders_is_in_both():
    lines = [
        (True, "anna/1.wav", "anna_2019/1.wav"),
        (False, "anna/1.wav", "bob/1.wav"),
        (False, "anna_2019/1.wav", "bob/1.wav"),
    ]
    trials = pd.DataFrame(lines, columns=["target", "enrol", "test"])
    table = pd.DataFrame({"ID": ["anna/3", "bob/1", "carl/1"]})
    assert training_overlap(trials, "x", table)["trained_on"] == 2


@pytest.mark.parametrize(
    ("name", "wav"),
    [
        ("archive/b/2", "archive/b/2.wav"),
        ("/data/b/2", "/data/b/2.wav"),
        ("dev/aac/b/x/2", "$data_root/dev/aac/b/x/2.m4a"),
        ("b--x--00002_0.0_3.0", "/data/b/x/2.wav"),  # SpeechBrain's recipe
    ],
)
def test_any_folder_of_a_training_file_may_be_the_speaker(name, wav):
    table = pd.DataFrame({"ID": [name, "0"], "wav": [wav, "/data/0.wav"]})
    trials = one_trial("b/1.wav", "c/1.wav")
    assert training_overlap(trials, "x", table)["trained_on"] == 1


def test_a_folder_around_the_data_is_no_speaker():
    trials = one_trial("b/1.wav", "c/1.wav")
    wavs = ["/home/b/speech/d/1.wav", "/home/b/speech/e/1.wav"]
    table = pd.DataFrame({"ID": ["d/1", "e/1"], "wav": wavs})
    assert training_overlap(trials, "x", table)["trained_on"] == 0


def test_names_without_a_folder_do_not_tell(tmp_path, caplog):
    trials = one_trial("a1.wav", "b1.wav")
    overlap = training_overlap(trials, tmp_path, pd.DataFrame({"ID": ["a2"]}))
    assert overlap["unknown_speakers"] == 2
    assert "cannot be told: a1.wav names no folder" in caplog.text
