"""Stock SpeechBrain goes on from what is made here, and the other way round."""

import pathlib
import re
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from recipe import RECIPE, script
from ruamel.yaml import YAML

from speechbrain.inference.classifiers import EncoderClassifier
from speechbrain_cadino.clustering.kmeans import SphericalKMeans
from speechbrain_cadino.clustering.pseudo_labels import pseudo_label
from speechbrain_cadino.config.overlays import parse_arguments
from speechbrain_cadino.encoders.adopt import adopt_encoder
from speechbrain_cadino.encoders.load import load_encoder

SCRIPT = pathlib.Path(__file__).with_name("stock_speaker_embeddings.py")

# As a user of stock SpeechBrain goes on from an encoder: a pretrainer in the
# YAML file, and two lines in the script.
PRETRAINER = """
pretrain_path: !PLACEHOLDER
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
    paths:
        embedding_model: !ref <pretrain_path>/embedding_model.ckpt
"""
FINE_TUNING = """
import sys
sys.modules["speechbrain_cadino"] = None
import torch
import stock_speaker_embeddings as recipe

pretrainer, encoder, *folders = sys.argv[1:]
recipe.torch.manual_seed(0)
recipe.random.seed(0)  # of the crops
train_data, speakers = recipe.dataio_prep(*folders)
hparams = recipe.load_hyperpyyaml(
    recipe.HPARAMS + pretrainer,
    {"out_n_neurons": speakers, "pretrain_path": encoder},
)
hparams["pretrainer"].collect_files()
hparams["pretrainer"].load_collected()
torch.save(hparams["embedding_model"].state_dict(), folders[-1] + "/start.pt")
brain = recipe.SpeakerBrain(
    hparams["modules"], hparams["opt_class"], hparams, {"device": "cpu"}
)
loader = {"batch_size": 4, "shuffle": True}
brain.fit(range(4), train_data, train_loader_kwargs=loader)
"""

