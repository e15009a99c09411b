import csv
import logging
import multiprocessing
import os
import signal
import sys
import time
import unicodedata

import av
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from speechbrain_cadino.audio_visual.faces import FaceReader
from speechbrain_cadino.audio_visual.prepare import prepare_faces
from speechbrain_cadino.audio_visual.videos import (
    VIDEOS,
    _sample,
    sample_frames,
)
from speechbrain_cadino.dataio.manifest import read_manifest, write_manifest
from speechbrain_cadino.dataio.names import CONVERTIBLE

BLANK = "no image in it that is readable and not blank"


def write_frames(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.linear_gradient("L").resize((8, 8)).save(folder / name)


def write_video(path, seconds=3.0, rate=10, contrast=40, **options):
    """A video that grows brighter: frame i has the grey levels i and i + 40."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 10**7
        for i in range(round(seconds * rate)):
            image = np.full((64, 64, 3), i, np.uint8)
            image[32:] += contrast
            frame = av.VideoFrame.from_ndarray(image)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def write_audio_manifest(path, *names):
    table = pd.DataFrame({"ID": names, "wav": "$data_root/a.wav"})
    write_manifest(path, table.assign(duration=1.0, start=0, stop=16000))
    return path


def skipped(save, name="faces_skipped.csv"):
    with open(save / name, newline="", encoding="utf-8") as file:
        return {row["ID"]: row["reason"] for row in csv.DictReader(file)}


def wavs(save, root="ROOT"):
    table = read_manifest(save / "faces.csv", root)
    return dict(zip(table["ID"], table["wav"]))


def snapshot(save):
    return {path: path.stat().st_mtime_ns for path in save.rglob("*")}


@pytest.fixture
def data(tmp_path):
    """Three tracks of two people, of 2, 3 and 1 frames."""
    folder = tmp_path / "data"
    write_frames(folder / "1fps" / "id1" / "x" / "00001", "0.jpg", "1.jpg")
    write_frames(
        folder / "1fps" / "id1" / "y" / "00001", *"a.jpg b.png".split()
    )
    write_frames(folder / "1fps" / "id1" / "y" / "00001", ".h.jpg", "c.webp")
    write_frames(folder / "1fps" / "id2" / "z" / "00007", "0.jpg")
    return folder


def test_videos_of_faces_have_voices_too():
    """Else one is left out of the voices without a word."""
    assert VIDEOS <= CONVERTIBLE


@pytest.fixture
def save(tmp_path):
    return tmp_path / "save"


def test_rows_fit_the_reader(data, save, caplog):
    with caplog.at_level(logging.INFO):
        prepare_faces(data, save, frames_per_second=5)
    table = read_manifest(save / "faces.csv", data)
    assert list(table["ID"]) == ["id1/x/00001", "id1/y/00001", "id2/z/00007"]
    assert list(table["stop"]) == [2, 3, 1]
    for row in table.itertuples():
        with FaceReader(row.wav, sample_rate=5) as face:
            assert (row.start, row.stop) == (0, len(face))
            assert row.duration == pytest.approx(len(face) / 5)
            assert len(face.read(row.start, row.stop)) == row.stop
    assert "3 face tracks, 6 frames" in caplog.text
    assert skipped(save) == {}


def test_flat_layout(tmp_path, save):
    write_frames(tmp_path / "train" / "n1", "0007_01.jpg", "0007_02.jpg")
    write_frames(tmp_path / "train" / "n1", "0008_01.jpg", "0009_1_01.jpg")
    write_frames(tmp_path / "train" / "n2_x", "0007_01.jpg", "portrait.jpg")
    prepare_faces(tmp_path, save, layout="flat")
    table = read_manifest(save / "faces.csv", tmp_path)
    assert dict(zip(table["ID"], table["stop"])) == {
        "n1/0007": 2,
        "n1/0008": 1,
        "n1/0009_1": 1,
        "n2_x/0007": 1,
    }
    for row in table.itertuples():
        assert len(FaceReader(row.wav)) == row.stop
    assert skipped(save) == {
        "n2_x/portrait.jpg": "no _ before the number of the frame"
    }


def test_true_speakers_are_kept_out_of_the_manifest(data, save):
    prepare_faces(data, save)
    columns = ["ID", "duration", "wav", "start", "stop"]
    assert list(pd.read_csv(save / "faces.csv")) == columns
    speakers = pd.read_csv(save / "speakers.csv")
    assert list(speakers["spk_id"]) == ["id1", "id1", "id2"]


def test_utterances_with_and_without_a_face(data, save, caplog):
    audio = write_audio_manifest(
        save / "train.csv",
        "id1/x/00001",
        "wav/id2/z/00007_0001",
        "wav/id2/z/00007_0002",
        "id3/z/00001",
        "id1/x/00002",
    )
    with caplog.at_level(logging.INFO):
        prepare_faces(data, save, audio)
    # Each under the audio's own ID.
    assert wavs(save) == {
        "id1/x/00001": "ROOT/1fps/id1/x/00001",
        "wav/id2/z/00007_0001": "ROOT/1fps/id2/z/00007",
        "wav/id2/z/00007_0002": "ROOT/1fps/id2/z/00007",
    }
    assert skipped(save) == dict.fromkeys(
        ["id1/x/00002", "id3/z/00001"], "no face track"
    )
    assert (
        "3 utterances have a face, 2 are audio-only, 1 tracks have no utterance"
    ) in caplog.text
    assert not (save / "speakers.csv").exists()


def test_a_list_that_names_a_piece_has_the_face_of_its_recording(
    data, save, tmp_path
):
    """Which tells no times."""
    (tmp_path / "1.txt").write_text("1 id2/z/00007_0001.wav id1/x/00001.wav\n")
    prepare_faces(data, save, trials=tmp_path / "1.txt", manifest="t.csv")
    found = read_manifest(save / "t.csv", data)
    assert found["ID"].tolist() == ["id1/x/00001", "id2/z/00007_0001"]
    assert found["start"].tolist() == [0, 0]


def test_a_piece_has_the_frames_of_its_time(save, tmp_path, caplog):
    """At two frames a second; the sound is longer than the track."""
    names = [f"{number:02}.jpg" for number in range(10)]
    write_frames(tmp_path / "data" / "id1" / "x" / "1", *names)
    spans = [(0.0, 2.2), (2.2, 4.0), (4.0, 4.2), (60.0, 70.0)]
    rows = [
        (f"id1/x/1_{i:04}", stop - start, "a.wav", 16000 * start, 16000 * stop)
        for i, (start, stop) in enumerate(spans)
    ]
    columns = ["ID", "duration", "wav", "start", "stop"]
    table = pd.DataFrame(rows, columns=columns)
    table = table.round({"start": 0, "stop": 0})
    audio = save / "train.csv"
    write_manifest(audio, table.astype({"start": int, "stop": int}))
    prepare_faces(tmp_path / "data", save, audio, frames_per_second=2)
    found = read_manifest(save / "faces.csv", tmp_path / "data")
    assert found[["start", "stop"]].to_numpy().tolist() == [
        [0, 5],
        [4, 8],
        [8, 9],
    ]
    assert found["duration"].tolist() == [2.5, 2.0, 0.5]
    assert skipped(save) == {"id1/x/1_0003": "the track has ended before"}
    # Another cut is another manifest, under the same IDs
    table.loc[0, "stop"], table.loc[1, "start"] = 16000, 16000
    table.loc[:1, "duration"] = [1.0, 3.0]
    write_manifest(audio, table.astype({"start": int, "stop": int}))
    prepare_faces(tmp_path / "data", save, audio, frames_per_second=2)
    found = read_manifest(save / "faces.csv", tmp_path / "data")
    assert found["stop"].tolist() == [2, 8, 9]
    # By far too few frames a second, or too many, they are of another time
    assert "frames_per_second is wrong" in caplog.text  # the piece at 60 s
    caplog.clear()
    write_manifest(audio, table.astype({"start": int, "stop": int})[:2])
    prepare_faces(tmp_path / "data", save, audio, frames_per_second=2)
    assert "frames_per_second is wrong" not in caplog.text
    for rate in (1, 25):
        prepare_faces(tmp_path / "data", save, audio, frames_per_second=rate)
        assert "1 of 1 tracks end at another time" in caplog.text
        caplog.clear()


def test_an_id_that_looks_like_a_piece_is_its_own_track_first(data, save):
    write_frames(data / "1fps" / "id2" / "z" / "00007_0001", "0.jpg")
    audio = write_audio_manifest(save / "train.csv", "id2/z/00007_0001")
    prepare_faces(data, save, audio)
    assert wavs(save) == {"id2/z/00007_0001": "ROOT/1fps/id2/z/00007_0001"}


def test_nobody_has_the_face_of_another(save, tmp_path):
    """Whose recording has the same last parts."""
    for speaker in ("id1", "id2"):
        write_frames(tmp_path / "faces" / speaker / "s" / "v" / "1", "0.jpg")
    names = [f"{speaker}/s/v/1" for speaker in ("id1", "id2")]
    audio = write_audio_manifest(save / "train.csv", *names)
    with pytest.raises(ValueError, match=r"are both s/v/1 .* 3 parts.*id_part"):
        prepare_faces(tmp_path / "faces", save, audio)
    # Also where a third one is named as both are below more folders
    write_audio_manifest(save / "train.csv", "s/v/1", *names)
    with pytest.raises(ValueError, match="are both s/v/1"):
        prepare_faces(tmp_path / "faces", save, audio)
    # and not those without a face
    write_audio_manifest(save / "train.csv", *names, "id1/q/r/1", "id2/q/r/1")
    prepare_faces(tmp_path / "faces", save, audio, id_parts=4)
    assert wavs(save) == {name: f"ROOT/{name}" for name in names}
    write_audio_manifest(save / "train.csv", names[0], "a/q/r/1", "b/q/r/1")
    prepare_faces(tmp_path / "faces", save, audio)
    assert wavs(save) == {names[0]: "ROOT/id1/s/v/1"}


def test_names_that_macos_has_decomposed(save, tmp_path):
    name = unicodedata.normalize("NFD", "René")
    for take in "12":
        write_frames(tmp_path / "data" / name / "x" / take, "0.jpg")
    trials = tmp_path / "trials.txt"
    trials.write_text("1 René/x/1.wav René/x/2.wav\n")
    prepare_faces(tmp_path / "data", save, trials=trials)
    table = read_manifest(save / "faces.csv", tmp_path / "data")
    assert table["ID"].tolist() == ["René/x/1", "René/x/2"]
    assert all(map(os.path.isdir, table["wav"]))


def test_utterances_of_trial_lists(data, save, tmp_path):
    lists = [tmp_path / "a.txt", tmp_path / "b.txt"]
    lists[0].write_text("1 id1/x/00001.wav id1/y/00001.wav\n")
    lists[1].write_text("0 id1/x/00001.wav id9/y/00001.wav\n")
    prepare_faces(data, save, trials=lists, manifest="faces_test.csv")
    table = read_manifest(save / "faces_test.csv", data)
    assert list(table["ID"]) == ["id1/x/00001", "id1/y/00001"]
    assert skipped(save, "faces_test_skipped.csv") == {
        "id9/y/00001": "no face track"
    }


def test_people_of_trial_lists_are_left_out(data, save, tmp_path, caplog):
    trials = tmp_path / "trials.txt"
    trials.write_text("1 id1/x/00001.wav id1/y/00009.wav\n")
    prepare_faces(data, save, exclude=trials)
    assert list(wavs(save)) == ["id2/z/00007"]
    reason = "a speaker of the trial lists"
    assert skipped(save) == dict.fromkeys(
        ["id1/x/00001", "id1/y/00001"], reason
    )
    assert pd.read_csv(save / "speakers.csv")["spk_id"].tolist() == ["id2"]
    trials.write_text("1 00001.wav 00009.wav\n")
    prepare_faces(data, save, exclude=trials)
    assert len(wavs(save)) == 3
    assert "who speaks in 2 of the 2 files" in caplog.text


def test_a_dot_in_a_name_is_no_suffix(data, save, tmp_path):
    for take in ("take.1", "take.2"):
        write_frames(data / "1fps" / "id1" / "x" / take, "0.jpg")
    trials = tmp_path / "trials.txt"
    trials.write_text("1 id1/x/take.1 id1/x/take.2\n")
    prepare_faces(data, save, trials=trials)
    assert list(wavs(save)) == ["id1/x/take.1", "id1/x/take.2"]


def test_what_cannot_be_used_is_listed(data, save, caplog):
    tracks = data / "1fps"
    write_frames(tracks / "id3" / "a" / "00001")
    (tracks / "id3" / "a" / "00001" / "0.jpg").write_text("I am no image.")
    (tracks / "id3" / "a" / "00001" / "1.jpg").touch()
    write_frames(tracks / "id3" / "b" / "00001", "1.jpg")
    (tracks / "id3" / "b" / "00001" / "0.jpg").write_text("I am no image.")
    write_frames(data / "2fps" / "id1" / "x" / "00001", "0.jpg")
    write_frames(data / "plots", "0.png")
    write_frames(tracks / "id3" / "$HOME" / "00001", "0.jpg")
    (tracks / "id3" / "c" / "00001").mkdir(parents=True)
    (tracks / "id3" / "c" / "00001" / "0.jpg").symlink_to("nothing")
    write_frames(tracks / "id3" / "d" / "00001", "1.jpg")
    for name in ["d", "e"]:
        (tracks / "id3" / name / "00001").mkdir(parents=True, exist_ok=True)
        black = Image.new("RGB", (8, 8))
        black.save(tracks / "id3" / name / "00001" / "0.jpg")
    with caplog.at_level(logging.INFO):
        prepare_faces(data, save)
    # One image of id3/b can be read, one of id3/d is not black: they stay.
    assert len(wavs(save)) == 5
    assert wavs(save)["id1/x/00001"] == "ROOT/1fps/id1/x/00001"
    assert skipped(save) == {
        "id3/a/00001": BLANK,
        "id3/c/00001": BLANK,
        "id3/e/00001": BLANK,
        "id1/x/00001": "another track has this ID",
        "plots": "a path of fewer than 3 parts",
        "1fps/id3/$HOME/00001": "a name with control characters, $ or a space "
        "first",
    }
    assert f"3 skipped: {BLANK}" in caplog.text


def test_broken_track_leaves_its_utterance_audio_only(data, save, caplog):
    (data / "1fps" / "id2" / "z" / "00007" / "0.jpg").write_text("no image")
    audio = write_audio_manifest(
        save / "train.csv", "id1/x/00001", "id2/z/00007_0001"
    )
    with caplog.at_level(logging.INFO):
        prepare_faces(data, save, audio)
    assert skipped(save) == {"id2/z/00007_0001": BLANK}
    assert "1 utterances have a face, 1 are audio-only, 1 tra" in caplog.text


def test_folder_without_permission(open_folder, no_root):
    write_frames(open_folder / "data" / "id1" / "x" / "1", "0.jpg")
    write_frames(open_folder / "data" / "id1" / "x" / "2", "0.jpg")
    (open_folder / "data" / "id1" / "x" / "2").chmod(0)
    with no_root():
        prepare_faces(open_folder / "data", open_folder / "save")
    (open_folder / "data" / "id1" / "x" / "2").chmod(0o777)
    assert skipped(open_folder / "save") == {
        "id1/x/2": "not accessible (Permission denied)"
    }


def test_several_folders_give_absolute_paths(data, save, tmp_path):
    write_frames(tmp_path / "more" / "id5" / "x" / "00001", "0.jpg")
    prepare_faces([data, tmp_path / "more"], save)
    found = wavs(save, None)
    assert found["id5/x/00001"] == f"{tmp_path}/more/id5/x/00001"
    assert found["id1/x/00001"] == f"{data}/1fps/id1/x/00001"


def test_glob_says_which_images_are_taken(data, save):
    prepare_faces(data, save, glob="1fps/id1/**/*.jpg")
    table = read_manifest(save / "faces.csv", data)
    assert dict(zip(table["ID"], table["wav"])) == {
        "id1/x/00001": f"{data}/1fps/id1/x/00001"
    }
    # Of the other one a reader would take all three, masks or not
    assert skipped(save) == {"id1/y/00001": "images that the glob leaves out"}


def test_nothing_is_done_again(data, save, caplog):
    audio = write_audio_manifest(save / "train.csv", "id1/x/00001")

    def prepare(**options):
        caplog.clear()
        with caplog.at_level(logging.INFO):
            prepare_faces(data, save, **options)
        return "nothing has changed" not in caplog.text

    assert prepare(audio_manifest=audio)
    before = snapshot(save)
    assert not prepare(audio_manifest=audio)
    assert snapshot(save) == before
    assert prepare()
    assert not prepare()
    write_frames(data / "1fps" / "id2" / "z" / "00007", "1.jpg")
    assert prepare()
    assert prepare(frames_per_second=2)
    write_audio_manifest(audio, "id1/x/00001", "id1/y/00001")
    assert prepare(audio_manifest=audio)
    assert not prepare(audio_manifest=audio)
    (save / "faces_skipped.csv").unlink()
    assert prepare(audio_manifest=audio)
    assert len(wavs(save)) == 2


def test_mistakes_are_explained(data, save, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No folder .*your faces"):
        prepare_faces(tmp_path / "gone", save)
    with pytest.raises(FileNotFoundError, match="No manifest at"):
        prepare_faces(data, save, audio_manifest=tmp_path / "gone.csv")
    with pytest.raises(ValueError, match="no layout 'round': give folders or"):
        prepare_faces(data, save, layout="round")
    with pytest.raises(ValueError, match="id_parts=1: give 2 or more"):
        prepare_faces(data, save, id_parts=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"No face tracks .*no images or vid"):
        prepare_faces(tmp_path / "empty", save)
    audio = write_audio_manifest(save / "train.csv", "id9/x/00001")
    with pytest.raises(ValueError, match=r"1 skipped: no face track"):
        prepare_faces(data, save, audio)
    assert not (save / "faces.csv").exists()


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    write_video(folder / "mp4" / "id1" / "x" / "00001.mp4", seconds=2.5)
    write_video(folder / "mp4" / "id2" / "x" / "00001.mp4", seconds=1)
    (folder / "mp4" / "id2" / "x" / "00002.mp4").write_text("I am no video.")
    return folder


def test_frames_of_videos(videos, save, tmp_path):
    prepare_faces(
        videos, save, frame_folder=tmp_path / "frames", frames_per_second=2
    )
    found = wavs(save)
    assert found == {
        name: f"{tmp_path}/frames/{name}"
        for name in ["id1/x/00001", "id2/x/00001"]
    }
    assert sorted(os.listdir(found["id1/x/00001"])) == [
        f"0000{i}.jpg" for i in range(5)
    ]
    levels = FaceReader(found["id1/x/00001"]).read().float().mean((1, 2, 3))
    assert levels.tolist() == pytest.approx([20, 25, 30, 35, 40], abs=2)
    (reason,) = skipped(save).values()
    assert reason.startswith("not readable as video (Invalid data")
    table = read_manifest(save / "faces.csv", "")
    assert list(table["duration"]) == [2.5, 1.0]


def test_a_video_that_shows_nothing_is_left_out(save, tmp_path):
    """As a folder of such images is."""
    folder = tmp_path / "videos"
    for name, contrast in {"00001": 0, "00002": 40}.items():
        write_video(folder / "id1" / "x" / f"{name}.mp4", 1, contrast=contrast)
    prepare_faces(folder, save, frame_folder=tmp_path / "frames")
    assert list(wavs(save)) == ["id1/x/00002"]
    (reason,) = skipped(save).values()
    assert reason == "no image in it that is readable and not blank"


def test_frames_are_sampled_once(videos, save, tmp_path):
    frames = videos / "frames"  # below the data: not taken for tracks

    def prepare(**options):
        prepare_faces(videos, save, frame_folder=frames, **options)
        first = frames / "id1" / "x" / "00001" / "00000.jpg"
        return first.stat().st_mtime_ns

    first = prepare()
    assert prepare() == first
    for name in ("faces.csv", "faces.json", "faces_skipped.csv"):
        (save / name).unlink()
    # It could be that of voices
    with pytest.raises(ValueError, match=r"speakers\.csv is there, was"):
        prepare()
    (save / "speakers.csv").unlink()
    assert prepare() == first
    second = prepare(frames_per_second=4)
    assert second > first
    assert list(read_manifest(save / "faces.csv", "")["stop"]) == [10, 4]
    # By an older one, as by rsync -a
    video = videos / "mp4" / "id1" / "x" / "00001.mp4"
    os.utime(video, (1e9, 1e9))
    assert prepare(frames_per_second=4) > second
    (frames / "id2" / "x" / "00001" / "00003.jpg").unlink()
    prepare(frames_per_second=4)
    assert list(read_manifest(save / "faces.csv", "")["stop"]) == [10, 3]


def test_frames_of_another_corpus_are_neither_taken_nor_replaced(tmp_path):
    frames = tmp_path / "frames"
    for name in ["train", "test"]:
        write_video(tmp_path / name / "id1" / "x" / "1.mp4", seconds=1)
    prepare_faces(tmp_path / "train", tmp_path / "a", frame_folder=frames)
    before = snapshot(frames)
    with pytest.raises(ValueError, match="give each folder of faces a frame_f"):
        prepare_faces(tmp_path / "test", tmp_path / "b", frame_folder=frames)
    assert snapshot(frames) == before
    # Moved, it is the same corpus
    (tmp_path / "train").rename(tmp_path / "moved")
    prepare_faces(tmp_path / "moved", tmp_path / "c", frame_folder=frames)


def test_frames_of_others_are_not_replaced(videos, save, tmp_path):
    """Such as those of ffmpeg, which counts from 1."""
    mine = tmp_path / "frames" / "id1" / "x" / "00001"
    mine.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(mine / "00001.jpg")
    (mine / "notes.txt").write_text("by hand")
    prepare_faces(videos, save, frame_folder=tmp_path / "frames")
    assert sorted(os.listdir(mine)) == ["00001.jpg", "notes.txt"]
    assert list(wavs(save)) == ["id2/x/00001"]
    assert "holds other files" in skipped(save)["id1/x/00001"]


def test_only_videos_with_an_utterance_are_decoded(videos, save, tmp_path):
    audio = write_audio_manifest(save / "train.csv", "id2/x/00001")
    prepare_faces(videos, save, audio, frame_folder=tmp_path / "frames")
    assert os.listdir(tmp_path / "frames") == ["id2"]
    assert skipped(save) == {}


def test_images_are_taken_rather_than_the_video(videos, data, save):
    (videos / "mp4" / "id2" / "x" / "00001.mp4").unlink()
    (videos / "mp4" / "id2" / "x" / "00002.mp4").unlink()
    (videos / "mp4").rename(data / "mp4")
    prepare_faces(data, save)
    assert wavs(save)["id1/x/00001"] == "ROOT/1fps/id1/x/00001"
    assert skipped(save) == {"id1/x/00001": "another track has this ID"}


def test_videos_need_a_folder_and_pyav(videos, save, monkeypatch):
    with pytest.raises(ValueError, match=r"3 face track\(s\) are videos.*give"):
        prepare_faces(videos, save)
    with pytest.raises(ValueError, match=r"frame_folder .* would mix"):
        prepare_faces(videos, save, frame_folder=videos)
    monkeypatch.setitem(sys.modules, "av", None)
    frames = videos.parent / "frames"
    with pytest.raises(ImportError, match=r"^3 video\(s\) have .*\[convert\]"):
        prepare_faces(videos, save, frame_folder=frames)


def test_of_a_damaged_video_is_taken_what_there_is(tmp_path, caplog):
    """Frames of other stretches than that of the damage."""
    video = tmp_path / "a.mp4"
    write_video(video, seconds=20, movflags="faststart")
    damaged = bytearray(video.read_bytes())
    place = len(damaged) // 2
    damaged[place : place + place // 4] = bytes(place // 4)
    video.write_bytes(damaged)
    assert sample_frames([video], [tmp_path / "part"], 1) == [""]
    assert 10 < len(os.listdir(tmp_path / "part")) < 20
    # In this process, where its words are heard
    assert not _sample(video, tmp_path / "again", 1)
    assert f"{video} is damaged or cut short" in caplog.text


def test_videos_without_pictures(tmp_path):
    with av.open(str(tmp_path / "a.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16000, layout="mono")
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 16000), np.float32), "fltp", "mono"
        )
        frame.sample_rate = 16000
        for part in [frame, None]:
            container.mux(stream.encode(part))
    os.mkfifo(tmp_path / "fifo.mp4")
    names = ["a", "gone", "fifo"]
    assert sample_frames(
        [tmp_path / f"{name}.mp4" for name in names],
        [tmp_path / "frames" / name for name in names],
    ) == [
        "not usable (no video in it)",
        "not readable as video (No such file or directory)",
        "not readable as video (no plain file)",
    ]
    assert not (tmp_path / "frames").exists()


def test_killed_and_started_again(tmp_path):
    videos = [tmp_path / f"{i}.mp4" for i in range(16)]
    folders = [tmp_path / "frames" / f"{i}" for i in range(16)]
    write_video(videos[0], seconds=20)
    for video in videos[1:]:
        video.write_bytes(videos[0].read_bytes())
    # A session of its own, so that its workers are killed too.
    process = multiprocessing.get_context("fork").Process(
        target=lambda: os.setsid() or sample_frames(videos, folders, 10, 2)
    )
    process.start()
    while sum(folder.exists() for folder in folders) < 2:
        assert process.is_alive()
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.join()
    there = snapshot(tmp_path / "frames")
    assert 2 <= sum(folder.exists() for folder in folders) < 16
    assert sample_frames(videos, folders, 10) == [""] * 16
    for folder in folders:
        assert len(os.listdir(folder)) == 200
    for path, mtime in there.items():
        if path.parent in folders and path.name.endswith(".jpg"):
            assert path.stat().st_mtime_ns == mtime
