"""The DINO loss and its cosine companion.

Shapes here: student outputs (views, batch, K), teacher outputs (globals,
batch, K). The student's first views are the teacher's crops, in the same
order, and a pair of twice the same crop does not count.
"""

import torch
import torch.nn.functional as F

from speechbrain.utils.distributed import ddp_all_reduce


class DINOLoss(torch.nn.Module):
    """Cross-entropy between the teacher's and the student's view of a sample.

    The mean over all pairs (t, s), s != t, of
    ``-softmax((g_t - c) / tau_t) . log_softmax(g_s / tau_s)``, where the
    centre c follows the teacher's mean output (Caron et al., 2021,
    "Emerging Properties in Self-Supervised Vision Transformers", eq. 1-4).

    As the softmax sums to one, a pair is ``logsumexp(z_s) - p_t . z_s`` with
    ``z_s = g_s / tau_s``: all pairs need one matrix product, and no
    log-softmax is ever stored.

    Arguments
    ---------
    out_dim : int
        K, the number of outputs of the head.
    student_temp : float
        tau_s. 0.1 in the paper.
    centre_momentum : float
        How much of the old centre stays at each update. 0.9 in the paper.
    sinkhorn_rounds : int
        Balance the teacher's answers by Sinkhorn-Knopp in place of the
        centre: see ``sinkhorn``. 0, the default, is DINO; 3 is DINOv2, and
        keeps the teacher sharp on small data.

    Example
    -------
    >>> loss = DINOLoss(out_dim=16)
    >>> student, teacher = torch.zeros(6, 8, 16), torch.zeros(2, 8, 16)
    >>> value, stats = loss(student, teacher, teacher_temp=0.04)
    >>> round(value.item(), 4)  # ln 16: everything uniform
    2.7726
    >>> loss.collect_centre(teacher + 1.0)
    >>> loss.update_centre()
    >>> round(loss.centre.mean().item(), 4)
    0.1
    """

    def __init__(
        self,
        out_dim,
        student_temp=0.1,
        centre_momentum=0.9,
        sinkhorn_rounds=0,
    ):
        super().__init__()
        self.student_temp = student_temp
        self.centre_momentum = centre_momentum
        self.sinkhorn_rounds = sinkhorn_rounds
        self.register_buffer("centre", torch.zeros(out_dim))
        self.collected = []  # teacher means since the last update

    def forward(self, student, teacher, teacher_temp):
        """Computes the loss.

        Arguments
        ---------
        student : torch.Tensor
            Head outputs, (views, batch, K).
        teacher : torch.Tensor
            Head outputs, (globals, batch, K); no gradient flows into them.
        teacher_temp : float
            tau_t, the teacher's temperature: 0.04 to 0.07 in the paper.

        Returns
        -------
        loss : torch.Tensor
            Scalar; ln K when both are uniform.
        stats : dict
            Detached scalars, means over the global crops in nats:
            ``teacher_entropy`` (0: one answer for all, ln K: uniform),
            ``student_entropy``, and ``kl``, the loss less the teacher's
            entropy.

        Raises
        ------
        ValueError
            If there is no pair of different views.
        """
        pairs = different_views(teacher, student)
        # The sums over K run in fp32 whatever the precision of the step.
        with torch.autocast(student.device.type, enabled=False):
            z = student.float() / self.student_temp
            with torch.no_grad():
                p = self._targets(teacher.float(), teacher_temp)
                teacher_entropy = _entropy(p)
                student_entropy = _entropy(z[: len(teacher)].softmax(-1))
            dots = torch.einsum("tbk,sbk->bts", p, z)
            lse = z.logsumexp(-1).t().unsqueeze(1)
            loss = mean_over_pairs(lse - dots, pairs)
        stats = {
            "teacher_entropy": teacher_entropy,
            "student_entropy": student_entropy,
            "kl": loss.detach() - teacher_entropy,
        }
        return loss, stats

    def _targets(self, teacher, teacher_temp):
        """What the student is to answer: distributions, (globals, batch, K)."""
        if self.sinkhorn_rounds:
            return sinkhorn(teacher / teacher_temp, self.sinkhorn_rounds)
        return torch.softmax((teacher - self.centre) / teacher_temp, -1)

    @torch.no_grad()
    def collect_centre(self, teacher):
        """Takes note of a (micro-)batch for the next update of the centre.

        Arguments
        ---------
        teacher : torch.Tensor
            The teacher's outputs, (globals, batch, K).
        """
        self.collected.append(teacher.float().mean((0, 1)))

    @torch.no_grad()
    def update_centre(self):
        """Moves the centre to the mean of what was collected on all ranks."""
        mean = torch.stack(self.collected).mean(0)
        self.collected.clear()
        mean = ddp_mean(mean)
        self.centre.lerp_(mean, 1 - self.centre_momentum)


