import logging
import os
import re
import unicodedata

import pandas as pd
import pytest

from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.prepare import recordings
from speechbrain_cadino.prepare.folder import prepare_folder


@pytest.fixture
def data(tmp_path, write_tone):
    folder = tmp_path / "data"
    for name in ["a.wav", "x/b.wav", "x/c.wav"]:
        write_tone(folder / name)
    return folder


@pytest.fixture
def save(tmp_path):
    return tmp_path / "save"


def skipped(save, name="skipped.csv"):
    table = pd.read_csv(save / name, dtype=str, keep_default_na=False)
    return dict(zip(table["wav"].str.removeprefix("$data_root/"), table.reason))


def ids(save):
    return list(read_manifest(save / "train.csv", "")["ID"])


def test_start_and_stop_fit_the_reader_at_any_rate(tmp_path, save, write_tone):
    for rate in [8000, 11025, 16000, 22050, 44100, 48000]:
        for extra in range(3):
            path = tmp_path / "data" / f"{rate}_{extra}.wav"
            write_tone(path, 1 + extra / rate, rate, channels=1 + extra % 2)
    prepare_folder(tmp_path / "data", save)
    table = read_manifest(save / "train.csv", tmp_path / "data")
    assert len(table) == 18
    for row in table.itertuples():
        with AudioReader(row.wav) as audio:
            assert (row.start, row.stop) == (0, len(audio))
            assert row.duration == pytest.approx(row.stop / 16000, abs=1e-6)
            assert len(audio.read(row.start, row.stop)) == row.stop


def test_formats_of_soundfile(tmp_path, save, write_tone):
    kinds = {
        "wav": {},
        "flac": {},
        "ogg": {},
        "mp3": {},
        "opus": {"format": "OGG", "subtype": "OPUS"},
        "aiff": {},
    }
    for suffix, options in kinds.items():
        write_tone(tmp_path / "data" / f"{suffix}.{suffix}", **options)
    prepare_folder(tmp_path / "data", save)
    table = read_manifest(save / "train.csv", tmp_path / "data")
    assert sorted(table["ID"]) == sorted(kinds)
    for row in table.itertuples():
        assert row.duration == pytest.approx(2, abs=0.1)
        with AudioReader(row.wav) as audio:
            assert len(audio.read(0, row.stop)) == row.stop


@pytest.mark.parametrize("convert", [False, True])
def test_recordings_of_a_telephone_among_others_are_told(
    tmp_path, save, write_tone, caplog, convert
):
    """A training may tell voices apart by it. Copies remember their rate."""
    if convert:
        pytest.importorskip("av", reason="needs [convert]")
    options = {"convert_folder": tmp_path / "copies"} if convert else {}
    for name, rate in {"a": 16000, "b": 16000, "c": 8000}.items():
        write_tone(tmp_path / "data" / f"{name}.wav", rate=rate)
    prepare_folder(tmp_path / "data", save, **options)
    assert "1 of 3 recordings have fewer than 16000 samples" in caplog.text
    assert f"such as 8000 of {tmp_path / 'data' / 'c.wav'}" in caplog.text
    caplog.clear()
    for name in "ab":
        (tmp_path / "data" / f"{name}.wav").unlink()
    prepare_folder(tmp_path / "data", save, **options)
    assert "samples a second" not in caplog.text


def test_what_cannot_be_used_is_listed_and_counted(
    data, save, write_tone, caplog
):
    (data / "text.wav").write_text("I am no audio.")
    (data / "more text.wav").write_text("Nor am I.")
    (data / "empty.wav").touch()
    (data / "gone.wav").symlink_to(data / "nothing.wav")
    (data / "video.m4a").write_bytes(b"????ftypM4A ")
    (data / "$HOME.wav").write_bytes(b"1")
    (data / "a.m4a").write_bytes(b"????ftypM4A ")
    write_tone(data / "silent.wav", 0)
    write_tone(data / "short.wav", 0.999)
    write_tone(data / "long.wav", 4.001)
    with caplog.at_level(logging.INFO):
        prepare_folder(data, save, max_duration=4)
    reasons = skipped(save)
    assert ids(save) == ["a", "x/b", "x/c"]
    assert len(reasons) == 10
    for name, words in {
        "text.wav": "not readable as audio (Format not recognised",
        "empty.wav": "zero bytes",
        "gone.wav": "not accessible (No such file",
        "video.m4a": 'pip install "speechbrain_cadino[convert]"',
        "$HOME.wav": "name",
        "a.m4a": "another file has this ID",
        "silent.wav": "no samples",
        "short.wav": "shorter than 1.0 s",
        "long.wav": "longer than 4 s",
    }.items():
        assert words in reasons[name]
    assert "2 skipped: not readable as audio" in caplog.text
    assert "1 skipped: shorter than 1.0 s" in caplog.text
    assert "train.csv: 3 recordings" in caplog.text


