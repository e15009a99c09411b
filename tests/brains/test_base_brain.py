import functools
import random
import time
import types

import numpy as np
import pytest
import torch

import speechbrain as sb
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain_cadino.brains import base
from speechbrain_cadino.process import ranks


def brain_of(network, **options):
    return base.EncoderBrain(
        modules={"network": network},
        opt_class=functools.partial(torch.optim.SGD, lr=1.0, **options),
        hparams={"seed": 1},
        run_opts={"device": "cpu"},
    )


def test_views_are_not_shared_out_over_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="torchrun --nproc_per_node=N"):
        base.EncoderBrain(modules={}, run_opts={"data_parallel_backend": True})


def test_what_is_trained_is_in_the_checkpoints(tmp_path):
    """A resumed run would begin it anew, in silence."""
    networks = {name: torch.nn.Linear(1, 1) for name in ("encoder", "more")}
    networks["fixed"] = torch.nn.Linear(1, 1).requires_grad_(False)
    checkpointer = Checkpointer(tmp_path, {"encoder": networks["encoder"]})
    brain = base.EncoderBrain(
        modules=networks,
        opt_class=functools.partial(torch.optim.SGD, lr=1.0),
        hparams={"seed": 1},
        run_opts={"device": "cpu"},
        checkpointer=checkpointer,
    )
    with pytest.raises(ValueError, match=r"more\.weight is trained, and in no"):
        brain.on_fit_start()
    checkpointer.add_recoverable("all", torch.nn.ModuleDict(networks))
    brain._check_kept()


def test_a_valid_set_is_refused():
    """It would be trained by, as the schedules follow the last loader."""
    with pytest.raises(ValueError, match="in the place of a valid_set"):
        brain_of(torch.nn.Linear(1, 1)).make_dataloader([], sb.Stage.VALID)


def test_the_bar_of_a_gpu_shows_the_mean_of_the_losses():
    """Of every tenth step, as the host waits for a loss."""
    brain = brain_of(torch.nn.Linear(3, 2))
    brain.device_type, shown = "cuda", 0.0
    losses = [float(step) for step in range(1, 101)]
    for brain.step, loss in enumerate(losses, 1):
        shown = brain.update_average(torch.tensor(loss), shown)
    assert shown == pytest.approx(sum(losses[9::10]) / 10)
    brain.step = 110
    assert brain.update_average(torch.tensor(float("nan")), shown) == shown


def test_batch_norm_is_over_all_gpus(monkeypatch):
    """In a teacher, too, which has no gradients."""
    network, teacher = (torch.nn.BatchNorm1d(2) for _ in range(2))
    brain = brain_of(torch.nn.Sequential(torch.nn.Linear(3, 2), network))
    brain.modules["teacher"] = teacher.requires_grad_(False)
    brain.modules["teacher"] = torch.nn.Sequential(teacher)
    monkeypatch.setattr(
        base, "DistributedDataParallel", lambda module, **options: module
    )
    brain.distributed_launch, brain.device_type = True, "cuda"
    brain._wrap_distributed()
    norms = [m for m in brain.modules.modules() if hasattr(m, "running_mean")]
    assert [type(norm) for norm in norms] == 2 * [torch.nn.SyncBatchNorm]


def test_biases_and_norms_do_not_decay():
    layer, norm = torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2)
    brain = brain_of(torch.nn.Sequential(layer, norm), weight_decay=0.1)
    brain.init_optimizers()
    before = [p.detach().clone() for p in brain.modules.parameters()]
    for parameter in brain.modules.parameters():
        parameter.grad = torch.zeros_like(parameter)
    brain.optimizer.step()
    weight, *others = zip(before, brain.modules.parameters())
    torch.testing.assert_close(weight[1], 0.9 * weight[0])
    assert len(others) == 3
    assert all(torch.equal(old, new) for old, new in others)


def test_all_gradients_are_clipped_together():
    """Those of biases and norms, too, which are a group of their own."""
    brain = brain_of(torch.nn.Linear(3, 2))
    brain.init_optimizers()
    brain.max_grad_norm, brain.nonfinite_patience = 1.0, 3
    before = [p.detach().clone() for p in brain.modules.parameters()]
    for parameter in brain.modules.parameters():
        parameter.grad = torch.full_like(parameter, 1000.0)
    brain.epoch = 1
    brain.guard.begin(["a"])
    brain.optimizers_step()
    moved = [
        (p - old).flatten()
        for p, old in zip(brain.modules.parameters(), before)
    ]
    assert torch.cat(moved).norm().item() == pytest.approx(1, rel=1e-4)
    assert moved[0][0].item() == pytest.approx(moved[1][0].item(), rel=1e-4)


