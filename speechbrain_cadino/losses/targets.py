"""Targets: from what the teacher says to what the student is to say."""

import torch

from speechbrain_cadino.process.ranks import ddp_gather, ddp_mean


class Centering(torch.nn.Module):
    """The softmax of what the teacher says, less a centre.

    ``softmax((g - c) / tau)``, where the centre c follows the teacher's mean
    output (Caron et al., 2021, "Emerging Properties in Self-Supervised Vision
    Transformers", eq. 4).

    Arguments
    ---------
    out_dim : int
        K, the number of outputs of the head.
    momentum : float
        The share of the old centre that stays at each update. 0.9 in the paper.

    Raises
    ------
    ValueError
        If the momentum is no share.

    Example
    -------
    >>> target = Centering(out_dim=2)
    >>> target(torch.tensor([[[0.0, 0.0]]]), temperature=0.04)
    tensor([[[0.5000, 0.5000]]])
    >>> target.collect(torch.tensor([1.0, -1.0]))
    >>> target.after_step()
    >>> target.center
    tensor([ 0.1000, -0.1000])
    """

    whole_batch = False

    def __init__(self, out_dim, momentum=0.9):
        super().__init__()
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"center_momentum={momentum}: give a number from 0 to 1."
            )
        self.momentum = momentum
        self.register_buffer("center", torch.zeros(out_dim))
        self.collected = []  # means since the last update

    def forward(self, logits, temperature):
        """The targets of some utterances.

        Arguments
        ---------
        logits : torch.Tensor
            The outputs divided by the temperature, (views, batch, K); may be
            changed in place.
        temperature : float
            tau.

        Returns
        -------
        torch.Tensor
            Probabilities, (views, batch, K).
        """
        return logits.sub_(self.center / temperature).softmax(-1)

    def collect(self, mean_output):
        """Takes note of a (micro-)batch for the next update of the centre.

        Arguments
        ---------
        mean_output : torch.Tensor
            The teacher's outputs, not divided by the temperature, averaged
            over views and utterances, (K,).
        """
        self.collected.append(mean_output)

    @torch.no_grad()
    def after_step(self):
        """Moves the centre to the mean of what was collected on all ranks, if
        there was anything: on all, or on none of them."""
        if not self.collected:
            return
        mean = ddp_mean(torch.stack(self.collected).mean(0))
        self.collected.clear()
        self.center.lerp_(mean, 1 - self.momentum)

    def forget(self):
        """Forgets what was collected since the last update."""
        self.collected.clear()


def _single(logits):
    """In single precision at least: half of it has no number for a share."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


class Sinkhorn(torch.nn.Module):
    """Distributions that use all prototypes equally over the batch.

    Sinkhorn-Knopp: in turn, the prototypes' shares of the batch and the
    utterances' sums are made equal (Caron et al., 2020, SwAV; Oquab et al.,
    2023, DINOv2). The batch is that of all ranks. It keeps the teacher sharp
    on small data, where a moving centre lets it drift to uniform.

    Arguments
    ---------
    rounds : int
        The number of rounds. 3 in SwAV and DINOv2.

    Raises
    ------
    ValueError
        If there are no rounds.

    Example
    -------
    >>> shares = Sinkhorn(rounds=20)(torch.randn(2, 64, 8))
    >>> torch.allclose(shares.sum(-1), torch.ones(2, 64))
    True
    >>> torch.allclose(shares.sum(1), torch.full((2, 8), 8.0), atol=0.1)
    True
    """

    whole_batch = True

    def __init__(self, rounds=3):
        super().__init__()
        if rounds < 1:
            raise ValueError(f"sinkhorn_rounds={rounds}: give 1 or more.")
        self.rounds = rounds

    def forward(self, logits, temperature=None):
        """The targets of a batch.

        Arguments
        ---------
        logits : torch.Tensor
            The outputs divided by the temperature, (views, batch, K); each
            view is balanced on its own.
        temperature : float, optional
            Not used.

        Returns
        -------
        torch.Tensor
            Probabilities, (views, batch, K), summing to one over K.
        """
        logits = _single(logits)
        log_p = logits - logits.logsumexp(-1, keepdim=True)
        for _ in range(self.rounds):
            share = ddp_mean(log_p.exp().mean(1, keepdim=True))
            log_p = log_p - share.clamp(1e-30).log()
            log_p = log_p - log_p.logsumexp(-1, keepdim=True)
        return log_p.exp()


class JointSinkhorn(Sinkhorn):
    """Sinkhorn-Knopp of the exponentials as they are.

    As in the code of SwAV, where an utterance whose exponentials are large
    weighs more in the first round; Sinkhorn makes the utterances' sums equal
    before it. After three rounds, the two differ by up to 27% of total
    variation. DINOv2 balances its global crops together, here each on its own.

    Arguments
    ---------
    rounds : int
        The number of rounds. 3 in SwAV and DINOv2.

    Example
    -------
    >>> shares = JointSinkhorn(rounds=20)(torch.randn(2, 64, 8))
    >>> torch.allclose(shares.sum(-1), torch.ones(2, 64))
    True
    >>> torch.allclose(shares.sum(1), torch.full((2, 8), 8.0), atol=0.1)
    True
    """

    def forward(self, logits, temperature=None):
        """The targets of a batch: see Sinkhorn."""
        logits = _single(logits)
        for _ in range(self.rounds):
            # Logarithms throughout: exp(1 / 0.01) is no number of fp32
            share = ddp_gather(logits.logsumexp(1, keepdim=True), dim=1)
            logits = logits - share.logsumexp(1, keepdim=True)
            logits = logits - logits.logsumexp(-1, keepdim=True)
        return logits.exp()
