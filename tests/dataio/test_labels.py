import numpy as np
import pytest

from speechbrain_cadino.dataio.labels import labels_of, read_labels


@pytest.mark.parametrize("header", ["ID,spk_id", "file,cluster"])
def test_labels_of_either_kind(header, tmp_path, caplog):
    path = tmp_path / "labels.csv"
    path.write_text(f"{header}\nü x,NA\nb,01\nc,\n", encoding="utf-8")
    labels = labels_of(path, ["b", "c", "ü x", "d"])
    assert "has no label for 2 of 4 utterances" in caplog.text
    assert labels[[0, 2]].tolist() == ["01", "NA"]
    assert np.isnan(labels[[1, 3]].astype(float)).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is not a readable CSV file"),
        (
            "file,speaker\na,b\n",
            "ID or file, and a column spk_id or cluster",
        ),
        ("file,cluster\na,0\na,1\n", "has 'a' more than once"),
        ("file,cluster\nx,0\n", "knows none of the 1 utterances .*'a'"),
    ],
)
def test_labels_that_do_not_fit(text, sentence, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        labels_of(tmp_path / "labels.csv", ["a"])


def test_no_labels(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file .*labels.csv"):
        labels_of(tmp_path / "labels.csv", ["a"])


def test_a_comma_too_many_is_refused_with_its_line(tmp_path):
    (tmp_path / "labels.csv").write_text("ID,spk_id\na,anna,\nb,bob,\n")
    with pytest.raises(ValueError, match="line 2 has 3 fields"):
        read_labels(tmp_path / "labels.csv")


def test_a_label_without_a_name_is_of_nobody(tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text("ID,spk_id\na.wav,anna\n,bob\n,carl\n")
    assert labels_of(path, ["a.wav"]).tolist() == ["anna"]
    anna, nobody = labels_of(path, ["a.wav", "c.wav"])
    assert anna == "anna"
    assert np.isnan(nobody)


def test_a_piece_is_of_whom_its_recording_is(tmp_path):
    """Unless the file names the piece itself."""
    path = tmp_path / "labels.csv"
    path.write_text("ID,spk_id\na/1,anna\na/1_0002,bob\nc.wav,carl\n")
    found = labels_of(path, ["a/1_0001", "a/1_0002", "c_0007", "a/2_0001"])
    assert found[:3].tolist() == ["anna", "bob", "carl"]
    assert np.isnan(found[3])


def test_a_date_is_no_number_of_a_piece(tmp_path):
    """Where the recording itself is there, it was not cut."""
    path = tmp_path / "labels.csv"
    path.write_text("ID,spk_id\nroom,anna\n")
    anna, nobody = labels_of(path, ["room", "room_20240501"])
    assert anna == "anna"
    assert np.isnan(nobody)


def test_names_are_matched_however_they_are_spelled(tmp_path):
    (tmp_path / "labels.csv").write_text("ID,spk_id\n./a/1.wav,anna\nb/1,bob\n")
    found = labels_of(tmp_path / "labels.csv", ["a/1", "b/1.wav"])
    assert found.tolist() == ["anna", "bob"]
