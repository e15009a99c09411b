import unicodedata

import pytest

from speechbrain_cadino.dataio.names import find_file, match, speaker_of


@pytest.fixture
def data(tmp_path):
    files = ["wav/anna/1.wav", "wav/anna/take.1.wav", "wav/anna/2.flac"]
    for name in [*files, unicodedata.normalize("NFD", "zoë/1.wav")]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("anna/1.wav", "wav/anna/1.wav"),
        ("./anna/1.wav", "wav/anna/1.wav"),
        ("wav/anna/1.wav", "wav/anna/1.wav"),
        ("anna\\1.wav", "wav/anna/1.wav"),
        ("anna/1", "wav/anna/1.wav"),
        ("anna/2.wav", "wav/anna/2.flac"),
        ("anna/take.1", "wav/anna/take.1.wav"),
        ("anna/take.1.flac", "wav/anna/take.1.wav"),
        # A suffix is replaced only if it is one of an audio format
        ("anna/1.2", None),
        ("anna/take.2", None),
        ("anna", None),
        (unicodedata.normalize("NFC", "zoë/1.wav"), "zoë/1.wav"),
    ],
)
def test_the_file_that_a_name_means(data, name, file):
    found = find_file(name, data)
    if file is None:
        assert found is None
    else:
        assert found.samefile(
            data
            / (file if "zo" not in file else unicodedata.normalize("NFD", file))
        )


def test_an_absolute_name_has_the_speaker_of_its_place(data):
    assert find_file(f"{data}/wav/anna/1.wav", "elsewhere").is_file()
    assert speaker_of(f"{data}/wav/anna/1.wav", [data]) == "anna"
    assert speaker_of(f"{data}/wav/../wav/anna/1.wav", [data]) == "anna"
    assert speaker_of(f"{data}/wav/anna/1.wav") == ""
    # Whatever a link leads to, below the data, too
    (data / "store").mkdir()
    (data / "store" / "x7.wav").touch()
    (data / "wav" / "anna" / "7.wav").symlink_to(data / "store" / "x7.wav")
    assert speaker_of(f"{data}/wav/anna/7.wav", [data]) == "anna"
    folders = [data / "store", data]
    assert speaker_of(f"{data}/wav/anna/7.wav", folders) == "anna"


def test_the_first_part_of_an_id_is_its_speaker():
    assert speaker_of("vox1/wav/id1/x/1.wav", id_parts=3) == "id1"
    assert speaker_of("/elsewhere/id1/x/1.wav", id_parts=3) == "id1"


def test_an_id_has_lost_the_last_of_two_suffixes():
    known = ["1.wav", "1.mp3.wav", "call.m4a.wav"]
    assert match(["1.mp3", "call.m4a", "1"], known).tolist() == [1, 2, 0]
    known = ["call", "call.m4a"]
    assert match(["call.m4a.wav", "call.flac"], known).tolist() == [1, 0]


@pytest.mark.parametrize("file", ["1.WAV", "1.opus", "1.MP3"])
def test_a_name_without_suffix_is_found_in_any_case(file, tmp_path):
    (tmp_path / file).touch()
    assert find_file("1", tmp_path).name == file
    if file != "1.opus":
        assert find_file("1.flac", tmp_path).name == file


def test_a_spelling_that_several_share_is_matched_by_none():
    known = ["a/1.wav", "a/1.flac", "a/2.wav"]
    names = ["a/1", "a/1.flac", ".\\a\\2"]
    assert match(names, known).tolist() == [-1, 1, 2]
