"""A corpus with every fault at once, through prepare and both stages."""

import os
import re
import shutil
import struct

import numpy as np
import pandas as pd
import pytest
import soundfile
from recipe import TINY_STAGE_1, script

from speechbrain_cadino.embeddings.store import load_embeddings

RATE = 16000
GOOD = 60

# Cannot be told from a good one by its header
BREAKS_LATER = {
    "nan.wav": "holds samples that are NaN",
    "inf.wav": "holds samples that are NaN",
    "loud.wav": "holds samples that are NaN or inf, or beyond all measure",
    "silent.wav": "silent, from",
    "removed.wav": "no such file",
    "cut_since.wav": "prepare again",
}
SKIPPED = {
    "empty.wav": "empty file (zero bytes)",
    "text.wav": "not readable as audio",
    "header_only.wav": "no samples in it",
    "ten_milliseconds.wav": "shorter than 0.5 s",
    # Not one whole block of its samples is there
    "cut_short.flac": "no samples in it",
    "dangling.wav": "not accessible",
    "line\\nbreak.wav": "a name with control characters",
    "looped.wav": "not accessible (Too many levels of symbolic links)",
}
# 8 bits, 24 bits, floats, other rates, two channels, odd names
UNUSUAL = {
    "u8.wav": {"subtype": "PCM_U8"},
    "pcm24.wav": {"subtype": "PCM_24"},
    "double.wav": {"subtype": "DOUBLE"},
    "8k.wav": {"rate": 8000},
    "96k.flac": {"rate": 96000},
    "stereo.wav": {"channels": 2},
    "spaces, commas, \"quotes\" and 'more'.wav": {},
    "ünïcödé 语音 🎤.wav": {},
    "NA.wav": {},
    "007.wav": {},
    "=1+1.wav": {},
}


def write(path, seed=0, rate=RATE, channels=1, scale=0.05, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)
    voice = np.random.default_rng(seed % 4).standard_normal(16)
    wav = np.convolve(rng.standard_normal(rate), voice, "same")
    wavs = np.stack([scale * wav] * channels, 1)
    soundfile.write(path, wavs, rate, **options)
    return scale * wav


def write_hours(path, hours=2, rate=4000):
    """A file of hours of 8-bit audio that takes no space on the disk."""
    size = hours * 3600 * rate
    header = struct.pack(
        "<4sI4s4sIHHIIHH4sI",
        b"RIFF",
        36 + size,
        b"WAVE",
        b"fmt ",
        16,
        1,
        1,
        rate,
        rate,
        1,
        8,
        b"data",
        size,
    )
    noise = np.random.default_rng(0).integers(100, 156, 60 * rate, np.uint8)
    with open(path, "wb") as file:
        file.write(header + noise.tobytes())
        file.truncate(len(header) + size)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faulty")
    for number in range(GOOD):
        write(folder / f"good/{number:03}.wav", number)
    for name, options in UNUSUAL.items():
        write(folder / name, **options)
    write_hours(folder / "two_hours.wav")

    for name, sample in [("nan", np.nan), ("inf", np.inf), ("loud", 1e30)]:
        wav = write(folder / f"{name}.wav")
        wav[::100] = sample
        soundfile.write(folder / f"{name}.wav", wav, RATE, "FLOAT")
    write(folder / "silent.wav", scale=0)
    write(folder / "removed.wav")
    write(folder / "cut_since.wav")
    write(folder / "cut_short.flac")
    os.truncate(folder / "cut_short.flac", 6000)

    (folder / "empty.wav").touch()
    (folder / "text.wav").write_text("I am no audio.")
    soundfile.write(folder / "header_only.wav", [], RATE)
    soundfile.write(folder / "ten_milliseconds.wav", [0.1] * 160, RATE)
    (folder / "dangling.wav").symlink_to("nothing.wav")
    (folder / "looped.wav").symlink_to("looped.wav")
    (folder / "good" / "loop").symlink_to(folder)
    write(folder / "line\nbreak.wav")
    return folder


@pytest.fixture(scope="module")
def trained(faulty, run_script, tmp_path_factory):
    """Stage I: the run folder, and a function that goes on with a copy."""
    run = tmp_path_factory.mktemp("run")
    flags = {
        **TINY_STAGE_1,
        "data_folder": faulty,
        "min_duration": 0.5,
        "speeds": "[1.0]",
        "number_of_epochs": 4,
        "batch_size": 8,
        "num_workers": 1,
    }

    def train(folder, **more):
        return run_script(
            *script("train_dino.py", "small_dino.yaml", **{**flags, **more}),
            f"--output_folder={folder}",
        )

    # Prepares, and cannot train
    code, output = train(run, batch_size=512)
    assert code == 1
    assert "do not make one batch of 512" in output
    (faulty / "removed.wav").unlink()
    os.truncate(faulty / "cut_since.wav", 100)
    code, output = train(run, skip_prep=True)
    assert code == 0, output
    return run, train


def prepared(run, folder):
    """A copy of a run that has trained nothing yet."""
    shutil.copytree(run, folder)
    for checkpoint in (folder / "save").glob("CKPT+*"):
        shutil.rmtree(checkpoint)
    return folder


