import json
import subprocess
import sys

import pytest
import soundfile
import torch

from speechbrain_cadino.export import export_encoder

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
    from speechbrain_cadino.embeddings import load_encoder

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
    loaded = load_encoder(tmp_path / "encoder").mods.mean_var_norm
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
    (tmp_path / "encoder").mkdir()
    (tmp_path / "encoder" / "stale.ckpt").touch()
    export_encoder(
        tmp_path / "encoder", run_hyperparams, trained_modules, torch.ones(12)
    )
    assert sorted(path.name for path in (tmp_path / "encoder").iterdir()) == [
        "embedding_model.ckpt",
        "hyperparams.yaml",
        "mean_var_norm_emb.ckpt",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]


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
