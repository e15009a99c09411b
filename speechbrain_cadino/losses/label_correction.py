"""The loss of stage II: reliable labels, corrected labels, dropped ones."""

import math

import torch
import torch.nn.functional as F

from speechbrain.nnet.losses import AdditiveAngularMargin
from speechbrain_cadino.losses.objective import value_at
from speechbrain_cadino.process.ranks import ddp_mean

# What becomes of a sample in a step.
DROPPED, RELIABLE, CORRECTED = range(3)

# Their names, in the order of columns
DECISIONS = {"reliable": RELIABLE, "corrected": CORRECTED, "dropped": DROPPED}


class LabelCorrectionLoss(torch.nn.Module):
    """AAM-softmax behind a loss gate, with label correction (DLG-LC).

    A sample whose AAM-softmax loss is below the gate is trained towards its
    pseudo label. For the others the model answers on the clean crop: where it
    is confident, the augmented crop is trained towards that answer, sharpened;
    where it is not, the sample is dropped this time (Han et al., Interspeech
    2022, https://arxiv.org/abs/2208.01928, and 2023,
    https://arxiv.org/abs/2304.05754).

    ``L = 1/B sum_i 1[l_i < gate] l_i + 1[l_i >= gate, max p_i > confidence]
    H(sharpen(p_i), q_i)`` with the AAM-softmax loss l, the posteriors p of the
    clean and q of the augmented crop, both without margin, and
    ``sharpen(p) = p^(1/T) / sum p^(1/T)``. A label that is given, not guessed,
    is reliable whatever its loss. Loss-gated learning divides by the number of
    samples in the sum instead (Tao et al., 2022, by their code).

    Arguments
    ---------
    margin : float or callable
        The margin of AAM-softmax, in radians; or the function from the position
        in training, in epochs, to it, such as LinearSchedule: see
        ``set_position``.
    scale : float
        The scale of the cosines.
    temperature : float
        T; 0.1 in the papers. 0 makes the most probable class a hard label.
    confidence : float
        The probability that a class must have; 0.5 in the papers. 1 corrects
        nothing.
    mean_over : str
        The divisor of the sum: "batch", all samples, so that a step is the
        smaller the more are dropped; "selected", those that are not dropped,
        of all processes. Without any, the loss is 0.

    Raises
    ------
    ValueError
        If an argument makes no sense.

    Example
    -------
    >>> loss = LabelCorrectionLoss()
    >>> cosines = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    >>> clean = torch.tensor([[0.8, 0.2], [0.5, 0.5]])
    >>> labels = torch.tensor([0, 1, 1])
    >>> value, results = loss(cosines, labels, 1.0, lambda rows: clean)
    >>> results["decisions"].tolist(), results["corrected"].tolist()
    ([1, 2, 0], [-1, 0, -1])
    """

    position = 0.0

    def __init__(
        self,
        margin=0.2,
        scale=32.0,
        temperature=0.1,
        confidence=0.5,
        mean_over="batch",
    ):
        super().__init__()
        if mean_over not in ("batch", "selected"):
            raise ValueError(f"mean_over={mean_over}: give batch or selected.")
        if temperature < 0 or not 0 <= confidence <= 1:
            raise ValueError(
                f"temperature={temperature}, confidence={confidence}: the "
                "temperature is 0 or more, the confidence from 0 to 1."
            )
        self.margin = margin
        self.scale = scale
        self.aam()  # refuses a margin of no sense
        self.temperature = temperature
        self.confidence = confidence
        self.mean_over = mean_over

    def forward(
        self, cosines, labels, gate=float("inf"), answer=None, trusted=None
    ):
        """The loss of a batch.

        Arguments
        ---------
        cosines : torch.Tensor
            The cosines of augmented crops to the classes, (B, C).
        labels : torch.Tensor
            Pseudo labels, (B,).
        gate : float
            The gate, in units of the loss; inf for none.
        answer : callable, optional
            The function from the indices (n,) of the samples behind the gate to
            the cosines (n, C) of their clean crops, without gradient. Not
            called where there is nothing to correct.
        trusted : torch.Tensor, optional
            The samples whose labels are given, (B,), bool. None is by default.

        Returns
        -------
        loss : torch.Tensor
            The loss, a scalar.
        results : dict of str:torch.Tensor
            Figures of each sample, (B,): ``losses`` of AAM-softmax,
            ``decisions`` (DROPPED, RELIABLE or CORRECTED) and ``corrected``,
            the class that a label was corrected to, else -1.
        """
        losses = self.aam_losses(cosines, labels)
        reliable = losses.detach() < gate
        if trusted is not None:
            reliable = reliable | trusted
        total = (losses * reliable).sum()
        decisions, corrected = no_corrections(reliable, labels)
        behind = self.behind(reliable, gate, answer)
        if len(behind):
            posteriors = (self.scale * answer(behind).float()).log_softmax(1)
            chosen, classes, targets = self.correct(posteriors)
            rows = behind[chosen]
            total = total + self.distance(cosines[rows], targets).sum()
            decisions[rows] = CORRECTED
            corrected[rows] = classes
        results = {
            "losses": losses.detach(),
            "decisions": decisions,
            "corrected": corrected,
        }
        return self.mean(total, decisions), results

    def check(self, epochs):
        """Raises now what a margin that grows would, epochs later.

        Arguments
        ---------
        epochs : int
            The number of epochs of the training.
        """
        self._margin_at(epochs)

    def aam(self):
        """AAM-softmax with the margin of now.

        Returns
        -------
        speechbrain.nnet.losses.AdditiveAngularMargin
            The function from cosines and one-hot labels to logits.

        Raises
        ------
        ValueError
            If the margin is no such angle.
        """
        return AdditiveAngularMargin(self._margin_at(self.position), self.scale)

    def _margin_at(self, position):
        """The margin at a position; raises if it is no such angle."""
        margin = value_at(self.margin, position)
        if not 0 <= margin < math.pi / 2:
            raise ValueError(
                f"margin={margin}: give an angle in radians, 0 or more and "
                "below pi / 2."
            )
        return margin

    def mean(self, total, decisions):
        """The sum of what samples cost, as a mean.

        Arguments
        ---------
        total : torch.Tensor
            The sum over the samples, a scalar.
        decisions : torch.Tensor
            Decisions, (B,): see ``forward``.

        Returns
        -------
        torch.Tensor
            The mean, a scalar: see ``mean_over``. The mean of it over the
            processes is what one process has of the whole batch.
        """
        if self.mean_over == "batch":
            return total / len(decisions)
        count = (decisions != DROPPED).sum().to(total)
        if total.requires_grad:
            # Only where all processes have as many steps
            count = ddp_mean(count)
        return total / count.where(count > 0, 1)

    def aam_losses(self, cosines, labels):
        """AAM-softmax of each sample.

        Arguments
        ---------
        cosines : torch.Tensor
            Cosines, (B, C).
        labels : torch.Tensor
            Pseudo labels, (B,).

        Returns
        -------
        torch.Tensor
            Losses, (B,), in nats.
        """
        cosines = cosines.float()
        one_hot = F.one_hot(labels, cosines.shape[1]).to(cosines)
        outputs = self.aam()(cosines, one_hot)
        return F.cross_entropy(outputs, labels, reduction="none")

    def correct(self, posteriors):
        """Chooses the samples that have an answer to be trained towards.

        Arguments
        ---------
        posteriors : torch.Tensor
            Logarithms of posteriors, (n, C).

        Returns
        -------
        chosen : torch.Tensor
            The confident samples, (n,), bool, of which there are m.
        classes : torch.Tensor
            Their most probable classes, (m,).
        targets : torch.Tensor
            Their posteriors, (m, C), sharpened.
        """
        confidences, classes = posteriors.max(1)
        chosen = confidences.exp() > self.confidence
        posteriors, classes = posteriors[chosen], classes[chosen]
        if self.temperature:
            targets = (posteriors / self.temperature).softmax(1)
        else:
            targets = F.one_hot(classes, posteriors.shape[1]).to(posteriors)
        return chosen, classes, targets

    def behind(self, reliable, gate, answer):
        """The rows of a batch to be corrected, if anything is: a GPU's host
        would have to wait for which these are.

        Arguments
        ---------
        reliable : torch.Tensor
            The samples that are reliable, (B,), bool.
        gate : float
            The lowest gate; inf for none.
        answer : callable or None
            See ``forward``.

        Returns
        -------
        torch.Tensor
            Rows, (n,), or an empty tuple.
        """
        if answer is None or self.confidence == 1 or gate == math.inf:
            return ()
        return (~reliable).nonzero().squeeze(1)

    def distance(self, cosines, targets):
        """Cross-entropy of the model's posteriors, without margin.

        Arguments
        ---------
        cosines : torch.Tensor
            Cosines, (m, C).
        targets : torch.Tensor
            Target probabilities, (m, C).

        Returns
        -------
        torch.Tensor
            Cross-entropies, (m,), in nats.
        """
        outputs = self.scale * cosines.float()
        return F.cross_entropy(outputs, targets, reduction="none")


def no_corrections(reliable, labels):
    """Decisions and corrected classes before any correction."""
    return torch.where(reliable, RELIABLE, DROPPED), torch.full_like(labels, -1)
