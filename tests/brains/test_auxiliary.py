"""DINO beside the task of a Brain that knows nothing of ours."""

import json
import logging
import pathlib

import host
import pytest
import torch
from forked import run
from recipe import TORCHRUN

from speechbrain_cadino.training.schedules import LinearSchedule

# Each global crop is the whole of its utterance, so that nothing is random
SAME_CROPS = {"local_crops": 0, "global_seconds": 0.1875}  # 3000 samples


def trained(loader=(), **options):
    """A Brain after two epochs."""
    brain, counter = host.make(**options)
    host.train(brain, counter, **dict(loader))
    return brain


def parameters(brain):
    """Those of the task."""
    modules = [brain.modules.encoder, brain.modules.classifier]
    return [p for module in modules for p in module.parameters()]


def assert_same(one, other, **tolerance):
    for name in ["encoder", "classifier", "head", "teacher", "centre"]:
        torch.testing.assert_close(
            one[name],
            other[name],
            msg=lambda text, name=name: f"{name}: {text}",
            **(tolerance or {"rtol": 0, "atol": 0}),
        )
    assert one["position"] == other["position"]


@pytest.mark.parametrize("flat", [False, True])
def test_with_a_weight_of_0_the_brain_is_what_it_was(flat):
    """Bit for bit, with all that is random in it, and what it drew."""
    encoder = {"norm": True, "dropout": 0.3, "flat": flat}
    loader = {"shuffle": True, "valid": True, "batch_size": 3}
    ends = []
    for weight in (None, 0, 0.0 * 7, LinearSchedule(0.0, 0.0, 1)):
        brain = trained(loader, weight=weight, encoder=encoder, augment=True)
        values = [p.detach() for p in parameters(brain)]
        values += list(brain.modules.mean_var_norm._statistics_dict().values())
        values += [b for b in brain.modules.encoder.buffers()]
        ends.append([*values, torch.rand(3)])
    for end in ends[1:]:
        for value, expected in zip(end, ends[0], strict=True):
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(expected)
            )


@pytest.mark.parametrize("flat", [False, True])
def test_it_is_learnt_beside_the_task_and_draws_numbers_of_its_own(flat):
    options = {"encoder": {"dropout": 0.3, "flat": flat}, "augment": True}
    without = trained(weight=0, **options)
    expected = torch.rand(3)
    brain = trained(weight=0.5, **options)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(parameters(brain)[0], parameters(without)[0])
    assert brain.figures["dino_loss"] < 1.1 * torch.tensor(10.0).log()
    assert {"teacher_entropy", "spread", "dimensions"} < set(brain.figures)
    # Statistics of the task's features are of these alone
    norms = [b.modules.mean_var_norm for b in (brain, without)]
    assert torch.equal(norms[0].glob_mean, norms[1].glob_mean)
    again = trained(weight=0.5, **options)
    assert_same(host.state(brain), host.state(again))
    other = trained(weight=0.5, seed=1, **options)
    assert not torch.equal(parameters(other)[0], parameters(brain)[0])


def test_the_gradient_is_that_of_the_sum_of_both_losses():
    """Of one step of SGD, against both written out without our Brain."""
    brain, counter = host.make(weight=0.3, cutter=SAME_CROPS)
    brain.opt_class = lambda params: torch.optim.SGD(params, lr=1.0)
    brain.optimizer_step_limit = 1
    before = [p.detach().clone() for p in brain.dino.encoder.parameters()]
    host.train(brain, counter, equal=True)
    moved = [
        old - new.detach()
        for old, new in zip(before, brain.dino.encoder.parameters())
    ]

    other, _ = host.make(weight=0.3)
    dino, modules = other.dino, other.modules
    wavs = torch.stack([row["sig"] for row in host.speech(equal=True)])[:4]
    feats = modules.mean_var_norm(modules.compute_features(wavs))
    logits = modules.classifier(dino.encoder(feats)[:, 0])
    task = torch.nn.functional.cross_entropy(
        logits, torch.tensor([0, 1, 0, 1])
    )
    unit = torch.nn.functional.normalize
    prototypes = unit(dino.head.prototypes.weight, dim=1)
    logits = dino.head(dino.encoder(feats)[:, 0])["bottleneck"] @ prototypes.T
    p = (logits.detach() / 0.04).softmax(1)
    loss = -(p * (logits / 0.1).log_softmax(1)).sum(1).mean()
    (task + 0.3 * loss).backward()
    # SpeechBrain clips all gradients of a group to a norm of 5
    for step, param in zip(moved, dino.encoder.parameters()):
        torch.testing.assert_close(step, param.grad, rtol=1e-4, atol=1e-6)