def test_file_without_permission(open_folder, no_root, write_tone):
    for name in ["a.wav", "b.wav"]:
        write_tone(open_folder / "data" / name)
    (open_folder / "data" / "b.wav").chmod(0)
    with no_root():
        prepare_folder(open_folder / "data", open_folder / "save")
    assert skipped(open_folder / "save") == {
        "b.wav": "not readable as audio (Permission denied)"
    }


def test_names_survive(tmp_path, save, write_tone):
    good = [
        "plain",
        "with space",
        "a,b",
        'q"u"o',
        '"quoted"',
        "naïve 語",
        "'",
        "#1",
        "NA",
        "1e5",
        "00",
        "a;b\\c",
        "x.y.z",
        "trailing ",
        "%s{}",
    ]
    bad = ["new\nline", "re\rturn", "$name", " in front", "\u2028", "\x07"]
    for name in good + bad:
        write_tone(tmp_path / "data" / f"{name}.wav")
    surrogate = os.fsencode(tmp_path / "data") + b"/\xff.wav"
    os.rename(tmp_path / "data" / "plain.wav", surrogate)
    write_tone(tmp_path / "data" / "plain.wav")

    prepare_folder(tmp_path / "data", save)
    root = {"data_root": str(tmp_path / "data")}
    ours = read_manifest(save / "train.csv", root["data_root"])
    theirs = DynamicItemDataset.from_csv(save / "train.csv", root).data
    assert sorted(ours["ID"]) == sorted(theirs) == sorted(good)
    for row in ours.itertuples():
        assert row.wav == theirs[row.ID]["wav"]
        assert os.path.basename(row.wav) == f"{row.ID}.wav"
        assert os.path.isfile(row.wav)
    assert set(skipped(save)) == {
        "new\\nline.wav",
        "re\\rturn.wav",
        "$name.wav",
        " in front.wav",
        "\\u2028.wav",
        "\\x07.wav",
        "\\udcff.wav",
    }


def test_same_name_in_two_formats_is_one_recording(data, save, write_tone):
    write_tone(data / "a.flac")
    prepare_folder(data, save)
    table = read_manifest(save / "train.csv", "")
    assert table["wav"][0] == "/a.flac"
    assert len(table) == 3
    assert skipped(save) == {"a.wav": "another file has this ID"}


def test_ids_of_too_few_parts_are_no_other_formats(
    data, save, write_tone, caplog
):
    """Of <speaker>/<session>/<microphone>/<file>, with IDs of three parts."""
    for speaker in ("anna", "bob"):
        for name in ("1.wav", "2.wav"):
            write_tone(data / speaker / "day1" / "mic1" / name)
    prepare_folder(data, save, id_parts=3)
    assert len(read_manifest(save / "train.csv", "")) == 2
    assert "2 of 7 files are left out, such as " in caplog.text
    assert "leave it out (null in a YAML file)" in caplog.text
    caplog.clear()
    prepare_folder(data, save, id_parts=4)
    assert len(read_manifest(save / "train.csv", "")) == 4
    assert "are left out" not in caplog.text
    with pytest.raises(ValueError, match="without id_parts files in any"):
        prepare_folder(data, save, id_parts=5)


