"""The real scripts on tiny data: trained, killed, evaluated, exported."""

import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from recipe import SPEED, script
from ruamel.yaml import YAML
from scipy.signal import resample_poly

from speechbrain_cadino.frames.evaluate import FrameEvaluator
from speechbrain_cadino.runs import frames

TINY = {
    "d_model": 16,
    "layers": 3,
    "nhead": 2,
    "d_ffn": 16,
    "latent_size": 12,
    "n_mels": 20,
    "codebooks": 2,
    "codes": 6,
    "crop_seconds": 0.5,
    "mask_length": 3,
    "min_duration": 0.1,
    "batch_size": 4,
    "steps_per_epoch": None,
    "passes_per_epoch": 1,
    "number_of_epochs": 3,
    "export_layer": 2,
    "ckpt_interval_minutes": 0,
    "ckpt_interval_steps": 2,
}

# Loads the folder as a stranger would, where this package cannot be imported.
STRANGER = """
import sys
sys.modules["speechbrain_cadino"] = None
import torch
from speechbrain.inference.encoders import WaveformEncoder
folder, wavs, output = sys.argv[1:]
encoder = WaveformEncoder.from_hparams(source=folder)
wavs = torch.load(wavs)
torch.save(encoder.encode_batch(wavs, torch.ones(len(wavs))), output)
"""


@pytest.fixture(scope="module")
def phones(speech, tmp_path_factory):
    """A table of phones of all test files, drawn at random."""
    rng = np.random.default_rng(0)
    rows = []
    for path in sorted(speech.glob("wav/test*/*/*.wav")):
        wav = path.relative_to(speech)
        for place in range(10):
            phone = (
                "pt"[rng.integers(2)] if place % 2 else "ao"[rng.integers(2)]
            )
            start = place * 0.06
            rows.append((wav, wav.parts[1], phone, start, start + 0.06))
    table = pd.DataFrame(rows, columns="wav spk_id phone start stop".split())
    path = tmp_path_factory.mktemp("phones") / "phones.csv"
    table.round(6).to_csv(path, index=False)
    return path


def command(speech, folder, table, yaml="small_dinosr.yaml", **flags):
    """A tiny training as a user would start it."""
    flags = {
        **TINY,
        "data_folder": speech,
        "phones": table,
        "output_folder": folder,
        **flags,
    }
    return script("train_dinosr.py", yaml, **flags)


def figures(folder):
    """All that a run measured, but for its speed."""
    table = pd.read_csv(folder / "training.csv").drop(columns=SPEED)
    return table, (folder / "frames.csv").read_text()


@pytest.fixture(scope="module")
def whole(speech, phones, run_script, tmp_path_factory):
    """The folder of a run that was not killed, and what it said."""
    folder = tmp_path_factory.mktemp("whole")
    code, output = run_script(*command(speech, folder, phones))
    assert code == 0, output
    return folder, output


def test_run_folder_holds_what_is_promised(whole):
    folder, output = whole
    for name in (
        "training.csv",
        "frames.json",
        "plots/training.png",
        "plots/frames.png",
        "encoder/transformer.ckpt",
    ):
        assert (folder / name).stat().st_size > 0, name
    files = pd.read_csv(folder / "save" / "train.csv")["wav"]
    count = files.str.contains("/test").sum()
    assert f"{count} of the {count} files of the phones were trained" in output
    table, _ = figures(folder)
    assert list(table["epoch"]) == [1, 2, 3]
    for layer in (2, 3):
        assert table[f"used_{layer}"].between(1 / 6, 1).all()
        assert table[f"perplexity_{layer}"].between(1, 6).all()
    assert (table["momentum"].diff().dropna() > 0).all()
    rows = pd.read_csv(folder / "frames.csv")
    layers = [f"layer_{number}" for number in (1, 2, 3)]
    named = rows.groupby("system")["features"].apply(list)
    assert named["trained"] == [*layers, "codes_2", "codes_3"]
    assert named["untrained"] == layers
    assert named["spectral"] == ["log_mel", "mfcc"]
    assert rows["across"].dropna().between(0, 100).all()
    assert rows["across_low"].isna().all()  # of two voices
    assert rows["pnmi"].notna().sum() == 3
    answer = json.loads((folder / "frames.json").read_text())
    assert f"with an ABX error of {answer['across']:.1f}%" in output
    assert f"The encoder is in {folder}/encoder. README.md in it" in output


