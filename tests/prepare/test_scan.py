import os

import pytest

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
        *("a.wav", "disk1/c.wav", "x/a.wav", "x/y/a.wav", "x/y/b.wav"),
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
