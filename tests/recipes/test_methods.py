"""The examples of METHODS.md, in a folder outside of the repository."""

import importlib.util
import pathlib
import random
import re

import forked
import numpy as np
import pandas as pd
import pytest
import torch
from hyperpyyaml import load_hyperpyyaml
from recipe import RECIPE, TINY_STAGE_1

from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.train_logger import FileTrainLogger
from speechbrain_cadino.dataio.manifest import (
    DATA_ROOT,
    read_manifest,
    write_manifest,
)

STAGE_1 = {
    **TINY_STAGE_1,
    "steps_per_epoch": "null",
    "number_of_epochs": 2,
    "ckpt_interval_minutes": 0,
    "skip_prep": True,
    "final_map": "null",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with all files that METHODS.md shows."""
    folder = tmp_path_factory.mktemp("methods")
    text = (RECIPE / "METHODS.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", text, re.M | re.S)
    for name, block in blocks:
        (folder / name).write_text(block)
    return folder


@pytest.fixture(scope="module")
def train(folder, speech, labels, run_script):
    """A function that trains by an overlay: the exit code and the output."""
    table = read_manifest(labels, DATA_ROOT)
    write_manifest(folder / "train.csv", table.drop(columns="spk_id"))

    def run(overlay, output, script="train_dino.py", **flags):
        flags = {
            **(STAGE_1 if script == "train_dino.py" else {}),
            "data_folder": speech,
            "trials": "null",
            "train_manifest": folder / "train.csv",
            "output_folder": output,
            **flags,
        }
        command = [f"--{name}={value}" for name, value in flags.items()]
        return run_script(RECIPE / script, folder / overlay, *command)

    return run


def test_a_term_is_a_column_and_its_file_belongs_to_the_run(
    train, folder, tmp_path
):
    code, output = train("term.yaml", tmp_path)
    assert code == 0, output
    table = pd.read_csv(tmp_path / "training.csv")
    assert {"dino", "cosine", "mine"} <= set(table)
    expected = table["dino"] + 0 * table["cosine"] + 0.1 * table["mine"]
    np.testing.assert_allclose(table["loss"], expected, rtol=1e-4)
    assert (tmp_path / "plots" / "training.png").is_file()

    term = folder / "my_term.py"
    before = term.read_text()
    try:
        term.write_text(before.replace("- 1", "- 2"))
        code, output = train("term.yaml", tmp_path)
    finally:
        term.write_text(before)
    assert code == 1
    assert "begun with other settings: own_files.my_term.py was" in output
    assert "Traceback" not in output


def test_target_sampling_clustering_encoder_and_logger_together(
    train, folder, tmp_path
):
    names = ["target", "sampling", "clustering", "x_vector", "tensorboard"]
    bases = ", ".join(f"{name}.yaml" for name in names)
    (folder / "all.yaml").write_text(f"base: [{bases}]\n")
    code, output = train(
        "all.yaml", tmp_path, first_clustering=2, num_clusters=6
    )
    assert code == 0, output
    table = pd.read_csv(tmp_path / "training.csv")
    # One answer only, of six clusters
    assert table["teacher_entropy"].abs().max() < 1e-6
    assert table["clusters"][1] == 6
    assert list((tmp_path / "tensorboard").rglob("events*"))
    text = (tmp_path / "encoder" / "hyperparams.yaml").read_text()
    assert "Xvector" in text
    assert "!new:speechbrain_cadino" not in text


def test_an_encoder_of_ones_own_says_what_others_need(
    train, folder, speech, tmp_path
):
    (folder / "my_encoder.py").write_text(
        "from speechbrain.lobes.models.ResNet import ResNet\n\n\n"
        "class Mine(ResNet):\n    pass\n"
    )
    text = (folder / "resnet.yaml").read_text()
    text = text.replace(
        "speechbrain.lobes.models.ResNet.ResNet", "my_encoder.Mine"
    )
    (folder / "own.yaml").write_text(text)
    code, output = train("own.yaml", tmp_path)
    assert code == 0, output
    path = tmp_path / "encoder" / "hyperparams.yaml"
    assert "my_encoder.py on the import path" in path.read_text()
    # Where an encoder folder is read, nobody adds to the import path,
    with pytest.raises(ImportError), open(path, encoding="utf-8") as fin:
        load_hyperpyyaml(fin)
    # but the command, as it stands beside the file
    program = pathlib.Path(tmp_path, "speechbrain-cadino")
    program.write_text(
        "from speechbrain_cadino.commands.main import main\nmain()\n"
    )
    wav = next(speech.rglob("*.wav"))
    words = [program, "embed", path.parent, wav, "--output", tmp_path / "out"]
    code, output = forked.run(*words, cwd=folder)
    assert code == 0, output
    code, output = forked.run(*words, "--untrusted", cwd=folder)
    assert code == 1, output


def test_a_resnet_of_speechbrain_is_built(folder):
    (overlay,) = folder.glob("resnet.yaml")
    text = overlay.read_text().replace("base: demo_dino.yaml", "n_mels: 80")
    network = load_hyperpyyaml(text)["embedding_model"]
    assert network.__class__.__module__ == "speechbrain.lobes.models.ResNet"


@pytest.mark.parametrize("first", [1, 2])
def test_a_mixture_behind_the_gate(train, labels, tmp_path, first):
    """From the first step on, too: of a pass without updates before it."""
    code, output = train(
        "mixture.yaml",
        tmp_path,
        script="train_dlg_lc.py",
        train_manifest=labels,
        number_of_epochs=2,
        first_gated_epoch=first,
        batch_size=8,
        crop_seconds=0.5,
        channels=16,
        ckpt_interval_minutes=0,
    )
    assert code == 0, output
    table = pd.read_csv(tmp_path / "gate.csv")
    assert table["gate"][1] == pytest.approx(table["median"][0])
    drawn = table[["reliable", "corrected", "dropped"]].sum(1)
    shares = table["reliable"] / drawn
    assert shares[first - 1 :].between(0.2, 0.8).all()
    assert (shares[: first - 1] == 1).all()
    assert ("Losses before training" in output) == (first == 1)
    assert (tmp_path / "plots" / "gate.png").is_file()


def test_a_gate_a_margin_and_an_augmentation_together(
    train, folder, labels, tmp_path
):
    names = ["margin", "augmentation", "gate"]
    bases = ", ".join(f"{name}.yaml" for name in names)
    (folder / "three.yaml").write_text(f"base: [{bases}]\n")
    code, output = train(
        "three.yaml",
        tmp_path,
        script="train_dlg_lc.py",
        train_manifest=labels,
        number_of_epochs=2,
        first_gated_epoch=1,
        batch_size=8,
        crop_seconds=0.5,
        channels=16,
        final_map="null",
    )
    assert code == 0, output
    gates = pd.read_csv(tmp_path / "gate.csv")["gate"]
    assert gates.tolist() == pytest.approx([12, 10.8])
    settings = (tmp_path / "hyperparams.yaml").read_text()
    assert settings.count("LinearSchedule") == 1
    assert "!new:my_augmentation.Flip" in settings


@pytest.fixture(scope="module")
def host():
    """The recipe of stock SpeechBrain that the guide's Brain stands in."""
    path = pathlib.Path(__file__).with_name("stock_speaker_embeddings.py")
    spec = importlib.util.spec_from_file_location("stock_recipe", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dino_in_your_brain():
    """The Brain of the guide, as it was and with DINO; how many lines that
    takes."""
    text = (RECIPE / "METHODS.md").read_text(encoding="utf-8")
    (diff,) = re.findall(r"^```diff\n(.*?)^```", text, re.M | re.S)
    lines = diff.splitlines()
    brains = []
    for sign in "-+":
        kept = [line[1:] for line in lines if line[:1] in ("", " ", sign)]
        names = {}
        exec("\n".join(kept), names)
        brains.append(names["SpeakerBrain"])
    added = sum(line.startswith("+") for line in lines)
    return *brains, added


def test_dino_in_a_brain_of_speechbrain(folder, host, corpus, tmp_path):
    """By as few lines as is said; with weight 0 what it was, bit for bit."""
    plain, with_dino, added = dino_in_your_brain()
    assert added == 8
    table = pd.read_csv(corpus / "train.csv")
    table["spk_id"] = table["ID"].str[0]
    table.to_csv(tmp_path / "labelled.csv", index=False)
    dino = (folder / "with_dino.yaml").read_text()
    # The utterances are of 0.4 s
    dino = dino.replace("_seconds: 2.5", "_seconds: 0.5")
    dino = dino.replace("_seconds: 1.5", "_seconds: 0.3")

    def train(kind, name, weight=None):
        random.seed(0)
        torch.manual_seed(0)
        (tmp_path / name).mkdir()
        data, speakers = host.dataio_prep(
            tmp_path / "labelled.csv", corpus, tmp_path / name
        )
        text = host.HPARAMS + (dino if weight is not None else "")
        text = text.replace("weight: 0.5", f"weight: {weight}")
        hparams = load_hyperpyyaml(text, {"out_n_neurons": speakers})
        hparams["train_logger"] = FileTrainLogger(tmp_path / name / "log.txt")
        brain = kind(
            hparams["modules"],
            hparams["opt_class"],
            hparams,
            {"device": "cpu"},
            Checkpointer(
                tmp_path / name / "save",
                recoverables={"encoder": hparams["embedding_model"]},
            ),
        )
        loader = {"batch_size": 4}
        brain.fit([1], data, data, False, loader, loader)
        return brain, hparams["embedding_model"].state_dict(), torch.rand(2)

    _, expected, drawn = train(plain, "plain")
    _, weights, rest = train(with_dino, "weight_0", 0)
    assert rest.equal(drawn)
    for name, value in weights.items():
        assert value.equal(expected[name]), name
    brain, weights, rest = train(with_dino, "with_dino", 0.5)
    assert rest.equal(drawn)
    assert not weights["fc.conv.weight"].equal(expected["fc.conv.weight"])
    assert 0 < brain.dino_figures["kl"] < brain.dino_figures["dino_loss"]
    (checkpoint,) = (tmp_path / "with_dino" / "save").glob("CKPT*")
    names = {path.stem for path in checkpoint.glob("dino_*")}
    assert {"dino_head", "dino_teacher", "dino_objective"} < names


def test_the_guide_lists_its_sections():
    text = (RECIPE / "METHODS.md").read_text(encoding="utf-8")
    headings = re.findall(r"^#+ (.*)$", text, re.M)
    anchors = {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in headings
    }
    for target in re.findall(r"\]\(#([^)]*)\)", text):
        assert target in anchors
    for path in re.findall(r"`((?:\w+/)+\w*(?:\.py)?)`", text):
        root = pathlib.Path(RECIPE.parents[1], "speechbrain_cadino")
        assert (root / path).exists(), path
