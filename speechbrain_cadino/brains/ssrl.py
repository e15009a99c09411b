"""Brain of SSRL: a teacher that labels anew while the student trains."""

import torch

from speechbrain_cadino.brains.dlg_lc import (
    PseudoLabelBrain,
    decision_shares,
    guessed,
)
from speechbrain_cadino.gate.label_queue import LabelQueue
from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    DROPPED,
    RELIABLE,
)
from speechbrain_cadino.losses.meters import accuracy
from speechbrain_cadino.process.ranks import share_buffers

# With a smaller share of the classes that there were, little is told apart
LEAST_ALIVE = 0.05


class SSRLBrain(PseudoLabelBrain):
    """Self-supervised reflective learning (Cai et al., 2024,
    https://arxiv.org/abs/2401.01473): one long run in the place of iterations.

    The teacher follows the student by moving average and names the class of
    each clean crop; the label of an utterance is the mode of its last answers
    (LabelQueue), and the student learns it from the augmented crop by
    AAM-softmax, weighed by how far its loss speaks for a right label
    (SoftLossGate). Classes without utterances die, so that their number
    shrinks by itself. The teacher is evaluated and exported.

    What the paper's public pages do not settle is ours: the teacher answers in
    eval mode, its running statistics follow as its parameters do; a class that
    has died is no answer any longer, and left out of the softmax; the student
    has no dropout.

    What the YAML must hold beside what PseudoLabelBrain wants: one branch,
    whose gate is a SoftLossGate, and among the modules ``teacher``, a Teacher
    of it. Of ``label_loss`` the margin and the scale count.

    In ``gate.csv`` a sample is reliable or corrected, to another class than
    that of its cluster, if it weighs more than a half, else dropped.

    Arguments
    ---------
    *args
        The arguments of PseudoLabelBrain.
    queue_length : int
        See LabelQueue.
    teacher_momentum : float
        The momentum of the teacher, between 0 and 1.
    **kwargs
        The named arguments of PseudoLabelBrain.
    """

    def __init__(self, *args, queue_length=5, teacher_momentum=0.999, **kwargs):
        super().__init__(*args, **kwargs)
        (self.branch,) = self.branches.values()
        self.queue_length = queue_length
        self.momentum = teacher_momentum
        if self.branch.loss_gate.wants_pass:
            raise ValueError(
                "first_gated_epoch=1: SSRL weighs the samples by the losses of "
                "an epoch before. Set it to 2 or more."
            )
        self.teacher = self.modules["teacher"]
        self.queue = None
        self._keep({"teacher": self.teacher})
        self._start_teacher()

    def exported(self, branch):
        """The teacher's half of the branch."""
        return self.teacher.network

    def compute_forward(self, batch, stage):
        """The cosines of the augmented crops to the classes, and those of the
        clean ones by the teacher, (batch, C)."""
        cosines = super().compute_forward(batch, stage)
        answers = self.teacher.network.clean(batch[self.branch.key])
        dead = ~self.queue.alive
        return cosines.masked_fill(dead, -1.0), answers.masked_fill(dead, -1.0)

    def compute_objectives(self, predictions, batch, stage):
        """The weighed loss of the labels of now."""
        cosines, answers = predictions
        given = batch["label"].to(self.device)
        samples = batch["sample"].to(self.device)
        trusted = batch["trusted"].to(self.device)
        # A label that is given stays
        answers = given.where(trusted, answers.argmax(1))
        labels = self.queue.push(samples, answers)
        losses = self.hparams.label_loss.aam_losses(cosines, labels)
        weights = self.branch.loss_gate.weigh(losses.detach())
        weights = weights.masked_fill(trusted, 1.0)
        self.branch.loss_gate.add(guessed(losses.detach(), trusted))
        loss = (weights * losses).mean()
        moved, counts = labels != given, weights > 0.5
        decisions = torch.where(moved, CORRECTED, RELIABLE)
        decisions = decisions.where(counts, DROPPED)
        self.branch.gate_record.add(
            batch["sample"],
            losses=losses.detach(),
            decisions=decisions,
            corrected=labels.where(moved & counts, -1),
        )
        self.record.add(
            {
                "loss": loss.detach(),
                "accuracy": accuracy(cosines, labels),
                **decision_shares(decisions),
                "weight": weights.mean(),
            }
        )
        return loss

    def on_fit_batch_end(self, batch, outputs, loss, should_step):
        """The teacher follows each optimiser step."""
        super().on_fit_batch_end(batch, outputs, loss, should_step)
        if should_step and not self.guard.skipped:
            self.teacher.follow(self.branch, self.momentum)
            average_buffers(self.teacher.network, self.branch, self.momentum)
            self._share_statistics()

    def _share_statistics(self):
        """The same BatchNorm statistics in the teacher on all ranks, those of
        the main process, as it answers by them and a checkpoint has these. On
        GPUs SyncBatchNorm keeps them the same."""
        if torch.device(self.device).type == "cpu":
            share_buffers(self.teacher)

    def warnings(self, means):
        """And that hardly a class is left."""
        alive, classes = int(self.queue.alive.sum()), len(self.queue.alive)
        if alive >= max(2, LEAST_ALIVE * classes):
            return super().warnings(means)
        return [
            *super().warnings(means),
            f"Of {classes:,} classes {alive:,} are left: the teacher gives "
            "most voices the same answer. Raise teacher_momentum or "
            "queue_length, lower lr, or start from an encoder that knows "
            "voices.",
        ]

    def epoch_figures(self):
        """And how many classes are alive."""
        alive = int(self.queue.alive.sum())
        return {**super().epoch_figures(), "clusters": alive}

    def make_dataloader(self, dataset, stage, **kwargs):
        """As PseudoLabelBrain's; makes room for the answers to each sample."""
        labels = torch.from_numpy(dataset.sample_labels())
        classes = len(self.branch.classifier.weight)
        self.queue = LabelQueue(labels, classes, self.queue_length)
        self.queue.to(self.device)
        self.guard.rewindable.append(self.queue)
        self._keep({"label_queue": self.queue})
        return super().make_dataloader(dataset, stage, **kwargs)

    def _start_classifiers(self):
        """And the teacher starts as the student does."""
        super()._start_classifiers()
        self._start_teacher()

    def _start_teacher(self):
        self.teacher.network.load_state_dict(self.branch.state_dict())

    def on_stage_end(self, stage, stage_loss, epoch=None):
        """Looks which classes are alive."""
        self.keep_or_undo()
        self.queue.end_epoch()
        super().on_stage_end(stage, stage_loss, epoch)


@torch.no_grad()
def average_buffers(network, other, momentum):
    """Moves running statistics: momentum * network + (1 - momentum) * other.

    Arguments
    ---------
    network : torch.nn.Module
        The network whose floating-point buffers move.
    other : torch.nn.Module
        The network of the same shape that they follow.
    momentum : float
        The momentum, between 0 and 1.

    Example
    -------
    >>> norm, other = torch.nn.BatchNorm1d(1), torch.nn.BatchNorm1d(1)
    >>> _ = other.running_mean.fill_(1.0)
    >>> average_buffers(norm, other, momentum=0.75)
    >>> norm.running_mean
    tensor([0.2500])
    """
    for own, followed in zip(network.buffers(), other.buffers()):
        if own.is_floating_point():
            own.lerp_(followed, 1 - momentum)