def test_cut_covers_the_file_in_equal_pieces(tmp_path, save, write_tone):
    for seconds in [1.0, 4.9, 10.3]:
        write_tone(tmp_path / "data" / f"{seconds}.wav", seconds, 8000)
    prepare_folder(tmp_path / "data", save, cut_seconds=3)
    table = read_manifest(save / "train.csv", "")
    assert list(table["ID"]) == [
        "1.0_0001",
        "10.3_0001",
        "10.3_0002",
        "10.3_0003",
        "4.9_0001",
        "4.9_0002",
    ]
    assert table["duration"].max() < 4.5
    for wav, pieces in table.groupby("wav"):
        stops = [0, *pieces["stop"]]
        assert list(pieces["start"]) == stops[:-1]
        assert stops[-1] == float(wav[1:-4]) * 16000
        assert pieces["duration"].max() - pieces["duration"].min() < 1e-4


def test_speakers_of_trial_lists_are_left_out(data, save, tmp_path, caplog):
    first, second = tmp_path / "1.txt", tmp_path / "2.txt"
    first.write_text("1 x/b.wav x/c.wav\n")
    second.write_text("0 a.wav y/b.wav\n")
    prepare_folder(data, save, exclude=first)
    assert ids(save) == ["a"]
    prepare_folder(data, save, exclude=[second])
    assert ids(save) == ["x/b", "x/c"]
    assert skipped(save) == {"a.wav": "a speaker of the trial lists"}
    # The path alone does not tell that the list has changed.
    second.write_text("0 x/b.wav y/b.wav\n")
    prepare_folder(data, save, exclude=[second])
    assert ids(save) == ["a"]
    second.write_text("0 y/b.wav z/b.wav\n")
    with caplog.at_level(logging.INFO):
        prepare_folder(data, save, exclude=[second])
    assert "none of the speakers of the trial lists" in caplog.text


@pytest.mark.parametrize(
    "prefix", ["./", "wav/", "{data}/", "{data}/wav/", "/other/vox/wav/", "x/"]
)
def test_speakers_are_left_out_however_they_are_spelled(
    tmp_path, save, write_tone, prefix
):
    data = tmp_path / "data"
    for name in ["anna/1", "anna/2", "bob/1", "carl/1"]:
        write_tone(data / "wav" / f"{name}.wav")
    prefix = prefix.format(data=data)
    (tmp_path / "1.txt").write_text(f"0 {prefix}anna/1.wav {prefix}bob/9.wav\n")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["wav/carl/1"]
    text = (tmp_path / "1.txt").read_text().replace("/", "\\")
    if not text.startswith("0 \\"):
        (tmp_path / "1.txt").write_text(text)
        prepare_folder(data, save, exclude=tmp_path / "1.txt")
        assert ids(save) == ["wav/carl/1"]


@pytest.mark.parametrize("above", ["", "wav/", "calls/"])
@pytest.mark.parametrize("prefix", ["", "{data}/"])
def test_files_that_name_no_speaker_are_left_out_however_spelled(
    tmp_path, save, write_tone, above, prefix
):
    data = tmp_path / "Gespräche"
    for name in "123":
        write_tone(data / above / f"{name}.wav")
    one, two = (f"{prefix.format(data=data)}{above}{n}.wav" for n in "12")
    (tmp_path / "1.txt").write_text(f"0 {one} {two}\n")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == [f"{above}3"]


@pytest.mark.parametrize(
    ("names", "id_parts"),
    [
        # As its own list of files has them, from the folder itself or above
        (["{}", "{}"], None),
        (["corpus/eval/enroll/{}", "corpus/eval/test/{}"], None),
        (["eval/enroll/{}", "eval/test/{}"], 2),
        (["enroll/{}", "test/{}"], 3),
    ],
)
def test_files_that_name_no_speaker_are_left_out_from_wherever_they_start(
    tmp_path, save, write_tone, caplog, names, id_parts
):
    """Here a folder of one side is of no speaker."""
    data = tmp_path / "data"
    for name in ["enroll/a1", "test/a2", "test/b1"]:
        write_tone(data / "eval" / f"{name}.wav")
    for name in ["id8/x", "id9/x"]:
        write_tone(data / "data" / f"{name}.wav")
    one, two = names
    lines = [
        f"1 {one.format('a1')} {two.format('a2')}",
        f"0 {one.format('a1')} {two.format('b1')}",
    ]
    (tmp_path / "1.txt").write_text("\n".join([*lines, f"0 {two} {two}"]))
    prepare_folder(data, save, exclude=tmp_path / "1.txt", id_parts=id_parts)
    assert len(ids(save)) == 2
    assert all(name.endswith("/x") for name in ids(save))
    assert "1 of these files were not found" in caplog.text


