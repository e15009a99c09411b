"""Brain of a speaker encoder with labels of a few, and DINO on all."""

from speechbrain_cadino.brains.auxiliary import WithDINO
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.dataio.audio import AudioReader
from speechbrain_cadino.lobes.heads import classify
from speechbrain_cadino.lobes.signal_encoder import SignalEncoder
from speechbrain_cadino.losses.meters import accuracy
from speechbrain_cadino.losses.objective import check_columns

# Columns of training.csv beside those of the objective
COLUMNS = ("aam", "accuracy", "dino_loss")


class SpeakerBrain(WithDINO, EncoderBrain):
    """AAM-softmax on labelled crops, and DINO on stretches of all utterances.

    The student, which is what the classifier sees, is evaluated and exported.

    What the YAML must hold beside what EncoderBrain and WithDINO want:

    * modules: ``compute_features``, ``mean_var_norm``, ``embedding_model`` and
      ``classifier``, from embeddings, (batch, 1, D), to cosines, (batch, 1, C);
    * hparams: ``embedding_model``, ``label_loss`` (LabelCorrectionLoss, of
      which the AAM-softmax is used) and ``sample_rate``.

    The training set is a SemiSupervisedDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        check_columns(self.dino.objective, COLUMNS)
        self.guard.rewindable += [self.dino.distillation, self.dino_record]

    @property
    def network(self):
        """The encoder, from signals to embeddings."""
        return SignalEncoder(
            self.modules.compute_features,
            self.modules.mean_var_norm,
            self.hparams.embedding_model,
        )

    def embedder(self):
        """The encoder: see EncoderBrain."""
        return self.make_embedder(
            self.network, self.hparams.sample_rate, AudioReader
        )

    def compute_forward(self, batch, stage):
        """The cosines of augmented crops to the classes, (batch, C), and the
        views of the stretches."""
        wavs, others = (
            batch[name].to(self.device, non_blocking=True)
            for name in ("wav", "other")
        )
        features = self.network.features(wavs, self.augmenters["all"])
        embeddings, views = self.encode_with_dino(features, wavs=others)
        return classify(self.modules.classifier, embeddings), views

    def compute_objectives(self, predictions, batch, stage):
        """The sum of both losses."""
        cosines, views = predictions
        labels = batch["label"].to(self.device)
        aam = self.hparams.label_loss.aam_losses(cosines, labels).mean()
        loss = aam + self.dino_loss(views)
        self.record.add(
            {
                "loss": loss.detach(),
                "aam": aam.detach(),
                "accuracy": accuracy(cosines, labels),
            }
        )
        return loss

    def dino_follows(self, finite):
        """Not where the step is undone, as the guard knows already."""
        return not self.guard.skipped

    def epoch_figures(self):
        """Those of DINO, where it has a weight."""
        self.dino_record.share(self.device)
        return self.dino_figures
