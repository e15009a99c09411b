"""Files that would run code, if they could."""

import contextlib
import os
import pickle
import shutil
import zipfile

import numpy as np
import pytest
import torch
from encoders.mutations import LINES, VALUES, attempt, mutate

from speechbrain_cadino.commands.audio_files import embed_files
from speechbrain_cadino.embeddings.store import load_embeddings
from speechbrain_cadino.encoders.load import load_encoder, start_from_file
from speechbrain_cadino.encoders.trust import copy_known
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer

# Weights that are none
REFUSED = r"encoder cannot be loaded|neither weights nor"

# The shape of speechbrain/spkrec-xvect-voxceleb and spkrec-ecapa-voxceleb
STOCK = """\
pretrained_path: someone/spkrec
n_mels: 24
out_n_neurons: 7205
compute_features: !new:speechbrain.lobes.features.Fbank
    n_mels: !ref <n_mels>
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
    norm_type: sentence
    std_norm: False
embedding_model: !new:speechbrain.lobes.models.Xvector.Xvector
    in_channels: !ref <n_mels>
    activation: !name:torch.nn.LeakyReLU
    tdnn_blocks: 5
    tdnn_channels: [512, 512, 512, 512, 1500]
    tdnn_kernel_sizes: [5, 3, 3, 1, 1]
    tdnn_dilations: [1, 2, 3, 1, 1]
    lin_neurons: 512
pair: (1, 2.5)
modules:
    compute_features: !ref <compute_features>
    mean_var_norm: !ref <mean_var_norm>
    embedding_model: !ref <embedding_model>
label_encoder: !new:speechbrain.dataio.encoder.CategoricalEncoder
pretrainer: !new:speechbrain.utils.parameter_transfer.Pretrainer
    loadables:
        embedding_model: !ref <embedding_model>
        label_encoder: !ref <label_encoder>
    paths:
        embedding_model: !ref <pretrained_path>/embedding_model.ckpt
        label_encoder: !ref <pretrained_path>/label_encoder.txt
"""


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def bomb(tmp_path):
    """Something to pickle; the test fails if it goes off."""
    path = tmp_path / "gone_off"
    pickle.loads(pickle.dumps(Bomb(path)))
    assert path.exists()
    path.unlink()
    yield Bomb(path)
    assert not path.exists()


def write_torch(path, bomb):
    torch.save({"weight": bomb}, path)


def write_pickle(path, bomb):
    path.write_bytes(pickle.dumps(bomb))


@pytest.mark.parametrize("write", [write_torch, write_pickle])
@pytest.mark.parametrize(
    "name", ["embedding_model.ckpt", "mean_var_norm_emb.ckpt"]
)
def test_weights_of_an_encoder_run_nothing(
    encoder_folder, tmp_path, bomb, name, write
):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    write(folder / name, bomb)
    for trusted in (True, False):
        with pytest.raises(ValueError, match=REFUSED):
            load_encoder(folder, trusted=trusted)


@pytest.mark.parametrize("write", [write_torch, write_pickle])
def test_a_classifier_runs_nothing(tmp_path, bomb, write):
    write(tmp_path / "classifier.ckpt", bomb)
    with pytest.raises(ValueError, match="holds no weights"):
        start_from_file(torch.nn.Linear(2, 2), tmp_path / "classifier.ckpt")


@pytest.mark.parametrize("write", [write_torch, write_pickle])
def test_a_checkpoint_runs_nothing(tmp_path, bomb, write):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(tmp_path, recoverables={"a": model})
    folder = checkpointer.save_checkpoint().path
    write(folder / "a.ckpt", bomb)
    (checkpoint,) = checkpointer.list_checkpoints()
    with pytest.raises((pickle.UnpicklingError, RuntimeError)):
        checkpointer.load_checkpoint(checkpoint)


