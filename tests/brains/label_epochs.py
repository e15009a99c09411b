"""Trains on pseudo labels for three epochs; run plainly or under torchrun.

> python label_epochs.py OUTPUT_FOLDER PARTS [--distributed_backend=gloo]

PARTS is how many processes share a batch. BatchNorm is frozen, so that two
processes can agree with one; the second epoch is the first one with a gate.
Each process prints its gate of each epoch.
"""

import sys

import torch

import speechbrain as sb
from speechbrain.lobes.features import Fbank
from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.brains.dlg_lc import PseudoLabelBrain
from speechbrain_cadino.checkpoints import AtomicCheckpointer
from speechbrain_cadino.cli import user_errors
from speechbrain_cadino.loss_gate import DynamicLossGate
from speechbrain_cadino.losses.label_correction import LabelCorrectionLoss
from speechbrain_cadino.schedules import CosineSchedule

BATCH, SAMPLES, VOICES = 4, 48, 6


class FrozenNormBrain(PseudoLabelBrain):
    """Keeps BatchNorm as it is, and tells of the gate."""

    def on_fit_batch_start(self, batch, should_step):
        super().on_fit_batch_start(batch, should_step)
        self.modules.eval()

    def on_stage_start(self, stage, epoch=None):
        super().on_stage_start(stage, epoch)
        # In one piece: two processes may write at once
        sys.stdout.write(f"gate {self.loss_gate.threshold!r}\n")
        sys.stdout.flush()


class Crops(torch.utils.data.Dataset):
    """Noises of six colours; every fourth label is wrong."""

    def __len__(self):
        return SAMPLES

    def __getitem__(self, index):
        torch.manual_seed(index)
        voice = index % VOICES
        spectrum = torch.fft.rfft(torch.randn(6000))
        bins = torch.arange(len(spectrum))
        wav = torch.fft.irfft(spectrum / (1 + bins / 30) ** (voice / 3))
        return {
            "id": str(index),
            "sample": index,
            "wav": wav / wav.std(),
            "label": (voice + (index % 4 == 0)) % VOICES,
            "problem": "",
        }

    def set_epoch(self, epoch):
        pass


class Silent:
    """A train logger that logs nothing."""

    def log_stats(self, *args):
        pass


@user_errors()
def main(output_folder, parts, *options):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *options])
    sb.utils.distributed.ddp_init_group(run_opts)
    torch.manual_seed(0)
    modules = {
        "embedding_model": ECAPA_TDNN(20, channels=[16] * 5, lin_neurons=8),
        "classifier": Classifier(8, out_neurons=VOICES),
        "compute_features": Fbank(n_mels=20),
        "mean_var_norm": InputNormalization(norm_type="sentence"),
    }
    brain = FrozenNormBrain(
        modules=modules,
        opt_class=lambda params: torch.optim.SGD(params, lr=0.1),
        hparams={
            **modules,
            "seed": 1,
            "lr_schedule": CosineSchedule(0.1, 0.0, epochs=10),
            "output_folder": output_folder,
            "train_logger": Silent(),
            "loss_gate": DynamicLossGate("dynamic", first_epoch=2),
            "label_loss": LabelCorrectionLoss(scale=10.0, confidence=0.9),
            "sorting": "ascending",  # batches in order, on every rank
        },
        run_opts=run_opts,
        checkpointer=AtomicCheckpointer(f"{output_folder}/save"),
    )
    loader = {"batch_size": BATCH // int(parts), "drop_last": True}
    brain.fit([1, 2, 3], Crops(), train_loader_kwargs=loader)


if __name__ == "__main__":
    main(*sys.argv[1:])
