import os

import pytest

from speechbrain_cadino.prepare.recordings import choose_recordings
from speechbrain_cadino.prepare.scan import fingerprint, list_files

WAV = {".wav"}


def names(folder, glob="**/*", **options):
    return [found.name for found in list_files(folder, glob, WAV, **options)]


@pytest.fixture
def tree(tmp_path):
    for name in ["a.wav", "x/a.wav", "x/y/a.wav", "x/y/b.wav", "z/A.WAV"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"1")
    return tmp_path


@pytest.mark.parametrize(
    ("glob", "expected"),
    [
        ("**/*", ["a.wav", "x/a.wav", "x/y/a.wav", "x/y/b.wav", "z/A.WAV"]),
        ("*", ["a.wav"]),
        ("*/*", ["x/a.wav", "z/A.WAV"]),
        ("x/**/*", ["x/a.wav", "x/y/a.wav", "x/y/b.wav"]),
        ("x/**", ["x/a.wav", "x/y/a.wav", "x/y/b.wav"]),
        ("**/y/?.wav", ["x/y/a.wav", "x/y/b.wav"]),
        ("**/a.wav", ["a.wav", "x/a.wav", "x/y/a.wav"]),
        ("**/a+wav", []),
        ("**/.wav", []),
    ],
)
def test_glob(tree, glob, expected):
    assert names(tree, glob) == expected


def test_other_suffixes_and_hidden_files_are_passed_over(tree):
    for name in ["b.txt", "wav", "._a.wav", ".a.71.tmp.wav", ".trash/c.wav"]:
        (tree / name).parent.mkdir(exist_ok=True)
        (tree / name).write_bytes(b"1")
    assert len(names(tree)) == 5


def test_folder_left_out(tree):
    assert names(tree, leave_out=tree / "x") == ["a.wav", "z/A.WAV"]
    assert len(names(tree, leave_out=tree / "not_there")) == 5