def test_embeddings_run_nothing(tmp_path, bomb):
    array = np.array([bomb], dtype=object)
    np.save(tmp_path / "embeddings.npy", array, allow_pickle=True)
    (tmp_path / "ids.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"embeddings\.npy is damaged or no"):
        load_embeddings(tmp_path)


@pytest.mark.parametrize(
    ("attack", "named"),
    [
        ("x: !apply:os.system [touch PATH]", "!apply:os.system in line "),
        ("x: !applyref:os.system [touch PATH]", "!applyref:os.system"),
        ("x: !new:subprocess.Popen [[touch, PATH]]", "!new:subprocess.Popen"),
        ("x: !name:os.system", "!name:os.system"),
        ("x: !module:antigravity", "!module:antigravity"),
        ("x: !include:other.yaml", "!include:other.yaml"),
        (
            "x: !!python/object/apply:os.system [touch PATH]",
            "python/object/apply",
        ),
        # What is in the parentheses is parsed once more
        ("x: (!!python/object/apply:os.system [touch PATH])", "os.system"),
        ("x: !tuple (!apply:os.system [touch PATH])", "os.system"),
        ("x: &a (!apply:os.system [touch PATH])\ny: *a", "os.system"),
        ("x: '(!apply:os.system [touch PATH])'\ny: !ref <x>", "os.system"),
        ("x: [{y: !apply:os.system [touch PATH]}]", "!apply:os.system"),
        ("? !apply:os.system [touch PATH]\n: 1", "!apply:os.system"),
        ("x: !new:torch.nn.ReLU {inplace: !apply:os.remove [PATH]}", "remove"),
        ("x: https://example.org/weights.ckpt", "https://"),
    ],
)
def test_a_yaml_file_that_is_not_trusted_runs_nothing(
    encoder_folder, tmp_path, bomb, attack, named
):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    with open(folder / "hyperparams.yaml", "a") as file:
        file.write(attack.replace("PATH", str(bomb.path)) + "\n")
    with pytest.raises(ValueError, match="not known to be harmless") as error:
        load_encoder(folder, trusted=False)
    assert named in str(error.value)


def test_the_attack_is_one(encoder_folder, tmp_path):
    """Or the test above shows nothing."""
    for number, attack in enumerate(
        [
            "x: !apply:os.system [touch PATH]",
            "x: (!!python/object/apply:os.system [touch PATH])",
        ]
    ):
        folder = shutil.copytree(encoder_folder, tmp_path / str(number))
        path = tmp_path / f"gone_off_{number}"
        with open(folder / "hyperparams.yaml", "a") as file:
            file.write(attack.replace("PATH", str(path)) + "\n")
        load_encoder(folder)
        assert path.exists()


def test_directives_are_refused(tmp_path):
    path = tmp_path / "hyperparams.yaml"
    path.write_text("%TAG !e! !apply:os.\n---\nx: !e!getcwd []\n")
    (tmp_path / "copy").mkdir()
    with pytest.raises(ValueError, match="not known to be harmless"):
        copy_known(tmp_path, tmp_path / "copy")


def test_known_encoders_are_loaded_and_give_the_same(
    encoder_folder, corpus, tmp_path
):
    files = [str(corpus / "wav" / "a" / "0.wav")]
    trusted = embed_files(encoder_folder, files).embeddings
    unknown = load_encoder(encoder_folder, trusted=False)
    untrusted = embed_files(unknown, files).embeddings
    np.testing.assert_array_equal(trusted, untrusted)
    (tmp_path / "hyperparams.yaml").write_text(STOCK)
    (tmp_path / "copy").mkdir()
    with pytest.raises(FileNotFoundError, match="ckpt"):  # known so far
        copy_known(tmp_path, tmp_path / "copy")


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b"x: [", b"\xff\xfe\x00"])
def test_what_is_no_yaml_file_is_one_sentence(tmp_path, content):
    (tmp_path / "hyperparams.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"hyperparams\.yaml is not"):
        load_encoder(tmp_path)


@pytest.mark.parametrize("attack", LINES + [f"x: {value}" for value in VALUES])
def test_attacks_are_one_sentence_or_nothing(encoder_folder, tmp_path, attack):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    out = tmp_path / "ran"
    with open(folder / "hyperparams.yaml", "a") as file:
        file.write(attack.replace("OUT", str(out)) + "\n")
    encoder = None
    with contextlib.suppress(ValueError):
        encoder = load_encoder(folder, "cpu", trusted=False).encoder
    for option in ["compile", "jit", "debug"]:
        assert not getattr(encoder, option, False)
    assert not out.exists()


def test_run_options_do_not_hide_in_a_merge(encoder_folder, tmp_path):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    with open(folder / "hyperparams.yaml", "a") as file:
        file.write("<<: {compile: True, device: meta}\n")
    with pytest.raises(ValueError, match="a merge"):
        load_encoder(folder, trusted=False)


def test_what_is_too_large_to_load_is_refused(encoder_folder, tmp_path):
    folder = shutil.copytree(encoder_folder, tmp_path / "encoder")
    path = folder / "hyperparams.yaml"
    path.write_text(path.read_text().replace("12", "99999999"))
    with pytest.raises(ValueError, match=r"GB or . s to load"):
        load_encoder(folder, "cpu", trusted=False)


def test_weights_that_grow_or_lie_elsewhere_are_refused(
    encoder_folder, tmp_path
):
    for number, change in enumerate(
        [
            lambda file: file.symlink_to("/etc/passwd"),
            os.mkfifo,
            lambda file: zipfile.ZipFile(
                file, "w", zipfile.ZIP_DEFLATED
            ).writestr("archive/data.pkl", bytes(2**20)),
        ]
    ):
        folder = shutil.copytree(encoder_folder, tmp_path / str(number))
        (folder / "embedding_model.ckpt").unlink()
        change(folder / "embedding_model.ckpt")
        with pytest.raises(ValueError, match=r"embedding_model.ckpt holds"):
            load_encoder(folder, "cpu", trusted=False)


def test_random_mutations_do_no_harm(encoder_folder, tmp_path):
    rng = np.random.default_rng(0)
    for number in range(10):
        folder = shutil.copytree(encoder_folder, tmp_path / str(number))
        out = tmp_path / "ran"
        mutate(folder, rng, out)
        result, outside, seconds, _, ran = attempt(folder, out)
        assert result.startswith(("loaded", "refused")), result
        assert not outside
        assert not ran
        assert seconds < 10
