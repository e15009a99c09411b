import pandas as pd
import pytest

from speechbrain.dataio.dataio import load_data_csv
from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest

HEADER = "ID,duration,wav,start,stop\n"


def table(ids=("b", "a"), **columns):
    return pd.DataFrame(
        {
            "ID": ids,
            "duration": [1.5, 2.0],
            "wav": ["$data_root/b, 1.wav", "$data_root/ä a.wav"],
            "start": [0, 16],
            "stop": [24000, 32016],
            **columns,
        }
    )


def test_round_trip(tmp_path):
    path = tmp_path / "new" / "train.csv"
    write_manifest(path, table(spk_id=["7", "12"]))
    back = read_manifest(path, "/data")
    expected = table(spk_id=["7", "12"]).iloc[[1, 0]].reset_index(drop=True)
    expected["wav"] = ["/data/ä a.wav", "/data/b, 1.wav"]
    pd.testing.assert_frame_equal(back, expected, check_dtype=False)
    assert back["start"].dtype == "int64"


def test_speechbrain_reads_what_we_write(tmp_path):
    write_manifest(tmp_path / "train.csv", table(spk_id=["7", "12"]))
    rows = load_data_csv(tmp_path / "train.csv", {"data_root": "/data"})
    assert list(rows) == ["a", "b"]
    assert rows["a"]["wav"] == "/data/ä a.wav"
    assert rows["a"]["duration"] == 2.0
    assert (rows["b"]["start"], rows["b"]["spk_id"]) == ("0", "7")


def test_same_rows_give_the_same_bytes(tmp_path):
    write_manifest(tmp_path / "1.csv", table())
    write_manifest(tmp_path / "2.csv", table().iloc[::-1])
    one, two = (tmp_path / name for name in ("1.csv", "2.csv"))
    assert one.read_bytes() == two.read_bytes()


def test_other_columns_stay_out(tmp_path):
    write_manifest(tmp_path / "train.csv", table(speaker=["x", "y"]))
    assert (tmp_path / "train.csv").read_text().startswith(HEADER)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not a readable CSV"),
        (HEADER, "no utterances"),
        ("ID,wav,start,stop\na,a.wav,0,1\n", r"missing column\(s\) duration"),
        (HEADER + "a,1,a.wav,0,1\na,1,b.wav,0,1\n", "'a'.*unique"),
        ("ID,wav, ID \na,a.wav,b\n", "two columns of the name 'ID'"),
        (HEADER + "a,1,a.wav,zero,1\n", "'zero' in column start.*'a'"),
        (HEADER + "a,,a.wav,0,1\n", "'' in column duration"),
        (HEADER + "a,nan,a.wav,0,1\n", "'nan' in column duration"),
        (HEADER + "a,1,$data_root/a.wav,0,16000\n", "give data_folder"),
        (HEADER + 'a,1,a.wav,0,1\n"b,1,b\nc,1,c",1,c.wav,0,1\n', "ID of row 2"),
        (HEADER + 'a,1,"a\n.wav",0,1\n', "wav of row 1 goes over several"),
        (HEADER + "a,1,a.wav,0,1\n,1,b.wav,0,1\n", "row 2 has no ID"),
        (HEADER + "a,1,,0,1\n", "row 1 has no wav"),
        (HEADER + 'a,1,a.wav,0,1\n"' + 200_000 * "b", "after row 2.*quotation"),
    ],
)
def test_bad_manifests_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "train.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        read_manifest(path)
    assert "train.csv" in str(error.value)


@pytest.mark.parametrize("stop", ["32016", "32016.0"])
def test_each_column_has_its_type_however_it_is_written(tmp_path, stop):
    """The second is no integer to the fast reader, and is read as text."""
    path = tmp_path / "train.csv"
    path.write_text(
        "ID,duration,wav,start,stop,spk_id,note\n"
        f"007,2,NA,16,{stop},07,1\n"
        "nan,1.5,1.0,0,24000,,\n"
    )
    back = read_manifest(path)
    assert list(back["ID"]) == ["007", "nan"]
    assert list(back["wav"]) == ["NA", "1.0"]
    assert list(back["spk_id"]) == ["07", ""]
    assert list(back["note"]) == ["1", ""]
    assert back["duration"].dtype == "float64"
    for column, values in {"start": [16, 0], "stop": [32016, 24000]}.items():
        assert back[column].dtype == "int64"
        assert list(back[column]) == values


