"""Brain of DINO: a student, a teacher, and crops of one voice.

Cluster-Aware DINO is the same step on other crops.
"""

import functools

import torch

from speechbrain.utils.logger import get_logger
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.dataio.augment import augment_some
from speechbrain_cadino.dataio.labels import labels_of
from speechbrain_cadino.dataio.sampling import partner_precision
from speechbrain_cadino.lobes.embedding_norm import without_norm
from speechbrain_cadino.lobes.signal_encoder import SignalEncoder
from speechbrain_cadino.losses.meters import (
    measured,
    spread_warnings,
)
from speechbrain_cadino.losses.objective import accumulation_warnings
from speechbrain_cadino.process.ranks import share_buffers

logger = get_logger(__name__)


class DINOBrain(EncoderBrain):
    """Self-distillation without labels (DINO), stage I of CA-DINO + DLG-LC.

    The student sees all crops of an utterance, the teacher the global ones;
    the student learns to answer as the teacher does, and the teacher follows
    the student by moving average. The teacher is what is evaluated and
    exported, unless ``export`` says otherwise. What is learnt, and how, is the
    SelfDistillation's: here is when.

    What the YAML must hold beside what EncoderBrain wants:

    * modules: ``compute_features``, ``mean_var_norm``, ``student``
      (MultiCropNetwork), ``teacher`` (Teacher) and ``objective`` (Objective);
    * hparams: ``distillation`` (SelfDistillation) of these, ``sample_rate``;
      optionally ``reader`` (see Embedder); ``augment_globals`` and
      ``augment_locals``, if these crops need another augmenter than
      ``augment``, or none; ``augmented_share``, the function from the position
      to the share of the samples whose crops are augmented at all; ``export``,
      "student" for what is evaluated, exported and clustered by, in place of
      the "teacher"; ``erase_locals``, which changes the features of the local
      crops; ``free_prototypes``, see ``is_free``; ``summed_prototypes``, whose
      gradients are then summed over processes, as in the code of 3D-Speaker,
      where others are averaged; and ``reclustering`` (Reclustering), which
      makes it Cluster-Aware DINO, and tells terms of the objective that want
      to know of its clusters, such as ContrastiveCenter: it takes
      ``batch_size`` and ``num_workers`` of ``dataloader_options``, and
      ``speakers``, the file of the true ones, adds to its figures and changes
      nothing else.

    The training set is a MultiCropDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.distillation = self.hparams.distillation
        self.student = self.modules.student  # not wrapped
        self.export = getattr(self.hparams, "export", "teacher")
        if self.export not in ("teacher", "student"):
            raise ValueError(f"export={self.export}: give teacher or student.")
        self.guard.rewindable.append(self.distillation)
        self.reclustering = getattr(self.hparams, "reclustering", None)
        self.speakers = None
        augment = self.augmenters["all"]
        self.augmenters = {
            "globals": getattr(self.hparams, "augment_globals", augment),
            "locals": getattr(self.hparams, "augment_locals", augment),
        }
        self.erase = {"locals": getattr(self.hparams, "erase_locals", None)}
        if self.reclustering is not None:
            self.reclustering.keeps_centroids = bool(self._terms_of_clusters)
            self._keep({"reclustering": self.reclustering})

    def all_augmenters(self):
        """As EncoderBrain's, and what erases parts of features."""
        return [*super().all_augmenters(), *filter(None, self.erase.values())]

    @property
    def network(self):
        """What is exported, from signals to embeddings."""
        of_student = self.export == "student"
        source = self.student if of_student else self.modules.teacher.network
        return SignalEncoder(
            self.modules.compute_features,
            self.modules.mean_var_norm,
            source.encoder,
        )

    def embedder(self):
        """The encoder of ``network``: see EncoderBrain."""
        reader = getattr(self.hparams, "reader", AudioReader)
        embedder = self.make_embedder(
            self.network, self.hparams.sample_rate, reader
        )
        return embedder.replace(weights=without_norm(self.network.encoder))

    def trained_weights(self):
        """The encoder as it is trained: folded, a norm would move the weights
        by its statistics."""
        return self.network.encoder

    def epoch_figures(self):
        """The teacher's momentum, and what the last clusters were like."""
        momentum = self.distillation.momentum_schedule(self.position)
        clusters = self.reclustering.stats if self.reclustering else {}
        return {"momentum": momentum, **clusters}

    def warnings(self, means):
        """The signs of collapse."""
        return [
            *self.distillation.objective.warnings(means),
            *spread_warnings(means),
        ]

    def on_fit_start(self):
        """As EncoderBrain's; what was wrapped for several processes is
        called in their place. Raises if the encoder could not embed."""
        self.network.check()
        for text in accumulation_warnings(
            self.distillation.objective, self.grad_accumulation_factor
        ):
            logger.warning(text)
        super().on_fit_start()
        self.distillation.bind(self.modules)

    def compute_forward(self, batch, stage):
        """What the student says of all crops, the teacher of the global ones.

        Returns
        -------
        student, teacher : Views
            The embeddings and head outputs of each, by view.
        """
        said = self.distillation.views(self._crops(batch), len(batch["id"]))
        return self._with_samples(said, batch)

    def _with_samples(self, said, batch):
        """What student and teacher said, and of which samples, for terms that
        ask."""
        if not self._terms_of_clusters:
            return said
        samples = batch["sample"].to(self.device, non_blocking=True)
        return tuple(views._replace(samples=samples) for views in said)

    def _crops(self, batch):
        """The features of the crops of each kind that there are."""
        chosen = self._augmented(len(batch["id"]))
        return [
            self._features(batch[kind], kind, chosen)
            for kind in ("globals", "locals")
            if batch[kind].numel()
        ]

    def _augmented(self, count):
        """Which samples of a batch are augmented, (count,), bool; None for all,
        for which nothing is drawn."""
        share = getattr(self.hparams, "augmented_share", None)
        share = 1 if share is None else share(self.position)
        return torch.rand(count) < share if share < 1 else None

    def compute_objectives(self, predictions, batch, stage):
        """The objective, and what is worth a column of ``training.csv``."""
        student, teacher = predictions
        loss, figures = self.distillation.compare(
            student, teacher, self.position
        )
        terms = getattr(self.distillation.objective, "terms", ())
        self.record.add(
            {
                "loss": loss.detach(),
                **{name: figures.pop(name) for name in terms},
                **measured(teacher.embeddings),
                **figures,
            }
        )
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The teacher and the objective follow each optimiser step."""
        if should_step and not self.guard.skipped:
            self.distillation.after_step(self.position)

    def on_stage_start(self, stage, epoch=None):
        """Clusters the training set if it is due."""
        if self.reclustering is not None:
            self._recluster(epoch)
        super().on_stage_start(stage, epoch)
        # As SpeechBrain does with gradients: no step goes across epochs
        self.distillation.forget()

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """The same BatchNorm statistics on all ranks.

        Those of the main process, as DistributedDataParallel does for the
        student at its next step: they are what is in a checkpoint within an
        epoch.
        """
        self.keep_or_undo()
        share_buffers(self.modules.teacher)
        share_buffers(self.student)
        super().on_stage_end(stage, stage_loss, epoch)

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; checks the numbers of clusters too."""
        if self.reclustering is not None:
            self.reclustering.check(len(dataset.ids))
            known = getattr(self.hparams, "speakers", None)
            if known is not None:
                self.speakers = labels_of(known, list(dataset.ids))
            self._check_clusters(dataset)
        elif self._terms_of_clusters:
            raise ValueError(
                f"The term {self._terms_of_clusters[0]} of the objective waits "
                "for clusters: give the YAML a reclustering, as ca_dino.yaml "
                "has."
            )
        return super().make_dataloader(dataset, stage, **kwargs)

    def _check_clusters(self, dataset):
        """Raises if nobody can make anything of the clusters of reclustering,
        warns if nobody does."""
        if self._terms_of_clusters:
            if 1 not in dataset.speeds:
                raise ValueError(
                    "A voice at another speed is of no cluster: speeds without "
                    f"1.0 leave the term {self._terms_of_clusters[0]} nothing."
                )
            return
        sampling = dataset.sampling
        if not hasattr(sampling, "set_clusters"):
            raise ValueError(
                f"{type(sampling).__name__} makes nothing of the clusters of "
                "reclustering: give the training set a sampling with "
                "set_clusters, such as ClusterSampling."
            )
        # of what a curriculum lets in
        own = getattr(sampling, "sampling", sampling)
        if getattr(own, "utterances_per_sample", 2) < 2:
            logger.warning(
                "The clusters of reclustering have no effect: the crops of "
                "a sample are of one utterance. Give the sampling "
                "utterances_per_sample: 2."
            )

    @property
    def _terms_of_clusters(self):
        """The names of the objective's terms that want to know of clusters."""
        return getattr(self.distillation.objective, "of_clusters", [])

    def decays(self, parameter):
        """As EncoderBrain's; prototypes may be free."""
        return super().decays(parameter) and not self.is_free(parameter)

    def is_free(self, parameter):
        """Whether a parameter is the prototypes, and ``free_prototypes`` spares
        these weight decay and clipping.

        Arguments
        ---------
        parameter : torch.nn.Parameter
            A parameter that is trained.

        Returns
        -------
        bool
            Whether it is spared; without ``free_prototypes`` none is.
        """
        free = getattr(self.hparams, "free_prototypes", False)
        return free and parameter is self._prototypes

    @property
    def _prototypes(self):
        """The prototypes; None where the head has none."""
        return getattr(self.distillation.head.prototypes, "weight", None)

    def optimizers_step(self):
        """As EncoderBrain's; prototypes may be frozen, or their gradients
        summed over processes."""
        self.distillation.before_step(self.position)
        if getattr(self.hparams, "summed_prototypes", False):
            weight = self._prototypes
            if weight is not None and weight.grad is not None:  # not frozen
                weight.grad.mul_(self.processes)
        super().optimizers_step()

    def clip_gradients(self, params):
        """Each parameter by its own norm, as DINO does (Caron et al., 2021)."""
        params = [p for p in params if p.grad is not None]
        gradients = [p.grad for p in params]
        # All at once: on a GPU, hundreds of small kernels less in each step
        norms = torch.stack(torch._foreach_norm(gradients))
        if not self.max_grad_norm > 0:
            return norms
        scales = (self.max_grad_norm / (norms + 1e-6)).clamp(max=1.0).unbind()
        clipped = [i for i, p in enumerate(params) if not self.is_free(p)]
        torch._foreach_mul_(
            [gradients[i] for i in clipped], [scales[i] for i in clipped]
        )
        return norms

    def _features(self, crops, kind, chosen=None):
        """(batch, views, samples) to features, (views * batch, time, bands);
        augmented are the crops of the ``chosen`` samples."""
        crops = crops.to(self.device, non_blocking=True)
        wavs = crops.transpose(0, 1).flatten(0, 1)
        augment = self.augmenters[kind]
        if chosen is not None and augment is not None:
            chosen = chosen.repeat(crops.shape[1])
            augment = functools.partial(augment_some, augment, chosen)
        features = self.network.features(wavs, augment)
        erase = self.erase.get(kind)
        return features if erase is None else erase(features)

    def _recluster(self, epoch):
        """Clusters the training set if it is due; who wants to know of the
        clusters is told, in a resumed epoch too."""
        due = self.reclustering.due(epoch)
        if due:
            self._cluster(epoch)
        if self.reclustering.labels is not None:
            self._tell_clusters()
        if due and self.speakers is not None:
            self._judge_partners()

    def _cluster(self, epoch):
        """Clusters the training set."""
        with self.long_work():
            loader = self.hparams.dataloader_options
            embedder = self.embedder().replace(
                reader=self.train_dataset.crops.reader,
                batch_size=loader["batch_size"],
            )
            self.reclustering(
                epoch, embedder, self.train_dataset.table, self.speakers
            )

    def _tell_clusters(self):
        """Tells the sampling and the objective of the clusters."""
        data, labels = self.train_dataset, self.reclustering.labels
        if hasattr(data.sampling, "set_clusters"):
            data.sampling.set_clusters(labels)
        if self._terms_of_clusters:
            self.distillation.objective.set_clusters(
                data.clusters_of_samples(labels), self.reclustering.centroids
            )

    def _judge_partners(self):
        """Adds to the figures how good partners are, where there are any."""
        sampling = self.train_dataset.sampling
        if getattr(sampling, "utterances_per_sample", 2) < 2:
            return
        figures = partner_precision(sampling, self.speakers)
        self.reclustering.stats.update(figures)
        figures = [f"{name} {value:.3f}" for name, value in figures.items()]
        logger.info(f"Partners: {', '.join(figures)}")
