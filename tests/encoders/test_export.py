import json
import os
import shutil
import subprocess
import sys

import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain_cadino.encoders.export import (
    check_replaceable,
    export_encoder,
)
from speechbrain_cadino.encoders.export_frames import frame_entries
from speechbrain_cadino.encoders.load import load_encoder

# Loads the folder as a stranger would, where this package cannot be imported.
STRANGER = """
import json, sys
sys.modules["speechbrain_cadino"] = None
import torch
from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain.inference.speaker import SpeakerRecognition
folder, first, second = sys.argv[1:]
wavs = torch.load(folder + "/../wavs.pt")
result = {}
for interface in (EncoderClassifier, SpeakerRecognition):
    encoder = interface.from_hparams(source=folder)
    result[interface.__name__] = [
        encoder.encode_batch(wavs, normalize=normalize).tolist()
        for normalize in (False, True)
    ]
result["score"], result["same"] = map(
    float, encoder.verify_files(first, second)
)
print(json.dumps(result))
"""

# An encoder described anew, its weights fetched by a pretrainer: the form of
# SpeechBrain's own recipe for verification.
VERIFICATION = """
pretrain_path: !PLACEHOLDER
save_folder: !PLACEHOLDER

compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: 24

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False

embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: 24
    channels: [16, 16, 16, 16, 48]
    attention_channels: 8
    se_channels: 8
    res2net_scale: 4
    lin_neurons: 12

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    collect_in: !ref <save_folder>
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrain_path>/embedding_model.ckpt
"""


