"""Trains an epoch in which some batches are not finite, and one without them.

> python poisoned.py STAGE OUTPUT BATCHES [OPTIONS]

STAGE is dino, labels, ssrl or frames. BATCHES are the numbers of the batches
that each process sees, such as 0,1,-1,2: a negative one is not finite on the
last process. What the networks, BatchNorm, the centre, the optimiser and the
records hold in the end goes to OUTPUT.
"""

import logging
import pathlib
import runpy
import sys

import numpy as np
import torch

import speechbrain as sb
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import Classifier
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.distributed import get_rank, if_main_process
from speechbrain_cadino.brains.branch import Branch
from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.brains.frames import FrameBrain
from speechbrain_cadino.brains.ssrl import SSRLBrain
from speechbrain_cadino.gate.loss_gate import DynamicLossGate
from speechbrain_cadino.gate.soft_gate import SoftLossGate
from speechbrain_cadino.lobes.ecapa import ECAPA_TDNN
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.lobes.teacher import MultiCropNetwork, Teacher
from speechbrain_cadino.losses.dino import CosineLoss, DINOLoss
from speechbrain_cadino.losses.distillation import SelfDistillation
from speechbrain_cadino.losses.label_correction import LabelCorrectionLoss
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering
from speechbrain_cadino.process.errors import user_errors

BATCH, CLASSES = 4, 3

frame_steps = runpy.run_path(
    pathlib.Path(__file__).with_name("take_frame_steps.py")
)


class Crops(torch.utils.data.Dataset):
    """Batches of noise, by their numbers."""

    def __init__(self, batches, processes):
        self.batches = batches
        self.processes = processes
        self.labels = np.arange(len(self)) % CLASSES
        self.trusted = np.zeros(len(self), bool)
        self.samples, self.speeds = len(self), [1.0]

    def __len__(self):
        return len(self.batches) * BATCH * self.processes

    def __getitem__(self, index):
        # Unshuffled, the rows are dealt out to the processes in turn
        row, rank = divmod(index, self.processes)
        batch = self.batches[row // BATCH]
        torch.manual_seed(abs(batch) * 1000 + index % (BATCH * self.processes))
        level = 1.0
        if batch < 0 and rank == self.processes - 1 and row % BATCH == 2:
            level = torch.inf
        return {
            "id": f"batch{batch}/{index}",
            "globals": level * torch.randn(2, 8000),
            "locals": torch.randn(1, 6000),
            "sample": index,
            "wav": level * torch.randn(8000),
            "label": self.labels[row % BATCH],
            "trusted": False,
            "problem": "",
        }

    def set_epoch(self, epoch):
        pass

    def sample_labels(self):
        return np.arange(len(self)) % BATCH % CLASSES


class Kept:
    """Shows what an epoch of a Brain leaves behind."""

    def on_stage_end(self, stage, stage_loss, epoch=None):
        self.keep_or_undo()


def dino_parts():
    student = MultiCropNetwork(
        ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        DINOHead(8, 24, hidden_size=16, bottleneck_size=6, batch_norm=True),
    )
    terms = {"dino": DINOLoss(24, Centering(24), 0.05), "cosine": CosineLoss()}
    modules = {
        "student": student,
        "teacher": Teacher(student),
        "objective": Objective(terms, {"dino": 1, "cosine": 1.0}),
    }
    hparams = {
        "distillation": SelfDistillation(
            **modules, momentum_schedule=lambda position: 0.9
        )
    }
    return DINOBrain, modules, hparams


def label_parts(gate=DynamicLossGate):
    places = ["manifest", "data_folder", "folder"]
    places += ["encoder_folder", "classifier_file"]
    audio = Branch(
        "wav",
        16000,
        Fbank(n_mels=20),
        InputNormalization(norm_type="sentence"),
        ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        Classifier(8, out_neurons=CLASSES),
        # Half of the labels are behind the gate, and corrected
        gate(6.0, first_epoch=1),
        **dict.fromkeys(places, ""),
    )
    hparams = {
        "branches": {"audio": audio},
        "output_folder": "",
        "label_loss": LabelCorrectionLoss(scale=10.0, confidence=0.0),
    }
    return PseudoLabelBrain, {"audio": audio}, hparams


def ssrl_parts():
    _, modules, hparams = label_parts(SoftLossGate)
    modules["teacher"] = Teacher(modules["audio"])
    return SSRLBrain, modules, hparams


def frame_parts():
    # 20 frames of each crop
    student, target = frame_steps["frame_parts"](width=400)
    modules = {"student": student, "target": target}
    return FrameBrain, modules, {"student": student, "freeze_epochs": None}


def train(stage, batches, *options, scale=None):
    """The Brain, after an epoch of some batches; in fp16 if a ``scale`` is
    given, which SpeechBrain does on GPUs alone."""
    options = ["--device=cpu", "--distributed_backend=gloo", *options]
    _, run_opts, _ = sb.parse_arguments(["none.yaml", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    torch.manual_seed(0)
    make = {
        "dino": dino_parts,
        "labels": label_parts,
        "ssrl": ssrl_parts,
        "frames": frame_parts,
    }[stage]
    brain_class, modules, hparams = make()
    brain = type("KeptBrain", (Kept, brain_class), {})(
        modules={
            **modules,
            "compute_features": Fbank(n_mels=20),
            "mean_var_norm": InputNormalization(norm_type="sentence"),
        },
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9),
        hparams={
            "seed": 1,
            "sample_rate": 16000,
            "lr_schedule": lambda position: 0.1,
            "sorting": "ascending",  # batches in order, on every rank
            **hparams,
        },
        run_opts=run_opts,
    )
    if scale is not None:
        brain.training_ctx = torch.autocast("cpu", torch.float16)
        brain.scaler = torch.GradScaler("cpu", init_scale=scale)
    brain.fit(
        [1],
        Crops(batches, brain.processes),
        train_loader_kwargs={"batch_size": BATCH},
        progressbar=False,
    )
    return brain


def state(brain):
    """All that the next epoch depends on."""
    losses, answers = None, []
    if isinstance(brain, PseudoLabelBrain):
        losses = brain.branches["audio"].gate_record.losses
    if isinstance(brain, SSRLBrain):
        answers = brain.queue.answers
    return {
        "modules": {
            name.replace("module.", ""): value
            for name, value in brain.modules.state_dict().items()
            if not name.endswith("num_batches_tracked")
        },
        "optimizer": [
            value["momentum_buffer"]
            for value in brain.optimizer.state_dict()["state"].values()
        ],
        "means": brain.record.means(),
        "skipped": round(
            brain.processes * brain.record.counts["skipped_steps"]
        ),
        "losses": losses,
        "answers": answers,
    }


@user_errors()
def main(stage, output, batches, *options):
    logging.basicConfig(level="INFO")
    batches = [int(batch) for batch in batches.split(",")]
    result = state(train(stage, batches, *options))
    if if_main_process():
        torch.save(result, output)
    print("done", get_rank())


if __name__ == "__main__":
    main(*sys.argv[1:])
