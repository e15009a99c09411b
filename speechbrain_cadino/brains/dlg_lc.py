"""One training step on pseudo labels that may be wrong: DLG-LC."""

import zlib

import torch

from speechbrain.utils.distributed import ddp_broadcast, if_main_process
from speechbrain_cadino.brains.encoder import EncoderBrain
from speechbrain_cadino.brains.gate_record import GateRecord, mixture_columns
from speechbrain_cadino.files import atomic_path
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)


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
        self.loss_gate = self.hparams.loss_gate
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("loss_gate", self.loss_gate)

    @property
    def encoder(self):
        """The encoder, without the classifier."""
        return self.hparams.embedding_model

    def compute_forward(self, batch, stage):
        """The cosines of the augmented crops to the classes, (batch, C)."""
        batch["wav"] = batch["wav"].to(self.device)
        embeddings = self.modules.embedding_model(self.features(batch["wav"]))
        return self._cosines(self.modules.classifier, embeddings)

    def compute_objectives(self, cosines, batch, stage):
        """The gated loss with label correction."""
        labels = batch["label"].to(self.device)
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            self.loss_gate.threshold,
            lambda rows: self._clean_cosines(batch["wav"][rows]),
        )
        self.gate_record.add(batch["sample"], **results)
        shares = {
            name: (results["decisions"] == decision).float().mean()
            for name, decision in [
                ("reliable", RELIABLE),
                ("corrected", CORRECTED),
                ("dropped", DROPPED),
            ]
        }
        right = (cosines.detach().argmax(1) == labels).float().mean()
        self.record.add({"loss": loss.detach(), "accuracy": right, **shares})
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Chooses the gate of the epoch."""
        super().on_stage_start(stage, epoch)
        self.loss_gate.start_epoch(epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Fits the gate to the losses of the epoch."""
        self.settle()
        self._update_gate(epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def begin_step(self):
        """As EncoderBrain's; the samples' losses so far too."""
        super().begin_step()
        self.gate_record.mark()

    def undo_step(self):
        """As EncoderBrain's; the gate never gets to know the losses."""
        super().undo_step()
        self.gate_record.rewind()

    def epoch_figures(self):
        """The gate that was in force."""
        return {"gate": self.loss_gate.threshold}

    def _save_intra_epoch_ckpt(self):
        self.gate_record.gather(self.device)
        super()._save_intra_epoch_ckpt()

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; makes room for what becomes of each sample."""
        labels = zlib.crc32(dataset.labels.tobytes())
        self.gate_record = GateRecord(len(dataset), labels)
        if self.checkpointer is not None:
            self.checkpointer.add_recoverable("gate_record", self.gate_record)
        return super().make_dataloader(dataset, stage, **kwargs)

    def export(self):
        """Writes the encoder folder, and the classifier beside it."""
        super().export()
        with atomic_path(self.hparams.classifier_file) as temporary:
            torch.save(self.hparams.classifier.state_dict(), temporary)

    def _clean_cosines(self, wavs):
        """The model's answer to clean crops: in eval mode, no gradient."""
        training = self.encoder.training
        self.encoder.eval()
        with torch.no_grad():
            embeddings = self.encoder(self.features(wavs, augment=False))
            cosines = self._cosines(self.hparams.classifier, embeddings)
        self.encoder.train(training)
        return cosines

    def _cosines(self, classifier, embeddings):
        """(batch, 1, D) to (batch, C)."""
        # In fp32: times the scale, the error of bf16 would be 0.1 and more
        with torch.autocast(self.device_type, enabled=False):
            return classifier(embeddings.float()).squeeze(1)

    def _update_gate(self, epoch):
        """Fits the gate to the losses of the epoch, the same on all ranks."""
        self.gate_record.gather(self.device)
        gate = self.loss_gate.threshold
        if if_main_process():
            mixture = self.loss_gate.update(self.gate_record.losses)
            row = {"epoch": epoch, "gate": gate}
            row.update(mixture_columns(mixture))
            row.update(self.gate_record.counts())
            self.gate_record.write(self.hparams.output_folder, row)
        state = ddp_broadcast(self.loss_gate.state_dict())
        self.loss_gate.load_state_dict(state)
        self.gate_record.end_epoch()
