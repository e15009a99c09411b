import pytest
import torch

from speechbrain.lobes.models.Xvector import Xvector
from speechbrain_cadino.lobes.ecapa import ECAPA_TDNN
from speechbrain_cadino.lobes.embedding_norm import (
    EmbeddingNorm,
    with_norm,
    without_norm,
)

SMALL = {"channels": [16] * 5, "lin_neurons": 6}


def test_folded_into_the_last_layer_of_any_encoder():
    torch.manual_seed(0)
    x_vector = Xvector(
        device="cpu",
        activation=torch.nn.LeakyReLU,
        tdnn_blocks=1,
        tdnn_channels=[8] * 5,
        tdnn_kernel_sizes=[5, 3, 3, 1, 1],
        tdnn_dilations=[1, 2, 3, 1, 1],
        lin_neurons=6,
        in_channels=24,
    )
    last = [
        name
        for name, layer in x_vector.named_modules()
        if isinstance(layer, torch.nn.Linear)
    ][-1]
    for encoder, layer in [
        (ECAPA_TDNN(24, **SMALL), "fc.conv"),
        (x_vector, last),
    ]:
        normed = EmbeddingNorm(encoder, 6, layer)
        for _ in range(5):
            normed(3 * torch.randn(8, 50, 24) + 1)
        torch.nn.init.uniform_(normed.norm.weight)
        torch.nn.init.uniform_(normed.norm.bias)
        normed.eval()
        feats = torch.randn(4, 50, 24)
        before = {k: v.clone() for k, v in encoder.state_dict().items()}
        folded = without_norm(normed)
        assert type(folded) is type(encoder)
        torch.testing.assert_close(
            folded(feats), normed(feats), rtol=1e-4, atol=1e-4
        )
        for name, value in encoder.state_dict().items():
            assert torch.equal(value, before[name])  # left as it was
    assert without_norm(x_vector) is x_vector


def test_only_if_wanted_and_possible():
    encoder = ECAPA_TDNN(24, **SMALL)
    assert with_norm(encoder, 6, wanted=False) is encoder
    normed = with_norm(encoder, 6).eval()
    feats, lengths = torch.randn(2, 30, 24), torch.tensor([1.0, 0.5])
    assert torch.equal(normed(feats, lengths), normed(feats, lengths=lengths))
    for size, layer in [(5, "fc.conv"), (6, "head")]:
        with pytest.raises(ValueError, match="give last_layer of student_enc"):
            with_norm(encoder, size, last_layer=layer)
