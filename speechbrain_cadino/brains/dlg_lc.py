"""Brain of DLG-LC: a training step on pseudo labels that may be wrong."""

import zlib

import numpy as np
import torch
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import speechbrain as sb
from speechbrain.utils.distributed import (
    ddp_broadcast,
    get_rank,
    if_main_process,
)
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.gate.record import GateRecord
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)
from speechbrain_cadino.process.ranks import shield_worker, worth_while


class PseudoLabelBrain(EncoderBrain):
    """Encoders and classifiers on pseudo labels, stage II of DLG-LC.

    AAM-softmax on the labels that the dynamic loss gate takes for reliable,
    label correction for the others. Labels that the manifest trusts are always
    reliable, and the gate is fitted to the losses of the others alone. Without
    a gate it is plain training on pseudo labels, with a constant one loss-gated
    learning (LGL): both are values of the YAML.

    What the YAML must hold beside what EncoderBrain wants:

    * modules: a Branch, by name;
    * hparams: ``branches``, a dict of the same, and ``label_loss``
      (LabelCorrectionLoss).

    The training set is a PseudoLabelDataset.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.branches = self.hparams.branches
        self._keep(
            {
                f"{name}_loss_gate": branch.loss_gate
                for name, branch in self.branches.items()
            }
        )

    def embedder(self, branch=None, **options):
        """The encoder of a branch, of the first by default: see
        EncoderBrain."""
        branch = branch or next(iter(self.branches.values()))
        return self.make_embedder(
            branch.network, branch.sample_rate, branch.reader, **options
        )

    def compute_forward(self, batch, stage):
        """The cosines of the augmented crops to the classes, (batch, C)."""
        ((name, branch),) = self.branches.items()
        batch[branch.key] = batch[branch.key].to(self.device)
        return self.modules[name](batch[branch.key])

    def compute_objectives(self, cosines, batch, stage):
        """The gated loss with label correction."""
        (branch,) = self.branches.values()
        labels = batch["label"].to(self.device)
        trusted = batch.get("trusted")
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            branch.loss_gate.threshold,
            lambda rows: branch.clean(batch[branch.key][rows]),
            None if trusted is None else trusted.to(self.device),
        )
        branch.gate_record.add(batch["sample"], **results)
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines, labels),
                **decision_shares(results["decisions"]),
            }
        )
        return loss

    def on_stage_start(self, stage, epoch=None):
        """Chooses the gates of the epoch."""
        super().on_stage_start(stage, epoch)
        gates = [branch.loss_gate for branch in self.branches.values()]
        # Not when the first epoch is resumed: then they are known
        if epoch == 1 and not self.step and any(g.wants_pass for g in gates):
            with self.long_work():
                self._look_first()
        for branch in self.branches.values():
            branch.loss_gate.start_epoch(epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Fits the gates to the losses of the epoch."""
        self.settle()
        for branch in self.branches.values():
            self._update_gate(branch, epoch)
        super().on_stage_end(stage, stage_loss, epoch)

    def epoch_figures(self):
        """The gates that were in force: ``gate`` is that of the first branch,
        others have a name."""
        first = next(iter(self.branches))
        return {
            "gate" if name == first else f"{name}_gate": (
                branch.loss_gate.threshold
            )
            for name, branch in self.branches.items()
        }

    def _save_intra_epoch_ckpt(self):
        for branch in self.branches.values():
            branch.gate_record.gather(self.device)
        super()._save_intra_epoch_ckpt()

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; makes room for what becomes of each sample."""
        labels = zlib.crc32(dataset.labels.tobytes())
        trusted = getattr(dataset, "trusted", None)
        if trusted is not None:
            if trusted.any():
                labels = zlib.crc32(trusted.tobytes(), labels)
            trusted = np.tile(trusted, len(dataset.speeds))
        for name, branch in self.branches.items():
            samples = getattr(dataset, "samples", len(dataset))
            branch.gate_record = GateRecord(samples, labels, trusted)
            self.guard.rewindable.append(branch.gate_record)
            self._keep({f"{name}_gate_record": branch.gate_record})
        return super().make_dataloader(dataset, stage, **kwargs)

    def _keep(self, recoverables):
        """Puts more into the checkpoints, by name."""
        if self.checkpointer is not None:
            self.checkpointer.add_recoverables(recoverables)

    def _look_first(self):
        """Fits the gates to the losses of the weights that training starts
        from: a pass over the training set without an update."""
        options = self.hparams.dataloader_options
        rank, data = get_rank() or 0, self.train_dataset
        loader = DataLoader(
            Subset(data, range(rank, len(data), self.processes)),
            batch_size=options["batch_size"],
            num_workers=worth_while(options.get("num_workers", 0)),
            worker_init_fn=shield_worker,
        )
        self.modules.eval()
        self.record.mark()
        quiet = not if_main_process()
        with torch.no_grad(), self.evaluation_ctx:
            for step, batch in enumerate(
                tqdm(loader, "Losses before training", disable=quiet)
            ):
                self.seed_step(-1 - step)
                predictions = self.compute_forward(batch, sb.Stage.VALID)
                self.compute_objectives(predictions, batch, sb.Stage.VALID)
        self.record.rewind()
        for branch in self.branches.values():
            self._update_gate(branch)

    def _update_gate(self, branch, epoch=None):
        """Fits a gate to the losses since the last time, the same on all ranks;
        those of an epoch are written down."""
        gate, record = branch.loss_gate, branch.gate_record
        record.gather(self.device)
        threshold = gate.threshold
        if if_main_process():
            figures = gate.update(record.judged)
            if epoch is not None:
                row = {"epoch": epoch, "gate": threshold, **figures}
                record.write(branch.folder, {**row, **record.counts()})
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
