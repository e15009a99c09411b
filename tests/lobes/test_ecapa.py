"""Every figure is compared with that of SpeechBrain's own ECAPA-TDNN."""

import copy

import pytest
import torch

from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN as SpeechBrainECAPA
from speechbrain_cadino.lobes.ecapa import ECAPA_TDNN
from speechbrain_cadino.training.compiled import Compilation

SMALL = {
    "input_size": 12,
    "channels": [16, 16, 16, 48],
    "kernel_sizes": [5, 3, 3, 1],
    "dilations": [1, 2, 4, 1],
    "groups": [1, 1, 1, 1],
    "attention_channels": 8,
    "se_channels": 8,
    "lin_neurons": 6,
}
CONFIGURATIONS = {
    "plain": {},
    "no context": {"global_context": False},
    "shortcut": {"channels": [8, 16, 16, 48]},
    "groups": {"groups": [2, 4, 1, 2]},
}
# SpeechBrain divides by the number of frames in fp32, even in a float64 model.
# With 32, 16, 8 or 4 frames that is exact, and so is the comparison.
FRAMES = 32
LENGTHS = {
    "none": None,
    "full": torch.ones(5),
    "padded": torch.tensor([1.0, 0.5, 0.24, 0.97, 0.11]),
}


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def make_pair(dtype=torch.float64, **changes):
    """SpeechBrain's encoder and ours, with the same random parameters."""
    theirs = SpeechBrainECAPA(**SMALL | changes).to(dtype)
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value.add_(0.2 * torch.rand_like(value))
    ours = ECAPA_TDNN(**SMALL | changes).to(dtype)
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def make_features(batch=5, time=FRAMES, dtype=torch.float64):
    return torch.randn(batch, time, SMALL["input_size"], dtype=dtype)


def figures(encoder, features, lengths=None):
    """Embeddings, gradients and buffers after one step, by name."""
    features = features.clone().requires_grad_()
    encoder.zero_grad()
    embeddings = encoder(features, lengths)
    weights = torch.linspace(-1, 1, embeddings.numel(), dtype=features.dtype)
    (embeddings * weights.view_as(embeddings)).sum().backward()
    gradients = {
        f"gradient of {name}": parameter.grad
        for name, parameter in encoder.named_parameters()
    }
    return {
        "embeddings": embeddings.detach(),
        "gradient of the features": features.grad,
        **gradients,
        **dict(encoder.named_buffers()),
    }


def assert_same(ours, theirs, tolerance=1e-10):
    """Compares figures, each relative to its own scale."""
    assert ours.keys() == theirs.keys()
    for name, expected in theirs.items():
        assert ours[name].dtype == expected.dtype, name
        # One gradient is zero but for rounding: a softmax ignores its bias.
        scale = max(expected.abs().max().item(), 1e-3)
        error = (ours[name] - expected).abs().max().item() / scale
        assert error <= tolerance, f"{name}: {error}"


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_same_figures(configuration, training, lengths):
    theirs, ours = make_pair(**CONFIGURATIONS[configuration])
    features, lengths = make_features(), LENGTHS[lengths]
    for _ in range(2):  # the second time with running statistics updated
        assert_same(
            figures(ours.train(training), features, lengths),
            figures(theirs.train(training), features, lengths),
        )


def test_fp32_is_exact_over_many_frames():
    # Summing 20,000 equal squares one by one is wrong by more than 1e-5.
    theirs, ours = make_pair(torch.float32)
    features = make_features(batch=64, time=301, dtype=torch.float32)
    with torch.no_grad():
        ours_out, theirs_out = ours(features), theirs(features)
    scale = theirs_out.abs().max()
    assert (ours_out - theirs_out).abs().max() <= 1e-5 * scale
    theirs = dict(theirs.named_buffers())
    for name, value in ours.named_buffers():
        assert torch.allclose(value, theirs[name], rtol=1e-5, atol=1e-5), name


def test_fp32_inference():
    theirs, ours = (model.eval() for model in make_pair(torch.float32))
    features = make_features(dtype=torch.float32)
    with torch.inference_mode():
        expected = theirs(features)
        error = (ours(features) - expected).abs().max()
    assert error <= 1e-5 * expected.abs().max()


def test_state_dict_goes_both_ways():
    theirs, ours = make_pair()
    shapes = {name: value.shape for name, value in ours.state_dict().items()}
    assert shapes == {n: v.shape for n, v in theirs.state_dict().items()}
    assert list(shapes) == list(theirs.state_dict())
    theirs.load_state_dict(ours.state_dict())


@pytest.mark.parametrize(
    "changes", [{"dropout": 0.5}, {"activation": torch.nn.GELU}], ids=str
)
def test_the_unsupported_is_left_to_speechbrain(changes):
    theirs, ours = make_pair(**changes)
    features = make_features()
    torch.manual_seed(1)
    expected = theirs(features)
    torch.manual_seed(1)
    assert torch.equal(ours(features), expected)


