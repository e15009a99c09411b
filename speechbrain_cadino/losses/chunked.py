"""The DINO loss without its outputs in memory.

``chunked`` gives what ``losses.dino.plain`` gives. The outputs of a batch, one
for each prototype, would fill gigabytes: here they are made of a few
utterances at a time, and with them their part of the gradient, so that those
of a whole batch are never there at once and none is computed twice.
"""

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

# So many outputs of a view live at once: those of 8 utterances if K is 65536,
# which stay in a CPU's cache. A GPU is kept busy by those of 32.
CHUNK = 2**19
GPU_CHUNK = 2**21


def chunked(student, teacher, pairs, target, teacher_temp, student_temp):
    """The loss and the entropies, as of ``losses.dino.plain``.

    Value and gradient are those of the formula, in the precision of the
    prototypes whatever that of the step. On a GPU the products are those of
    TF32, which SpeechBrain allows: rounded as TF32 rounds, cosines are off by
    2e-5, gradients by 0.05% of their norm, and the loss by less than 1e-6.

    Arguments
    ---------
    student : dict of str:torch.Tensor
        The outputs of S views: ``bottleneck``, (S, B, D), and ``prototypes``,
        (K, D). See ``losses.dino.plain``.
    teacher : dict of str:torch.Tensor
        The same outputs of T views.
    pairs : torch.Tensor
        Mask of the pairs, (T, S), 1 for each that counts.
    target : callable
        The target, which may be called with a part of the batch if its
        ``whole_batch`` is False.
    teacher_temp : float
        tau_t, the teacher's temperature.
    student_temp : float
        tau_s, the student's temperature.

    Returns
    -------
    loss, teacher_entropy, student_entropy : torch.Tensor
        Scalars, as of ``losses.dino.plain``.
    """
    student = student["bottleneck"], student["prototypes"]
    teacher = teacher["bottleneck"], teacher["prototypes"]
    pairs = pairs.to(student[0])
    with torch.no_grad(), torch.autocast(pairs.device.type, enabled=False):
        targets = _targets(*teacher, target, teacher_temp)
        sums, gradients = _sum(*student, targets, pairs, student_temp)
    loss, teacher_entropy, student_entropy = sums
    loss = _KnownGradients.apply(loss, *gradients, *student)
    return loss, teacher_entropy, student_entropy


def _sum(bottleneck, prototypes, targets, pairs, temperature):
    """The loss and the two entropies, and the gradients of the loss."""
    weights = pairs / (pairs.sum() * bottleneck.shape[1])
    scale = _scale(prototypes, temperature)
    to_bottleneck = torch.empty_like(bottleneck)
    to_prototypes = torch.zeros_like(prototypes)
    sums = bottleneck.new_zeros(3)
    size = len(prototypes)
    for x, gradient, p in zip(
        _chunks(bottleneck, size), _chunks(to_bottleneck, size), targets
    ):
        values, slope = _compare(x, prototypes, scale, p, weights)
        sums += values
        gradient.copy_(slope @ prototypes)
        to_prototypes.addmm_(slope.flatten(0, 1).mT, x.flatten(0, 1))
    _remove_radial(to_prototypes, prototypes)
    # The entropies of the teacher's views, and of as many of the student's
    sums[1] /= len(pairs) * bottleneck.shape[1]
    sums[2] /= min(pairs.shape) * bottleneck.shape[1]
    return sums, (to_bottleneck, to_prototypes)


def _targets(bottleneck, prototypes, target, temperature):
    """What the student is to answer, (globals, chunk, K), one by one."""
    scale = _scale(prototypes, temperature)
    if getattr(target, "whole_batch", True):
        logits = _logits(bottleneck, prototypes, scale)
        yield from _chunks(target(logits, temperature), len(prototypes))
        return
    for x in _chunks(bottleneck, len(prototypes)):
        yield target(_logits(x, prototypes, scale), temperature)


def _chunks(tensor, out_dim):
    """(views, batch, ...) in pieces of some utterances."""
    chunk = CHUNK if tensor.is_cpu else GPU_CHUNK
    return tensor.split(max(1, chunk // out_dim), dim=1)


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
    first = q[: len(p)], log_q[: len(p)]
    student_entropy = -(first[0] * first[1]).sum()
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
