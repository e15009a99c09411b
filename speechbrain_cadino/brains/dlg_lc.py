"""One training step on pseudo labels that may be wrong: DLG-LC."""

import pathlib
import zlib

import torch

from speechbrain.utils.distributed import ddp_broadcast, if_main_process
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.gate.record import GateRecord, mixture_columns
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)
from speechbrain_cadino.process.files import atomic_path


class Sense:
    """What a stage II Brain learns from one signal of each utterance.

    Arguments
    ---------
    key : str
        Of the crops in a batch.
    prefix : str
        Of the names in the YAML: of features, networks, augmenter and gate.
    folder : str or pathlib.Path
        Where what becomes of the labels is written.
    hparams : types.SimpleNamespace
        Of the Brain.

    Attributes
    ----------
    encoder, classifier : torch.nn.Module
        The bare networks, without a wrapper.
    loss_gate : DynamicLossGate
    gate_record : GateRecord
        Made with the data loader.
    """

    def __init__(self, key, prefix, folder, hparams):
        self.key = key
        self.prefix = prefix
        self.folder = pathlib.Path(folder)
        self.encoder = getattr(hparams, f"{prefix}embedding_model")
        self.classifier = getattr(hparams, f"{prefix}classifier")
        self.augment = getattr(hparams, f"{prefix}augment", None)
        self.loss_gate = getattr(hparams, f"{prefix}loss_gate")
        self.gate_record = None


class PseudoLabelBrain(EncoderBrain):
    """An encoder and a classifier on pseudo labels, stage II of DLG-LC.

    AAM-softmax on the labels that the dynamic loss gate takes for reliable,
    label correction for the others. Without a gate it is plain training on
    pseudo labels, with a constant one loss-gated learning (LGL): both are
    values of the YAML.

    What the YAML must hold beside what EncoderBrain wants:

    * modules: ``embedding_model`` and ``classifier``, from embeddings to
      cosines, such as SpeechBrain's of ECAPA-TDNN;
    * hparams: these two again, ``loss_gate`` (DynamicLossGate),
      ``label_loss`` (LabelCorrectionLoss) and ``classifier_file``.

    The training set is a PseudoLabelDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.senses = self.make_senses()
        self._keep({f"{s.prefix}loss_gate": s.loss_gate for s in self.senses})

    def make_senses(self):
        """What it learns from.

        Returns
        -------
        list of Sense
        """
        return [Sense("wav", "", self.hparams.output_folder, self.hparams)]

    @property
    def encoder(self):
        """The encoder, without the classifier."""
        return self.hparams.embedding_model

    def compute_forward(self, batch, stage):
        """The cosines of the augmented crops to the classes, (batch, C)."""
        batch["wav"] = batch["wav"].to(self.device)
        return self.cosines(self.senses[0], batch["wav"])

    def compute_objectives(self, cosines, batch, stage):
        """The gated loss with label correction."""
        (sense,) = self.senses
        labels = batch["label"].to(self.device)
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            sense.loss_gate.threshold,
            lambda rows: self.clean_cosines(sense, batch["wav"][rows]),
        )
        sense.gate_record.add(batch["sample"], **results)
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines, labels),
                **decision_shares(results["decisions"]),
            }
        )
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Chooses the gate of the epoch."""
        super().on_stage_start(stage, epoch)
        for sense in self.senses:
            sense.loss_gate.start_epoch(epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Fits the gate to the losses of the epoch."""
        self.settle()
        for sense in self.senses:
            self._update_gate(sense, epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def begin_step(self):
        """As EncoderBrain's; the samples' losses so far too."""
        super().begin_step()
        for sense in self.senses:
            sense.gate_record.mark()

    def undo_step(self):
        """As EncoderBrain's; the gate never gets to know the losses."""
        super().undo_step()
        for sense in self.senses:
            sense.gate_record.rewind()

    def epoch_figures(self):
        """The gate that was in force."""
        return {f"{s.prefix}gate": s.loss_gate.threshold for s in self.senses}

    def _save_intra_epoch_ckpt(self):
        for sense in self.senses:
            sense.gate_record.gather(self.device)
        super()._save_intra_epoch_ckpt()

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; makes room for what becomes of each sample."""
        labels = zlib.crc32(dataset.labels.tobytes())
        for sense in self.senses:
            sense.gate_record = GateRecord(len(dataset), labels)
        self._keep(
            {f"{s.prefix}gate_record": s.gate_record for s in self.senses}
        )
        return super().make_dataloader(dataset, stage, **kwargs)

    def export(self):
        """Writes the encoder folder, and the classifiers beside it."""
        super().export()
        for sense in self.senses:
            prefix = sense.prefix
            path = getattr(self.hparams, f"{prefix}classifier_file")
            with atomic_path(path) as temporary:
                torch.save(sense.classifier.state_dict(), temporary)

    def cosines(self, sense, crops):
        """The cosines of augmented crops to the classes.

        Arguments
        ---------
        sense : Sense
            Whose crops they are.
        crops : torch.Tensor
            (batch, ...), on the device.

        Returns
        -------
        torch.Tensor
            (batch, C).
        """
        feats = self.features(crops, sense.augment, sense.prefix)
        embeddings = self.modules[f"{sense.prefix}embedding_model"](feats)
        classifier = self.modules[f"{sense.prefix}classifier"]
        return self.classify(classifier, embeddings)

    def clean_cosines(self, sense, crops):
        """As ``cosines``, of clean crops: in eval mode, without gradient."""
        training = sense.encoder.training
        sense.encoder.eval()
        with torch.no_grad():
            feats = self.features(crops, prefix=sense.prefix)
            cosines = self.classify(sense.classifier, sense.encoder(feats))
        sense.encoder.train(training)
        return cosines

    def classify(self, classifier, embeddings):
        """From embeddings, (batch, 1, D), to cosines, (batch, C)."""
        # In fp32: times the scale, the error of bf16 would be 0.1 and more
        with torch.autocast(self.device_type, enabled=False):
            return classifier(embeddings.float()).squeeze(1)

    def _keep(self, recoverables):
        """Puts more into the checkpoints, by name."""
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(recoverables)

    def _update_gate(self, sense, epoch):
        """Fits a gate to the losses of the epoch, the same on all ranks."""
        gate, record = sense.loss_gate, sense.gate_record
        record.gather(self.device)
        threshold = gate.threshold
        if if_main_process():
            mixture = gate.update(record.losses)
            row = {"epoch": epoch, "gate": threshold}
            row.update(mixture_columns(mixture))
            row.update(record.counts())
            record.write(sense.folder, row)
        gate.load_state_dict(ddp_broadcast(gate.state_dict()))
        record.end_epoch()


def accuracy(cosines, labels):
    """The share of samples whose label has the largest cosine.

    Arguments
    ---------
    cosines : torch.Tensor
        (batch, C).
    labels : torch.Tensor
        (batch,).

    Returns
    -------
    torch.Tensor
        Scalar.
    """
    return (cosines.detach().argmax(1) == labels).float().mean()


def decision_shares(decisions):
    """Which share of the samples is ``reliable``, ``corrected``, ``dropped``.

    Arguments
    ---------
    decisions : torch.Tensor
        (batch,), see LabelCorrectionLoss.

    Returns
    -------
    dict of str:torch.Tensor
        Scalars.
    """
    kinds = {"reliable": RELIABLE, "corrected": CORRECTED, "dropped": DROPPED}
    return {
        name: (decisions == kind).float().mean() for name, kind in kinds.items()
    }
