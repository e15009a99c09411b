"""Takes two DINO steps on fixed batches; run plainly or under torchrun.

> python take_steps.py OUTPUT PARTS METHOD [--distributed_backend=gloo]

PARTS is how many processes or micro-batches share a batch, METHOD one of
METHODS.

BatchNorm is frozen, so that two processes can agree with one, and all is in
fp64, as some terms magnify the last digits.
"""

import sys

import torch

import speechbrain as sb
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.lobes.heads import DINOHead, NoHead
from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
from speechbrain_cadino.losses.contrastive import AngularPrototypical
from speechbrain_cadino.losses.dino import CosineLoss, DINOLoss
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.prototypes import MeanEntropyMaximum
from speechbrain_cadino.losses.regularizers import (
    Covariance,
    Frobenius,
    KoLeo,
    OffDiagonal,
    Variance,
)
from speechbrain_cadino.losses.targets import (
    Centering,
    JointSinkhorn,
    Sinkhorn,
)
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.process.ranks import ddp_mean
from speechbrain_cadino.training.schedules import CosineSchedule, LinearSchedule

if __name__ == "__main__":  # pytest imports this file, too
    torch.set_default_dtype(torch.float64)

BATCH = 4

# Target, further terms, and arguments of SelfDistillation
METHODS = {
    "dino": (Centering(24), {"cosine": CosineLoss()}, {}),
    "rdino": (
        Centering(24),
        {"variance": Variance(), "covariance": Covariance()},
        {},
    ),
    "sdpn": (
        Sinkhorn(3),
        {
            "me_max": MeanEntropyMaximum(24),
            "koleo": KoLeo(),
            "frobenius": Frobenius(),
            "off_diagonal": OffDiagonal(),
        },
        {"student_sees_globals": False, "shared_prototypes": True},
    ),
    "joint": (JointSinkhorn(3), {}, {}),
    "contrastive": (Centering(24), {"contrastive": AngularPrototypical()}, {}),
}


class FrozenNormBrain(DINOBrain):
    """Keeps what the test compares, and BatchNorm as it is."""

    gradients = None

    def on_fit_batch_start(self, batch, should_step):
        super().on_fit_batch_start(batch, should_step)
        self.modules.eval()

    def optimizers_step(self):
        self.gradients = [
            p.grad.clone() for p in self.hparams.student.parameters()
        ]
        super().optimizers_step()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        pass


class Crops(torch.utils.data.Dataset):
    """Two batches of noise; each index is the same everywhere."""

    def __len__(self):
        return 2 * BATCH

    def __getitem__(self, index):
        torch.manual_seed(index)
        return {
            "id": str(index),
            "globals": torch.randn(2, 8000),
            "locals": torch.randn(3, 6000),
            "problem": "",
        }

    def set_epoch(self, epoch):
        pass


@user_errors()
def main(output, parts, method, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    torch.manual_seed(0)
    head = DINOHead(
        input_size=8,
        out_dim=24,
        hidden_size=16,
        bottleneck_size=6,
        expander_size=32 if method == "rdino" else None,
    )
    student = MultiCropNetwork(
        ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        NoHead() if method == "contrastive" else head,
    )
    teacher = Teacher(student)
    target, more, views = METHODS[method]
    schedule = LinearSchedule(0.04, 0.07, epochs=10)
    terms = {"dino": DINOLoss(24, target, schedule), **more}
    if method == "contrastive":
        del terms["dino"]  # which needs a head
    objective = Objective(terms, dict.fromkeys(terms, 1))
    brain = FrozenNormBrain(
        modules={
            "student": student,
            "teacher": teacher,
            "objective": objective,
            "compute_features": Fbank(n_mels=20),
            "mean_var_norm": InputNormalization(norm_type="sentence"),
        },
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        hparams={
            "seed": 1,
            "sample_rate": 16000,
            "student": student,
            "distillation": SelfDistillation(
                student,
                teacher,
                objective,
                CosineSchedule(0.9, 1.0, epochs=10),
                **views,
            ),
            "lr_schedule": CosineSchedule(0.1, 0.0, epochs=10),
            "sorting": "ascending",  # batches in order, on every rank
        },
        run_opts=run_opts,
    )
    loader = {"batch_size": BATCH // int(parts), "drop_last": True}
    brain.fit([1], Crops(), train_loader_kwargs=loader, progressbar=False)
    loss = torch.tensor(brain.record.means()["loss"])
    loss = ddp_mean(loss)
    if sb.utils.distributed.if_main_process():
        torch.save(
            {
                "processes": brain.processes,
                "loss": loss,
                "centre": list(target.buffers()),
                "gradients": brain.gradients,
                "student": list(student.parameters()),
                "teacher": list(teacher.parameters()),
            },
            output,
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