def test_each_process_epoch_and_step_draws_its_own(monkeypatch):
    brain = brain_of(torch.nn.Linear(1, 1))

    def drawn(rank, epoch, step):
        monkeypatch.setattr(base, "own_rank", lambda: rank)
        brain.epoch = epoch
        brain.seed_step(step)
        return torch.rand(1).item(), random.random(), np.random.rand()

    places = [(0, 1, 1), (1, 1, 1), (0, 2, 1), (0, 1, 2)]
    draws = [drawn(*place) for place in places]
    for of_one in zip(*draws):
        assert len(set(of_one)) == len(places)
    assert draws == [drawn(*place) for place in places]


def test_noises_and_rooms_are_others_in_each_epoch(monkeypatch):
    """A bank that was never told would go on with those of its start."""
    brain, told = brain_of(torch.nn.Linear(1, 1)), []
    monkeypatch.setattr(base, "refresh_banks", lambda *call: told.append(call))
    monkeypatch.setattr(brain, "all_augmenters", lambda: ["noises", "rooms"])
    brain.train_dataset = types.SimpleNamespace(set_epoch=lambda epoch: None)
    brain.on_stage_start(sb.Stage.TRAIN, 3)
    assert told == [("noises", 3), ("rooms", 3)]


def test_the_others_are_patient_where_one_works_for_hours():
    brain = brain_of(torch.nn.Linear(1, 1))
    with ranks.patience(ranks.STEP_PATIENCE):
        with brain.long_work():
            assert ranks._patience == ranks.WORK_PATIENCE
        assert ranks._patience == ranks.STEP_PATIENCE


@pytest.mark.parametrize(
    ("every", "epochs"), [(None, []), (0, []), (2, [2, 4]), (5, [5])]
)
@pytest.mark.parametrize("evaluator", [None, "trials"])
def test_an_encoder_is_evaluated_as_often_as_wanted(every, epochs, evaluator):
    brain = brain_of(torch.nn.Linear(1, 1))
    brain.hparams.evaluator = evaluator
    brain.hparams.evaluate_every = every
    found = [epoch for epoch in range(1, 6) if brain._evaluates(epoch)]
    assert found == (epochs if evaluator else [])


def test_a_checkpoint_before_an_evaluation_whatever_is_left_over(monkeypatch):
    """Five batches, two to a step: the fifth makes none."""
    brain = brain_of(torch.nn.Linear(1, 1))
    brain.grad_accumulation_factor, brain.batches_per_epoch = 2, 5
    brain.steps_per_epoch, brain.epoch = 2, 1
    brain.ckpt_interval_minutes = brain.ckpt_interval_steps = 0
    brain.checkpointer = object()
    monkeypatch.setattr(brain, "_evaluates", lambda epoch: True)
    due = []
    for brain.step in range(1, 6):
        due.append(brain._should_save_intra_epoch_ckpt(0, 0))
    assert due == [False, False, False, True, False]


@pytest.mark.parametrize(
    ("minutes", "passed", "due"),
    [(30, 29, False), (30, 31, True), (30, -360, True), (0, -360, False)],
)
def test_a_clock_that_is_set_back_delays_no_checkpoint(minutes, passed, due):
    brain = brain_of(torch.nn.Linear(1, 1))
    brain.steps_per_epoch, brain.step, brain.epoch = 5, 1, 1
    brain.ckpt_interval_minutes, brain.ckpt_interval_steps = minutes, 0
    brain.checkpointer = object()
    last = time.time() - 60 * passed
    assert brain._should_save_intra_epoch_ckpt(last, 0) == due


def test_features_have_nothing_that_no_checkpoint_keeps():
    brain_of(InputNormalization(norm_type="sentence"))
    features = torch.nn.Sequential(InputNormalization(norm_type="global"))
    with pytest.raises(ValueError, match="norm_type global, whose statistics"):
        brain_of(features)