def test_a_name_that_may_be_of_several_is_of_none(
    tmp_path, save, write_tone, caplog
):
    for name in ["a/1", "b/1", "b/2"]:
        write_tone(tmp_path / "data" / f"{name}.wav")
    (tmp_path / "1.txt").write_text("0 1.wav 2.wav\n")
    prepare_folder(tmp_path / "data", save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["a/1", "b/1"]
    assert "1 of these files were not found" in caplog.text


def test_a_name_that_is_an_id_is_of_that(tmp_path, save, write_tone, caplog):
    """And a link, which is left out anyway, is no second one."""
    data = tmp_path / "data"
    for name in ["1", "a/1", "a/2", "b/3"]:
        write_tone(data / f"{name}.wav")
    (data / "eval").mkdir()
    (data / "eval" / "3.wav").symlink_to(data / "b" / "3.wav")
    (tmp_path / "1.txt").write_text("0 1.wav 3.wav\n")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["a/1", "a/2"]
    assert "These files are left out" in caplog.text


def test_folders_of_days_are_told(tmp_path, save, write_tone, caplog):
    """A voice of two first folders is of two speakers, or they are none."""
    for name in ["mon/ann", "tue/ann", "tue/bob", "wed/eve", "thu/ann"]:
        write_tone(tmp_path / "data" / f"{name}.wav")
    lines = "1 mon/ann.wav tue/ann.wav\n0 mon/ann.wav wed/eve.wav\n"
    (tmp_path / "1.txt").write_text(lines)
    prepare_folder(tmp_path / "data", save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["thu/ann"]
    assert "1 target trials are of two folders, such as mon" in caplog.text


def test_speakers_are_counted(tmp_path, save, write_tone, caplog):
    """One sees that id_parts is not that of this corpus."""
    for name in ["data/id1/a", "data/id2/a"]:
        write_tone(tmp_path / "corpus" / f"{name}.wav")
    with caplog.at_level(logging.INFO):
        prepare_folder(tmp_path / "corpus", save, id_parts=3)
        prepare_folder(tmp_path / "corpus", save, id_parts=2)
    found = re.findall(r"speakers.csv: (\d+ .* of an ID, .*)", caplog.text)
    said = "speakers, by the first part of an ID, such as"
    assert found == [f"1 {said} data.", f"2 {said} id1."]


@pytest.mark.parametrize("folder", ["NFC", "NFD"])
@pytest.mark.parametrize("listed", ["NFC", "NFD"])
def test_a_data_folder_that_macos_has_decomposed(
    tmp_path, save, write_tone, folder, listed
):
    data = tmp_path / unicodedata.normalize(folder, "Gespräche")
    for name in ["customers/anna/1", "customers/bob/1", "customers/eve/1"]:
        write_tone(data / f"{name}.wav")
    line = f"0 {data}/customers/anna/1.wav {data}/customers/bob/9.wav\n"
    text = unicodedata.normalize(listed, line)
    (tmp_path / "1.txt").write_text(text, "utf-8")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["customers/eve/1"]


def test_speakers_of_ones_own_are_not_replaced(data, save):
    """By those of folders, once id_parts is given; they were not asked for
    before."""
    prepare_folder(data, save)
    (save / "speakers.csv").write_text("ID,spk_id\na,anna\n")
    with pytest.raises(
        ValueError, match=r"speakers.csv is there, was not made"
    ):
        prepare_folder(data, save, id_parts=2)
    (save / "speakers.csv").unlink()
    prepare_folder(data, save, id_parts=2)
    prepare_folder(data, save, id_parts=2, min_duration=0.2)  # its own
    prepare_folder(data, save)
    assert not (save / "speakers.csv").exists()
    prepare_folder(data, save, id_parts=2)
    # Corrected since, as folders do not tell
    (save / "speakers.csv").write_text("ID,spk_id\na,anna\n")
    with pytest.raises(ValueError, match="or has changed since, and would be"):
        prepare_folder(data, save, id_parts=2, min_duration=0.1)
    with pytest.raises(ValueError, match="No audio for"):
        prepare_folder(data, save, glob="*.wavv")
    prepare_folder(data, save)
    assert (save / "speakers.csv").read_text() == "ID,spk_id\na,anna\n"


def test_a_name_that_does_not_tell_the_speaker_is_said(
    data, save, tmp_path, caplog
):
    (tmp_path / "1.txt").write_text("0 a.wav /elsewhere/1.wav\n")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["x/b", "x/c"]
    assert "who speaks in 2 of the 2 files of the trial lists" in caplog.text


def test_files_of_two_suffixes_are_left_out(tmp_path, save, write_tone):
    """As ffmpeg makes them: the ID has lost one of them."""
    for name in ["call.m4a", "call", "other"]:
        write_tone(tmp_path / "data" / f"{name}.wav")
    (tmp_path / "1.txt").write_text("0 call.m4a.wav other.wav\n")
    prepare_folder(tmp_path / "data", save, exclude=tmp_path / "1.txt")
    assert ids(save) == ["call"]


def test_a_blank_in_front_of_a_speaker_is_no_part_of_an_id(
    tmp_path, save, write_tone
):
    for name in ["x/ anna/1", "y/anna/1"]:
        write_tone(tmp_path / "data" / f"{name}.wav")
    prepare_folder(tmp_path / "data", save, id_parts=2)
    assert ids(save) == ["anna/1"]
    assert skipped(save) == {"x/ anna/1.wav": "a folder with a space in front"}


@pytest.mark.parametrize("convert", [False, True])
def test_a_long_mp3_is_told_or_converted(
    tmp_path, save, write_tone, caplog, monkeypatch, convert
):
    """Its crops are found by reading from the start."""
    if convert:
        pytest.importorskip("av", reason="needs [convert]")
    monkeypatch.setattr(recordings, "LONG_MP3", 1.5)
    for name, seconds in {"a.mp3": 2.0, "b.mp3": 1.0, "c.flac": 2.0}.items():
        write_tone(tmp_path / "data" / name, seconds)
    options = {"convert_folder": tmp_path / "copies"} if convert else {}
    prepare_folder(tmp_path / "data", save, min_duration=0.5, **options)
    assert ("1 of 3 recordings are MP3" in caplog.text) != convert
    made = [path.name for path in (tmp_path / "copies").rglob("*.flac")]
    assert made == ["a.flac"] * convert
    table = read_manifest(save / "train.csv", tmp_path / "data")
    assert len(table) == 3


CALLS = ["agents/1", "customers/1", "customers/2", "customers/ann/day1/3"]


@pytest.mark.parametrize(
    ("line", "gone", "warns"),
    [
        # A side of calls is nobody: the files alone, or who is next below it
        ("0 customers/1 customers/2", ["customers/1", "customers/2"], True),
        ("0 customers/1 customers/ann/day1/3", ["customers/1", CALLS[3]], True),
        ("0 customers/ann/day1/3 customers/bob/day1/1", CALLS[3:], False),
        ("1 customers/1 customers/2", CALLS[1:], False),
        # Of another machine, days are no speakers either
        ("0 /old/dora/day1/9 /old/bob/day1/9", ["dora/day1/4"], True),
    ],
)
def test_a_folder_of_two_speakers_is_no_speaker(
    tmp_path, save, write_tone, caplog, line, gone, warns
):
    data = tmp_path / "data"
    names = [*CALLS, "dora/day1/4", "eve/day1/5"]
    for name in names:
        write_tone(data / f"{name}.wav")
    (tmp_path / "1.txt").write_text(f"{line}\n")
    prepare_folder(data, save, exclude=tmp_path / "1.txt")
    assert ids(save) == [name for name in names if name not in gone]
    assert ("the trial lists cannot be told" in caplog.text) == warns


def test_several_folders(data, save, tmp_path, write_tone):
    write_tone(tmp_path / "more" / "d.wav")
    write_tone(tmp_path / "more" / "a.wav")
    prepare_folder([data, tmp_path / "more"], save)
    table = read_manifest(save / "train.csv")
    assert list(table["ID"]) == ["a", "d", "x/b", "x/c"]
    assert table["wav"][0] == str(data / "a.wav")
    assert table["wav"][1] == str(tmp_path / "more" / "d.wav")


def test_a_folder_in_another_would_be_there_twice(data, save, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(data, target_is_directory=True)
    for folders in (
        [data, data / "x"],
        [data / "x", data],
        [data, data],
        [data, link],
        [link / "x", data],
    ):
        with pytest.raises(ValueError, match="its recordings would be there"):
            prepare_folder(folders, save)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("sample_rate", [0, -8000]),
        ("id_parts", [0, -1]),
        ("cut_seconds", [float("nan"), -1, 0, 1e-3, float("inf")]),
        ("min_duration", [float("nan"), -1]),
        ("max_duration", [float("nan"), -1, 0]),
    ],
)
def test_numbers_that_make_no_sense(data, save, name, values):
    for value in values:
        with pytest.raises(ValueError, match=f"^{name}={value}: give"):
            prepare_folder(data, save, **{name: value})
    assert not save.exists()


def test_nothing_left(data, save, tmp_path):
    with pytest.raises(ValueError, match=r"3 skipped: shorter than 60 s") as e:
        prepare_folder(data, save, min_duration=60)
    assert str(data) in str(e.value)
    with pytest.raises(ValueError, match=r"glob \*\*/\*.ogg: no file"):
        prepare_folder(data, save, glob="**/*.ogg")
    with pytest.raises(FileNotFoundError, match=r"No folder .*nowhere"):
        prepare_folder(tmp_path / "nowhere", save)
    assert not (save / "train.csv").exists()


def written(save):
    return {path.name: path.stat().st_mtime_ns for path in save.iterdir()}


def test_unchanged_inputs_are_not_done_again(data, save, caplog):
    prepare_folder(data, save)
    before = written(save)
    assert sorted(before) == ["skipped.csv", "train.csv", "train.json"]
    with caplog.at_level(logging.INFO):
        prepare_folder(str(data), str(save), num_workers=2)
    assert written(save) == before
    assert "nothing has changed" in caplog.text


@pytest.mark.parametrize(
    "change", ["new file", "touched", "argument", "no manifest", "no skipped"]
)
def test_changed_inputs_are_done_again(data, save, write_tone, change):
    prepare_folder(data, save)
    before = written(save)
    options = {}
    if change == "new file":
        write_tone(data / "d.wav")
    elif change == "touched":
        os.utime(data / "a.wav", ns=(0, 1))
    elif change == "argument":
        options["cut_seconds"] = 1
    else:
        name = {"no manifest": "train.csv", "no skipped": "skipped.csv"}[change]
        (save / name).unlink()
    prepare_folder(data, save, **options)
    after = written(save)
    assert all(after[name] > before[name] for name in before)


def test_after_a_run_that_died_it_is_done_again(data, save, write_tone):
    prepare_folder(data, save)
    good = (save / "train.csv").read_bytes()
    (save / ".train.4711.tmp.csv").write_text("ID,dura")
    with pytest.raises(ValueError):
        prepare_folder(data, save, min_duration=60)
    # Had the second run got further, this would be its manifest.
    (save / "train.csv").write_text("of the second run")
    prepare_folder(data, save)
    assert (save / "train.csv").read_bytes() == good
    assert skipped(save) == {}


def test_skip_prep(tmp_path, save):
    prepare_folder(tmp_path / "nowhere", save, skip_prep=True)
    assert not save.exists()


def test_several_manifests_in_one_folder(data, save, write_tone):
    write_tone(data / "rir" / "short.wav", 0.2)
    prepare_folder(data, save)
    prepare_folder(
        data, save, glob="rir/**/*", min_duration=0, manifest="rir.csv"
    )
    before = written(save)
    assert sorted(before) == [
        "rir.csv",
        "rir.json",
        "rir_skipped.csv",
        "skipped.csv",
        "train.csv",
        "train.json",
    ]
    assert list(skipped(save)) == ["rir/short.wav"]
    assert skipped(save, "rir_skipped.csv") == {}
    prepare_folder(data, save)
    assert written(save) == before


def test_a_file_that_is_nothing_at_our_rate(data, save, write_tone):
    for samples in [2, 3]:
        write_tone(data / f"{samples}.wav", samples / 48000, 48000)
    prepare_folder(data, save, min_duration=0)
    assert skipped(save) == {"2.wav": "no samples in it"}
    table = read_manifest(save / "train.csv", data)
    assert table.set_index("ID")["stop"]["3"] == 1


@pytest.mark.parametrize(
    "text", ['{"a": 1}\n{"b": 2}\n', '{"files": ["a"]}', "[1"]
)
def test_a_record_of_others_is_not_replaced(data, save, text):
    save.mkdir()
    (save / "train.json").write_text(text)
    with pytest.raises(ValueError, match="was not made by this step"):
        prepare_folder(data, save)
    assert (save / "train.json").read_text() == text
    # A power cut leaves zeros
    (save / "train.json").write_bytes(bytes(9))
    prepare_folder(data, save)


def test_same_bytes_whatever_the_number_of_processes(tmp_path, write_tone):
    for i in range(300):
        write_tone(tmp_path / "data" / f"{i}.wav", 0.01)
    (tmp_path / "data" / "bad.wav").write_text("?")
    outputs = []
    for workers in [1, 2]:
        save = tmp_path / str(workers)
        prepare_folder(
            tmp_path / "data", save, min_duration=0, num_workers=workers
        )
        outputs.append([path.read_bytes() for path in sorted(save.iterdir())])
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    "name", ["train.csv", "train.json", "skipped.csv", "speakers.csv"]
)
def test_tables_of_others_are_not_replaced(name, write_tone, tmp_path):
    write_tone(tmp_path / "data" / "a" / "1.wav", seconds=2.0)
    theirs = tmp_path / "save" / name
    theirs.parent.mkdir()
    theirs.write_text('{"mine": 1}')
    with pytest.raises(ValueError, match=f"{name} is there, was not made by"):
        prepare_folder(
            tmp_path / "data", tmp_path / "save", id_parts=2, min_duration=1
        )
    assert theirs.read_text() == '{"mine": 1}'