def test_teacher_and_centre_follow_steps_by_the_moving_average():
    """Two of them, each of two micro-batches, with the momentum of its
    start."""
    weights, centres = [], []

    class Watched(host.SpeakersWithDINO):
        def optimizers_step(self):
            collected = list(self.dino.objective.terms["dino"].target.collected)
            super().optimizers_step()
            weights.append(self.dino.encoder.last.weight.detach().clone())
            centres.append(torch.stack(collected).mean(0))
            assert len(collected) == min(2, len(weights))

    schedule = {0.0: 0.5, 0.5: 0.25, 1.0: 0.9, 1.5: 0.9}
    brain, counter = host.make(
        weight=0.5,
        momentum=schedule.__getitem__,
        run_opts={"grad_accumulation_factor": 2},
    )
    brain.__class__ = Watched
    teacher = brain.dino.encoder.last.weight.detach().clone()
    host.train(brain, [1], batch_size=2)
    for momentum, weight in zip([0.5, 0.25], weights):
        teacher = momentum * teacher + (1 - momentum) * weight
    found = brain.dino.teacher.network.encoder.encoder.last.weight
    torch.testing.assert_close(found, teacher)
    centre = torch.zeros(10)
    for mean in centres:
        centre = 0.9 * centre + 0.1 * mean
    torch.testing.assert_close(
        brain.dino.objective.terms["dino"].target.center, centre
    )


def test_two_micro_batches_equal_one_batch():
    options = {"weight": 0.5, "cutter": SAME_CROPS}
    one = trained({"equal": True}, **options)
    two = trained(
        {"equal": True, "batch_size": 2},
        run_opts={"grad_accumulation_factor": 2},
        **options,
    )
    assert one.optimizer_step == two.optimizer_step == 4
    assert_same(
        host.state(one), host.state(two), rtol=1e-4, atol=1e-6
    )


def test_two_processes_equal_one_on_the_joined_batch(tmp_path):
    options = {
        "weight": 0.5,
        "cutter": SAME_CROPS,
        "loader": {"equal": True, "batch_size": 2},
    }
    code, output = run(
        *(*TORCHRUN, host.__file__, tmp_path / "two.pt", json.dumps(options)),
        "--distributed_backend=gloo",
    )
    assert code == 0, output
    two = torch.load(tmp_path / "two.pt")
    one = trained({"equal": True}, **{**options, "loader": ()})
    assert_same(host.state(one), two, rtol=1e-4, atol=1e-6)


def test_a_killed_run_goes_on_as_if_it_was_not(tmp_path):
    """Amid the second epoch."""
    options = {
        "weight": 0.5,
        "augment": True,
        "loader": {"batch_size": 2, "shuffle": True},
        "run_opts": {"ckpt_interval_steps": 1},
    }
    whole = trained(folder=tmp_path / "whole", **options)
    options["folder"] = str(tmp_path / "killed")
    killed = {**options, "killed_after": 6, "run_opts": {}}
    script = [host.__file__, tmp_path / "end.pt"]
    flag = "--ckpt_interval_steps=1"
    code, output = run(*script, json.dumps(killed), flag)
    assert code == -9, output
    code, output = run(*script, json.dumps({**options, "run_opts": {}}), flag)
    assert code == 0, output
    end = torch.load(tmp_path / "end.pt")
    assert_same(host.state(whole), end)
    assert end["figures"] == host.state(whole)["figures"]
