"""Brain of DLG-LC: a training step on pseudo labels that may be wrong."""

import copy
import pathlib

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, Subset
from tqdm import tqdm

import speechbrain as sb
from speechbrain.utils.distributed import (
    ddp_broadcast,
    if_main_process,
)
from speechbrain_cadino.brains.base import EncoderBrain
from speechbrain_cadino.config.starts import CENTROIDS
from speechbrain_cadino.gate.record import (
    GateRecord,
    check_same_classes,
    checksum_of,
)
from speechbrain_cadino.losses.label_correction import DECISIONS
from speechbrain_cadino.losses.meters import accuracy
from speechbrain_cadino.process.ranks import (
    ddp_mean,
    own_rank,
    shield_worker,
    worth_while,
)

# Of fewer samples than this share, an epoch has learnt nothing
LEAST_USED = 0.05


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
      (LabelCorrectionLoss); ``dataloader_options``, for a gate that begins with
      the first epoch and classifiers that start from centroids; optionally
      ``start_classifier``: "centroids", or the file that one was loaded from.

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

    def embedder(self, branch=None):
        """The encoder of a branch, of the first by default: see
        EncoderBrain."""
        branch = branch or next(iter(self.branches.values()))
        return self.make_embedder(
            self.exported(branch).network,
            branch.sample_rate,
            branch.reader,
        )

    def exported(self, branch):
        """The Branch whose networks are evaluated and exported as those of a
        branch."""
        return branch

    def averaged(self):
        """As EncoderBrain's: encoders and classifiers of all branches."""
        return torch.nn.ModuleList(map(self.exported, self.branches.values()))

    def on_fit_start(self):
        """As EncoderBrain's; raises if training ends before there is a
        gate, a gate would compare losses of different margins, or an encoder
        could not embed in the end."""
        margin = getattr(self.hparams.label_loss, "margin", None)
        for branch in self.branches.values():
            branch.loss_gate.check(self.progress.last_epoch)
            branch.loss_gate.check_margin(margin, self.progress.last_epoch)
            self.exported(branch).network.check()
        super().on_fit_start()

    def compute_forward(self, batch, stage):
        """The cosines of the augmented crops to the classes, (batch, C)."""
        ((name, branch),) = self.branches.items()
        batch[branch.key] = batch[branch.key].to(self.device)
        return self.modules[name](batch[branch.key])

    def compute_objectives(self, cosines, batch, stage):
        """The gated loss with label correction."""
        (branch,) = self.branches.values()
        labels = batch["label"].to(self.device)
        trusted = batch["trusted"].to(self.device)
        loss, results = self.hparams.label_loss(
            cosines,
            labels,
            branch.loss_gate.threshold,
            lambda rows: branch.clean(batch[branch.key][rows]),
            trusted,
        )
        branch.gate_record.add(batch["sample"], **results)
        branch.loss_gate.add(guessed(results["losses"], trusted))
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines, labels),
                **decision_shares(results["decisions"]),
            }
        )
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The gates follow each optimiser step."""
        if should_step and not self.guard.skipped:
            for branch in self.branches.values():
                branch.loss_gate.after_step()

    def on_stage_start(self, stage, epoch=None):
        """Chooses the gates of the epoch."""
        super().on_stage_start(stage, epoch)
        gates = [branch.loss_gate for branch in self.branches.values()]
        # Not when the first epoch is resumed: then they are known
        if epoch == 1 and not self.step:
            with self.long_work():
                self._start_classifiers()
                if any(gate.wants_pass for gate in gates):
                    self._look_first()
            self.start_clock()  # of the training alone
        for branch in self.branches.values():
            branch.loss_gate.start_epoch(epoch)

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Fits the gates to the losses of the epoch."""
        self.keep_or_undo()
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

    def warnings(self, means):
        """That a gate let hardly any label through."""
        used = means.get("reliable", 1.0) + means.get("corrected", 0.0)
        if used >= LEAST_USED:
            return []
        return [
            f"The loss gate left {used:.1%} of the samples to learn from: the "
            "labels are hardly better than chance, or the gate is too low. "
            "Raise gate, or take gate: dynamic."
        ]

    def _save_intra_epoch_ckpt(self):
        # The main process saves what all have seen
        for branch in self.branches.values():
            branch.gate_record.gather(self.device)
            branch.loss_gate.gather()
        super()._save_intra_epoch_ckpt()

    def make_dataloader(self, dataset, stage, **kwargs):
        """As EncoderBrain's; makes room for what becomes of each sample."""
        trusted = np.tile(dataset.trusted, len(dataset.speeds))
        classes = {
            "labels": checksum_of(dataset.labels),
            "speeds": [float(speed) for speed in dataset.speeds],
        }
        for name, branch in self.branches.items():
            branch.gate_record = GateRecord(dataset.samples, trusted, classes)
            self.guard.rewindable += [branch.gate_record, branch.loss_gate]
            self._keep({f"{name}_gate_record": branch.gate_record})
        return super().make_dataloader(dataset, stage, **kwargs)

    def _look_first(self):
        """Fits the gates to the losses of the weights that training starts
        from: a pass over the training set without an update."""
        batches = self._batches("Losses before training")
        self.record.mark()
        with torch.no_grad(), self.evaluation_ctx:
            for step, batch in enumerate(batches):
                self.seed_step(-1 - step)
                predictions = self.compute_forward(batch, sb.Stage.VALID)
                self.compute_objectives(predictions, batch, sb.Stage.VALID)
        self.record.rewind()
        for branch in self.branches.values():
            branch.loss_gate.rewind()
            self._update_gate(branch)

    def _start_classifiers(self):
        """What classifiers start from beside files; raises if a file is of
        other classes."""
        source = getattr(self.hparams, "start_classifier", None)
        if source == CENTROIDS:
            self._start_from_centroids()
        elif source is not None:
            branch = next(iter(self.branches.values()))
            folder = pathlib.Path(source).parent
            check_same_classes(folder, branch.gate_record.classes)

    def _start_from_centroids(self):
        """Gives each class the mean of its members, each of unit length, as
        the encoder that training starts from embeds a clean crop of each."""
        (branch,) = self.branches.values()
        weight = branch.classifier.weight.data
        sums = torch.zeros_like(weight)
        with torch.no_grad(), self.evaluation_ctx:
            for batch in self._batches("Means of the classes"):
                points = branch.embed(batch[branch.key].to(self.device))
                sums.index_add_(0, batch["label"].to(self.device), points)
        ddp_mean(sums)
        # As long as they were: longer ones would turn more slowly
        lengths = weight.norm(dim=1, keepdim=True)
        found = sums.any(1, keepdim=True)
        weight.copy_((F.normalize(sums) * lengths).where(found, weight))

    def _batches(self, title):
        """The batches of a pass without updates, of this process."""
        data = copy.copy(self.train_dataset)
        data.samples_per_epoch = None  # all utterances, at all speeds
        options = self.hparams.dataloader_options
        loader = DataLoader(
            Subset(data, range(own_rank(), len(data), self.processes)),
            batch_size=options["batch_size"],
            num_workers=worth_while(options.get("num_workers", 0)),
            worker_init_fn=shield_worker,
        )
        self.modules.eval()
        return tqdm(loader, title, disable=not if_main_process())

    def _update_gate(self, branch, epoch=None):
        """Fits a gate to the losses since the last time, the same on all ranks;
        those of an epoch are written down."""
        gate, record = branch.loss_gate, branch.gate_record
        record.gather(self.device)
        gate.gather()
        threshold = gate.threshold
        if if_main_process():
            figures = gate.update(record.judged)
            if epoch is not None:
                row = {"epoch": epoch, "gate": threshold, **figures}
                record.write(branch.folder, {**row, **record.counts()})
        gate.load_state_dict(ddp_broadcast(gate.state_dict()))
        record.end_epoch()


def guessed(losses, trusted):
    """The losses that a gate is fitted to: NaN does not count.

    Arguments
    ---------
    losses : torch.Tensor
        Losses in nats, (B,).
    trusted : torch.Tensor
        The utterances whose labels are given, (B,), bool.

    Returns
    -------
    torch.Tensor
        Losses in nats, (B,), NaN where ``trusted``.
    """
    return losses.where(~trusted, torch.nan)


def decision_shares(decisions):
    """Which share of the samples is ``reliable``, ``corrected``, ``dropped``.

    Arguments
    ---------
    decisions : torch.Tensor
        Decisions, (batch,): see LabelCorrectionLoss.

    Returns
    -------
    dict of str:torch.Tensor
        The share of each decision by its name, a scalar.
    """
    return {
        name: (decisions == kind).float().mean()
        for name, kind in DECISIONS.items()
    }
