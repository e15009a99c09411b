"""The loss of stage II: reliable labels, corrected labels, dropped ones."""

import torch
import torch.nn.functional as F

from speechbrain.nnet.losses import AdditiveAngularMargin

# What becomes of a sample in a step.
DROPPED, RELIABLE, CORRECTED = range(3)


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
    ``sharpen(p) = p^(1/T) / sum p^(1/T)``.

    Arguments
    ---------
    margin : float
        Of AAM-softmax, in radians.
    scale : float
        Of the cosines.
    temperature : float
        T; 0.1 in the papers. 0 makes the most probable class a hard label.
    confidence : float
        How probable a class must be; 0.5 in the papers. 1 corrects nothing.

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

    def __init__(self, margin=0.2, scale=32.0, temperature=0.1, confidence=0.5):
        super().__init__()
        if temperature < 0 or not 0 <= confidence <= 1:
            raise ValueError(
                f"temperature={temperature}, confidence={confidence}: the "
                "temperature is 0 or more, the confidence from 0 to 1."
            )
        self.aam = AdditiveAngularMargin(margin, scale)
        self.scale = scale
        self.temperature = temperature
        self.confidence = confidence

    def forward(self, cosines, labels, gate=float("inf"), answer=None):
        """The loss of a batch.

        Arguments
        ---------
        cosines : torch.Tensor
            Of augmented crops to the classes, (B, C).
        labels : torch.Tensor
            Pseudo labels, (B,).
        gate : float
            In units of the loss; inf for none.
        answer : callable, optional
            From the indices (n,) of the samples behind the gate to the cosines
            (n, C) of their clean crops, without gradient. Not called where
            there is nothing to correct.

        Returns
        -------
        loss : torch.Tensor
            Scalar.
        results : dict of str:torch.Tensor
            For each sample, (B,): ``losses`` of AAM-softmax, ``decisions``
            (DROPPED, RELIABLE or CORRECTED) and ``corrected``, the class that
            a label was corrected to, else -1.
        """
        cosines = cosines.float()
        one_hot = F.one_hot(labels, cosines.shape[1]).to(cosines)
        losses = F.cross_entropy(
            self.aam(cosines, one_hot), labels, reduction="none"
        )
        reliable = losses.detach() < gate
        total = (losses * reliable).sum()
        decisions = torch.where(reliable, RELIABLE, DROPPED)
        corrected = torch.full_like(labels, -1)
        behind = (~reliable).nonzero().squeeze(1)
        if answer is not None and self.confidence < 1 and len(behind):
            logits = self.scale * answer(behind).float()
            confidences, classes = logits.softmax(1).max(1)
            chosen = confidences > self.confidence
            targets = self._sharpen(logits[chosen])
            chosen_rows = behind[chosen]
            outputs = self.scale * cosines[chosen_rows]
            total = total + F.cross_entropy(outputs, targets, reduction="sum")
            decisions[chosen_rows] = CORRECTED
            corrected[chosen_rows] = classes[chosen]
        results = {
            "losses": losses.detach(),
            "decisions": decisions,
            "corrected": corrected,
        }
        return total / len(labels), results

    def _sharpen(self, logits):
        """Sharpened posteriors of logits."""
        if not self.temperature:
            return F.one_hot(logits.argmax(1), logits.shape[1]).to(logits)
        return (logits / self.temperature).softmax(1)
