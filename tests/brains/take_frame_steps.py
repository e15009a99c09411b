"""Takes two DinoSR steps on fixed batches; run plainly or under torchrun.

> python take_frame_steps.py OUTPUT PARTS [--distributed_backend=gloo]

PARTS is how many processes or micro-batches share a batch. All rows have the
same mask, and nothing is dropped out, so that two processes can agree with one.
"""

import sys

import torch

import speechbrain as sb
from speechbrain.lobes.models.transformer.TransformerASR import TransformerASR
from speechbrain_cadino.brains.frames import FrameBrain
from speechbrain_cadino.lobes.frame_encoder import (
    ContextNetwork,
    ContextTeacher,
    FrameStudent,
)
from speechbrain_cadino.losses.frame_targets import TeacherTargets
from speechbrain_cadino.losses.online_codebook import OnlineCodebook
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.ranks import ddp_mean
from speechbrain_cadino.training.schedules import LinearSchedule

BATCH = 4


class KeepingBrain(FrameBrain):
    """Keeps what the test compares."""

    gradients = None

    def optimizers_step(self):
        self.gradients = [p.grad.clone() for p in self.student.parameters()]
        super().optimizers_step()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        pass


class Crops(torch.utils.data.Dataset):
    """Two batches of noise; each index is the same everywhere."""

    def __len__(self):
        return 2 * BATCH

    def __getitem__(self, index):
        torch.manual_seed(index)
        crop = torch.randn(1, 180)
        return {"id": str(index), "globals": crop, "problem": ""}

    def set_epoch(self, epoch):
        pass


def draw(batch, frames):
    """A mask that is the same for all rows, and in all processes."""
    return (torch.arange(frames) % 7 < 3).expand(batch, frames)


def frame_parts(width):
    """A student of frames of so many samples, and its target."""
    context = ContextNetwork(
        TransformerASR(
            tgt_vocab=1,
            input_size=6,
            d_model=8,
            nhead=2,
            d_ffn=16,
            num_encoder_layers=3,
            num_decoder_layers=0,
            dropout=0.0,
            encoder_module="transformer",  # relative positions are fp32
            causal=False,
            output_hidden_states=True,
        )
    )
    front_end = torch.nn.Sequential(
        torch.nn.Unflatten(1, (-1, width)), torch.nn.Linear(width, 6)
    )
    student = FrameStudent(
        front_end,
        context,
        size=6,
        d_model=8,
        heads=2,
        codes=5,
        heads_at="each",
        mask=draw,
    )
    target = TeacherTargets(
        ContextTeacher(context),
        OnlineCodebook(2, 5, 8),
        lambda position: 0.9,
    )
    return student, target


@user_errors()
def main(output, parts, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    torch.manual_seed(0)
    student, target = frame_parts(width=6)
    brain = KeepingBrain(
        modules={"student": student, "target": target},
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        hparams={
            "seed": 1,
            "student": student,
            "freeze_epochs": None,
            "lr_schedule": LinearSchedule(0.1, 0.0, epochs=10),
            "sorting": "ascending",  # batches in order, on every rank
        },
        run_opts=run_opts,
    )
    loader = {"batch_size": BATCH // int(parts), "drop_last": True}
    brain.fit([1], Crops(), train_loader_kwargs=loader, progressbar=False)
    loss = ddp_mean(torch.tensor(brain.record.means()["loss"]))
    if sb.utils.distributed.if_main_process():
        torch.save(
            {
                "processes": brain.processes,
                "loss": loss,
                "gradients": brain.gradients,
                "student": list(student.parameters()),
                "target": list(target.state_dict().values()),
                "used": target.end_epoch(0),
            },
            output,
        )


if __name__ == "__main__":  # pytest imports this file, too
    torch.set_default_dtype(torch.float64)
    main(*sys.argv[1:])
