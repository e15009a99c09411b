"""Tasks of test_cuda.py for a process of its own on a GPU; prints "right"."""

import copy
import sys

import numpy as np
import torch

from speechbrain_cadino.clustering.kmeans import cluster
from speechbrain_cadino.dataio.augment import (
    AddNoise,
    AddReverb,
    CropAugmenter,
    Equalise,
    OneOf,
    ShiftPitch,
)
from speechbrain_cadino.encoders.load import load_encoder
from speechbrain_cadino.lobes.ecapa import ECAPA_TDNN


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def step(encoder, features):
    """Embeddings and gradients of one step."""
    encoder.zero_grad()
    torch.compiler.cudagraph_mark_step_begin()
    embeddings = encoder(features)
    embeddings.square().sum().backward()
    # A softmax ignores its bias, whose gradient is rounding alone
    gradients = [
        parameter.grad.clone()
        for name, parameter in encoder.named_parameters()
        if not name.startswith("asp.conv.conv.bias")
    ]
    return [embeddings.detach().clone(), *gradients]


def compiled_encoder():
    """The compiled step is the eager one, three times with CUDA graphs."""
    torch.backends.cudnn.allow_tf32 = False
    torch.manual_seed(0)
    eager = ECAPA_TDNN(12, channels=[16] * 4 + [48], lin_neurons=8).cuda()
    graphs = copy.deepcopy(eager)
    graphs.compile_training("reduce-overhead")
    for _ in range(3):
        features = torch.randn(6, 40, 12, device="cuda")
        for found, expected in zip(
            step(graphs, features), step(eager, features)
        ):
            assert relative(found, expected) < 1e-3
    for found, expected in zip(graphs.buffers(), eager.buffers()):
        assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)
    # In evaluation, any length costs nothing
    graphs.eval(), eager.eval()
    for time in range(20, 40):
        features = torch.randn(2, time, 12, device="cuda")
        assert relative(graphs(features), eager(features)) < 1e-4


def kmeans():
    """The torch engine finds on a GPU what it finds on a CPU."""
    rng = np.random.default_rng(0)
    centers = rng.standard_normal((20, 16))
    points = np.repeat(centers, 50, 0) + 0.3 * rng.standard_normal((1000, 16))
    labels = [
        cluster(
            points.astype(np.float32), 20, engine="torch", device=device, seed=1
        )
        for device in ("cpu", "cuda")
    ]
    assert (labels[0].labels == labels[1].labels).all()


def augmentation():
    """Chosen crops are changed, others are not, whatever their number."""
    augment = CropAugmenter(
        [AddReverb(), OneOf([AddNoise(), Equalise(), ShiftPitch()])],
        [0.5, 0.5],
    )
    clean = torch.randn(37, 8000, device="cuda")
    changed = (augment(clean) != clean).any(1)
    assert 10 < changed.sum() < 37


def embedding(folder):
    """An encoder embeds on a GPU as on a CPU."""
    torch.backends.cudnn.allow_tf32 = False
    wavs = torch.randn(4, 16000)
    found, expected = (
        load_encoder(folder, device=device).encode_batch(wavs).cpu()
        for device in ("cuda", "cpu")
    )
    assert relative(found, expected) < 1e-3


if __name__ == "__main__":
    name, *arguments = sys.argv[1:]
    globals()[name](*arguments)
    print("right")
