"""DINO beside the task of a Brain that knows nothing of ours."""

import copy
import json
import logging

import host
import pytest
import torch
from forked import run

import speechbrain as sb
from speechbrain_cadino.brains.auxiliary import AuxiliaryDINO
from speechbrain_cadino.losses.contrastive import ContrastiveCenter
from speechbrain_cadino.losses.objective import Objective
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
    for weight in (None, 0, LinearSchedule(0.0, 0.0, 1)):
        brain = trained(loader, weight=weight, encoder=encoder, augment=True)
        values = [p.detach() for p in parameters(brain)]
        values += list(brain.modules.mean_var_norm._statistics_dict().values())
        values += list(brain.modules.encoder.buffers())
        ends.append([*values, torch.rand(3)])
    for end in ends[1:]:
        for value, expected in zip(end, ends[0], strict=True):
            assert torch.equal(
                torch.as_tensor(value), torch.as_tensor(expected)
            )


def test_views_are_augmented_as_far_as_training_is():
    """Twice as loud is a constant more of log-mel values."""
    brain = trained(weight=0.5, augment=True)
    dino = brain.dino
    wavs = torch.randn(3, 6000)
    dino.augment = None
    plain = dino.views(wavs, None, ("here",))
    dino.augment = lambda crops: 2 * crops
    loud = dino.views(wavs, None, ("here",))
    for one, other in zip(plain, loud, strict=True):
        assert one.shape == other.shape
        assert not torch.allclose(one, other, atol=1e-3)


def test_augmentations_follow_the_training(monkeypatch):
    brain, counter = host.make(weight=0.5, augment=True)
    places, epochs = [], []
    monkeypatch.setattr(
        "speechbrain_cadino.brains.auxiliary.set_position",
        lambda augment, place: places.append((augment, place)),
    )
    monkeypatch.setattr(
        "speechbrain_cadino.brains.auxiliary.refresh_banks",
        lambda augment, epoch: epochs.append((augment, epoch)),
    )
    host.train(brain, counter)
    augment = brain.dino.augment
    steps = len(places) // 2
    expected = [(augment, step / steps) for step in range(2 * steps)]
    assert places == expected
    assert epochs == [(augment, 1), (augment, 2)]


def test_views_are_not_shared_out_over_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="torchrun --nproc_per_node=N"):
        host.make(weight=0.3, run_opts={"data_parallel_backend": True})


