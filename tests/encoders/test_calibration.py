import shutil

import numpy as np
import pytest

from speechbrain.inference.speaker import SpeakerRecognition
from speechbrain_cadino.encoders.calibration import (
    ScoreCalibration,
    forget_calibration,
    read_calibration,
    write_calibration,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.encoders.trust import copy_known


def test_it_is_kept_in_the_folder_and_told_to_all(encoder_folder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    (folder / "README.md").write_text("# A card\n")
    assert read_calibration(folder) is None
    before = (folder / "hyperparams.yaml").read_text()
    for offset in [-1.0, -4.2]:
        calibration = ScoreCalibration(offset, 10.0, "crops", 400, 40)
        write_calibration(folder, calibration)
        assert read_calibration(folder) == calibration
    line = "Threshold: the same person above a score of 0.420 (crops)\n"
    after = (folder / "hyperparams.yaml").read_text()
    # In the comment at the top, and nothing else has changed
    assert f"\n# {line}" in after
    assert after.replace(f"# {line}", "") == before
    assert after.index(line) < after.index("sample_rate")
    card = folder / "README.md"
    assert card.read_text() == f"# A card\n\n{line}"
    card.write_text(f"# A card\n\n{line}\nThe end\n")
    write_calibration(folder, calibration._replace(slope=20.0))
    changed = line.replace("0.420", "0.210")
    assert card.read_text() == f"# A card\n\n{changed}\nThe end\n"
    forget_calibration(folder)
    assert read_calibration(folder) is None
    for name in ("README.md", "hyperparams.yaml"):
        text = (folder / name).read_text()
        assert text.count("Threshold: none yet") == 1
        assert "above a score" not in text
    (tmp_path / "copy").mkdir()
    copy_known(folder, tmp_path / "copy")
    SpeakerRecognition.from_hparams(source=str(folder))


def test_a_card_in_another_encoding_stays_in_it(encoder_folder, tmp_path):
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    card = folder / "README.md"
    card.write_text("Für Anna\n", encoding="latin-1")
    calibration = ScoreCalibration(-1.0, 10.0, "crops", 400, 40)
    write_calibration(folder, calibration)
    assert read_calibration(folder) == calibration
    assert card.read_bytes().startswith(b"F\xfcr Anna\n\nThreshold: ")


def test_a_byte_order_mark_of_another_editor_breaks_nothing(
    encoder_folder, tmp_path
):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text(), encoding="utf-8-sig")
    write_calibration(folder, ScoreCalibration(-1.0, 10.0, "crops", 400, 40))
    assert "# Threshold: " in path.read_text()
    load_encoder(folder)


def test_answers_are_sure_at_a_probability_of_nine_tenths():
    calibration = ScoreCalibration(-5.0, 10.0, "trials", 400, 40)
    scores = np.linspace(-1, 1, 2001)
    likely = 1 / (1 + np.exp(5 - 10 * scores))
    expected = np.where(
        likely > 0.9, "same", np.where(likely < 0.1, "different", "unsure")
    )
    assert list(calibration.answers(scores)) == list(expected)
    assert set(expected) == {"same", "different", "unsure"}


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"method": "crops"}',
        '{"calibration": {"offset": 1, "score": -2}, "method": "", '
        '"n_pairs": 1, "n_same": 1}',
    ],
)
def test_a_file_that_is_no_calibration(text, tmp_path):
    (tmp_path / "calibration.json").write_text(text)
    with pytest.raises(ValueError, match=r"calibration.json.* again"):
        read_calibration(tmp_path)


def test_what_is_no_calibration_is_one_sentence(tmp_path):
    path = tmp_path / "calibration.json"
    calibration = ScoreCalibration(-1.0, 10.0, "crops", 400, 40)
    write_calibration(tmp_path, calibration)
    good = path.read_text()
    for text in (
        "[" * 200_000,
        " " * 2**16 + good,
        good.replace("40", "Infinity"),
        good.replace("crops", "\\u001b[2J"),
        good.replace("crops", "a" * 60_000),
        good.replace("crops", "\xe9" * 60_000),
    ):
        assert text != good
        path.write_text(text, encoding="latin-1")
        with pytest.raises(ValueError, match="is no calibration") as error:
            read_calibration(tmp_path)
        assert str(error.value).isprintable()
        assert len(str(error.value)) < 500
