import copy

import pytest
import torch

from speechbrain_cadino.lobes.heads import DINOHead


@pytest.fixture
def head():
    torch.manual_seed(0)
    return DINOHead(16, out_dim=40, hidden_size=32, bottleneck_size=8)


def test_outputs_are_cosines_with_unit_prototypes(head):
    torch.manual_seed(1)
    embeddings = torch.randn(5, 16)
    bottleneck = head.mlp(embeddings)
    expected = torch.nn.functional.cosine_similarity(
        bottleneck[:, None], head.prototypes.weight[None], dim=-1
    )
    torch.testing.assert_close(head(embeddings), expected)


def test_same_as_weight_normalisation_with_frozen_gain(head):
    """Value and gradient of torch's own weight_norm, gain fixed at one."""
    reference = copy.deepcopy(head)
    torch.nn.utils.parametrizations.weight_norm(reference.prototypes)
    gain = reference.prototypes.parametrizations.weight.original0
    gain.data.fill_(1.0)
    embeddings, weights = torch.randn(6, 16), torch.randn(6, 40)

    (head(embeddings) * weights).sum().backward()
    bottleneck = torch.nn.functional.normalize(
        reference.mlp(embeddings), dim=-1
    )
    (reference.prototypes(bottleneck) * weights).sum().backward()

    torch.testing.assert_close(
        head.prototypes.weight.grad,
        reference.prototypes.parametrizations.weight.original1.grad,
    )
    torch.testing.assert_close(
        head.mlp[0].weight.grad, reference.mlp[0].weight.grad
    )


def test_batch_norm_is_an_option():
    kinds = [
        sum(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules())
        for head in (DINOHead(4, 8, 4, 4), DINOHead(4, 8, 4, 4, True))
    ]
    assert kinds == [0, 2]
