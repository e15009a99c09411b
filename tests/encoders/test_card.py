"""Instructions of a model card: what it says can be done."""

import re
import shutil

import numpy as np
import pandas as pd
import soundfile
import torch
from PIL import Image
from ruamel.yaml import YAML

from speechbrain_cadino.encoders.calibration import (
    ScoreCalibration,
    write_calibration,
)
from speechbrain_cadino.encoders.card import write_card
from speechbrain_cadino.runs.finish import where_to_go

TABLE = pd.DataFrame({"ID": ["a", "b"], "start": 0, "stop": 43_200_000})


def example(folder, **names):
    """The code in the card of a folder, with files that are there."""
    card = (folder / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall("```python\n(.*?)```", card, re.DOTALL)
    for name, path in {"this folder": folder, **names}.items():
        assert f'"{name}"' in code
        code = code.replace(f'"{name}"', repr(str(path)))
    return card, code


def test_settings_are_numbers_words_and_lists_of_these(
    encoder_folder, tmp_path
):
    """Neither paths, nor objects."""
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    settings = YAML().load(
        """
        sample_rate: 16000
        lr: 1e-3
        speeds: [1.0, 0.9, 1.1]
        train_only: []
        num_clusters: [7, /home/anne]
        target: !new:targets.Centering {out_dim: 8}
        gate: a|b
        """
    )
    write_card(folder, settings, TABLE)
    card = (folder / "README.md").read_text(encoding="utf-8")
    rows = [line for line in card.splitlines() if line.startswith("|")]
    assert rows[2:] == [
        "| lr | 0.001 |",
        "| speeds | 1.0, 0.9, 1.1 |",
        "| gate | a/b |",
    ]


def test_where_labels_have_come_in_is_told(encoder_folder, tmp_path):
    """By an encoder to start from, and by a joined manifest."""
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    table = pd.DataFrame(
        {
            "ID": list("abcd"),
            "start": 0,
            "stop": 57_600_000,
            "spk_id": ["anna", "bob", "7", "8"],
            "trusted": [1, 1, 0, 0],
        }
    )
    settings = {"sample_rate": 16000, "start_encoder": "/home/anne/encoder"}
    write_card(folder, settings, table)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "2 recordings, 2.0 hours, in 2 classes: clusters" in card
    assert "And with speaker labels: 2 recordings of 2 speakers." in card
    assert "It began as another encoder" in card
    assert "anne" not in card
    write_card(folder, settings, None, labelled=table[:3])
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "\nWith speaker labels: 3 recordings of 3 speakers. It began" in card


def test_speakers_that_were_trained_on_are_told(encoder_folder, tmp_path):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    results = {"trials": 9, "targets": 3, "eer": 0.5, "min_dcf_0.01": 0.1}
    for known in (0, 3):
        overlap = {"test_speakers": 4, "trained_on": known}
        results["training_overlap"] = overlap
        write_card(folder, {"sample_rate": 16000}, TABLE, results)
        card = (folder / "README.md").read_text(encoding="utf-8")
        said = "3 of the 4 speakers of these trials were trained on" in card
        assert said == bool(known)


def test_the_example_of_a_voice_runs(encoder_folder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    calibration = ScoreCalibration(-4.0, 10.0, "crops", 400, 40)
    write_calibration(folder, calibration)
    write_card(folder, {"sample_rate": 16000}, TABLE)
    rng = np.random.default_rng(0)
    names = {"one.wav": tmp_path / "1.wav", "other.wav": tmp_path / "2.wav"}
    for path in names.values():
        soundfile.write(path, 0.1 * rng.standard_normal(16000), 16000)
    card, code = example(folder, **names)
    scope = {"wavs": torch.randn(2, 16000)}
    exec(code, scope)
    assert scope["embeddings"].shape == (2, 1, 12)
    assert -1 <= scope["score"].item() <= 1
    assert "Threshold: the same person above a score of 0.400 (crops)" in card
    assert "2 recordings, 1.5 hours" in card


def test_the_example_of_a_face_runs(face_encoder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(face_encoder, folder)
    write_card(folder, {"sample_rate": 1}, TABLE)
    frames = tmp_path / "frames"
    frames.mkdir()
    rng = np.random.default_rng(0)
    for number in range(3):
        picture = rng.integers(0, 255, (20, 20, 3), np.uint8)
        Image.fromarray(picture).save(frames / f"{number}.png")
    card, code = example(folder, **{"folder of frames": frames})
    scope = {}
    exec(code, scope)
    assert scope["embedding"].flatten().shape == (6,)
    assert "An encoder of faces" in card
    assert "2 tracks of faces" in card
    # The next command after a training would be of voices
    assert "README.md in it tells how to load it." in where_to_go(folder)
    assert "Threshold: none yet" in card
