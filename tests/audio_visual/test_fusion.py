"""Voice and face of the corpus: drawn spectra, drawn stripes."""

import functools
import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression

from speechbrain_cadino.audio_visual.face_resnet import FaceResNet
from speechbrain_cadino.audio_visual.fusion import (
    _calibrated,
    fuse,
    verify_fused,
)
from speechbrain_cadino.audio_visual.trials import (
    FaceTrialEvaluator,
    face_tracks,
)
from speechbrain_cadino.embeddings.embedder import Embedder
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.verification.evaluate import TrialEvaluator, verify
from speechbrain_cadino.verification.results import Assessor


@pytest.fixture(scope="module")
def faces(corpus, tmp_path_factory):
    """A folder of face tracks for the corpus, all but that of b/2."""
    folder = tmp_path_factory.mktemp("tracks")
    rows = ["ID,duration,wav,start,stop"]
    rng = np.random.default_rng(0)
    for speaker in "abcd":
        pattern = rng.integers(256, size=(16, 16, 3))
        for number in range(3):
            if (speaker, number) == ("b", 2):
                continue
            track = folder / speaker / str(number)
            track.mkdir(parents=True)
            for frame in range(2 + number):
                noise = rng.integers(-40, 40, size=pattern.shape)
                image = np.clip(pattern + noise, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(track / f"{frame}.png")
            frames = 2 + number
            rows.append(
                f"{speaker}/{number},{frames}.0,"
                f"$data_root/{speaker}/{number},0,{frames}"
            )
    (folder / "faces.csv").write_text("\n".join(rows) + "\n")
    return folder


def lists_of(trials, corpus, faces):
    """A trial list by voice and by face."""
    seen = FaceTrialEvaluator(
        trials, faces, 1, manifest=faces / "faces.csv", keep_unseen=True
    )
    return TrialEvaluator(trials, corpus), seen


def test_an_encoder_of_faces_comes_with_its_reader(face_encoder, faces):
    loaded = load_encoder(face_encoder, trusted=False)
    text = (face_encoder / "hyperparams.yaml").read_text()
    assert "face_compute_features" not in text
    with loaded.reader(faces / "a" / "0") as track:
        frames = track.read()
        assert frames.shape == (2, 3, 16, 16)
    # As the module in the run would
    torch.manual_seed(3)
    model = FaceResNet([4, 8], [1, 1], lin_neurons=6).eval()
    pixels = frames[None].float()
    mean = pixels.mean((2, 3, 4), keepdim=True)
    variance = pixels.var((2, 3, 4), keepdim=True)
    expected = model((pixels - mean) / (variance + 1).sqrt())
    torch.testing.assert_close(loaded.encode_batch(frames[None]), expected)


def test_the_table_of_voice_face_and_both(
    corpus, encoder_folder, face_encoder, faces, tmp_path
):
    results = verify_fused(
        tmp_path,
        load_encoder(encoder_folder),
        load_encoder(face_encoder),
        *lists_of(corpus / "trials.txt", corpus, faces),
    )
    assert list(results["systems"]) == ["audio", "face", "fused"]
    # b/2.wav is in 11 of the 66 trials
    assert results["systems"]["face"]["unseen"] == 11
    scores = {
        name: _read(tmp_path / f"scores_{name}.txt")
        for name in results["systems"]
    }
    seen = [trial for trial in scores["face"] if "b/2.wav" not in trial]
    mean = np.mean([scores["face"][trial] for trial in seen])
    for trial, fused in scores["fused"].items():
        audio, face = scores["audio"][trial], scores["face"][trial]
        if "b/2.wav" in trial:
            assert face == pytest.approx(mean, abs=1e-4)
            assert fused == pytest.approx(audio, abs=1e-4)
        else:
            assert fused == pytest.approx((audio + face) / 2, abs=1e-4)
    # Patterns without much noise are told apart even by an untrained encoder
    tracks = FaceTrialEvaluator(
        corpus / "trials.txt", faces, 1, manifest=faces / "faces.csv"
    )
    alone = verify(tmp_path / "face", load_encoder(face_encoder), tracks)
    assert alone["trials"] == 55
    kept = (tmp_path / "face" / "scored_trials.txt").read_text()
    assert len(kept.splitlines()) == 55
    saved = json.loads((tmp_path / "metrics.json").read_text())
    assert saved == results


def test_a_mistake_shows_before_the_work(corpus, faces, tmp_path):
    lists = lists_of(corpus / "trials.txt", corpus, faces)
    assess = functools.partial(Assessor, groups=tmp_path / "typo.csv")
    with pytest.raises(FileNotFoundError, match=r"typo\.csv"):
        verify_fused(tmp_path, None, None, *lists, assessor=assess)
    voices = Embedder(None, source="my/voices")
    with pytest.raises(ValueError, match="my/voices is no encoder of faces"):
        verify_fused(tmp_path, None, voices, *lists)


def test_what_cannot_be_read_takes_no_trial_for_another(
    corpus, encoder_folder, face_encoder, faces, tmp_path, caplog
):
    """A voice that is silent, and a face that is broken: as many trials each,
    but not the same."""
    heard = shutil.copytree(corpus, tmp_path / "corpus")
    wav, rate = soundfile.read(heard / "wav" / "a" / "0.wav")
    soundfile.write(heard / "wav" / "a" / "0.wav", 0 * wav, rate)
    seen = shutil.copytree(faces, tmp_path / "faces")
    (seen / "b" / "1" / "1.png").write_bytes(b"no picture")
    encoders = load_encoder(encoder_folder), load_encoder(face_encoder)
    lists = lists_of(corpus / "trials.txt", heard, seen)
    results = verify_fused(tmp_path / "both", *encoders, *lists)
    assert results["trials"] == 55
    # b/1 and b/2, but not where a/0 is the other side
    assert results["systems"]["face"]["unseen"] == 19
    assert "11 of 66 trials have no score" in caplog.text
    scored = _read(tmp_path / "both" / "scores_audio.txt").keys()
    kept = (tmp_path / "both" / "scored_trials.txt").read_text()
    assert {tuple(row.split()[1:]) for row in kept.splitlines()} == scored
    alone = lists_of(corpus / "trials.txt", corpus, faces)
    expected = [
        dict(zip(map(tuple, one.trials[["enrol", "test"]].to_numpy()), scores))
        for one, encoder in zip(alone, encoders)
        for scores in [one.scores(encoder)]
    ]
    for trial, fused in _read(tmp_path / "both" / "scores_fused.txt").items():
        voice, face = (scores[trial] for scores in expected)
        blind = {"b/1.wav", "b/2.wav"} & set(trial)
        both = voice if blind else (voice + face) / 2
        assert fused == pytest.approx(both, abs=1e-4)


def _read(path):
    rows = (line.split() for line in path.read_text().splitlines())
    return {(enrol, test): float(score) for enrol, test, score in rows}


def test_calibrated_on_other_trials(
    corpus, encoder_folder, face_encoder, faces, tmp_path
):
    lines = (corpus / "trials.txt").read_text().splitlines()
    for name, voices in [("one", "ab"), ("other", "cd")]:
        mine = [
            line
            for line in lines
            if all(side[0] in voices for side in line.split()[1:])
        ]
        (tmp_path / f"{name}.txt").write_text("\n".join(mine))
    embedders = load_encoder(encoder_folder), load_encoder(face_encoder)
    one = lists_of(tmp_path / "one.txt", corpus, faces)
    other = lists_of(tmp_path / "other.txt", corpus, faces)
    results = verify_fused(tmp_path, *embedders, *one, *other)
    assert "cllr" in results["systems"]["fused+calibrated"]
    own, others = (
        {
            "audio": heard.scores(embedders[0]),
            "face": seen.scores(embedders[1]),
        }
        for heard, seen in (one, other)
    )
    targets = other[0].trials["target"].to_numpy()
    fused = _read(tmp_path / "scores_fused+calibrated.txt").values()
    expected = _calibrated(own, others, targets)
    np.testing.assert_allclose([*fused], expected, atol=1e-4)
    with pytest.raises(ValueError, match="in calibration_trials"):
        verify_fused(tmp_path, *embedders, *one, *one)


def test_a_trial_without_a_face_is_calibrated_by_its_voice():
    """Also where all that is learnt from have faces."""
    rng = np.random.default_rng(0)
    targets = np.arange(300) % 2 == 0
    voice, face = rng.normal(targets[:, None] * [1, 3], 1, (300, 2)).T
    new = {"audio": np.array([0.3, 0.3]), "face": np.array([2.0, np.nan])}
    found = _calibrated(new, {"audio": voice, "face": face}, targets)
    expected = []
    for known, asked in [((voice, face), [0.3, 2.0]), ((voice,), [0.3])]:
        known = np.stack(known, 1)
        mean, deviation = known.mean(0), known.std(0)
        model = LogisticRegression(
            C=100, class_weight="balanced", tol=1e-9, max_iter=1000
        )
        model.fit((known - mean) / deviation, targets)
        expected += [*model.decision_function([(asked - mean) / deviation])]
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert abs(found[1]) < 0.5 < found[0]


def test_no_face_of_the_list_is_there(corpus, face_encoder, faces, tmp_path):
    text = (faces / "faces.csv").read_text()
    (tmp_path / "others.csv").write_text(text.replace("\na/", "\nx/"))
    (tmp_path / "trials.txt").write_text("1 a/0.wav a/1.wav\n0 a/0.wav a/2.wav")
    evaluate = functools.partial(
        FaceTrialEvaluator, tmp_path / "trials.txt", faces, 1
    )
    with pytest.raises(ValueError, match="the face of none of the 3 files"):
        evaluate(manifest=tmp_path / "others.csv")


def test_faces_lie_in_one_folder(tmp_path):
    trials = pd.DataFrame({"enrol": ["a/1.wav"], "test": ["b/1.wav"]})
    with pytest.raises(ValueError, match="below one folder, not x or y"):
        face_tracks(trials, tmp_path / "faces.csv", ["x", "y"])


def test_the_mean_of_what_is_there():
    fused = fuse(np.array([0.2, 0.2]), np.array([0.4, np.nan]))
    assert fused.tolist() == pytest.approx([0.3, 0.2])
