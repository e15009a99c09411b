import copy

import pytest
import torch

from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.losses.dino import DINOLoss
from speechbrain_cadino.losses.objective import Views
from speechbrain_cadino.losses.targets import Centering


@pytest.fixture
def head():
    torch.manual_seed(0)
    return DINOHead(16, out_dim=40, hidden_size=32, bottleneck_size=8)


def test_bottleneck_has_unit_length(head):
    torch.manual_seed(1)
    embeddings = torch.randn(5, 16)
    outputs = head(embeddings)
    assert torch.equal(outputs["prototypes"], head.prototypes.weight)
    expected = head.mlp(embeddings)
    expected = expected / expected.square().sum(1, keepdim=True).sqrt()
    torch.testing.assert_close(outputs["bottleneck"], expected)


def test_bottleneck_has_the_precision_of_the_parameters(head):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert head.mlp(torch.randn(5, 16)).dtype == torch.bfloat16
        bottleneck = head(torch.randn(5, 16))["bottleneck"]
    assert bottleneck.dtype == torch.float32
    torch.testing.assert_close(bottleneck.norm(dim=1), torch.ones(5))


def test_with_the_loss_the_same_as_weight_norm_with_frozen_gain(head):
    """Gradients of torch's own weight_norm, gain fixed at one."""
    reference = copy.deepcopy(head)
    torch.nn.utils.parametrizations.weight_norm(reference.prototypes)
    gain = reference.prototypes.parametrizations.weight.original0
    gain.data.fill_(1.0)
    crops, teacher = torch.randn(2, 3, 16), torch.randn(1, 3, 16)

    with torch.no_grad():
        answers = Views(teacher, head(teacher), 1)
    loss = DINOLoss(40, Centering(40), 0.04)
    value, _ = loss(Views(crops, head(crops), 1), answers, 0.0)
    value.backward()
    bottleneck = torch.nn.functional.normalize(reference.mlp(crops), dim=-1)
    log_q = (reference.prototypes(bottleneck) / 0.1).log_softmax(-1)
    with torch.no_grad():
        bottleneck = torch.nn.functional.normalize(
            reference.mlp(teacher), dim=-1
        )
        p = (reference.prototypes(bottleneck) / 0.04).softmax(-1)
    # One global crop: the second crop of the student is the only other one
    expected = -(p[0] * log_q[1]).sum(-1).mean()
    expected.backward()

    torch.testing.assert_close(value, expected)
    torch.testing.assert_close(
        head.prototypes.weight.grad,
        reference.prototypes.parametrizations.weight.original1.grad,
    )
    torch.testing.assert_close(
        head.mlp[0].weight.grad, reference.mlp[0].weight.grad
    )


@pytest.mark.parametrize(
    "bad",
    [
        {"input_size": 0},
        {"out_dim": 0},
        {"hidden_size": 0},
        {"bottleneck_size": -1},
        {"expander_size": -2},
    ],
)
def test_a_size_that_is_none_is_refused(bad):
    sizes = dict.fromkeys(["input_size", "hidden_size", "bottleneck_size"], 4)
    told = f"{next(iter(bad))}=.*give 1 or more of each"
    with pytest.raises(ValueError, match=told):
        DINOHead(**sizes | {"out_dim": 8} | bad)


def test_batch_norm_is_an_option():
    kinds = [
        sum(isinstance(m, torch.nn.BatchNorm1d) for m in head.modules())
        for head in (DINOHead(4, 8, 4, 4), DINOHead(4, 8, 4, 4, True))
    ]
    assert kinds == [0, 2]


def test_the_expanded_output_is_before_the_bottleneck():
    torch.manual_seed(0)
    head = DINOHead(
        input_size=4,
        out_dim=8,
        hidden_size=6,
        bottleneck_size=5,
        expander_size=12,
        init_prototypes=lambda weight: torch.nn.init.constant_(weight, 0.5),
    )
    embeddings = torch.randn(3, 4)
    outputs = head(embeddings)
    assert outputs["expanded"].shape == (3, 12)
    torch.testing.assert_close(outputs["expanded"], head.mlp(embeddings))
    expected = outputs["expanded"] @ head.reduce.weight.T
    expected = expected / expected.norm(dim=1, keepdim=True)
    torch.testing.assert_close(outputs["bottleneck"], expected)
    assert (outputs["prototypes"] == 0.5).all()
    assert "expanded" not in DINOHead(4, 8, 6, 5)(embeddings)