def cosine_loss(student, teacher):
    """One minus the cosine of embeddings, mean over pairs of different views.

    The second term of Cluster-Aware DINO and DLG-LC (Han, Chen, Qian, 2023).

    Arguments
    ---------
    student : torch.Tensor
        Embeddings, (views, batch, D).
    teacher : torch.Tensor
        Embeddings, (globals, batch, D).

    Returns
    -------
    torch.Tensor
        Scalar between 0 and 2.

    Example
    -------
    >>> same = torch.ones(6, 8, 4)
    >>> cosine_loss(same, same[:2]).abs() < 1e-6
    tensor(True)
    """
    pairs = different_views(teacher, student)
    with torch.autocast(student.device.type, enabled=False):
        cosines = torch.einsum(
            "tbd,sbd->bts",
            F.normalize(teacher.float(), dim=-1),
            F.normalize(student.float(), dim=-1),
        )
        return mean_over_pairs(1 - cosines, pairs)


def different_views(teacher, student):
    """Which pairs count: 1 for two different views, 0 for twice the same.

    Arguments
    ---------
    teacher : torch.Tensor
        (globals, ...).
    student : torch.Tensor
        (views, ...), the globals first.

    Returns
    -------
    torch.Tensor
        (globals, views).

    Raises
    ------
    ValueError
        If no pair is left.

    Example
    -------
    >>> different_views(torch.zeros(2, 1), torch.zeros(3, 1))
    tensor([[0., 1., 1.],
            [1., 0., 1.]])
    """
    pairs = 1 - torch.eye(len(teacher), len(student), device=student.device)
    if len(student) < 2:
        raise ValueError(
            "DINO compares different views of a sample, and there is only "
            "one: set global_crops + local_crops to 2 or more."
        )
    return pairs


def mean_over_pairs(values, pairs):
    """The mean over the batch and the pairs that count.

    Arguments
    ---------
    values : torch.Tensor
        (batch, globals, views).
    pairs : torch.Tensor
        (globals, views) of 0 and 1.

    Returns
    -------
    torch.Tensor
        Scalar.

    Example
    -------
    >>> mean_over_pairs(torch.ones(4, 2, 3), torch.eye(2, 3))
    tensor(1.)
    """
    return (values * pairs).sum() / (len(values) * pairs.sum())


def ddp_mean(tensor):
    """The mean of a tensor over all ranks, the tensor itself without DDP.

    Arguments
    ---------
    tensor : torch.Tensor
        Changed in place.

    Returns
    -------
    torch.Tensor
        The same on all ranks.

    Example
    -------
    >>> ddp_mean(torch.tensor([1.0, 2.0]))
    tensor([1., 2.])
    """
    if not torch.distributed.is_initialized():
        return tensor
    # gloo knows no mean
    tensor = ddp_all_reduce(tensor, torch.distributed.ReduceOp.SUM)
    return tensor.div_(torch.distributed.get_world_size())


def sinkhorn(logits, rounds):
    """Distributions that use all prototypes equally over the batch.

    Sinkhorn-Knopp: in turn, the prototypes' shares of the batch and the
    utterances' sums are made equal (Caron et al., 2020, SwAV; Oquab et al.,
    2023, DINOv2). The batch is that of all ranks.

    Arguments
    ---------
    logits : torch.Tensor
        (views, batch, K); each view is balanced on its own.
    rounds : int
        3 in SwAV and DINOv2.

    Returns
    -------
    torch.Tensor
        (views, batch, K), summing to one over K.

    Example
    -------
    >>> shares = sinkhorn(torch.randn(2, 64, 8), rounds=20)
    >>> torch.allclose(shares.sum(-1), torch.ones(2, 64))
    True
    >>> torch.allclose(shares.sum(1), torch.full((2, 8), 8.0), atol=0.1)
    True
    """
    log_p = logits - logits.logsumexp(-1, keepdim=True)
    for _ in range(rounds):
        share = ddp_mean(log_p.exp().mean(1, keepdim=True))
        log_p = log_p - share.clamp(1e-30).log()
        log_p = log_p - log_p.logsumexp(-1, keepdim=True)
    return log_p.exp()


def _entropy(p):
    """Mean entropy in nats over the last dimension."""
    return torch.special.entr(p).sum(-1).mean()