def test_the_card_of_a_frame_encoder(whole):
    folder = whole[0] / "encoder"
    card = (folder / "README.md").read_text()
    assert card.startswith("# An encoder of frames of speech")
    assert " recordings, " in card
    assert "| codebooks | 2 |" in card
    assert "layer_2" in card.partition("## How good it is")[2]
    assert "Threshold" not in card
    assert "speaker" not in card.partition("## Trained on")[0]
    code = re.search("```python\n(.*?)```", card, re.DOTALL)[1]
    scope = {"wavs": torch.randn(2, 8000), "wav_lens": torch.ones(2)}
    exec(code.replace("this folder", str(folder)), scope)
    assert scope["frames"].shape[::2] == (2, 16)


def test_another_layer_needs_no_other_training(
    speech, phones, run_script, whole, tmp_path
):
    """As the table of phones tells which one is the best."""
    run = shutil.copytree(whole[0], tmp_path / "run")
    before = (run / "training.csv").read_bytes()
    own = command(speech, run, phones, export_layer=1)
    code, output = run_script(*own)
    assert code == 0, output
    settings = YAML().load(run / "encoder" / "hyperparams.yaml")
    assert settings["transformer"]["num_encoder_layers"] == 1
    assert (run / "training.csv").read_bytes() == before


def test_killed_ends_as_if_it_was_not(
    speech, phones, killed_and_resumed, whole, tmp_path
):
    killed_and_resumed(command(speech, tmp_path, phones), tmp_path)
    table, rows = figures(tmp_path)
    expected, expected_rows = figures(whole[0])
    pd.testing.assert_frame_equal(table, expected, check_exact=True)
    assert rows == expected_rows


def test_the_script_of_evaluation_finds_the_same(
    speech, phones, run_script, whole, tmp_path
):
    folder, _ = whole
    flags = {"phones": phones, "data_folder": speech, "seed": 1986}
    # What a training that still runs is about to save, and to delete
    half = folder / "save" / "partial+CKPT+now"
    gone = folder / "save" / "CKPT+before"
    for path in [half, gone]:
        path.mkdir()
    code, output = run_script(
        *script(
            "evaluate_frames.py",
            "evaluate_frames.yaml",
            **{"run_folder": folder, "output_folder": tmp_path, **flags},
        )
    )
    assert code == 0, output
    for path in [half, gone]:
        path.rmdir()
    found = (tmp_path / "frames.csv").read_text()
    assert found == (folder / "frames.csv").read_text()
    assert "Across voices, the best is layer" in output


def test_phones_are_heard_at_the_rate_of_the_run(
    whole, speech, phones, monkeypatch, tmp_path
):
    folder, _ = whole
    monkeypatch.setattr(
        frames, "evaluate_frames", lambda _, evaluator, *rest: evaluator
    )
    evaluator = FrameEvaluator(phones, speech, sample_rate=8000)
    evaluator = frames.evaluate_run(folder, lambda: evaluator, tmp_path, False)
    assert evaluator.sample_rate == 16000


def test_stock_speechbrain_gives_the_frames(whole, tmp_path):
    from hyperpyyaml import load_hyperpyyaml

    folder, _ = whole
    torch.manual_seed(0)
    wavs = torch.randn(2, 8000)
    torch.save(wavs, tmp_path / "wavs.pt")
    subprocess.run(
        [
            sys.executable,
            "-c",
            STRANGER,
            folder / "encoder",
            tmp_path / "wavs.pt",
            tmp_path / "frames.pt",
        ],
        check=True,
        cwd=tmp_path,
    )
    frames = torch.load(tmp_path / "frames.pt")
    # Or stock SpeechBrain reads files at 16 kHz, whatever the encoder's rate
    made_of = (folder / "encoder" / "hyperparams.yaml").read_text()
    encoder = load_hyperpyyaml(made_of, {"sample_rate": 8000})
    assert encoder["audio_normalizer"].sample_rate == 8000
    with open(folder / "hyperparams.yaml", encoding="utf-8") as fin:
        hparams = load_hyperpyyaml(fin)
    hparams["checkpointer"].recover_if_possible()
    layers, _ = hparams["student"].eval().describe(wavs)
    # The norm that stands at the end of the second layer is a new one
    expected = torch.nn.functional.layer_norm(layers[1], (16,), eps=1e-6)
    torch.testing.assert_close(frames, expected)


