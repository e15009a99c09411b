"""A Brain that is not ours, without and with DINO; run plainly or by torchrun.

> python host.py OUTPUT OPTIONS [--distributed_backend=gloo]

OPTIONS is JSON: arguments of ``train``. Saves what the test compares.
"""

import json
import os
import signal
import sys

import torch

import speechbrain as sb
from speechbrain.dataio.dataio import length_to_mask
from speechbrain.dataio.dataset import DynamicItemDataset
from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain.utils.checkpoints import Checkpointer
from speechbrain.utils.epoch_loop import EpochCounter
from speechbrain_cadino.brains.auxiliary import AuxiliaryDINO, WithDINO
from speechbrain_cadino.dataio.augment import AddNoise, CropAugmenter
from speechbrain_cadino.dataio.views import ViewCutter
from speechbrain_cadino.lobes.heads import DINOHead
from speechbrain_cadino.losses.dino import DINOLoss
from speechbrain_cadino.losses.objective import Objective
from speechbrain_cadino.losses.targets import Centering


class Encoder(torch.nn.Module):
    """Frames to (batch, 1, 6), or to (batch, 6)."""

    def __init__(self, norm=False, dropout=0.0, flat=False):
        super().__init__()
        self.frames = torch.nn.Linear(12, 8)
        self.norm = torch.nn.BatchNorm1d(8) if norm else torch.nn.Identity()
        self.dropout = torch.nn.Dropout(dropout)
        self.last = torch.nn.Linear(8, 6)
        self.flat = flat

    def forward(self, feats, lengths=None):
        frames = self.frames(feats).relu()
        frames = self.norm(frames.transpose(1, 2)).transpose(1, 2)
        frames = self.dropout(frames)
        if lengths is not None:  # SpeechBrain's pooling adds noise
            mask = length_to_mask(lengths * frames.shape[1], frames.shape[1])
            frames = frames * mask[..., None] / lengths[:, None, None]
        embeddings = self.last(frames.mean(1, keepdim=True))
        return embeddings.squeeze(1) if self.flat else embeddings


class Speakers(sb.Brain):
    """As stock recipes."""

    figures = None

    def compute_forward(self, batch, stage):
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lens)
        embeddings = self.modules.encoder(feats, lens)
        return self.modules.classifier(embeddings.flatten(1))

    def compute_objectives(self, predictions, batch, stage):
        labels = torch.as_tensor(batch.label)
        return torch.nn.functional.cross_entropy(predictions, labels)

    # Without a call of those of the mixin, as recipes do
    def on_stage_start(self, stage, epoch=None):
        pass

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        if self.optimizer_step == getattr(self.hparams, "killed_after", None):
            os.kill(os.getpid(), signal.SIGKILL)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        if stage == sb.Stage.TRAIN:
            self.figures = getattr(self, "dino_figures", None)
            if self.checkpointer is not None:
                self.checkpointer.save_and_keep_only()


class SpeakersWithDINO(WithDINO, Speakers):
    """And DINO beside it."""

    def compute_forward(self, batch, stage):
        wavs, lens = batch.to(self.device).sig
        feats = self.modules.compute_features(wavs)
        feats = self.modules.mean_var_norm(feats, lens)
        embeddings, views = self.encode_with_dino(
            feats, lens, wavs=wavs, wav_lens=lens
        )
        return self.modules.classifier(embeddings.flatten(1)), views

    def compute_objectives(self, predictions, batch, stage):
        logits, views = predictions
        loss = super().compute_objectives(logits, batch, stage)
        return loss + self.dino_loss(views)


def speech(count=8, equal=False):
    """Utterances of two voices, of different lengths."""
    torch.manual_seed(5)
    lengths = [3000 if equal else 2000 + 500 * i for i in range(count)]
    rows = {
        f"u{i}": {"wav": torch.randn(n), "label": i % 2, "duration": n / 16000}
        for i, n in enumerate(lengths)
    }
    data = DynamicItemDataset(rows)
    data.add_dynamic_item(lambda wav: wav, takes="wav", provides="sig")
    data.set_output_keys(["id", "sig", "label"])
    return data


def head():
    """From 6 dimensions; of so few, the usual weights would be near 0."""
    head = DINOHead(6, 10, hidden_size=8, bottleneck_size=4)
    for parameter in head.mlp.parameters():
        parameter.data.mul_(20)
    return head


def auxiliary(encoder, features, norm, weight, augment=False, **options):
    """DINO on an encoder of 6 dimensions."""
    cutter = {
        "global_seconds": 0.3,
        "local_seconds": 0.1,
        **options.pop("cutter", {}),
    }
    return AuxiliaryDINO(
        encoder,
        head,
        Objective({"dino": DINOLoss(10, Centering(10), 0.04)}, {"dino": 1}),
        features,
        ViewCutter(**cutter),
        weight=weight,
        mean_var_norm=norm,
        augment=CropAugmenter([AddNoise()], [0.7]) if augment else None,
        **options,
    )


def make(
    weight=None,
    encoder=(),
    norm="global",
    optimizer="AdamW",
    folder=None,
    run_opts=(),
    **options,
):
    """A Brain; with DINO if there is a weight."""
    torch.manual_seed(0)
    encoder = Encoder(**dict(encoder))
    modules = {
        "compute_features": Fbank(n_mels=12),
        "mean_var_norm": InputNormalization(norm_type=norm),
        "encoder": encoder,
        "classifier": torch.nn.Linear(6, 2),
    }
    hparams = {"sorting": "ascending"}
    hparams["killed_after"] = options.pop("killed_after", None)
    counter = EpochCounter(2)
    checkpointer = folder and Checkpointer(
        folder,
        recoverables={
            **{name: modules[name] for name in ["encoder", "classifier"]},
            "mean_var_norm": modules["mean_var_norm"],
            "counter": counter,
        },
    )
    kind = Speakers
    if weight is not None:
        kind = SpeakersWithDINO
        hparams["dino"] = auxiliary(
            encoder,
            modules["compute_features"],
            modules["mean_var_norm"],
            weight,
            **options,
        )
    brain = kind(
        modules,
        lambda params: getattr(torch.optim, optimizer)(params, lr=0.05),
        hparams,
        {"device": "cpu", **dict(run_opts)},
        checkpointer,
    )
    return brain, counter


def train(brain, counter, batch_size=4, equal=False, valid=False, **loader):
    """Two epochs."""
    brain.fit(
        counter,
        speech(equal=equal),
        speech(2) if valid else None,
        progressbar=False,
        train_loader_kwargs={"batch_size": batch_size, **loader},
        valid_loader_kwargs={"batch_size": 2},
    )


def main(output, options, *flags):
    _, run_opts, _ = sb.parse_arguments(["none.yaml", "--device=cpu", *flags])
    sb.utils.distributed.ddp_init_group(run_opts)
    options = json.loads(options)
    loader = options.pop("loader", {})
    brain, counter = make(run_opts=run_opts, **options)
    train(brain, counter, **loader)
    if sb.utils.distributed.if_main_process():
        torch.save(state(brain), output)


def state(brain):
    """What a training came to."""
    dino = brain.dino
    return {
        "encoder": list(dino.encoder.parameters()),
        "head": list(dino.head.parameters()),
        "teacher": list(dino.teacher.parameters()),
        "centre": dino.objective.terms["dino"].target.center,
        "classifier": list(brain.modules.classifier.parameters()),
        "position": brain.dino_position,
        "figures": brain.figures,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
