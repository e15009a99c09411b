"""A small encoder, small corpora and files that several rooms' tests share."""

import contextlib
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from hyperpyyaml import load_hyperpyyaml
from threadpoolctl import threadpool_limits

from speechbrain_cadino.audio_visual.face_resnet import FaceResNet
from speechbrain_cadino.dataio.manifest import write_manifest
from speechbrain_cadino.encoders.export import export_encoder

# Tests run side by side: more threads than cores would wait for each other,
# here, also those of libraries that NumPy has loaded already, and in the
# processes that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
threadpool_limits(1)

# Nor is pytest a rank of a torchrun, whose variables a shell may have
TORCHRUN = "RANK LOCAL_RANK WORLD_SIZE LOCAL_WORLD_SIZE MASTER_ADDR MASTER_PORT"
for name in TORCHRUN.split():
    os.environ.pop(name, None)

# A pip that is quick, for env.log
BIN = Path(__file__).parent / "bin"
os.environ["PATH"] = os.pathsep.join([str(BIN), os.environ["PATH"]])

# Tests hold a CPU's digits: GPUs are hidden from them, and from the processes
# that they start. Those of tests/cuda give theirs the GPUs back; that there are
# some is left to pytest's workers, from which they are hidden already.
if "GPUS_OF_TESTS" not in os.environ:
    gpus = ",".join(map(str, range(torch.cuda.device_count())))
    named = os.environ.get("CUDA_VISIBLE_DEVICES", gpus)
    os.environ["GPUS_OF_TESTS"] = named if gpus else ""
os.environ["CUDA_VISIBLE_DEVICES"] = ""

# As SpeechBrain writes it for a run: references resolved to anchors, other
# entries around those of the encoder, our own ECAPA-TDNN class.
RUN_HYPERPARAMS = """\
# Generated from a recipe
seed: 3
sample_rate: 16000
channels: &channels [16, 16, 16, 16, 48]
compute_features: &features !new:speechbrain.lobes.features.Fbank
  n_mels: 24 # bands
mean_var_norm: !new:speechbrain.processing.features.InputNormalization
  norm_type: sentence
  std_norm: false

# The student
embedding_model: &model !new:speechbrain_cadino.lobes.ecapa.ECAPA_TDNN
  input_size: 24
  channels: *channels
  attention_channels: 8
  se_channels: 8
  res2net_scale: 4
  lin_neurons: 12

never_built: !new:a.module.that.is.not.There
  features: *features
modules:
  embedding_model: *model
"""

FACES = "speechbrain_cadino.audio_visual.face_resnet"

FACE_RUN = f"""\
face:
  sample_rate: 1
  compute_features: !new:torch.nn.Identity
  mean_var_norm: !new:{FACES}.FaceNormalization
  embedding_model: !new:{FACES}.FaceResNet
    channels: [4, 8]
    block_sizes: [1, 1]
    lin_neurons: 6
  reader: !name:speechbrain_cadino.audio_visual.faces.FaceReader
    size: 16
"""


def pytest_addoption(parser):
    parser.addoption(
        "--kills",
        type=int,
        default=0,
        help="so many random kills of a whole pipeline: tests/faults",
    )
    parser.addoption(
        "--fault-seed",
        type=int,
        default=0,
        help="which kills, and when",
    )
    parser.addoption(
        "--keep-digests",
        action="store_true",
        help="write tests/recipes/digests.json anew",
    )


@pytest.fixture(scope="session")
def run_hyperparams(tmp_path_factory):
    """The hyperparams.yaml of a training run."""
    path = tmp_path_factory.mktemp("run") / "hyperparams.yaml"
    path.write_text(RUN_HYPERPARAMS)
    return path


@pytest.fixture(scope="session")
def trained_modules():
    """What the run trained: an embedding_model with statistics of its own."""
    torch.manual_seed(7)
    text = "".join(
        line
        for line in RUN_HYPERPARAMS.splitlines(keepends=True)
        if "never_built" not in line and "*features" not in line
    )
    model = load_hyperpyyaml(text)["embedding_model"]
    for _ in range(3):
        model(torch.randn(8, 60, 24) + torch.randn(24))
    return {"embedding_model": model.eval()}


@pytest.fixture(scope="session")
def encoder_folder(run_hyperparams, trained_modules, tmp_path_factory):
    """An encoder folder; its stored mean embedding is 0.01, 0.02, ..."""
    folder = tmp_path_factory.mktemp("export") / "encoder"
    mean = torch.arange(1, 13) / 100
    export_encoder(folder, run_hyperparams, trained_modules, mean)
    return folder


@pytest.fixture(scope="session")
def face_encoder(tmp_path_factory):
    """An encoder folder of faces."""
    folder = tmp_path_factory.mktemp("faces")
    (folder / "hyperparams.yaml").write_text(FACE_RUN)
    torch.manual_seed(3)
    model = FaceResNet([4, 8], [1, 1], lin_neurons=6).eval()
    export_encoder(
        folder / "encoder",
        folder / "hyperparams.yaml",
        {"embedding_model": model},
        torch.zeros(6),
        section="face",
    )
    return folder / "encoder"


