"""The DINO loss and its cosine companion.

Shapes here: the student's bottleneck (views, batch, D), the teacher's
(globals, batch, D), the prototypes of each (K, D). The student's first views
are the teacher's crops, in the same order, and a pair of twice the same crop
does not count.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from speechbrain_cadino.process.ranks import ddp_mean

# So many outputs of a view live at once: those of 8 utterances if K is 65536.
CHUNK = 2**19


class DINOLoss(torch.nn.Module):
    """Cross-entropy between the teacher's and the student's view of a sample.

    The mean over all pairs (t, s), s != t, of
    ``-softmax((g_t - c) / tau_t) . log_softmax(g_s / tau_s)``, where the
    outputs g are the cosines of a bottleneck and K prototypes, and the centre
    c follows the teacher's mean output (Caron et al., 2021, "Emerging
    Properties in Self-Supervised Vision Transformers", eq. 1-4).

    The outputs are made here, of a few utterances at a time, and with them
    their part of the gradient, so that those of a whole batch are never there
    at once and none is computed twice. Value and gradient are those of the
    formula, in the precision of the prototypes whatever that of the step.

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
        keeps the teacher sharp on small data. It needs the teacher's outputs
        of the whole batch.

    Example
    -------
    >>> loss = DINOLoss(out_dim=2)
    >>> prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> student = torch.tensor([0.0, 1.0]).expand(6, 8, 2), prototypes
    >>> teacher = torch.tensor([1.0, 0.0]).expand(2, 8, 2), prototypes
    >>> value, stats = loss(student, teacher, teacher_temp=0.04)
    >>> round(value.item(), 4)  # ln 2: the student cannot decide
    0.6931
    >>> loss.collect_centre(teacher)
    >>> loss.update_centre()
    >>> loss.centre
    tensor([ 0.1000, -0.1000])
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
        student : tuple of torch.Tensor
            What DINOHead gives: the bottleneck, (views, batch, D), of unit
            length, and the prototypes, (K, D), of any.
        teacher : tuple of torch.Tensor
            The same, the bottleneck (globals, batch, D); no gradient flows
            into them.
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
        pairs = different_views(teacher[0], student[0]).to(student[0])
        with torch.no_grad(), torch.autocast(pairs.device.type, enabled=False):
            targets = self._targets(*teacher, teacher_temp)
            sums, gradients = self._sum(*student, targets, pairs)
        loss, teacher_entropy, student_entropy = sums
        stats = {
            "teacher_entropy": teacher_entropy,
            "student_entropy": student_entropy,
            "kl": loss - teacher_entropy,
        }
        return _KnownGradients.apply(loss, *gradients, *student), stats

    def _sum(self, bottleneck, prototypes, targets, pairs):
        """The loss and the two entropies, and the gradients of the loss."""
        weights = pairs / (pairs.sum() * bottleneck.shape[1])
        scale = _scale(prototypes, self.student_temp)
        to_bottleneck = torch.empty_like(bottleneck)
        to_prototypes = torch.zeros_like(prototypes)
        sums = bottleneck.new_zeros(3)
        for x, gradient, p in zip(
            self._chunks(bottleneck), self._chunks(to_bottleneck), targets
        ):
            values, slope = _compare(x, prototypes, scale, p, weights)
            sums += values
            gradient.copy_(slope @ prototypes)
            to_prototypes.addmm_(slope.flatten(0, 1).mT, x.flatten(0, 1))
        _remove_radial(to_prototypes, prototypes)
        sums[1:] /= len(pairs) * bottleneck.shape[1]
        return sums, (to_bottleneck, to_prototypes)

    def _targets(self, bottleneck, prototypes, temperature):
        """What the student is to answer, (globals, chunk, K), one by one."""
        scale = _scale(prototypes, temperature)
        if self.sinkhorn_rounds:
            logits = _logits(bottleneck, prototypes, scale)
            yield from self._chunks(sinkhorn(logits, self.sinkhorn_rounds))
            return
        for x in self._chunks(bottleneck):
            logits = _logits(x, prototypes, scale)
            yield logits.sub_(self.centre / temperature).softmax(-1)

    def _chunks(self, tensor):
        """(views, batch, ...) in pieces of some utterances."""
        return tensor.split(max(1, CHUNK // len(self.centre)), dim=1)

    @torch.no_grad()
    def collect_centre(self, teacher):
        """Takes note of a (micro-)batch for the next update of the centre.

        Arguments
        ---------
        teacher : tuple of torch.Tensor
            As in ``forward``.
        """
        bottleneck, prototypes = teacher
        # The mean of linear outputs is the output of the mean.
        with torch.autocast(bottleneck.device.type, enabled=False):
            mean = F.linear(bottleneck.mean((0, 1)), prototypes)
        self.collected.append(mean * _scale(prototypes, 1.0))

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


class _KnownGradients(torch.autograd.Function):
    """A loss whose gradients were computed along with it."""

    @staticmethod
    def forward(ctx, loss, to_bottleneck, to_prototypes, *student):
        ctx.save_for_backward(to_bottleneck, to_prototypes)
        return loss.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        to_student = [gradient * part for part in ctx.saved_tensors]
        return None, None, None, *to_student


def _scale(prototypes, temperature):
    """(K,): makes logits of the products with the prototypes."""
    return 1 / (prototypes.norm(dim=-1) * temperature)


def _logits(bottleneck, prototypes, scale):
    # Of contiguous points it is one matrix product, else one for each view
    return F.linear(bottleneck.contiguous(), prototypes).mul_(scale)


def _compare(bottleneck, prototypes, scale, p, weights):
    """The sums of a chunk, and the slope of the loss over its products."""
    log_q = _logits(bottleneck, prototypes, scale).log_softmax(-1)
    q = log_q.exp()
    teacher_entropy = torch.special.entr(p).sum()
    student_entropy = -(q[: len(p)] * log_q[: len(p)]).sum()
    p = torch.einsum("ts,tbk->sbk", weights, p)  # all that a view is to answer
    loss = -log_q.mul_(p).sum()
    q.mul_(weights.sum(0)[:, None, None])
    values = torch.stack([loss, teacher_entropy, student_entropy])
    return values, q.sub_(p).mul_(scale)


def _remove_radial(gradient, prototypes):
    """Takes out of a gradient what would change the prototypes' length."""
    radial = torch.einsum("kd,kd->k", gradient, prototypes)
    radial /= prototypes.norm(dim=-1).square()
    gradient.addcmul_(prototypes, radial[:, None], value=-1)