def test_stock_speechbrain_loads_it_where_this_package_is_absent(
    run_hyperparams, trained_modules, corpus, tmp_path
):
    mean = torch.randn(12)
    folder = tmp_path / "encoder"
    export_encoder(folder, run_hyperparams, trained_modules, mean)
    wavs = torch.randn(3, 8000)
    torch.save(wavs, tmp_path / "wavs.pt")
    files = [corpus / "wav" / "a" / f"{number}.wav" for number in (0, 1)]
    output = subprocess.run(
        [sys.executable, "-c", STRANGER, folder, *files],
        cwd=tmp_path,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout
    result = json.loads(output.splitlines()[-1])

    expected = embeddings_of(trained_modules, wavs)
    for interface in ("EncoderClassifier", "SpeakerRecognition"):
        raw, normalised = map(torch.tensor, result[interface])
        torch.testing.assert_close(raw, expected, atol=1e-5, rtol=0)
        torch.testing.assert_close(
            normalised, expected - mean, atol=1e-5, rtol=0
        )
    pair = [
        embeddings_of(trained_modules, torch.from_numpy(wav).float()[None])
        for wav, _ in map(soundfile.read, files)
    ]
    score = torch.cosine_similarity(*pair, dim=-1).item()
    assert result["score"] == pytest.approx(score, abs=1e-5)


@torch.no_grad()
def test_a_pretrainer_of_stock_speechbrain_loads_it(encoder_folder, tmp_path):
    hparams = load_hyperpyyaml(
        VERIFICATION,
        {"pretrain_path": str(encoder_folder), "save_folder": str(tmp_path)},
    )
    hparams["pretrainer"].collect_files()
    hparams["pretrainer"].load_collected()
    wavs, lengths = torch.randn(3, 8000), torch.ones(3)
    feats = hparams["compute_features"](wavs)
    feats = hparams["mean_var_norm"](feats, lengths)
    embeddings = hparams["embedding_model"].eval()(feats, lengths)
    expected = EncoderClassifier.from_hparams(encoder_folder).encode_batch(wavs)
    assert torch.equal(embeddings, expected)


def test_speechbrain_1_0_finds_what_it_looks_for(encoder_folder):
    """By its _load_statistics_dict; later versions pass over it."""
    state = torch.load(encoder_folder / "mean_var_norm_emb.ckpt")
    assert state["count"] == 1
    for name in ("mean", "std", "count"):
        assert state[f"spk_dict_{name}"] == {}


# What SpeechBrain's recipe of speaker embeddings keeps of its training
STOCK = "sample_rate: 16000\n" + VERIFICATION.partition("pretrainer:")[
    0
].replace("!PLACEHOLDER", "x")


def test_a_training_of_speechbrain_becomes_an_encoder(encoder_folder, tmp_path):
    """As the manual says; its folder alone is refused with a hint at that."""
    checkpoint = tmp_path / "run" / "save" / "CKPT+1"
    checkpoint.mkdir(parents=True)
    path = tmp_path / "run" / "hyperparams.yaml"
    path.write_text(STOCK)
    shutil.copy(encoder_folder / "embedding_model.ckpt", checkpoint)
    with pytest.raises(ValueError, match="The encoder in stock SpeechBrain"):
        load_encoder(path.parent)
    model = load_hyperpyyaml(path.read_text())["embedding_model"]
    model.load_state_dict(torch.load(checkpoint / "embedding_model.ckpt"))
    modules = {"embedding_model": model}
    export_encoder(tmp_path / "stock", path, modules, mean_embedding=None)
    wavs = torch.randn(3, 8000)
    expected, found = (
        load_encoder(folder).encode_batch(wavs, torch.ones(3))
        for folder in (encoder_folder, tmp_path / "stock")
    )
    assert torch.equal(found, expected)
    # Nobody knows the mean: verify.py finds one, stock SpeechBrain subtracts 0
    assert load_encoder(tmp_path / "stock").mean is None
    stock = EncoderClassifier.from_hparams(tmp_path / "stock")
    assert torch.equal(stock.encode_batch(wavs, normalize=True), expected)


@torch.no_grad()
def embeddings_of(modules, wavs):
    """What the trained modules themselves make of waveforms."""
    from speechbrain.lobes.features import Fbank

    feats = Fbank(n_mels=24)(wavs)
    feats = feats - feats.mean(1, keepdim=True)
    return modules["embedding_model"](feats)


def test_text_is_clean(encoder_folder):
    text = (encoder_folder / "hyperparams.yaml").read_text()
    assert text.startswith("# A speaker encoder")
    for word in ("never_built", "&", "*", ":speechbrain_cadino", "student"):
        assert word not in text


def test_other_modules_with_a_state_are_stored(
    run_hyperparams, trained_modules, tmp_path
):
    from speechbrain.processing.features import InputNormalization
    from speechbrain_cadino.encoders.load import load_encoder

    text = run_hyperparams.read_text().replace("type: sentence", "type: global")
    (tmp_path / "hyperparams.yaml").write_text(text)
    norm = InputNormalization(norm_type="global", std_norm=False)
    norm(torch.randn(4, 50, 24) + 3)
    export_encoder(
        tmp_path / "encoder",
        tmp_path / "hyperparams.yaml",
        {**trained_modules, "mean_var_norm": norm},
        torch.zeros(12),
    )
    loaded = load_encoder(tmp_path / "encoder").encoder.mods.mean_var_norm
    assert torch.equal(loaded.glob_mean, norm.glob_mean)


def test_a_failure_leaves_the_old_folder_whole(
    run_hyperparams, trained_modules, tmp_path
):
    folder = tmp_path / "encoder"
    export_encoder(folder, run_hyperparams, trained_modules, torch.zeros(12))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    class Unwritable(torch.nn.Module):
        def state_dict(self, *args, **kwargs):
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        export_encoder(
            folder,
            run_hyperparams,
            {**trained_modules, "classifier": Unwritable()},
            torch.ones(12),
        )
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after == before
    assert list(tmp_path.iterdir()) == [folder]


def test_an_existing_folder_is_replaced_as_a_whole(
    run_hyperparams, trained_modules, tmp_path
):
    folder = tmp_path / "encoder"
    export_encoder(folder, run_hyperparams, trained_modules, torch.zeros(12))
    (folder / "stale.ckpt").touch()
    export_encoder(folder, run_hyperparams, trained_modules, torch.ones(12))
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "mean_var_norm_emb.ckpt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


@pytest.mark.parametrize("name", ["best.ckpt", "hyperparams.yaml", "a/b"])
def test_what_is_no_encoder_of_ours_is_not_replaced(
    name, run_hyperparams, trained_modules, tmp_path
):
    theirs = tmp_path / name
    theirs.parent.mkdir(exist_ok=True)
    theirs.write_text("sample_rate: 16000\n")
    with pytest.raises(ValueError, match="other things than an encoder"):
        export_encoder(
            tmp_path, run_hyperparams, trained_modules, torch.ones(12)
        )
    assert theirs.is_file()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("sample_rate:", "rate:", "no entry sample_rate"),
        ("ecapa.ECAPA_TDNN", "mine.Encoder", "class of speechbrain_cadino"),
    ],
)
def test_what_cannot_be_exported(
    run_hyperparams, trained_modules, tmp_path, old, new, message
):
    path = tmp_path / "hyperparams.yaml"
    path.write_text(run_hyperparams.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        export_encoder(
            tmp_path / "encoder", path, trained_modules, torch.zeros(12)
        )
    assert not (tmp_path / "encoder").exists()


def test_what_a_finder_leaves_is_no_thing_of_value(
    run_hyperparams, trained_modules, tmp_path
):
    folder = tmp_path / "encoder"
    export_encoder(folder, run_hyperparams, trained_modules, torch.zeros(12))
    (folder / ".DS_Store").touch()
    (folder / "._README.md").touch()
    check_replaceable(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(ValueError, match=r"holds notes\.txt beside an encoder"):
        check_replaceable(folder)


def test_what_a_killed_process_leaves_is_no_thing_of_value(
    encoder_folder, tmp_path
):
    """Else a run that was killed in its last second could not go on."""
    folder = tmp_path / "encoder"
    shutil.copytree(encoder_folder, folder)
    (folder / ".calibration.1a2b3c4d-77.tmp.json").touch()
    check_replaceable(folder)
    (folder / "calibration.1a2b3c4d-77.tmp.json").touch()
    with pytest.raises(ValueError, match="beside an encoder"):
        check_replaceable(folder)


@pytest.mark.skipif(not os.path.ismount("/proc"), reason="no such disk")
def test_where_a_disk_is_mounted_no_folder_can_be():
    with pytest.raises(ValueError, match="a disk is mounted"):
        check_replaceable("/proc")


def test_what_users_of_frames_may_not_have_shows_before_a_training(tmp_path):
    path = tmp_path / "hyperparams.yaml"
    text = "sample_rate: 16000\ntransformer: !new:torch.nn.Identity\n"
    path.write_text(f"{text}front_end: !new:torch.nn.Identity\n")
    assert list(frame_entries(path)) == [
        "sample_rate",
        "front_end",
        "transformer",
    ]
    path.write_text(
        f"{text}front_end: !new:speechbrain_cadino.lobes.ecapa.ECAPA_TDNN\n"
    )
    with pytest.raises(ValueError, match="names a class of speechbrain_cadino"):
        frame_entries(path)