def test_a_ctc_head_reads_phones_from_the_frames(
    speech, phones, run_script, whole, tmp_path
):
    """Of stereo files at 22.05 kHz, too."""
    for path in speech.glob("wav/test*/*/*.wav"):
        wav, _ = soundfile.read(path)
        stereo = resample_poly(np.stack([wav, wav], 1), 441, 320)
        other = tmp_path / "speech" / path.relative_to(speech)
        other.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(other, stereo, 22050)
    flags = {
        "encoder": whole[0] / "encoder",
        "phones": phones,
        "output_folder": tmp_path,
        "number_of_epochs": 3,
    }
    read_phones = "ctc_frames.py", "ctc_frames.yaml"
    speech = tmp_path / "speech"
    code, output = run_script(
        *script(*read_phones, data_folder=speech, **flags)
    )
    assert code == 0, output
    losses = re.findall(r"Epoch \d of 3: loss ([\d.]+)", output)
    assert len(losses) == 3
    assert float(losses[2]) < float(losses[0])
    assert re.search(r"Phone error rate of the test voices: [\d.]+%", output)
    next(speech.glob("wav/test*/*/*.wav")).unlink()
    code, output = run_script(
        *script(*read_phones, data_folder=speech, **flags)
    )
    assert code == 1
    assert re.search(r"1 of \d+ files are not there, the first is", output)
    assert "Traceback" not in output


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        ({"mask_length": 30}, "raise crop_seconds or lower mask_length"),
        ({"codebooks": 4}, "lower codebooks"),
        ({"phones_folder": "/nowhere"}, "which is not in /nowhere"),
    ],
)
def test_mistakes_are_one_sentence(
    speech, phones, run_script, tmp_path, flags, sentence
):
    code, output = run_script(*command(speech, tmp_path, phones, **flags))
    assert code == 1
    assert sentence in output
    assert "Traceback" not in output


def test_best_rq_in_half_precision(speech, phones, run_script, tmp_path):
    code, output = run_script(
        *command(
            speech,
            tmp_path,
            phones,
            "demo_bestrq.yaml",
            prepare="[]",
            train_manifest=manifest(speech, tmp_path),
            codebooks=1,
            number_of_epochs=1,
            batch_size=2,
            precision="bf16",
            device="cpu",
        ),
    )
    assert code == 0, output
    table = pd.read_csv(tmp_path / "training.csv")
    assert np.isfinite(table["loss"]).all()
    assert 0 < table["used_1"][0] <= 1


def manifest(speech, folder):
    """A manifest of the files to train on."""
    rows = [
        (path.stem + str(n), 0.75, f"$data_root/{path.relative_to(speech)}")
        for n, path in enumerate(sorted(speech.glob("wav/train*/*/*.wav")))
    ]
    table = pd.DataFrame(rows, columns=["ID", "duration", "wav"])
    table[["start", "stop"]] = 0, 12000
    path = folder / "mine.csv"
    table.to_csv(path, index=False)
    return path


def test_the_script_of_evaluation_names_what_is_missing(
    whole, run_script, tmp_path
):
    """The training first, as all the audio of the phones is read."""
    flags = {"phones": "p.csv", "data_folder": tmp_path}
    flags["output_folder"] = tmp_path / "frames"
    for folder, sentence in [
        (tmp_path, "holds no training of frames"),
        (whole[0], "p.csv"),
    ]:
        code, output = run_script(
            *script(
                "evaluate_frames.py",
                "evaluate_frames.yaml",
                **{"run_folder": folder, **flags},
            )
        )
        assert code == 1
        assert sentence in output
        assert "Traceback" not in output