def test_plain_average_of_statistics():
    theirs, ours = make_pair()
    for encoder in (theirs, ours):
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.reset_running_stats()
                module.momentum = None
    for _ in range(3):
        features = make_features()
        theirs(features), ours(features)
    theirs = dict(theirs.named_buffers())
    assert_same(dict(ours.named_buffers()), theirs)


def test_frozen_statistics():
    theirs, ours = make_pair()
    for encoder in (theirs, ours):
        for module in encoder.modules():
            if isinstance(module, torch.nn.BatchNorm1d):
                module.eval()
    features = make_features()
    assert_same(figures(ours, features), figures(theirs, features))


def test_autocast_is_as_close_to_fp32_as_speechbrain():
    theirs, ours = make_pair(torch.float32)
    features = make_features(batch=8, time=100, dtype=torch.float32)
    exact = figures(copy.deepcopy(theirs), features)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = figures(theirs, features)
        found = figures(ours, features)
    assert found["embeddings"].dtype == rounded["embeddings"].dtype

    def error(figures):
        differences = [figures[n].float() - v for n, v in exact.items()]
        return torch.cat([d.flatten() for d in differences]).norm()

    assert error(found) <= 1.2 * error(rounded)


def test_autocast_pools_in_fp32():
    _, ours = make_pair(torch.float32)
    seen = []
    ours.asp_bn.norm.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0].dtype)
    )
    with torch.autocast("cpu", torch.bfloat16):
        ours(make_features(dtype=torch.float32))
    assert seen == [torch.float32]


def test_deepcopy_is_independent():
    _, ours = make_pair()
    features = make_features()
    twin = copy.deepcopy(ours)
    expected = figures(ours, features)
    assert_same(figures(twin, features), expected, 0)
    with torch.no_grad():
        twin.fc.conv.bias += 1
    assert not torch.equal(twin.fc.conv.bias, ours.fc.conv.bias)


def test_synchronised_batch_norm():
    theirs, ours = make_pair()
    ours = torch.nn.SyncBatchNorm.convert_sync_batchnorm(ours)
    features = make_features()
    assert_same(figures(ours, features), figures(theirs, features))


def test_distributed_data_parallel():
    theirs, ours = make_pair()
    features = make_features()
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    try:
        parallel = torch.nn.parallel.DistributedDataParallel(ours)
        for _ in range(2):  # a parameter without gradient fails the second
            found = figures(parallel, features)
            expected = figures(theirs, features)
    finally:
        torch.distributed.destroy_process_group()
    found = {n.replace("module.", ""): value for n, value in found.items()}
    assert_same(found, expected)


def test_compiles_without_graph_break():
    theirs, ours = make_pair(
        channels=[16, 16, 48],
        kernel_sizes=[5, 3, 1],
        dilations=[1, 2, 1],
        groups=[1, 1, 1],
    )
    compiled = torch.compile(ours, backend="aot_eager", fullgraph=True)
    features = make_features()
    expected = figures(theirs, features)
    found = figures(compiled, features)
    found = {n.replace("_orig_mod.", ""): value for n, value in found.items()}
    assert_same(found, expected)


def test_compiled_with_less_memory_it_computes_the_same():
    """What is kept for the backward pass, and its gradients bit for bit."""
    _, encoder = make_pair(
        channels=[16, 16, 48],
        kernel_sizes=[5, 3, 1],
        dilations=[1, 2, 1],
        groups=[1, 1, 1],
        res2net_scale=2,
    )
    features = make_features()
    held, gradients = {}, {}
    for share in (1.0, 0.6):
        torch._dynamo.reset()
        Compilation(torch.nn.ModuleList(), graphs=False, memory=share)
        own = torch.compile(encoder, backend="aot_eager_decomp_partition")
        kept = {}

        def keep(tensor, kept=kept):
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
            loss = own(features).square().sum()
        held[share] = sum(storage.nbytes() for storage in kept.values())
        gradients[share] = torch.autograd.grad(loss, encoder.parameters())
    Compilation(torch.nn.ModuleList(), graphs=False)
    assert held[0.6] < 0.7 * held[1.0]
    for one, other in zip(gradients[0.6], gradients[1.0]):
        assert torch.equal(one, other)


def test_too_short():
    _, ours = make_pair()
    with pytest.raises(ValueError, match=r"4 frames is too short.* 5 or more"):
        ours(make_features(time=4))
    assert ours(make_features(time=5)).shape == (5, 1, 6)


def test_one_utterance_cannot_train():
    _, ours = make_pair()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ours(make_features(batch=1))
