"""Brain of adaptation: labelled voices of one domain, and another without."""

from speechbrain_cadino.brains.dino import DINOBrain
from speechbrain_cadino.losses.meters import accuracy, measured
from speechbrain_cadino.losses.objective import check_columns, value_at

# Columns of training.csv beside those of the objective
COLUMNS = ("source_loss", "source_accuracy", "target_loss")


class AdaptationBrain(DINOBrain):
    """Self-supervised domain adaptation (SSDA; Chen, Wang and Qian, ICASSP
    2021): ``L = AAM(source) + weight * objective(target)``.

    The source has labels, the target an objective of stage I. One forward of
    the student takes the crops of both, so that BatchNorm sees both domains
    where crops of both are equally long. The teacher, which sees the target
    alone, is what is evaluated and exported, unless ``export`` says otherwise.

    What the YAML must hold beside what DINOBrain wants:

    * hparams: ``label_loss`` (LabelCorrectionLoss), whose AAM-softmax is that
      of the source; ``target_weight``, a number or a schedule; optionally
      ``augment_source``;
    * ``student`` is a JointNetwork.

    The training set is an AdaptationDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_columns(self.distillation.objective, COLUMNS)
        self.augmenters["source"] = getattr(
            self.hparams, "augment_source", self.augmenters["globals"]
        )

    def compute_forward(self, batch, stage):
        """What the student says of all crops, the source's among them, and
        the teacher of the target's global ones.

        Returns
        -------
        student, teacher : Views
            The student's ``outputs`` have ``cosines`` of the source to the
            classes, (batch, C).
        """
        source = batch["source"].unsqueeze(1)
        said = self.distillation.views(
            self._crops(batch),
            len(batch["id"]),
            source=self._features(
                source, "source", self._augmented(len(source))
            ),
        )
        return self._with_samples(said, batch)

    def compute_objectives(self, predictions, batch, stage):
        """Both losses."""
        student, teacher = predictions
        labels = batch["label"].to(self.device)
        cosines = student.outputs["cosines"]
        source, _ = self.hparams.label_loss(cosines, labels)
        target, figures = self.distillation.compare(
            student, teacher, self.position
        )
        weight = value_at(self.hparams.target_weight, self.position)
        loss = source + weight * target
        self.record.add(
            {
                "loss": loss.detach(),
                "source_loss": source.detach(),
                "source_accuracy": accuracy(cosines, labels),
                "target_loss": target.detach(),
                **measured(teacher.embeddings),
                **figures,
            }
        )
        return loss
