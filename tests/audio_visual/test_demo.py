import numpy as np
import pandas as pd
import pytest
from PIL import Image

from speechbrain_cadino.audio_visual.demo import prepare_demo_faces
from speechbrain_cadino.demo.corpus import prepare_demo


@pytest.fixture(scope="module")
def voices(tmp_path_factory):
    """A demo corpus of five voices."""
    folder = tmp_path_factory.mktemp("voices") / "demo"
    prepare_demo(folder, train_voices=3, test_voices=2, utterances=4)
    return folder


@pytest.fixture(scope="module")
def faces(voices):
    prepare_demo_faces(voices, missing=0.25, frames=2, num_workers=1)
    return voices


def pictures(folder):
    paths = sorted((folder / "face").rglob("*.jpg"))
    return {str(p.relative_to(folder)): p.read_bytes() for p in paths}


def test_tracks_have_the_ids_of_the_utterances(faces):
    train = pd.read_csv(faces / "train.csv")["ID"]
    table = pd.read_csv(faces / "faces.csv")
    assert set(table["ID"]) <= set(train)
    skipped = pd.read_csv(faces / "faces_skipped.csv")
    assert set(table["ID"]) | set(skipped["ID"]) == set(train)
    assert (table["stop"] == 2).all()
    test = pd.read_csv(faces / "faces_test.csv")["ID"]
    assert set(test.str[:4]) == {"v000", "v001"}
    # True speakers are where they were, and nowhere else
    assert "spk_id" not in table


def test_a_person_looks_alike_and_unlike_others(faces):
    """By the mean picture of the head: people differ more than frames do."""
    means = {}
    for voice in sorted((faces / "face").iterdir()):
        frames = [
            np.asarray(Image.open(path).convert("L"), float)
            for path in sorted(voice.rglob("*.jpg"))
        ]
        assert all(frame.shape == (64, 64) for frame in frames)
        halves = frames[::2], frames[1::2]
        means[voice.name] = [np.mean(half, 0)[20:50, 16:48] for half in halves]
    same = np.mean([np.abs(a - b).mean() for a, b in means.values()])
    others = [
        np.abs(one[0] - other[1]).mean()
        for name, one in means.items()
        for another, other in means.items()
        if name != another
    ]
    assert same < np.mean(others)


def test_the_same_bytes_also_after_a_kill(faces, tmp_path):
    before = pictures(faces)
    tracks = sorted({name.rpartition("/")[0] for name in before})
    for name in before:
        if name.startswith((tracks[0], tracks[-1])):
            (faces / name).unlink()
    (faces / tracks[0]).rmdir()
    (faces / tracks[-1]).rmdir()
    for name in ("faces.csv", "faces.json", "faces_skipped.csv"):
        (faces / name).unlink()
    prepare_demo_faces(faces, missing=0.25, frames=2, num_workers=2)
    assert pictures(faces) == before


def test_without_voices_there_are_no_faces(tmp_path):
    with pytest.raises((FileNotFoundError, ValueError), match="demo corpus"):
        prepare_demo_faces(tmp_path)


def test_other_settings_are_refused(faces):
    with pytest.raises(ValueError, match="other settings"):
        prepare_demo_faces(faces, frames=3)