def test_missing_manifest(tmp_path):
    with pytest.raises(FileNotFoundError, match="prepare step"):
        read_manifest(tmp_path / "train.csv")


HEADER = "ID,duration,wav,start,stop\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,1.5,a.wav,0.0,1.5\n", "'1.5' .* is not a whole number of samples"),
        ("a,4.0,a.wav,0,4\n", "duration of 4.0 s. Samples are expected; these"),
        ("a,1.5,a.wav,0.5,24000\n", "'0.5' .* is not a whole number"),
        ("a,1.5,a.wav,0,-1\n", "stop -1 of utterance 'a', but samples with 0"),
        ("a,1.5,a.wav,24000,0\n", "0 <= start < stop"),
        ("a,1.5,a.wav,-1,24000\n", "0 <= start < stop"),
        ("a,1.5,a.wav,0,99999999999999999999\n", "whole number"),
        ("a,1.5,a.wav,0,inf\n", "is not a number"),
        ("a,0,a.wav,0,4\n", "duration of utterance 'a' is 0.0: seconds above"),
        ("a,-1,a.wav,0,24000\n", "duration of utterance 'a' is -1.0"),
        ("a,1.5,a.wav,0,24000,\nb,1.5,b.wav,0,24000,\n", "line 2 has 6 fields"),
    ],
)
def test_offsets_that_are_no_samples_are_refused(tmp_path, text, message):
    (tmp_path / "m.csv").write_text(HEADER + text)
    with pytest.raises(ValueError, match=message):
        read_manifest(tmp_path / "m.csv")


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("ID, duration, wav, start, stop\na, 1.5, a.wav, 0, 24000\n", "utf-8"),
        (HEADER + "a,1.5,a.wav,0.0,24000.0\n\n,,,,\n", "utf-8-sig"),
        # SpeechBrain gives a piece the duration of its file
        (HEADER + "a,1.5,a.wav,0,24000\nb,7200,a.wav,0,24000\n", "utf-8"),
    ],
)
def test_manifests_that_went_through_other_hands(tmp_path, text, encoding):
    (tmp_path / "m.csv").write_text(text, encoding)
    row = read_manifest(tmp_path / "m.csv").iloc[0]
    assert tuple(row) == ("a", 1.5, "a.wav", 0, 24000)


def test_what_separates_the_columns_is_said(tmp_path):
    text = (HEADER + "a,1.5,a.wav,0,24000\n").replace(",", ";")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match="it has semicolons between ID"):
        read_manifest(tmp_path / "m.csv")
    # as a spreadsheet in much of Europe writes it
    (tmp_path / "m.csv").write_text(text.replace("1.5", "1,5"))
    with pytest.raises(ValueError, match="has semicolons between its columns"):
        read_manifest(tmp_path / "m.csv")


def test_the_root_is_one_folder(tmp_path):
    text = HEADER + "a,1.5,$data_root/a.wav,0,24000\n"
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ValueError, match="data_folder names 2: write absolute"):
        read_manifest(tmp_path / "m.csv", ["/one", "/two"])
    (tmp_path / "m.csv").write_text(text.replace("$data_root", "/one"))
    assert read_manifest(tmp_path / "m.csv", ["/one", "/two"])["wav"][0] == (
        "/one/a.wav"
    )


def test_utf_16_is_named(tmp_path):
    (tmp_path / "m.csv").write_text(HEADER + "a,1.5,a.wav,0,24000\n", "utf-16")
    with pytest.raises(ValueError, match="is in UTF-16: save it as UTF-8"):
        read_manifest(tmp_path / "m.csv")


def test_frames_of_faces_may_be_one_a_second(tmp_path):
    (tmp_path / "m.csv").write_text(HEADER + "a,3.0,tracks/a,0,3\n")
    assert len(read_manifest(tmp_path / "m.csv")) == 1