# The shape of speechbrain/spkrec-ecapa-voxceleb, but with other features, sizes
# and normalisation than ours, and without a sample rate.
FOREIGN = """\
pretrained_path: {folder}

# Features
n_mels: 30
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
    n_fft: 512

mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: True

# Model
out_n_neurons: 6
embedding_model: !new:speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN
    input_size: !ref <n_mels>
    channels: [24, 24, 24, 24, 40]
    kernel_sizes: [5, 3, 3, 3, 1]
    dilations: [1, 2, 3, 4, 1]
    attention_channels: 10
    lin_neurons: 20

classifier: !new:speechbrain.lobes.models.ECAPA_TDNN.Classifier
    input_size: 20
    out_neurons: !ref <out_n_neurons>

mean_var_norm_emb: !new:speechbrain.processing.features.InputNormalization
    norm_type: global
    std_norm: False

modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
    mean_var_norm_emb: !ref <mean_var_norm_emb>
    classifier: !ref <classifier>

label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder

pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        mean_var_norm_emb: !ref <mean_var_norm_emb>
        classifier: !ref <classifier>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        mean_var_norm_emb: !ref <pretrained_path>/mean_var_norm_emb.ckpt
        classifier: !ref <pretrained_path>/classifier.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""

# Steps so small, and no map after them, that one sees where a training started.
STANDSTILL = {
    "final_map": "null",
    "lr": 1e-7,
    "final_lr": 1e-7,
    "number_of_epochs": 2,
    "warmup_epochs": 0,
    "batch_size": 4,
    "steps_per_epoch": "null",
}
STAGE_ONE = {
    **STANDSTILL,
    "passes_per_epoch": 1,
    "first_clustering": 2,
    "clustering_every": 1,
    "num_clusters": 6,
    "min_duration": 0.1,
    "global_seconds": 0.5,
    "local_seconds": 0.3,
    "out_dim": 16,
    "head_size": 16,
    "bottleneck_size": 8,
}


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """An encoder folder by stock SpeechBrain, with random weights."""
    folder = tmp_path_factory.mktemp("spkrec-ecapa")
    text = FOREIGN.format(folder=folder)
    (folder / "hyperparams.yaml").write_text(text)
    torch.manual_seed(3)
    hparams = load_hyperpyyaml(text)
    for name in ["embedding_model", "classifier"]:
        torch.save(hparams[name].state_dict(), folder / f"{name}.ckpt")
    hparams["mean_var_norm_emb"](torch.randn(9, 1, 20), torch.ones(9))
    hparams["mean_var_norm_emb"]._save(folder / "mean_var_norm_emb.ckpt")
    hparams["label_encoder"].update_from_iterable("abcdef")
    hparams["label_encoder"].save(folder / "label_encoder.txt")
    return folder


@pytest.fixture
def start(run_script, speech, tmp_path):
    """A function that runs a script of the recipe: its output."""

    def run(name, yaml, **flags):
        flags = {
            "data_folder": speech,
            "output_folder": tmp_path / "run",
            **flags,
        }
        code, output = run_script(*script(name, yaml, **flags))
        assert code == 0, output
        return output

    return run


def weights(folder):
    """The weights in an encoder folder, without statistics."""
    path = pathlib.Path(folder) / "embedding_model.ckpt"
    return {
        name: value
        for name, value in torch.load(path, weights_only=True).items()
        if "running" not in name and "num_batches" not in name
    }


def assert_went_on_from(foreign, run):
    """A run folder is that of a training that started from an encoder."""
    settings = YAML().load(run / "hyperparams.yaml")
    assert settings["emb_dim"] == 20
    for name in ["n_mels", "channels", "attention_channels", "se_channels"]:
        assert name not in settings
    # Its features are the encoder's, its network ours
    network = str(settings["embedding_model"].tag)
    assert "speechbrain_cadino.lobes.ecapa.ECAPA_TDNN" in network

    old, new = weights(foreign), weights(run / "encoder")
    assert old.keys() == new.keys()
    for name in old:
        assert torch.allclose(old[name], new[name], atol=1e-4), name
    old, new = map(EncoderClassifier.from_hparams, (foreign, run / "encoder"))
    wavs = torch.randn(2, 8000)
    feats = [
        encoder.mods.mean_var_norm(
            encoder.mods.compute_features(wavs), torch.ones(2)
        )
        for encoder in (old, new)
    ]
    assert torch.equal(*feats)
    assert new.encode_batch(wavs).shape == (2, 1, 20)
    text = (run / "encoder" / "hyperparams.yaml").read_text()
    assert "!new:speechbrain_cadino" not in text


def test_a_supervised_recipe_trains_on_pseudo_labels(
    encoder_folder, corpus, run_script, tmp_path
):
    assert "speechbrain_cadino" not in SCRIPT.read_text()
    manifest = corpus / "train.csv"
    pseudo_label(
        tmp_path,
        load_encoder(encoder_folder, "cpu"),
        manifest,
        SphericalKMeans(4),
        corpus,
    )
    manifest = tmp_path / "pseudo_labels.csv"
    code, output = run_script(SCRIPT, manifest, corpus, tmp_path)
    assert code == 0, output
    assert "12 utterances, 4 speakers" in output
    assert_learns(output)


def assert_learns(output):
    losses = re.findall(r"^loss (\S+)$", output, re.MULTILINE)
    losses = [float(loss) for loss in losses]
    assert len(losses) == 4
    assert losses[-1] < 0.7 * losses[0]


def test_a_supervised_recipe_goes_on_from_our_encoder(
    encoder_folder, corpus, tmp_path
):
    table = pd.read_csv(corpus / "train.csv")
    table["spk_id"] = table["ID"].str[0]
    table.to_csv(tmp_path / "labelled.csv", index=False)
    arguments = [PRETRAINER, encoder_folder]
    arguments += [tmp_path / "labelled.csv", corpus, tmp_path]
    process = subprocess.run(
        [sys.executable, "-c", FINE_TUNING, *arguments],
        cwd=SCRIPT.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.returncode == 0, process.stdout
    start = torch.load(tmp_path / "start.pt", weights_only=True)
    for name, value in weights(encoder_folder).items():
        assert torch.equal(start[name], value), name
    assert_learns(process.stdout)


def test_cluster_aware_dino_goes_on_from_a_stock_encoder(
    start, foreign, tmp_path
):
    start(
        "train_dino.py",
        "small_ca_dino.yaml",
        start_encoder=foreign,
        **STAGE_ONE,
    )
    assert_went_on_from(foreign, tmp_path / "run")


def test_pseudo_labels_and_stage_two_go_on_from_a_stock_encoder(
    start, speech, foreign, tmp_path
):
    rows = [
        (f"{i:02}", 0.75, f"$data_root/wav/train{i % 4}/{i:02}/0.wav", 0, 12000)
        for i in range(24)
    ]
    columns = ["ID", "duration", "wav", "start", "stop"]
    manifest = tmp_path / "train.csv"
    pd.DataFrame(rows, columns=columns).to_csv(manifest, index=False)
    labels = tmp_path / "labels"
    start(
        "pseudo_label.py",
        "pseudo_label.yaml",
        encoder=foreign,
        manifest=manifest,
        output_folder=labels,
        num_clusters=4,
        engine="sklearn",
        num_workers=0,
    )
    embeddings = np.load(labels / "embeddings" / "embeddings.npy")
    encoder = EncoderClassifier.from_hparams(foreign)
    wav = encoder.load_audio(str(speech / "wav" / "train1" / "05" / "0.wav"))
    expected = encoder.encode_batch(wav).numpy()[0]
    np.testing.assert_allclose(embeddings[5:6], expected, atol=1e-4)

    output = start(
        "train_dlg_lc.py",
        "small_dlg_lc.yaml",
        train_manifest=labels / "pseudo_labels.csv",
        start_encoder=foreign,
        first_gated_epoch=2,
        crop_seconds=0.4,
        channels=16,  # of no use
        **STANDSTILL,
    )
    assert_went_on_from(foreign, tmp_path / "run")
    assert f"channels: not used, {foreign} has features" in output


def copy_of(foreign, folder, old, new):
    """The encoder folder with another text in its YAML file."""
    folder.mkdir()
    text = (foreign / "hyperparams.yaml").read_text()
    assert old in text
    (folder / "hyperparams.yaml").write_text(text.replace(old, new))
    return folder


def test_what_training_cannot_start_from(
    foreign, face_encoder, corpus, tmp_path
):
    def adopt(encoder, *flags):
        path, _, overrides = parse_arguments(
            [
                str(RECIPE / "hparams" / "small_dino.yaml"),
                f"--data_folder={corpus}",
                f"--start_encoder={encoder}",
                *flags,
            ]
        )
        return adopt_encoder(path, overrides)

    with pytest.raises(FileNotFoundError, match=r"has no hyperparams\.yaml"):
        adopt(tmp_path)
    with pytest.raises(ValueError, match="is no encoder of voices: give"):
        adopt(face_encoder)
    norm = torch.load(foreign / "mean_var_norm_emb.ckpt", weights_only=False)
    for name in ("mean_var_norm", "normalizer"):  # whatever it is called
        trained = copy_of(
            foreign,
            tmp_path / name,
            "    loadables:",
            f"    loadables:\n        {name}: !ref <mean_var_norm>",
        )
        torch.save(norm, trained / f"{name}.ckpt")
        sentence = "mean_var_norm with trained values"
        with pytest.raises(ValueError, match=sentence):
            adopt(trained)
    telephone = copy_of(
        foreign,
        tmp_path / "telephone",
        "# Features",
        "audio_normalizer: "
        "!new:speechbrain.dataio.preprocess.AudioNormalizer\n"
        "    sample_rate: 8000",
    )
    with pytest.raises(ValueError, match=r"at 8000 Hz, .* is 16000.*=8000"):
        adopt(telephone)
    adopt(telephone, "--sample_rate=8000")