@pytest.fixture(scope="session")
def gpu():
    """The environment of a process that sees the GPU; skips without one."""
    gpus = os.environ["GPUS_OF_TESTS"]
    if not gpus:
        pytest.skip("there is no GPU")
    return os.environ | {"CUDA_VISIBLE_DEVICES": gpus}


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Four "speakers", each a spectrum of its own, with three files each.

    A folder with wav/<speaker>/<number>.wav, trials.txt and train.csv.
    """
    folder = tmp_path_factory.mktemp("corpus")
    rng = np.random.default_rng(5)
    names, rows = [], []
    for speaker in "abcd":
        (folder / "wav" / speaker).mkdir(parents=True)
        voice = rng.standard_normal(32)
        for number in range(3):
            length = 6000 + 800 * number
            wav = np.convolve(rng.standard_normal(length), voice, "same")
            name = f"{speaker}/{number}.wav"
            soundfile.write(folder / "wav" / name, 0.02 * wav, 16000)
            names.append(name)
            wav_path = f"$data_root/wav/{name}"
            rows.append((name, length / 16000, wav_path, 0, length))
    columns = ["ID", "duration", "wav", "start", "stop"]
    write_manifest(folder / "train.csv", pd.DataFrame(rows, columns=columns))
    trials = [
        f"{int(enrol[0] == test[0])} {enrol} {test}\n"
        for i, enrol in enumerate(names)
        for test in names[:i]
    ]
    (folder / "trials.txt").write_text("".join(trials))
    return folder


@pytest.fixture(scope="session")
def speech(tmp_path_factory):
    """24 files of 4 voices to train on, and two test speakers with three.

    A folder with wav/, trials.txt and speakers.csv.
    """
    folder = tmp_path_factory.mktemp("speech")
    rng = np.random.default_rng(0)
    names = [f"train{i % 4}/{i:02}/0.wav" for i in range(24)]
    names += [f"test{i}/a/{j}.wav" for i in range(2) for j in range(3)]
    for name in names:
        path = folder / "wav" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        voice = np.random.default_rng(list(name.split("/")[0].encode()))
        wav = np.convolve(
            rng.standard_normal(12000), voice.standard_normal(16), "same"
        )
        soundfile.write(path, 0.02 * wav, 16000)
    test = [name for name in names if name.startswith("test")]
    lines = [f"{int(a[:5] == b[:5])} {a} {b}\n" for a in test for b in test]
    (folder / "trials.txt").write_text("".join(lines))
    rows = [
        f"wav/{name.removesuffix('.wav')},{name.split('/')[0]}\n"
        for name in names
    ]
    (folder / "speakers.csv").write_text("ID,spk_id\n" + "".join(rows))
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a folder on a disk of its own, of some kB."""
    mounted = []

    def mount(kilobytes):
        folder = tmp_path / f"disk{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs"]
        process = subprocess.run(
            [*command, folder], capture_output=True, text=True
        )
        if process.returncode:
            pytest.skip(f"no disk can be mounted: {process.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.fixture(scope="session")
def write_tone():
    """write_tone(path, seconds, rate, channels, **soundfile's options)."""

    def write(path, seconds=2.0, rate=16000, channels=1, **options):
        path.parent.mkdir(parents=True, exist_ok=True)
        time = np.arange(round(seconds * rate)) / rate
        tone = 0.3 * np.sin(2 * np.pi * 440 * time)
        soundfile.write(path, np.stack([tone] * channels, 1), rate, **options)

    return write


@pytest.fixture(scope="session")
def write_m4a():
    """write_m4a(path, wav, rate): lossless, but soundfile does not read it."""
    av = pytest.importorskip("av")

    def write(path, wav, rate=16000):
        samples = (wav[None] * 2**15).round().astype(np.int16)
        frame = av.AudioFrame.from_ndarray(samples, "s16p", "mono")
        frame.sample_rate = rate
        with av.open(str(path), "w", format="mp4") as container:
            stream = container.add_stream("alac", rate=rate, layout="mono")
            for part in [frame, None]:
                container.mux(stream.encode(part))

    return write


@pytest.fixture
def open_folder():
    """A folder that every user may enter and write to."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    umask = os.umask(0o022)  # what is made in it may be read by all
    yield folder
    os.umask(umask)
    shutil.rmtree(folder)


@pytest.fixture
def no_root():
    """A context without root's right to read everything."""

    @contextlib.contextmanager
    def become_nobody():
        if os.geteuid() != 0:
            yield
            return
        # Loaded at the first pool: nobody may not be allowed to read it
        import multiprocessing.popen_fork
        import multiprocessing.synchronize  # noqa: F401

        os.seteuid(65534)
        try:
            yield
        finally:
            os.seteuid(0)

    return become_nobody
