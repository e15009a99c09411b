"""One training step of DINO: a student, a teacher, and crops of one voice.

Cluster-Aware DINO is the same step on other crops.
"""

import random
import time

import torch
from torch.nn import SyncBatchNorm
from torch.nn.parallel import DistributedDataParallel

import speechbrain as sb
from speechbrain.utils.distributed import get_rank, run_on_main
from speechbrain.utils.logger import get_logger
from speechbrain_cadino.brains.collapse import (
    collapse_warnings,
    effective_dimensions,
    embedding_spread,
)
from speechbrain_cadino.brains.record import TrainingRecord
from speechbrain_cadino.dataio.augment import refresh_banks
from speechbrain_cadino.losses.dino import cosine_loss, ddp_mean

logger = get_logger(__name__)


class DINOBrain(sb.Brain):
    """Self-distillation without labels (DINO), stage I of CA-DINO + DLG-LC.

    The student sees all crops of an utterance, the teacher the global ones;
    the student learns to answer as the teacher does, and the teacher follows
    the student by moving average. The teacher is what is evaluated and
    exported.

    What the YAML must hold:

    * modules: ``student`` (MultiCropNetwork), ``teacher`` (Teacher),
      ``dino_loss`` (DINOLoss), ``compute_features`` and ``mean_var_norm``;
    * hparams: ``seed``, ``lr_schedule``, ``momentum_schedule`` and
      ``temperature_schedule`` (functions of the epoch), ``cosine_weight``,
      ``freeze_prototypes_epochs``, ``output_folder``, ``train_logger``;
      optionally ``augment`` (CropAugmenter), ``reclustering`` (Reclustering)
      and ``sample_rate``, which make it Cluster-Aware DINO, ``evaluator``
      (TrialEvaluator) with ``evaluate_every`` (epochs), and
      ``tensorboard_logger``.

    The training set is a MultiCropDataset. Everything random in a step is
    seeded from (seed, rank, epoch, step), so that a resumed run draws what an
    uninterrupted one would have drawn.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.record = TrainingRecord()
        self.reclustering = getattr(self.hparams, "reclustering", None)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("record", self.record)
            if self.reclustering is not None:
                self.checkpointer.add_recoverable(
                    "reclustering", self.reclustering
                )
        self.processes = 1
        if self.distributed_launch:
            self.processes = torch.distributed.get_world_size()

    def compute_forward(self, batch, stage):
        """Student outputs of all crops, teacher outputs of the global ones.

        Returns
        -------
        student, teacher : tuple of torch.Tensor
            Embeddings, (views, batch, D), and head outputs, (views, batch, K).
        """
        crops = [
            self._features(batch[kind])
            for kind in ("globals", "locals")
            if batch[kind].numel()
        ]
        views = (-1, len(batch["id"]))
        student = self.modules.student(crops)
        teacher = self.modules.teacher(crops[:1])
        return (
            tuple(output.unflatten(0, views) for output in student),
            tuple(output.unflatten(0, views) for output in teacher),
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

    def on_fit_batch_start(self, batch, should_step):
        """Seeds the step, sets the learning rate, tells of bad files."""
        step = (self.hparams.seed, get_rank() or 0, self.epoch, self.step)
        step_seed = random.Random(repr(step)).getrandbits(63)
        torch.manual_seed(step_seed)
        random.seed(step_seed)
        for group in self.optimizer.param_groups:
            group["lr"] = self.hparams.lr_schedule(self.position)
        for problem in filter(None, batch["problem"]):
            logger.warning(
                f"Replaced by another utterance: {problem}",
                main_process_only=False,
            )
        self.utterances += len(batch["id"])

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The teacher and the centre follow after each optimiser step."""
        if should_step:
            momentum = self.hparams.momentum_schedule(self.position)
            self.modules.teacher.follow(self.modules.student, momentum)
            self.modules.dino_loss.update_centre()

    def on_stage_start(self, stage, epoch=None):
        """Tells the data which epoch begins, and what its clusters are."""
        self.epoch = epoch
        self.utterances = 0
        if self.reclustering is not None:
            self._recluster(epoch)
        self.stage_started = time.time()
        self.train_dataset.set_epoch(epoch)
        # As SpeechBrain does with gradients: no step goes across epochs
        self.modules.dino_loss.collected.clear()
        if hasattr(self.hparams, "augment"):
            refresh_banks(self.hparams.augment, epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Logs the epoch, evaluates the teacher and saves a checkpoint."""
        seconds = time.time() - self.stage_started
        self._average_teacher_statistics()
        means = {
            name: ddp_mean(torch.tensor(mean, device=self.device)).item()
            for name, mean in self.record.means().items()
        }
        meta = {
            "epoch": epoch,
            "lr": self.optimizer.param_groups[0]["lr"],
            "momentum": self.hparams.momentum_schedule(self.position),
            "seconds": seconds,
            "utts_per_second": self.utterances * self.processes / seconds,
        }
        if self.reclustering is not None:
            meta.update(self.reclustering.stats)
        valid = run_on_main(self._evaluate, args=[epoch])
        self.record.end_epoch({**meta, **means, **valid})
        run_on_main(self._log_epoch, args=[meta, means, valid])
        # SpeechBrain resets these after the checkpoint: a run resumed from it
        # would count on from the last step of the epoch before.
        self.step = 0
        self.avg_train_loss = 0.0
        self.checkpointer.save_and_keep_only(meta={"epoch": epoch})

    def encode_batch(self, wavs, wav_lens=None):
        """The teacher's embeddings, called as EncoderClassifier.encode_batch.

        Arguments
        ---------
        wavs : torch.Tensor
            (batch, samples).
        wav_lens : torch.Tensor, optional
            Relative lengths, (batch,).

        Returns
        -------
        torch.Tensor
            (batch, 1, D).
        """
        self.modules.eval()
        wavs = wavs.to(self.device)
        if wav_lens is None:
            wav_lens = torch.ones(len(wavs))
        wav_lens = wav_lens.to(self.device)
        with torch.inference_mode(), self.evaluation_ctx:
            feats = self.modules.compute_features(wavs)
            feats = self.modules.mean_var_norm(feats, wav_lens)
            return self.modules.teacher.network.encoder(feats, wav_lens)

    def make_dataloader(self, dataset, stage, **kwargs):
        """As SpeechBrain's; checks that there are utterances enough."""
        if self.reclustering is not None:
            self.reclustering.check(len(dataset.ids))
        loader = super().make_dataloader(dataset, stage, **kwargs)
        self.train_dataset = dataset
        self.steps_per_epoch = len(loader) // self.grad_accumulation_factor
        if not self.steps_per_epoch:
            batch = loader.batch_size * self.grad_accumulation_factor
            raise ValueError(
                f"{len(dataset)} utterances on {self.processes} process(es) "
                f"do not make one batch of {batch}. Lower batch_size, raise "
                "passes_per_epoch, or add data."
            )
        return loader

    def init_optimizers(self):
        """As SpeechBrain's; no weight decay on biases and norms."""
        params = [p for p in self.modules.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in params if p.ndim > 1]},
            {"params": [p for p in params if p.ndim <= 1], "weight_decay": 0.0},
        ]
        self.optimizer = self.opt_class(groups)
        self.optimizers_dict = {"opt_class": self.optimizer}
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("optimizer", self.optimizer)

    def optimizers_step(self):
        """As SpeechBrain's; prototypes may be frozen, each gradient is clipped.

        SpeechBrain clips the first parameter group alone. DINO clips each
        parameter's gradient by its own norm (Caron et al., 2021).
        """
        self.scaler.unscale_(self.optimizer)
        if self.position < self.hparams.freeze_prototypes_epochs:
            self.hparams.student.head.prototypes.zero_grad(set_to_none=True)
        params = [p for g in self.optimizer.param_groups for p in g["params"]]
        if self.max_grad_norm > 0:
            for param in params:
                torch.nn.utils.clip_grad_norm_(param, self.max_grad_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.optimizer_step += 1

    @property
    def position(self):
        """How far training is, in epochs."""
        return self.optimizer_step / self.steps_per_epoch

    def _features(self, crops):
        """(batch, views, samples) to features, (views * batch, time, bands)."""
        wavs = crops.to(self.device).transpose(0, 1).flatten(0, 1)
        # In fp32 whatever the precision of the networks
        with torch.no_grad(), torch.autocast(self.device_type, enabled=False):
            if hasattr(self.hparams, "augment"):
                wavs = self.hparams.augment(wavs)
            feats = self.modules.compute_features(wavs)
            return self.modules.mean_var_norm(feats)

    def _recluster(self, epoch):
        """Clusters the training set if it is due; the data get the clusters."""
        if self.reclustering.due(epoch):
            self.reclustering(
                epoch,
                self.encode_batch,
                self.modules.teacher,
                self.train_dataset.table,
                self.hparams.sample_rate,
            )
        if self.reclustering.labels is not None:
            self.train_dataset.set_clusters(self.reclustering.labels)

    def _evaluate(self, epoch):
        """EER of the teacher, if it is due in this epoch."""
        evaluator = getattr(self.hparams, "evaluator", None)
        if evaluator is None or epoch % self.hparams.evaluate_every:
            return {}
        return {"EER": evaluator(self.encode_batch)["eer"]}

    def _log_epoch(self, meta, means, valid):
        """Writes one epoch to the logs, and warns of collapse."""
        self.hparams.train_logger.log_stats(meta, means, valid)
        if hasattr(self.hparams, "tensorboard_logger"):
            self.hparams.tensorboard_logger.log_stats(meta, means, valid)
        self.record.write_csv(f"{self.hparams.output_folder}/training.csv")
        out_dim = len(self.modules.dino_loss.centre)
        for warning in collapse_warnings(means, out_dim):
            logger.warning(warning)

    def _average_teacher_statistics(self):
        """The same BatchNorm statistics in the teacher on all ranks."""
        for buffer in self.modules.teacher.buffers():
            if buffer.is_floating_point():
                ddp_mean(buffer)

    def _should_save_intra_epoch_ckpt(self, *args):
        # Not between the micro-batches of one step, whose gradients would be
        # lost.
        if self.step % self.grad_accumulation_factor:
            return False
        return super()._should_save_intra_epoch_ckpt(*args)

    def _wrap_distributed(self):
        """As SpeechBrain's; BatchNorm over all ranks in both networks.

        SpeechBrain leaves modules without gradients, such as the teacher, out.
        On CPUs it fails, as PyTorch has SyncBatchNorm for GPUs only: there,
        each rank normalises over its own part of the batch.
        """
        if not self.distributed_launch:
            return
        on_gpu = self.device_type == "cuda"
        if on_gpu:
            SyncBatchNorm.convert_sync_batchnorm(self.modules)
        else:
            logger.info("No SyncBatchNorm on CPU: BatchNorm per process.")
        self.modules["student"] = DistributedDataParallel(
            self.modules["student"],
            device_ids=[self.device] if on_gpu else None,
        )