@pytest.mark.parametrize("flat", [False, True])
def test_it_is_learnt_beside_the_task_and_draws_numbers_of_its_own(flat):
    options = {"encoder": {"dropout": 0.3, "flat": flat}, "augment": True}
    without = trained(weight=0, **options)
    expected = torch.rand(3)
    brain = trained(weight=0.5, **options)
    assert torch.equal(torch.rand(3), expected)
    assert not torch.equal(parameters(brain)[0], parameters(without)[0])
    assert brain.figures["kl"] > 0
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
    brain, counter = host.make(
        weight=0.3,
        optimizer="SGD",
        cutter=SAME_CROPS,
        run_opts={"max_grad_norm": 1e9, "optimizer_step_limit": 1},
    )
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
    task = torch.nn.functional.cross_entropy(logits, torch.tensor([0, 1, 0, 1]))
    unit = torch.nn.functional.normalize
    prototypes = unit(dino.head.prototypes.weight, dim=1)
    logits = dino.head(dino.encoder(feats)[:, 0])["bottleneck"] @ prototypes.T
    p = (logits.detach() / 0.04).softmax(1)
    loss = -(p * (logits / 0.1).log_softmax(1)).sum(1).mean()
    (task + 0.3 * loss).backward()
    for step, param in zip(moved, dino.encoder.parameters()):
        expected = 0.05 * param.grad
        torch.testing.assert_close(step, expected, rtol=1e-3, atol=1e-6)


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
            assert len(collected) == 2

    schedule = {0.0: 0.5, 0.5: 0.25, 1.0: 0.9, 1.5: 0.9}
    brain, _ = host.make(
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


# Nothing that depends on how a batch is cut into parts
EXACT = {
    "weight": 0.5,
    "cutter": SAME_CROPS,
    "norm": "sentence",
    "optimizer": "SGD",
}


def test_two_micro_batches_equal_one_batch():
    one = trained({"equal": True}, **EXACT)
    two = trained(
        {"equal": True, "batch_size": 2},
        run_opts={"grad_accumulation_factor": 2},
        **EXACT,
    )
    assert one.optimizer_step == two.optimizer_step == 4
    assert_same(host.state(one), host.state(two), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("flags", [[], ["--find_unused_parameters"]])
def test_two_processes_equal_one_on_the_joined_batch(flags, tmp_path):
    options = {**EXACT, "loader": {"equal": True, "batch_size": 2}}
    code, output = run(
        host.__file__,
        tmp_path / "two.pt",
        json.dumps(options),
        "--distributed_backend=gloo",
        *flags,
        ranks=2,
    )
    assert code == 0, output
    two = torch.load(tmp_path / "two.pt")
    one = trained({"equal": True}, **EXACT)
    assert_same(host.state(one), two, rtol=1e-4, atol=1e-6)


def test_a_term_of_clusters_is_refused():
    objective = Objective({"center": ContrastiveCenter()}, {"center": 1})
    with pytest.raises(ValueError, match="The term center waits for clusters"):
        AuxiliaryDINO(None, None, objective, None, None, weight=1)


def test_views_without_augmentation_are_told_of(caplog):
    caplog.set_level("WARNING")
    for augment in (True, False):
        caplog.clear()
        trained(weight=0.5, augment=augment)
        said = "views of dino are not augmented" in caplog.text
        assert said == (not augment)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_killed_run_goes_on_as_if_it_was_not(parts, tmp_path):
    """Amid the second epoch, by the checkpoint before; none is between the
    micro-batches of a step."""
    options = {"weight": 0.5, "augment": True}
    loader = {"batch_size": 2 // parts, "shuffle": True}
    accumulate = {"grad_accumulation_factor": parts}
    whole = host.state(
        trained(loader, folder=tmp_path / "a", run_opts=accumulate, **options)
    )

    options |= {"folder": str(tmp_path / "killed"), "loader": loader}
    end = tmp_path / "end.pt"
    for killed_after, expected in [(6, -9), (None, 0)]:
        text = json.dumps({**options, "killed_after": killed_after})
        code, output = run(
            host.__file__,
            end,
            text,
            "--ckpt_interval_steps=1",
            f"--grad_accumulation_factor={parts}",
        )
        assert code == expected, output
    found = torch.load(end)
    assert_same(whole, found)
    assert found["figures"] == whole["figures"]


class BrokenDINO(host.SpeakersWithDINO):
    """The second step has no finite loss of DINO."""

    def dino_loss(self, views):
        if self.optimizer_step == 1:
            views.embeddings.data[0] = torch.nan
        return super().dino_loss(views)


class BrokenTask(host.SpeakersWithDINO):
    """The second step has no finite loss of the task."""

    def compute_objectives(self, predictions, batch, stage):
        loss = super().compute_objectives(predictions, batch, stage)
        return loss * (torch.nan if self.optimizer_step == 1 else 1)


@pytest.mark.parametrize("broken", [BrokenDINO, BrokenTask])
def test_a_step_whose_loss_is_not_finite_is_not_followed(broken, caplog):

    ends = []
    for steps in (1, 2):
        brain, counter = host.make(
            weight=0.5,
            run_opts={
                "optimizer_step_limit": steps,
                "skip_nonfinite_grads": True,
                "nonfinite_patience": 3,
            },
        )
        brain.__class__ = broken
        host.train(brain, counter)
        ends.append(host.state(brain))
    for name in ["teacher", "centre"]:
        torch.testing.assert_close(ends[0][name], ends[1][name])
    assert not any(value.isnan().any() for value in ends[1]["teacher"])
    # Nor does it count
    assert ends[1]["figures"] == ends[0]["figures"]
    assert "In 1 steps of epoch 1 the loss was not finite" in caplog.text
    assert "had no loss" not in caplog.text


def test_a_brain_that_steps_by_itself_is_as_one_that_does_not():
    class Own(host.SpeakersWithDINO):
        def fit_batch(self, batch):
            outputs = self.compute_forward(batch, sb.Stage.TRAIN)
            loss = self.compute_objectives(outputs, batch, sb.Stage.TRAIN)
            loss.backward()
            self.before_dino_step()
            norm = torch.nn.utils.clip_grad_norm_
            norm(self.optimizer.param_groups[0]["params"], self.max_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
            self.after_dino_step()
            return loss.detach()

    weight = LinearSchedule(0.0, 0.5, 2)
    frozen = {"freeze_prototypes_epochs": 1}
    expected = trained(weight=weight, augment=True, **frozen)
    brain, counter = host.make(weight=weight, augment=True, **frozen)
    brain.__class__ = Own
    host.train(brain, counter)
    assert brain.optimizer_step == 0
    assert_same(host.state(brain), host.state(expected))


def test_epochs_that_are_counted_from_0():
    positions = []

    def weight(position):
        positions.append(position)
        return 0.1

    brain, _ = host.make(weight=weight)
    host.train(brain, range(3))
    assert sorted(set(positions)) == [0.0, 0.5, 1.0, 1.5]


def test_a_step_that_overflows_in_fp16_is_not_followed():
    """The scaler takes none, and says so by its scale alone."""
    brain, counter = host.make(weight=0.5)
    start = copy.deepcopy(host.state(brain))
    brain.scaler = torch.GradScaler("cpu", init_scale=2.0**100)
    brain.training_ctx = torch.autocast("cpu", torch.float16)
    host.train(brain, counter)
    assert brain.optimizer_step > 1
    end = host.state(brain)
    for name in ["encoder", "teacher", "centre"]:
        torch.testing.assert_close(end[name], start[name], rtol=0, atol=0)


def test_the_teacher_begins_as_the_weights_that_were_loaded():
    brain, _ = host.make(weight=0.5)
    with torch.no_grad():
        brain.dino.encoder.last.weight.fill_(7.0)
    brain.on_fit_start()
    found = brain.dino.teacher.network.encoder.encoder.last.weight
    assert (found == 7.0).all()


def test_a_weight_that_grows_with_the_epochs(caplog):
    """Nothing is computed while it is 0, and the teacher follows."""
    positions = []

    def weight(position):
        positions.append(position)
        return 0.0 if position < 1 else position - 0.75

    with caplog.at_level(logging.WARNING):
        brain = trained(weight=weight)
    assert sorted(set(positions)) == [0.0, 0.5, 1.0, 1.5]
    assert "had no loss" not in caplog.text
    assert brain.dino_record.means()["dino_loss"] > 0
    # Of the steps of the second epoch: none is missed at its start
    assert brain.dino_record._count == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modules": {"other": torch.nn.Linear(1, 1)}}, "is none of the mod"),
        ({"optimised": "encoder"}, "head of dino is in no optimiser: hand"),
        ({"optimised": "dino_head"}, "objective of dino is in no optimiser"),
        ({"weight": -1}, "weight of DINO is -1: give 0, which"),
    ],
)
def test_what_a_brain_has_to_have(change, message):
    def fit():
        brain, counter = host.make(weight=change.get("weight", 0.5))
        if "modules" in change:
            host.SpeakersWithDINO(
                change["modules"], None, {"dino": brain.dino}, {"device": "cpu"}
            )
        scale = torch.nn.Parameter(torch.ones(()))
        brain.dino.objective.register_parameter("scale", scale)
        brain.__class__ = Own
        host.train(brain, counter)

    class Own(host.SpeakersWithDINO):
        def init_optimizers(self):
            params = self.modules[change["optimised"]].parameters()
            self.optimizer = torch.optim.SGD(params, lr=0.1)
            self.optimizers_dict = {"own": self.optimizer}

    with pytest.raises(ValueError, match=message):
        fit()


def test_what_a_brain_has_forgotten(caplog):
    class NoLoss(host.SpeakersWithDINO):
        def dino_loss(self, views):
            return 0.0

    class NoStep(host.SpeakersWithDINO):
        def optimizers_step(self):
            self.optimizer.step()
            self.optimizer.zero_grad()

    class Second(host.SpeakersWithDINO):
        def optimizers_step(self):
            if self.step % 2 == 0:
                super().optimizers_step()

    class Fixed(host.SpeakersWithDINO):
        def on_fit_start(self):
            self.dino.encoder.requires_grad_(False)
            super().on_fit_start()

    for kind, message in [
        (Fixed, "The encoder of dino does not learn"),
        (NoLoss, "DINO had no loss in epoch 1, whatever its weight"),
        (NoStep, "The teacher of DINO does not follow"),
    ]:
        caplog.clear()
        brain, _ = host.make(weight=0.5)
        brain.__class__ = kind
        with caplog.at_level(logging.WARNING):
            host.train(brain, [1])
        assert message in caplog.text
    # As of a GAN, whose encoder has a step in every second batch
    caplog.clear()
    brain, _ = host.make(weight=0.5)
    brain.__class__ = Second
    with caplog.at_level(logging.WARNING):
        host.train(brain, [1])
    assert "does not follow" not in caplog.text


def test_views_are_not_cut_from_padding(monkeypatch):
    brain, _ = host.make(weight=0.5)
    given, views = [], brain.dino.views

    def spy(wavs, lengths, where):
        given.append(lengths)
        return views(wavs, lengths, where)

    monkeypatch.setattr(brain.dino, "views", spy)
    host.train(brain, [1])
    # Of 2000, 2500 samples and so on, four in a batch
    expected = [torch.arange(4, 8) / 7, torch.arange(8, 12) / 11]
    torch.testing.assert_close(given, expected)
