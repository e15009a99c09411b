import unicodedata

import pandas as pd
import pytest
from hyperpyyaml import load_hyperpyyaml

from speechbrain.utils.distributed import run_on_main
from speechbrain_cadino.dataio.manifest import read_manifest
from speechbrain_cadino.prepare.voxceleb import prepare_voxceleb

UTTERANCES = [f"{s}/{v}/00001" for s in ("id1", "id2", "id3") for v in "xy"]


@pytest.fixture
def voxceleb(tmp_path, write_tone):
    def make(below, suffix=".wav", name="data", utterances=UTTERANCES):
        for utterance in utterances:
            write_tone(tmp_path / name / below / f"{utterance}{suffix}")
        return tmp_path / name

    return make


def check(save, expected):
    assert list(read_manifest(save / "train.csv", "")["ID"]) == expected
    speakers = pd.read_csv(save / "speakers.csv")
    assert list(speakers["ID"]) == expected
    assert list(speakers["spk_id"]) == [name[:3] for name in expected]


@pytest.mark.parametrize("below", ["wav", "dev/wav", "."])
@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_layouts(voxceleb, tmp_path, below, suffix):
    data = voxceleb(below, suffix)
    (data / "meta").mkdir()
    (data / "meta" / "veri_test.txt").write_text("1 a b\n")
    prepare_voxceleb(data, tmp_path / "save")
    check(tmp_path / "save", UTTERANCES)
    assert (
        read_manifest(tmp_path / "save" / "train.csv", data)
        .wav.map(lambda path: open(path, "rb").close() is None)
        .all()
    )


def test_no_label_in_the_manifest(voxceleb, tmp_path):
    prepare_voxceleb(voxceleb("wav"), tmp_path / "save")
    columns = pd.read_csv(tmp_path / "save" / "train.csv").columns
    assert list(columns) == ["ID", "duration", "wav", "start", "stop"]


def test_trial_speakers_are_left_out(voxceleb, tmp_path):
    trials = tmp_path / "trials.txt"
    trials.write_text("0 id1/x/00001.wav id3/x/00001.wav\n")
    prepare_voxceleb(voxceleb("wav"), tmp_path / "save", trials)
    check(tmp_path / "save", ["id2/x/00001", "id2/y/00001"])
    skipped = pd.read_csv(tmp_path / "save" / "skipped.csv")
    assert list(skipped["reason"]) == ["a speaker of the trial lists"] * 4


@pytest.mark.parametrize("spelled", ["NFC", "NFD"])
def test_trial_speakers_whose_folders_macos_has_decomposed(
    voxceleb, tmp_path, spelled
):
    names = [unicodedata.normalize("NFD", f"josé/x/{i}") for i in "12"]
    data = voxceleb("wav", utterances=[*names, "id2/x/00001"])
    trials = tmp_path / "trials.txt"
    line = "1 josé/x/1.wav josé/x/2.wav\n"
    trials.write_text(unicodedata.normalize(spelled, line))
    prepare_voxceleb(data, tmp_path / "save", trials)
    check(tmp_path / "save", ["id2/x/00001"])


def test_two_folders_and_a_wav_beside_the_m4a(voxceleb, tmp_path):
    one = voxceleb("wav", name="vox1", utterances=UTTERANCES[:2])
    two = voxceleb("dev/wav", name="vox2", utterances=UTTERANCES[2:])
    m4a = two / "dev" / "aac" / f"{UTTERANCES[2]}.m4a"
    m4a.parent.mkdir(parents=True)
    m4a.write_bytes(b"?")
    prepare_voxceleb([one, two], tmp_path / "save")
    check(tmp_path / "save", UTTERANCES)
    skipped = pd.read_csv(tmp_path / "save" / "skipped.csv")
    assert list(skipped["wav"]) == [str(m4a)]


def test_the_same_id_in_two_folders_is_told_with_a_way_out(voxceleb, tmp_path):
    one = voxceleb("wav", name="vox1", utterances=UTTERANCES[:2])
    two = voxceleb("wav", name="vox2", utterances=UTTERANCES[1:])
    prepare_voxceleb([one, two], tmp_path / "save")
    skipped = pd.read_csv(tmp_path / "save" / "skipped.csv")
    assert skipped["reason"].str.contains("give the folder above").sum() == 1


def test_a_path_without_a_speaker(voxceleb, tmp_path, write_tone):
    data = voxceleb(".")
    write_tone(data / "lost.wav")
    prepare_voxceleb(data, tmp_path / "save")
    check(tmp_path / "save", UTTERANCES)
    skipped = pd.read_csv(tmp_path / "save" / "skipped.csv")
    assert list(skipped["reason"]) == ["fewer than 2 folders deep"]


def test_pieces_have_speakers(voxceleb, tmp_path):
    prepare_voxceleb(voxceleb("wav"), tmp_path / "save", cut_seconds=1)
    check(
        tmp_path / "save",
        [f"{name}_{i:04d}" for name in UTTERANCES for i in (1, 2)],
    )


def test_lost_speakers_are_written_again(voxceleb, tmp_path):
    data = voxceleb("wav")
    prepare_voxceleb(data, tmp_path / "save")
    (tmp_path / "save" / "speakers.csv").unlink()
    prepare_voxceleb(data, tmp_path / "save")
    check(tmp_path / "save", UTTERANCES)


def test_from_a_yaml(voxceleb, tmp_path):
    hparams = load_hyperpyyaml(
        f"""
        prepare: !name:speechbrain_cadino.prepare.voxceleb.prepare_voxceleb
            data_folder: [{voxceleb("wav")}]
            manifest_folder: {tmp_path}/save
            min_duration: 1.5
        """
    )
    run_on_main(hparams["prepare"])
    check(tmp_path / "save", UTTERANCES)


def test_a_folder_of_another_shape(voxceleb, tmp_path):
    """Nothing is known of its speakers."""
    names = ["a", "b", "calls/2024/may/1", "calls/2024/june/1"]
    data = voxceleb(".", utterances=names)
    prepare_voxceleb(data, tmp_path / "save", id_parts=None)
    table = read_manifest(tmp_path / "save" / "train.csv", data)
    assert sorted(table["ID"]) == sorted(names)
    assert not (tmp_path / "save" / "speakers.csv").exists()