def test_what_cannot_be_used_is_listed_with_its_reason(trained):
    run, _ = trained
    table = pd.read_csv(run / "save" / "skipped.csv")
    reasons = {
        wav.removeprefix("$data_root/"): reason
        for wav, reason in zip(table["wav"], table["reason"])
    }
    assert sorted(reasons) == sorted(SKIPPED)
    for name, words in SKIPPED.items():
        assert words in reasons[name], name
    manifest = pd.read_csv(run / "save" / "train.csv", keep_default_na=False)
    taken = [*UNUSUAL, *BREAKS_LATER, "two_hours.wav"]
    taken = {os.path.splitext(name)[0] for name in taken}
    ids = manifest["ID"]
    assert set(ids[~ids.str.startswith("good/")]) == taken
    assert ids.str.startswith("good/").sum() == GOOD


def test_what_breaks_later_is_named_and_counted(trained):
    run, _ = trained
    table = pd.read_csv(run / "training.csv")
    said = [
        line
        for line in (run / "log.txt").read_text().splitlines()
        if "Replaced by another utterance" in line
    ]
    # Each once in an epoch, unless it was in the batch that is dropped, or
    # stood in for another one; and the two hours, which are a constant but for
    # their first minute
    assert table["replaced"].between(1, len(BREAKS_LATER) + 1).all()
    assert table["replaced"].sum() == len(said)
    for name, reason in BREAKS_LATER.items():
        assert any(reason in line for line in said if name in line), name
    assert np.isfinite(table.to_numpy()).all()
    assert (table["skipped_steps"] == 0).all()


@pytest.fixture(scope="module")
def labelled(faulty, trained, run_script, tmp_path_factory):
    run, _ = trained
    folder = tmp_path_factory.mktemp("labels")
    code, output = run_script(
        *script("pseudo_label.py", "pseudo_label.yaml"),
        f"--encoder={run / 'encoder'}",
        f"--manifest={run / 'save' / 'train.csv'}",
        f"--data_folder={faulty}",
        f"--output_folder={folder}",
        "--num_clusters=4",
        "--num_workers=0",
        "--device=cpu",
    )
    assert code == 0, output
    return folder


def test_unreadable_utterances_get_no_label(labelled):
    skipped = pd.read_csv(
        labelled / "embeddings" / "skipped.csv", keep_default_na=False
    )
    unreadable = {os.path.splitext(name)[0] for name in BREAKS_LATER}
    assert set(skipped["ID"]) == unreadable
    table = pd.read_csv(labelled / "pseudo_labels.csv", keep_default_na=False)
    assert unreadable.isdisjoint(set(table["ID"]))
    assert {"two_hours", "NA", "007", "=1+1"} < set(table["ID"])
    ids, embeddings = load_embeddings(labelled / "embeddings")
    missing = np.isnan(embeddings).any(1)
    assert set(np.array(ids)[missing]) == set(skipped["ID"])


def test_stage_two_ends_too(faulty, labelled, run_script, tmp_path):
    code, output = run_script(
        *script("train_dlg_lc.py", "small_dlg_lc.yaml"),
        f"--data_folder={faulty}",
        f"--train_manifest={labelled / 'pseudo_labels.csv'}",
        f"--output_folder={tmp_path}",
        "--number_of_epochs=2",
        "--first_gated_epoch=2",
        "--batch_size=8",
        "--crop_seconds=0.4",
        "--channels=16",
        "--speeds=[1.0]",
        "--warmup_epochs=1",
        "--steps_per_epoch=null",
    )
    assert code == 0, output
    table = pd.read_csv(tmp_path / "training.csv")
    assert (table["skipped_steps"] == 0).all()
    assert np.isfinite(table[["loss", "accuracy"]].to_numpy()).all()


def test_with_hardly_a_readable_file_the_run_stops(faulty, trained, tmp_path):
    run, train = trained
    again = prepared(run, tmp_path / "again")
    away = shutil.move(faulty / "good", tmp_path / "good")
    try:
        code, output = train(again, skip_prep=True)
    finally:
        shutil.move(away, faulty / "good")
    assert code == 1
    sentence = output.strip().splitlines()[-1]
    assert "10 utterances in a row could not be read, the first" in sentence
    assert "Traceback" not in output


def test_a_tenth_of_unreadable_files_stops_the_run(faulty, trained, tmp_path):
    run, train = trained
    again = prepared(run, tmp_path / "again")
    (tmp_path / "away").mkdir()
    for number in range(0, GOOD, 5):
        shutil.move(faulty / f"good/{number:03}.wav", tmp_path / "away")
    try:
        code, output = train(again, skip_prep=True)
    finally:
        for file in (tmp_path / "away").iterdir():
            shutil.move(file, faulty / "good")
    assert code == 1
    assert "Traceback" not in output
    count = GOOD + len(UNUSUAL) + len(BREAKS_LATER) + 1
    sentence = rf"(\d+) times in epoch 1, for more than 10% of its {count} sam"
    found = re.search(sentence, output)
    # At once, but for the rest of a batch
    assert 0.1 * count < int(found[1]) < 0.1 * count + 8
    assert "another one had to stand in. The first: " in output
    listed = again / "unreadable.txt"
    assert f"All are in {listed}." in output
    lines = listed.read_text("utf-8").splitlines()
    assert len(set(lines)) == len(lines) >= int(found[1])
    first = re.search(r"The first: (.*?\.wav): ", output)[1]
    assert any(line.startswith(first) for line in lines)
