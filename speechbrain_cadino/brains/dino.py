"""One training step of DINO: a student, a teacher, and crops of one voice.

Cluster-Aware DINO is the same step on other crops.
"""

import torch

from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.losses.dino import cosine_loss
from speechbrain_cadino.losses.meters import (
    collapse_warnings,
    effective_dimensions,
    embedding_spread,
)


class DINOBrain(EncoderBrain):
    """Self-distillation without labels (DINO), stage I of CA-DINO + DLG-LC.

    The student sees all crops of an utterance, the teacher the global ones;
    the student learns to answer as the teacher does, and the teacher follows
    the student by moving average. The teacher is what is evaluated and
    exported.

    What the YAML must hold beside what EncoderBrain wants:

    * modules: ``student`` (MultiCropNetwork), ``teacher`` (Teacher) and
      ``dino_loss`` (DINOLoss);
    * hparams: ``momentum_schedule`` and ``temperature_schedule`` (functions of
      the epoch), ``cosine_weight``, ``freeze_prototypes_epochs``; optionally
      ``reclustering`` (Reclustering), which makes it Cluster-Aware DINO, and
      ``augment_locals``, if the local crops need another augmenter.

    The training set is a MultiCropDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reclustering = getattr(self.hparams, "reclustering", None)
        augment = getattr(self.hparams, "augment", None)
        self.augmenters = {
            "globals": augment,
            "locals": getattr(self.hparams, "augment_locals", augment),
        }
        if self.checkpointer is not None and self.reclustering is not None:
            self.checkpointer.add_recoverable("reclustering", self.reclustering)

    @property
    def encoder(self):
        """The teacher's encoder."""
        return self.modules.teacher.network.encoder

    def epoch_figures(self):
        """The teacher's momentum, and what the last clusters were like."""
        momentum = self.hparams.momentum_schedule(self.position)
        clusters = self.reclustering.stats if self.reclustering else {}
        return {"momentum": momentum, **clusters}

    def warnings(self, means):
        """The signs of collapse."""
        return collapse_warnings(means, len(self.modules.dino_loss.centre))

    def compute_forward(self, batch, stage):
        """What the student says of all crops, the teacher of the global ones.

        Returns
        -------
        student, teacher : tuple
            Embeddings, (views, batch, D), and what DINOLoss compares: the
            bottleneck of the head, by view too, and its prototypes.
        """
        crops = [
            self._features(batch[kind], self.augmenters[kind])
            for kind in ("globals", "locals")
            if batch[kind].numel()
        ]
        batch_size = len(batch["id"])
        return (
            _by_view(self.modules.student(crops), batch_size),
            _by_view(self.modules.teacher(crops[:1]), batch_size),
        )

    def compute_objectives(self, predictions, batch, stage):
        """The DINO loss plus the weighted cosine term."""
        (embeddings, outputs), (t_embeddings, t_outputs) = predictions
        temperature = self.hparams.temperature_schedule(self.position)
        dino, stats = self.modules.dino_loss(outputs, t_outputs, temperature)
        cosine = cosine_loss(embeddings, t_embeddings)
        loss = dino + self.hparams.cosine_weight * cosine
        self.modules.dino_loss.collect_centre(t_outputs)
        self.record.add(
            {
                "loss": loss.detach(),
                "dino": dino.detach(),
                "cosine": cosine.detach(),
                "spread": embedding_spread(t_embeddings),
                "dimensions": effective_dimensions(t_embeddings),
                **stats,
            }
        )
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The teacher and the centre follow after each optimiser step."""
        if should_step and not self.step_skipped:
            momentum = self.hparams.momentum_schedule(self.position)
            self.modules.teacher.follow(self.modules.student, momentum)
            self.modules.dino_loss.update_centre()

    def undo_step(self):
        """As EncoderBrain's; the centre forgets them too."""
        super().undo_step()
        self.modules.dino_loss.collected.clear()

    def on_stage_start(self, stage, epoch=None):
        """Clusters the training set if it is due."""
        if self.reclustering is not None:
            self._recluster(epoch)
        super().on_stage_start(stage, epoch)
        # As SpeechBrain does with gradients: no step goes across epochs
        self.modules.dino_loss.collected.clear()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """The same BatchNorm statistics in the teacher on all ranks.

        Those of the main process, as DistributedDataParallel does for the
        student: they are what is in a checkpoint within an epoch.
        """
        self.settle()
        if self.distributed_launch:
            for buffer in self.modules.teacher.buffers():
                torch.distributed.broadcast(buffer, src=0)
        super().on_stage_end(stage, stage_loss, epoch)

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; checks the numbers of clusters too."""
        if self.reclustering is not None:
            self.reclustering.check(len(dataset.ids))
        return super().make_dataloader(dataset, stage, **kwargs)

    def optimizers_step(self):
        """As EncoderBrain's; prototypes may be frozen."""
        if self.position < self.hparams.freeze_prototypes_epochs:
            self.hparams.student.head.prototypes.zero_grad(set_to_none=True)
        super().optimizers_step()

    def clip_gradients(self, params):
        """Each parameter by its own norm, as DINO does (Caron et al., 2021)."""
        gradients = [p.grad for p in params if p.grad is not None]
        # All at once: on a GPU, hundreds of small kernels less in each step
        norms = torch.stack(torch._foreach_norm(gradients))
        if not self.max_grad_norm > 0:
            return norms
        scales = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0)
        torch._foreach_mul_(gradients, scales.unbind())
        return norms

    def _features(self, crops, augment):
        """(batch, views, samples) to features, (views * batch, time, bands)."""
        crops = crops.to(self.device, non_blocking=True)
        wavs = crops.transpose(0, 1).flatten(0, 1)
        return self.features(wavs, augment)

    def _recluster(self, epoch):
        """Clusters the training set if it is due; the data get the clusters."""
        if self.reclustering.due(epoch):
            with self.long_work():
                loader = self.hparams.dataloader_options
                embedder = self.embedder(
                    batch_size=loader["batch_size"],
                    num_workers=loader["num_workers"],
                )
                self.reclustering(epoch, embedder, self.train_dataset.table)
        if self.reclustering.labels is not None:
            self.train_dataset.set_clusters(self.reclustering.labels)


def _by_view(predictions, batch_size):
    """Splits the first dimension of a MultiCropNetwork's predictions."""
    embeddings, bottleneck, prototypes = predictions
    views = (-1, batch_size)
    outputs = bottleneck.unflatten(0, views), prototypes
    return embeddings.unflatten(0, views), outputs