def test_a_link_hides_nothing_that_a_glob_takes(tmp_path):
    """Which sorts before the folder that it leads to."""
    for name in ("releases/a/2.wav", "releases/b/1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"...")
    (tmp_path / "current").symlink_to(tmp_path / "releases" / "b")
    names = ["releases/a/2.wav", "releases/b/1.wav"]
    for glob in ("releases/**/*", "**/*"):
        found = list_files(str(tmp_path), glob, {".wav"})
        assert [file.name for file in found] == names
    found = list_files(str(tmp_path), "current/*", {".wav"})
    assert [file.name for file in found] == ["current/1.wav"]


def test_links_that_lead_to_each_other_end(tmp_path):
    """Though nothing is taken on the way."""
    for one, other in ("ab", "ba"):
        (tmp_path / one).mkdir()
        (tmp_path / one / "link").symlink_to(tmp_path / other)
    (tmp_path / "c.wav").write_bytes(b"...")
    (found,) = list_files(str(tmp_path), "**/*", {".wav"})
    assert found.name == "c.wav"


def test_a_file_is_there_once_whatever_links_to_it(tmp_path):
    """As where a subset is made of links: who speaks is told by the other."""
    for name in ("wav/anna/1.wav", "wav/bob/1.wav"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"...")
    (tmp_path / "a_subset").mkdir()
    (tmp_path / "a_subset" / "utt7.wav").symlink_to("../wav/anna/1.wav")
    (tmp_path / "elsewhere.bin").write_bytes(b"...")
    for name in ("x.wav", "y.wav"):
        (tmp_path / "a_subset" / name).symlink_to(tmp_path / "elsewhere.bin")
    found = list_files(str(tmp_path), "**/*", {".wav"})
    assert {file.name: file.target for file in found} == {
        "a_subset/utt7.wav": "wav/anna/1.wav",
        "a_subset/x.wav": "",
        "a_subset/y.wav": "a_subset/x.wav",
        "wav/anna/1.wav": "",
        "wav/bob/1.wav": "",
    }
    # Alone, it is a file as any other
    (file,) = list_files(str(tmp_path), "a_subset/utt7*", {".wav"})
    assert file.target == ""
    problems = {
        recording.id: recording.problem
        for recording in choose_recordings({str(tmp_path): found})
    }
    assert {name for name in problems if problems[name]} == {
        "a_subset/utt7",
        "a_subset/y",
    }


def test_a_pool_that_links_tell_the_speakers_of(tmp_path):
    """The links have IDs, and the files have none."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw" / "0.wav").write_bytes(b"...")
    (tmp_path / "spk" / "anna" / "v").mkdir(parents=True)
    link = tmp_path / "spk" / "anna" / "v" / "0.wav"
    link.symlink_to("../../../raw/0.wav")
    found = list_files(str(tmp_path), "**/*", {".wav"})
    chosen = choose_recordings({str(tmp_path): found}, id_parts=3)
    assert [one.id for one in chosen if not one.problem] == ["anna/v/0"]
    # One of them, if there are several
    (tmp_path / "day" / "monday" / "v").mkdir(parents=True)
    (tmp_path / "day" / "monday" / "v" / "7.wav").symlink_to(link)
    found = list_files(str(tmp_path), "**/*", {".wav"})
    chosen = choose_recordings({str(tmp_path): found}, id_parts=3)
    assert [one.id for one in chosen if not one.problem] == ["monday/v/7"]


def test_many_links_between_folders_end(tmp_path):
    """Of twelve speakers, each linked from all others."""
    names = [f"s{number:02}" for number in range(12)]
    for name in names:
        (tmp_path / name / "wav").mkdir(parents=True)
        (tmp_path / name / "wav" / "1.wav").write_bytes(b"...")
        for other in names:
            if other != name:
                (tmp_path / name / other).symlink_to(tmp_path / other)
    assert len(list_files(str(tmp_path), "**/*", {".wav"})) == 12
    assert len(list_files(str(tmp_path), "*/wav/*", {".wav"})) == 12
    assert list_files(str(tmp_path), "*/flac/*", {".wav"}) == []


def test_link_loops_end_and_linked_folders_are_entered_once(tree, tmp_path):
    elsewhere = tmp_path.parent / f"{tmp_path.name}_elsewhere"
    elsewhere.mkdir()
    (elsewhere / "c.wav").write_bytes(b"1")
    (tree / "x" / "up").symlink_to(tree)
    (tree / "x" / "y" / "up").symlink_to(tree / "x")
    (tree / "itself.wav").symlink_to(tree / "itself.wav")
    (tree / "disk1").symlink_to(elsewhere)
    (tree / "disk2").symlink_to(elsewhere)
    found = list_files(tree, "**/*", WAV)
    assert [f.name for f in found if not f.problem] == [
        "a.wav",
        "disk1/c.wav",
        "x/a.wav",
        "x/y/a.wav",
        "x/y/b.wav",
        "z/A.WAV",
    ]
    (loop,) = [f for f in found if f.problem]
    assert loop.name == "itself.wav"
    assert "not accessible" in loop.problem


def test_problems(tree):
    (tree / "empty.wav").touch()
    (tree / "gone.wav").symlink_to(tree / "nothing")
    found = {f.name: f for f in list_files(tree, "*", WAV)}
    assert found["a.wav"].problem == ""
    assert found["empty.wav"].problem == "empty file (zero bytes)"
    assert "No such file" in found["gone.wav"].problem


def test_folder_without_permission(open_folder, no_root):
    for name in ["locked", "open"]:
        (open_folder / name).mkdir()
        (open_folder / name / "a.wav").write_bytes(b"1")
    (open_folder / "locked").chmod(0)
    with no_root():
        found = list_files(open_folder, "**/*", WAV)
    (open_folder / "locked").chmod(0o700)
    assert [(f.name, f.problem) for f in found] == [
        ("locked", "not accessible (Permission denied)"),
        ("open/a.wav", ""),
    ]


def test_fingerprint(tree):
    def now():
        return fingerprint(list_files(tree, "**/*", WAV))

    seen = [now()]
    assert now() == seen[0]
    (tree / "a.wav").write_bytes(b"22")
    seen.append(now())
    os.utime(tree / "a.wav", ns=(0, 1))
    seen.append(now())
    (tree / "a.wav").rename(tree / "b.wav")
    seen.append(now())
    (tree / "b.wav").unlink()
    seen.append(now())
    assert len(set(seen)) == 5