def test_pieces_beside_recordings_have_speakers_of_their_own(
    write_tone, tmp_path
):
    for name in ["anne/1.wav", "bob/1.wav"]:
        write_tone(tmp_path / "data" / name, seconds=4.0)
    save = tmp_path / "save"
    prepare_folder(tmp_path / "data", save, id_parts=2)
    prepare_folder(
        tmp_path / "data",
        save,
        id_parts=2,
        cut_seconds=2,
        manifest="pieces.csv",
    )
    whole = pd.read_csv(save / "speakers.csv")
    assert whole.to_dict("list") == {
        "ID": ["anne/1", "bob/1"],
        "spk_id": ["anne", "bob"],
    }
    pieces = pd.read_csv(save / "pieces_speakers.csv")
    assert (
        pieces["ID"].tolist()
        == read_manifest(save / "pieces.csv", "")["ID"].tolist()
    )
    assert pieces["spk_id"].tolist() == ["anne", "anne", "bob", "bob"]


def test_the_longest_duration_is_in_seconds_at_any_rate(
    tmp_path, save, write_tone
):
    for rate in (8000, 48000):
        for seconds in (3.0, 5.0):
            path = tmp_path / "data" / f"{rate}_{seconds:.0f}.wav"
            write_tone(path, seconds, rate)
    prepare_folder(tmp_path / "data", save, max_duration=4)
    assert ids(save) == ["48000_3", "8000_3"]
    assert set(skipped(save)) == {"48000_5.wav", "8000_5.wav"}
