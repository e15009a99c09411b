import pathlib
import runpy

import forked
import pytest
import torch

import speechbrain as sb
from speechbrain_cadino.brains.frames import FrameBrain
from speechbrain_cadino.lobes.frame_encoder import FrameOutputs

SCRIPT = pathlib.Path(__file__).with_name("take_frame_steps.py")


def take(output, *options, ranks=None):
    """Two steps: what they ended with."""
    code, said = forked.run(SCRIPT, output, *options, ranks=ranks)
    assert code == 0, said
    return torch.load(output)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """Two steps of one process on whole batches."""
    output = tmp_path_factory.mktemp("steps") / "one.pt"
    return take(output, 1)


@pytest.mark.parametrize("kind", ["processes", "micro-batches"])
def test_two_halves_equal_a_batch(one, tmp_path, kind):
    output = tmp_path / "two.pt"
    if kind == "processes":
        other = take(output, 2, "--distributed_backend=gloo", ranks=2)
        assert (one["processes"], other["processes"]) == (1, 2)
    else:
        flag = "--grad_accumulation_factor=2"
        other = take(output, 2, flag)
    assert one["used"] == pytest.approx(other["used"])
    assert 0 < one["used"]["used_3"] <= 1
    for name in ("loss", "gradients", "student", "target"):
        torch.testing.assert_close(
            other[name],
            one[name],
            rtol=1e-8,
            atol=1e-10,
            msg=lambda text, name=name: f"{name}: {text}",
        )


class Student(torch.nn.Module):
    """Notes what it hears; its latents are the signal in frames of 6."""

    def __init__(self):
        super().__init__()
        self.front_end = torch.nn.Unflatten(1, (-1, 6))
        self.context = torch.nn.Linear(6, 5)

    def forward(self, wavs):
        self.heard = wavs
        latents = self.front_end(wavs)
        mask = torch.ones(latents.shape[:2], dtype=torch.bool)
        return FrameOutputs(latents, mask, [self.context(latents[mask])])


class Target(torch.nn.Module):
    """Notes what it hears."""

    def codes(self, wavs, latents, mask):
        self.heard = wavs, latents
        return torch.zeros(1, int(mask.sum()), dtype=torch.int64)


def brain_of(student, target, **hparams):
    return FrameBrain(
        modules={"student": student, "target": target},
        opt_class=torch.optim.SGD,
        hparams={"seed": 1, "student": student, **hparams},
        run_opts={"device": "cpu"},
    )


@pytest.mark.parametrize("augment", [None, lambda wavs: wavs + 1])
def test_the_student_alone_hears_what_is_augmented(augment):
    student, target = Student(), Target()
    brain = brain_of(student, target, augment=augment)
    crops = torch.randn(2, 1, 18)
    logits, codes = brain.compute_forward({"globals": crops}, sb.Stage.TRAIN)
    assert logits[0].shape == (codes.numel(), 5) == (6, 5)
    plain = crops[:, 0]
    assert torch.equal(student.heard, plain if augment is None else plain + 1)
    wavs, latents = target.heard
    assert torch.equal(wavs, plain)
    assert torch.equal(latents, plain.unflatten(1, (-1, 6)))


def test_few_codes_are_said_with_what_to_do():
    student, target = Student(), Target()
    target.few_codes = "All is silent: speak up"
    brain = brain_of(student, target)
    brain.figures = {"used_2": 0.1, "used_3": 0.05, "momentum": 0.0}
    assert brain.warnings({}) == [
        "Few codes are used: used_3 is 5%. All is silent: speak up in another "
        "output_folder."
    ]
    brain.figures["used_3"] = 0.5
    assert brain.warnings({}) == []


class WatchedBrain(FrameBrain):
    """Remembers its weights after each step."""

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        parts = self.student.front_end, self.student.context
        self.seen.append(
            [torch.cat([p.flatten() for p in x.parameters()]) for x in parts]
        )

    def on_stage_end(self, stage, stage_loss, epoch=None):
        pass


def test_the_front_end_is_frozen_amid_the_epoch():
    names = runpy.run_path(SCRIPT)
    torch.manual_seed(0)
    student, target = names["frame_parts"](width=6)
    brain = WatchedBrain(
        modules={"student": student, "target": target},
        # It would move what has a gradient of 0
        opt_class=lambda groups: torch.optim.AdamW(groups, weight_decay=0.1),
        hparams={
            "seed": 1,
            "student": student,
            "freeze_epochs": 0.5,
            "lr_schedule": lambda position: 0.1,
        },
        run_opts={"device": "cpu"},
    )
    brain.seen = []
    start = torch.cat([p.flatten() for p in student.front_end.parameters()])
    loader = {"batch_size": names["BATCH"]}
    brain.fit([1], names["Crops"](), train_loader_kwargs=loader)
    (front, context), (front_then, context_then) = brain.seen
    assert not torch.equal(front, start)
    assert torch.equal(front_then, front)
    assert not torch.equal(context_then, context)
