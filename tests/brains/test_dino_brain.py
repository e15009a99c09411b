import functools
import pathlib
import types

import forked
import pytest
import torch

from speechbrain_cadino.brains.adaptation import AdaptationBrain
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.dataio.augment import AddNoise, CropAugmenter
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.training.schedules import LinearSchedule
from speechbrain_cadino.training.unreadable import Unreadable

SCRIPT = pathlib.Path(__file__).with_name("take_steps.py")


def run(*command, ranks=None):
    code, output = forked.run(*command, ranks=ranks)
    assert code == 0, output
    return output


METHODS = ["dino", "rdino", "sdpn", "joint", "contrastive"]


@pytest.fixture(scope="module", params=METHODS)
def steps(tmp_path_factory, request):
    """A method, and a folder with one.pt: two steps of one process on whole
    batches."""
    folder = tmp_path_factory.mktemp("steps")
    run(SCRIPT, folder / "one.pt", 1, request.param)
    return request.param, folder


def assert_same_steps(folder, other):
    one, other = torch.load(folder / "one.pt"), torch.load(folder / other)
    for name in ("loss", "centre", "gradients", "student", "teacher"):
        torch.testing.assert_close(
            other[name],
            one[name],
            rtol=1e-8,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    return one["processes"], other["processes"]


def test_two_processes_equal_one_on_the_joined_batch(steps):
    method, folder = steps
    command = SCRIPT, folder / "two.pt", 2, method
    run(*command, "--distributed_backend=gloo", ranks=2)
    assert assert_same_steps(folder, "two.pt") == (1, 2)


@pytest.mark.parametrize("steps", ["dino"], indirect=True)
def test_two_micro_batches_equal_one_batch(steps):
    """But for terms that are statistics of a batch."""
    method, folder = steps
    flag = "--grad_accumulation_factor=2"
    said = run(SCRIPT, folder / "micro.pt", 2, method, flag)
    assert "which is another objective" not in said
    said = run(SCRIPT, folder / "sdpn.pt", 2, "sdpn", flag)
    assert "(dino, me_max, koleo, frobenius, off_diagonal) see 1/2" in said
    assert_same_steps(folder, "micro.pt")


def test_each_gradient_is_clipped_by_its_own_norm():
    """Against PyTorch's function, a parameter at a time."""
    torch.manual_seed(0)
    params = [torch.nn.Parameter(torch.zeros(n, 2)) for n in (1, 7, 300, 5)]
    for param, size in zip(params, (0.1, 10.0, 1.0, 0.0)):
        param.grad = size * torch.randn(param.shape)
    params.append(torch.nn.Parameter(torch.zeros(3)))  # without a gradient
    expected = []
    for param in params[:-1]:
        other = torch.nn.Parameter(param.detach().clone())
        other.grad = param.grad.clone()
        torch.nn.utils.clip_grad_norm_(other, 3.0)
        expected.append(other.grad)
    brain = types.SimpleNamespace(
        max_grad_norm=3.0, is_free=lambda parameter: False
    )
    DINOBrain.clip_gradients(brain, params)
    clipped = [param.grad for param in params[:-1]]
    torch.testing.assert_close(clipped, expected)
    assert [g.norm() < 3.0001 for g in clipped] == [True] * 4


@pytest.mark.parametrize("free", [False, True])
def test_prototypes_may_be_spared_decay_and_clipping(free):
    head = DINOHead(4, 6, hidden_size=5, bottleneck_size=3)
    brain = object.__new__(DINOBrain)
    brain.modules = torch.nn.ModuleDict({"head": head})
    brain.hparams = types.SimpleNamespace(free_prototypes=free)
    brain.distillation = types.SimpleNamespace(head=head)
    brain.max_grad_norm, brain.checkpointer = 1.0, None
    brain.opt_class = functools.partial(torch.optim.SGD, lr=1, weight_decay=0.1)
    brain.init_optimizers()
    decay = {
        id(parameter): group["weight_decay"]
        for group in brain.optimizer.param_groups
        for parameter in group["params"]
    }
    prototypes, other = head.prototypes.weight, head.mlp[0].weight
    assert decay[id(prototypes)] == (0 if free else 0.1)
    assert decay[id(other)] == 0.1
    for parameter in head.parameters():
        parameter.grad = torch.full_like(parameter, 5.0)
    norm = prototypes.grad.norm().item()
    norms = brain.clip_gradients([*head.parameters()])
    assert len(norms) == len([*head.parameters()])
    assert other.grad.norm().item() == pytest.approx(1)
    expected = norm if free else 1
    assert prototypes.grad.norm().item() == pytest.approx(expected)


def test_prototypes_may_have_the_sum_over_processes(monkeypatch):
    seen = []
    monkeypatch.setattr(
        EncoderBrain,
        "optimizers_step",
        lambda brain: seen.append(head.prototypes.weight.grad),
    )
    head = DINOHead(4, 6, hidden_size=5, bottleneck_size=3)
    brain = object.__new__(DINOBrain)
    brain.processes, brain.optimizer_step, brain.steps_per_epoch = 4, 0, 1
    brain.distillation = types.SimpleNamespace(
        head=head, before_step=lambda position: None
    )
    for summed, expected in [(False, 1.0), (True, 4.0)]:
        brain.hparams = types.SimpleNamespace(summed_prototypes=summed)
        head.prototypes.weight.grad = torch.ones(6, 3)
        brain.optimizers_step()
        assert (seen[-1] == expected).all()
    head.prototypes.weight.grad = None
    brain.optimizers_step()
    assert seen[-1] is None


def test_the_crops_of_a_sample_are_augmented_together(monkeypatch):
    torch.manual_seed(0)
    brain = object.__new__(DINOBrain)
    brain.device = "cpu"
    brain.augmenters = dict.fromkeys(("globals", "locals"), torch.neg)
    brain.erase = {}
    network = types.SimpleNamespace(
        features=lambda wavs, augment: augment(wavs)
    )
    monkeypatch.setattr(DINOBrain, "network", network)
    monkeypatch.setattr(DINOBrain, "position", 1.5)
    batch = {
        "id": list(range(400)),
        "globals": torch.ones(400, 2, 3),
        "locals": torch.ones(400, 4, 2),
    }
    for start, low, high in [(0.0, 0.2, 0.3), (1.0, 1.0, 1.0)]:
        share = LinearSchedule(start, 1, epochs=6)
        brain.hparams = types.SimpleNamespace(augmented_share=share)
        signs = torch.cat([f[:, 0].view(-1, 400) for f in brain._crops(batch)])
        assert signs.shape == (6, 400)
        assert (signs == signs[0]).all()
        assert low <= (signs[0] == -1).float().mean() <= high


def test_what_erases_features_follows_its_schedule(monkeypatch, tmp_path):
    erase = CropAugmenter([AddNoise()], [1.0], LinearSchedule(0, 1, 10))
    augment = CropAugmenter([AddNoise()], [1.0], LinearSchedule(0, 1, 10))
    brain = object.__new__(DINOBrain)
    brain.augmenters = {"globals": None, "locals": augment}
    brain.erase = {"locals": erase}
    brain.hparams = types.SimpleNamespace()
    brain.guard = types.SimpleNamespace(begin=lambda names: None)
    brain.optimizer = types.SimpleNamespace(param_groups=[])
    brain.record = types.SimpleNamespace(
        count=lambda name, number: None, counts={"replaced": 0}
    )
    brain.unreadable = Unreadable(brain.record, tmp_path)
    brain.epoch, brain.items_per_epoch, brain.utterances = 1, 1, 0
    monkeypatch.setattr(DINOBrain, "position", 10.0)
    brain.on_fit_batch_start({"id": ["a"], "problem": [""]}, True)
    clean = torch.randn(8, 16000)
    for each in (erase, augment):
        assert (each(clean) != clean).any()


def test_each_kind_of_crops_has_its_own_augmentation(monkeypatch):
    """As in SDPN: the globals as they are, parts of the locals erased; and the
    labelled source of an adaptation."""

    def start(self):
        self.hparams = types.SimpleNamespace(
            distillation=types.SimpleNamespace(
                objective=types.SimpleNamespace(figures=[])
            ),
            augment_globals=None,
            augment_locals=lambda wavs: 2 * wavs,
            augment_source=lambda wavs: 3 * wavs,
            erase_locals=lambda features: -features,
        )
        self.modules = types.SimpleNamespace(student=None)
        self.guard = types.SimpleNamespace(rewindable=[])
        self.augmenters, self.checkpointer = {"all": "not this one"}, None
        self.device = "cpu"

    network = types.SimpleNamespace(
        features=lambda wavs, augment: augment(wavs) if augment else wavs
    )
    monkeypatch.setattr(EncoderBrain, "__init__", start)
    monkeypatch.setattr(DINOBrain, "network", network)
    brain = AdaptationBrain()
    crops = torch.arange(6.0).reshape(1, 2, 3)
    for kind, factor in [("globals", 1), ("locals", -2), ("source", 3)]:
        found = brain._features(crops, kind)
        torch.testing.assert_close(found, factor * crops[0], msg=kind)


def test_an_order_of_its_own_is_dealt_out_to_processes(tmp_path):
    """Not shuffled: three passes would meet in a batch."""
    order = pathlib.Path(__file__).with_name("order.py")
    run(order, tmp_path, ranks=2)
    ranks = [
        [line.split() for line in path.read_text().splitlines()]
        for path in sorted(tmp_path.glob("?.txt"))
    ]
    assert [len(batches) for batches in ranks] == [6, 6]
    drawn = [
        name
        for step in zip(*ranks, strict=True)
        for pair in zip(*step, strict=True)
        for name in pair
    ]
    assert drawn == [str(i % 12) for i in range(36)]
