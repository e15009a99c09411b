"""The real script and command, on speech, rain and silence."""

import json
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from recipe import script
from torchaudio.functional import resample

from speechbrain_cadino.commands.main import main
from speechbrain_cadino.dataio.manifest import DATA_ROOT, read_manifest
from speechbrain_cadino.demo.espeak import synthesise
from speechbrain_cadino.prepare.folder import prepare_folder

WRITTEN = ["confidence.csv", "filter.json", "filtered.csv"]
KEPT = ["voice0", "voice1", "voice2", "voice3", "word"]
TEXT = "A person says a few words, and goes on to say some more of them."


@pytest.fixture(scope="module")
def wild(tmp_path_factory):
    """Four voices; rain, digital silence, one word."""
    pytest.importorskip("espeakng_loader", reason="needs [demo]")
    import torch

    folder = tmp_path_factory.mktemp("wild")
    for number, voice in enumerate(["en-us+Annie", "de+Andy", "fr", "es"]):
        sentence = {"text": TEXT, "rate": 150, "pitch": 50, "range": 50}
        (signal,), rate = synthesise(voice, [sentence])
        wav = resample(torch.tensor(signal / 2**15), rate, 16000).numpy()
        soundfile.write(folder / f"voice{number}.flac", 0.1 * wav, 16000)
        if number == 0:
            soundfile.write(folder / "word.flac", 0.1 * wav[:16000], 16000)
    rng = np.random.default_rng(0)
    hiss = np.convolve(rng.standard_normal(64000), rng.random(8), "same")
    soundfile.write(folder / "rain.flac", 0.01 * hiss, 16000)
    soundfile.write(folder / "silence.flac", np.zeros(64000), 16000)
    prepare_folder(folder, folder, min_duration=0.5)
    return folder


@pytest.fixture(scope="module")
def command(wild, encoder_folder):
    """A function: the command line into a folder."""

    def make(folder, **flags):
        flags = {
            "encoder": encoder_folder,
            "manifest": wild / "train.csv",
            "data_folder": wild,
            "output_folder": folder,
            "detector": "modulation",
            "num_workers": 0,
            "device": "cpu",
            "shard_size": 3,
            **flags,
        }
        return script("filter_manifest.py", "filter.yaml", **flags)

    return make


@pytest.fixture(scope="module")
def filtered(command, run_script, tmp_path_factory):
    """The folder of a filter, and what it said."""
    folder = tmp_path_factory.mktemp("filtered")
    code, output = run_script(*command(folder))
    assert code == 0, output
    return folder, output


def content(folder):
    return {name: (folder / name).read_bytes() for name in WRITTEN}


def test_rain_and_silence_are_dropped_by_any_number_of_workers(
    filtered, command, run_script, tmp_path
):
    folder, output = filtered
    table = read_manifest(folder / "filtered.csv", DATA_ROOT)
    assert table["ID"].tolist() == KEPT
    assert table["wav"].str.startswith(DATA_ROOT).all()
    scores = pd.read_csv(folder / "confidence.csv", index_col="ID")
    assert scores["kept"].sum() == 5
    # More like itself than speech: consistency alone would keep it
    assert scores["consistency"].idxmax() == "rain"
    assert np.isnan(scores["consistency"]["word"])
    assert scores["segments"]["silence"] == 0
    report = json.loads((folder / "filter.json").read_text())
    assert (report["unreadable"], report["one_segment"]) == (1, 1)
    assert report["scores"]["speech"]["dropped"] == 1
    assert "such as rain" in output
    picture = folder / "plots" / "confidence.png"
    assert picture.stat().st_size > 0

    code, output = run_script(*command(tmp_path, num_workers=2))
    assert code == 0, output
    assert content(tmp_path) == content(folder)


def test_the_command_says_the_same_of_files(
    wild, encoder_folder, tmp_path, capsys
):
    main(
        [
            "filter",
            str(encoder_folder),
            str(wild),
            "--device=cpu",
            "--detector=modulation",
            f"--output={tmp_path}",
        ]
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split("\t") == ["score", "threshold", "dropped", "without"]
    assert lines[1].split("\t") == ["speech", "0.3300", "1", "0"]
    table = read_manifest(tmp_path / "filtered.csv")
    assert table["wav"].tolist() == [f"{wild}/{name}.flac" for name in KEPT]


def test_the_command_embeds_what_was_converted_once(
    wild, write_m4a, encoder_folder, tmp_path, caplog
):
    shutil.copytree(wild, tmp_path / "wild")
    path = tmp_path / "wild" / f"{KEPT[0]}.flac"
    write_m4a(path.with_suffix(".m4a"), soundfile.read(path)[0])
    path.unlink()
    command = [
        "filter",
        str(encoder_folder),
        str(tmp_path / "wild"),
        "--device=cpu",
        f"--output={tmp_path / 'out'}",
        "--detector=modulation",
    ]
    main(command)
    caplog.clear()
    main([*command, "--consistency=0.9"])
    assert "segments are up to date" in caplog.text
    assert "voice0.m4a" in caplog.text  # had to be converted
    assert not (tmp_path / "out" / "segments" / "converted").exists()


def test_killed_it_goes_on_and_two_processes_end_in_the_same(
    filtered, command, run_script, kill_when, tmp_path
):
    first = tmp_path / "segments" / "shards" / "00000.npy"
    kill_when(first.exists, *command(tmp_path))
    code, output = run_script(
        *command(tmp_path, distributed_backend="gloo"), ranks=2
    )
    assert code == 0, output
    assert content(tmp_path) == content(filtered[0])


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"consistency": "most"}, "consistency=most: give mixture, a share"),
        ({"agreement": 0}, "no column spk_id"),
        ({"detector": "ear"}, "detector=ear: give silero, modulation or auto"),
        ({"detector": None, "speech": 0.5}, "there is no detector"),
        ({"pieces": "/gone.csv"}, "No manifest at /gone.csv"),
        ({"encoder": None}, "Give encoder"),
        ({"speech": 1.0}, "is kept: see"),
    ],
)
def test_mistakes_are_one_sentence(
    command, run_script, tmp_path, flags, sentence
):
    code, output = run_script(*command(tmp_path, **flags))
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output
