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
        (HEADER + "a,1,a.wav,zero,1\n", "'zero' in column start.*'a'"),
        (HEADER + "a,,a.wav,0,1\n", "'' in column duration"),
        (HEADER + "a,nan,a.wav,0,1\n", "'nan' in column duration"),
        (HEADER + "a,1,$data_root/a.wav,0,1\n", "give data_folder"),
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
