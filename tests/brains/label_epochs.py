"""Trains on pseudo labels for three epochs; run plainly or under torchrun.

> python label_epochs.py OUTPUT_FOLDER PARTS WINDOW START \
    [--distributed_backend=gloo]

PARTS is how many processes share a batch. BatchNorm is frozen, so that two
processes can agree with one; the second epoch is the first one with a gate.
Each process prints its gate of each epoch. A WINDOW above 0 is that of the
gate, in steps. The classifier starts from the means of the voices, or, if START
is "centroids", of the labels: start.pt holds it, and what it was, and what the
encoder makes of each sample. If START is "ssrl", a teacher labels anew; if it
is "selected", losses are averaged over those that are not dropped. end.pt holds
the classifier, and the teacher's answers and weights.
"""

import sys

import numpy as np
import torch

import speechbrain as sb
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.brains.branch import Branch
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.brains.ssrl import SSRLBrain
from speechbrain_cadino.gate.loss_gate import DynamicLossGate
from speechbrain_cadino.gate.soft_gate import SoftLossGate
from speechbrain_cadino.lobes.teacher import Teacher
from speechbrain_cadino.losses.label_correction import LabelCorrectionLoss
from speechbrain_cadino.process.errors import user_errors
from speechbrain_cadino.training.checkpoints import AtomicCheckpointer
from speechbrain_cadino.training.schedules import CosineSchedule

BATCH, SAMPLES, VOICES = 4, 48, 6


class Frozen:
    """Keeps BatchNorm as it is, and tells of the gate."""

    def on_fit_batch_start(self, batch, should_step):
        super().on_fit_batch_start(batch, should_step)
        self.modules.eval()

    def on_stage_start(self, stage, epoch=None):
        super().on_stage_start(stage, epoch)
        if epoch == 1 and sb.utils.distributed.if_main_process():
            classifier = self.branches["audio"].classifier
            torch.save(
                {**self.hparams.before, "start": classifier.weight.detach()},
                f"{self.hparams.output_folder}/start.pt",
            )
        # In one piece: two processes may write at once
        gate = self.branches["audio"].loss_gate
        sys.stdout.write(f"gate {gate.threshold!r}\n")
        sys.stdout.flush()


class FrozenLabels(Frozen, PseudoLabelBrain):
    pass


class FrozenSSRL(Frozen, SSRLBrain):
    pass


class Crops(torch.utils.data.Dataset):
    """Noises of six colours; every fourth label is wrong."""

    labels = np.array([(i + (i % 4 == 0)) % VOICES for i in range(SAMPLES)])
    trusted, samples, speeds = np.zeros(SAMPLES, bool), SAMPLES, [1.0]

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        torch.manual_seed(index)
        voice = index % VOICES
        spectrum = torch.fft.rfft(torch.randn(6000))
        bins = torch.arange(len(spectrum))
        wav = torch.fft.irfft(spectrum / (1 + bins / 30) ** (voice * 0.35))
        return {
            "id": str(index),
            "sample": index,
            "wav": wav / wav.std(),
            "label": self.labels[index],
            "trusted": False,
            "problem": "",
        }

    def sample_labels(self):
        return self.labels

    def set_epoch(self, epoch):
        pass


class Silent:
    """A train logger that logs nothing."""

    def log_stats(self, *args):
        pass


def embed(modules):
    """What the encoder makes of each sample."""
    data = Crops()
    wavs = torch.stack([data[i]["wav"] for i in range(SAMPLES)])
    with torch.no_grad():
        feats = modules["mean_var_norm"](modules["compute_features"](wavs))
        return modules["embedding_model"].eval()(feats)[:, 0]


def start_classifier(modules):
    """Gives each class the mean of its voice: the losses of right and of wrong
    labels part from the beginning."""
    embeddings = embed(modules)
    embeddings = embeddings - embeddings.mean(0)
    means = [embeddings[voice::VOICES].mean(0) for voice in range(VOICES)]
    modules["classifier"].weight.data = torch.stack(means)


@user_errors()
def main(output_folder, parts, window, start, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    torch.manual_seed(0)
    modules = {
        "embedding_model": ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        "classifier": Classifier(8, out_neurons=VOICES),
        "compute_features": Fbank(n_mels=20),
        "mean_var_norm": InputNormalization(norm_type="sentence"),
    }
    if start != "centroids":
        start_classifier(modules)
    soft = start == "ssrl"
    gate = SoftLossGate if soft else DynamicLossGate
    audio = Branch(
        "wav",
        16000,
        **modules,
        loss_gate=gate("dynamic", first_epoch=2, window=int(window)),
        manifest="",
        data_folder="",
        folder=output_folder,
        encoder_folder="",
        classifier_file="",
    )
    loader = {"batch_size": BATCH // int(parts), "drop_last": True}
    parts = {"audio": audio, **({"teacher": Teacher(audio)} if soft else {})}
    brain = (FrozenSSRL if soft else FrozenLabels)(
        modules=parts,
        opt_class=lambda params: torch.optim.SGD(params, lr=0.0001),
        hparams={
            "branches": {"audio": audio},
            "seed": 1,
            "lr_schedule": CosineSchedule(0.0001, 0.0, epochs=10),
            "output_folder": output_folder,
            "train_logger": Silent(),
            "label_loss": LabelCorrectionLoss(
                scale=10.0,
                confidence=0.5,
                mean_over="selected" if start == "selected" else "batch",
            ),
            "start_classifier": start if start == "centroids" else None,
            "dataloader_options": loader,
            "before": {
                "classifier": modules["classifier"].weight.detach().clone(),
                "embeddings": embed(modules),
            },
            "sorting": "ascending",  # batches in order, on every rank
        },
        run_opts=run_opts,
        checkpointer=AtomicCheckpointer(
            f"{output_folder}/save", {"audio": audio}
        ),
    )
    # What comes before training is to see to it by itself
    modules["embedding_model"].train()
    brain.fit([1, 2, 3], Crops(), train_loader_kwargs=loader)
    found = {"classifier": audio.classifier.weight.detach()}
    if soft:
        found |= {
            "answers": brain.queue.answers,
            "alive": brain.queue.alive,
            "teacher": list(brain.teacher.network.parameters()),
        }
    if sb.utils.distributed.if_main_process():
        torch.save(found, f"{output_folder}/end.pt")


if __name__ == "__main__":
    main(*sys.argv[1:])
