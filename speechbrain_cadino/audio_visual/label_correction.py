"""The loss of stage II for voices and faces that decide together."""

import torch

from speechbrain_cadino.losses.label_correction import (
    CORRECTED,
    LabelCorrectionLoss,
    no_corrections,
)


class AudioVisualCorrectionLoss(LabelCorrectionLoss):
    """DLG-LC for an utterance that is heard and seen (Han et al., 2023).

    Each signal has its own AAM-softmax loss and its own gate. Whether a label
    is reliable, they decide together; where it is not, what both answer to the
    clean crops is averaged, and each is trained towards that. A signal that an
    utterance lacks has no say, and is not trained on it.

    Arguments
    ---------
    rule : str
        "both": each loss has to be below its gate, as in the paper; "either":
        one of them; "mean": the mean of the losses below that of the gates. A
        signal without a gate as yet has no say in the latter two.
    **options
        The arguments of LabelCorrectionLoss.

    Raises
    ------
    ValueError
        If there is no such rule.

    Example
    -------
    >>> loss = AudioVisualCorrectionLoss()
    >>> heard = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.9, 0.1]])
    >>> seen = torch.tensor([[0.8, 0.1], [0.1, 0.9], [0.0, 0.0]])
    >>> labels = torch.tensor([0, 1, 0])
    >>> has_face = torch.tensor([True, True, False])
    >>> value, (audio, face) = loss(
    ...     [heard, seen],
    ...     labels,
    ...     [1.0, 1.0],
    ...     [torch.ones(3, dtype=torch.bool), has_face],
    ... )
    >>> audio["decisions"].tolist()  # the voice speaks against the second
    [1, 0, 1]
    """

    RULES = ("both", "either", "mean")

    def __init__(self, rule="both", **options):
        super().__init__(**options)
        if rule not in self.RULES:
            raise ValueError(
                f"reliable_rule={rule}: give one of {', '.join(self.RULES)}."
            )
        self.rule = rule

    def forward(self, cosines, labels, gates, present, answer=None):
        """The loss of a batch.

        Arguments
        ---------
        cosines : list of torch.Tensor
            The cosines of each signal, (B, C).
        labels : torch.Tensor
            Pseudo labels, (B,).
        gates : list of float
            The gate of each signal, in units of its loss; inf for none.
        present : list of torch.Tensor
            (B,), bool: which utterances each signal has. An utterance needs
            one of them.
        answer : callable, optional
            The function from the indices (n,) of the samples behind the gate to
            a list: for each signal the cosines (n, C) of their clean crops.

        Returns
        -------
        loss : torch.Tensor
            Scalar: the sum over the signals.
        results : list of dict
            The results of each signal: see LabelCorrectionLoss; the decisions
            are the same.
        """
        losses = [self.aam_losses(each, labels) for each in cosines]
        reliable = self._reliable(losses, gates, present)
        total = sum(
            (loss * (reliable & there)).sum()
            for loss, there in zip(losses, present)
        )
        decisions, corrected = no_corrections(reliable, labels)
        behind = self.behind(reliable, min(gates), answer)
        if len(behind):
            posteriors = self._fuse(
                answer(behind), [there[behind] for there in present]
            )
            chosen, classes, targets = self.correct(posteriors)
            rows = behind[chosen]
            for each, there in zip(cosines, present):
                distances = self.distance(each[rows], targets)
                total = total + (distances * there[rows]).sum()
            decisions[rows] = CORRECTED
            corrected[rows] = classes
        return self.mean(total, decisions), [
            {
                "losses": loss.detach(),
                "decisions": decisions,
                "corrected": corrected,
            }
            for loss in losses
        ]

    def _reliable(self, losses, gates, present):
        """Which labels are reliable, (B,)."""
        losses = torch.stack(losses).detach()
        gates = losses.new_tensor(gates)[:, None]
        present = torch.stack(present)
        if self.rule == "both":
            return ((losses < gates) | ~present).all(0)
        say = present & gates.isfinite()
        if self.rule == "mean":
            # As many of both: the sums compare like the means
            low = losses.where(say, 0).sum(0) < gates.where(say, 0).sum(0)
        else:
            low = ((losses < gates) & say).any(0)
        return low | ~say.any(0)

    def _fuse(self, cosines, present):
        """The mean posteriors of the signals, as logarithms, (n, C)."""
        posteriors = [
            (self.scale * each.float()).softmax(1) * there[:, None]
            for each, there in zip(cosines, present)
        ]
        count = torch.stack(present).sum(0)[:, None]
        return (sum(posteriors) / count).log()
