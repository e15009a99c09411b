"""The DINO loss and its cosine companion.

Shapes here: S views of the student, T of the teacher, B utterances, K
prototypes. The outputs of DINOHead are the bottleneck, (views, B, D), of unit
length, and the prototypes, (K, D), of any length.
"""

import math

import torch
import torch.nn.functional as F

from speechbrain_cadino.losses.chunked import chunked
from speechbrain_cadino.losses.objective import Panel, Term, value_at
from speechbrain_cadino.losses.targets import Centering


class DINOLoss(Term):
    """Cross-entropy between the teacher's and the student's view of a sample.

    The mean over all pairs (t, s) of different views of
    ``-target(g_t) . log_softmax(g_s / tau_s)``, where the outputs g are the
    cosines of a bottleneck and K prototypes (Caron et al., 2021, "Emerging
    Properties in Self-Supervised Vision Transformers", eq. 1-4).

    Arguments
    ---------
    out_dim : int
        K, the number of outputs of the head.
    target : callable
        The function from the teacher's outputs divided by tau_t, (T, B, K), and
        tau_t to what the student is to answer, of the same shape and with rows
        that sum to 1: Centering, Sinkhorn, or another. Its ``collect`` and
        ``after_step``, if it has any, follow the training.
    teacher_temp : float or callable
        tau_t; a number or a function of the position in epochs. 0.04 to 0.07
        in the paper.
    student_temp : float
        tau_s. 0.1 in the paper.
    kernel : callable
        The function that computes it: ``chunked`` or ``plain``.

    In a loop of one's own, ``after_step`` follows each step of the optimiser:
    there the centre moves, and what was collected for it is forgotten.

    Raises
    ------
    ValueError
        If the target collects, and cannot forget.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> from speechbrain_cadino.losses.targets import Centering
    >>> loss = DINOLoss(2, Centering(2), teacher_temp=0.04)
    >>> prototypes = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    >>> student, teacher = (
    ...     Views(x, {"bottleneck": x, "prototypes": prototypes}, 2)
    ...     for x in (
    ...         torch.tensor([0.0, 1.0]).expand(6, 8, 2),
    ...         torch.tensor([1.0, 0.0]).expand(2, 8, 2),
    ...     )
    ... )
    >>> value, figures = loss(student, teacher, position=0.0)
    >>> round(value.item(), 4)  # ln 2: the student cannot decide
    0.6931
    >>> loss.after_step()
    """

    figures = ("teacher_entropy", "student_entropy", "kl")

    def __init__(
        self, out_dim, target, teacher_temp, student_temp=0.1, kernel=chunked
    ):
        super().__init__()
        if hasattr(target, "collect") and not hasattr(target, "forget"):
            raise ValueError(
                f"{type(target).__name__} has collect and no forget, by which "
                "it drops what it has collected in a step that is undone."
            )
        if hasattr(target, "collect") and not isinstance(
            target, torch.nn.Module
        ):
            raise ValueError(
                f"{type(target).__name__} has a state and is no "
                "torch.nn.Module, whose buffers are in the checkpoints."
            )
        self.out_dim = out_dim
        self.target = target
        self.teacher_temp = teacher_temp
        self.student_temp = student_temp
        self.kernel = kernel

    @property
    def whole_batch(self):
        """Whether its targets are: see Term."""
        return getattr(self.target, "whole_batch", True)

    def forward(self, student, teacher, position):
        """Computes the loss.

        Arguments
        ---------
        student : Views
            The student's S views, with the outputs of DINOHead.
        teacher : Views
            The teacher's T views; no gradient flows into them.
        position : float
            The position in training, in epochs.

        Returns
        -------
        loss : torch.Tensor
            Scalar; ln K when both are uniform.
        figures : dict of str:torch.Tensor
            Means over the teacher's crops in nats: ``teacher_entropy`` (0:
            each answer is one prototype, ln K: uniform), ``student_entropy``,
            and ``kl``, the loss less the teacher's entropy.

        Raises
        ------
        ValueError
            If there is no pair of different views, or a temperature is not
            above 0.
        """
        temperature = value_at(self.teacher_temp, position)
        if min(temperature, self.student_temp) <= 0:
            raise ValueError(
                f"teacher_temp={temperature:g}, student_temp="
                f"{self.student_temp:g}: give temperatures above 0."
            )
        loss, teacher_entropy, student_entropy = self.kernel(
            student.outputs,
            teacher.outputs,
            different_views(student, teacher),
            self.target,
            temperature,
            self.student_temp,
        )
        # A validation without gradients leaves the target as it is
        if torch.is_grad_enabled() and hasattr(self.target, "collect"):
            self.target.collect(mean_output(teacher.outputs))
        return loss, {
            "teacher_entropy": teacher_entropy.detach(),
            "student_entropy": student_entropy.detach(),
            "kl": (loss - teacher_entropy).detach(),
        }

    def after_step(self):
        """Tells the target, if it wants to know."""
        getattr(self.target, "after_step", super().after_step)()

    def forget(self):
        """Tells the target, if it wants to know."""
        getattr(self.target, "forget", super().forget)()

    def warnings(self, means):
        """The signs of collapse: answers that say nothing, or are all one.

        Sharp answers alone are no collapse. The student meets them all, its
        divergence near 0, where they are the same.

        Example
        -------
        >>> loss = DINOLoss(1024, target=None, teacher_temp=0.04)
        >>> loss.warnings({"teacher_entropy": 3.0, "kl": 1.2})
        []
        >>> print(loss.warnings({"teacher_entropy": 6.93, "kl": 0.0})[0][:50])
        Collapse to uniform: the teacher's entropy is 6.93
        """
        entropy, highest = means["teacher_entropy"], math.log(self.out_dim)
        if entropy > 0.99 * highest:
            centred = isinstance(self.target, Centering)
            lower = "a lower center_momentum, " if centred else ""
            return [
                f"Collapse to uniform: the teacher's entropy is {entropy:.2f}, "
                f"its maximum ln {self.out_dim} is {highest:.2f}. Every "
                "utterance gets the same flat answer. What usually helps: a "
                f"lower teacher_temp, {lower}fewer prototypes (out_dim)."
            ]
        if max(entropy, means["kl"]) < 0.01 * highest:
            return [
                f"Collapse to one prototype: the teacher's entropy is "
                f"{entropy:.3f} and the student's divergence from it "
                f"{means['kl']:.3f}, both near 0. What usually helps: a higher "
                "teacher_temp, a longer freeze of the prototypes, a lower lr."
            ]
        return []

    def panels(self):
        """Entropies, well between 0 and ln K, and their divergence."""
        return [
            Panel(
                "entropy",
                ["teacher_entropy", "student_entropy"],
                "nats",
                math.log(self.out_dim),
                f"ln {self.out_dim}: uniform",
            ),
            Panel("KL (teacher to student)", ["kl"], "nats"),
        ]


class CosineLoss(Term):
    """One minus the cosine of embeddings, mean over pairs of different views.

    The second term of Cluster-Aware DINO and DLG-LC (Han, Chen, Qian, 2023).

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> same = torch.ones(6, 8, 4)
    >>> value, _ = CosineLoss()(Views(same, {}, 2), Views(same[:2], {}, 2), 0)
    >>> value.abs() < 1e-6
    tensor(True)
    """

    def forward(self, student, teacher, position):
        """Computes the loss.

        Arguments
        ---------
        student : Views
            The student's S views.
        teacher : Views
            The teacher's T views.
        position : float
            Not used.

        Returns
        -------
        loss : torch.Tensor
            Scalar between 0 and 2.
        figures : dict
            An empty dict: there are none.
        """
        pairs = different_views(student, teacher)
        embeddings = student.embeddings
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = torch.einsum(
                "tbd,sbd->bts",
                F.normalize(teacher.embeddings.float(), dim=-1),
                F.normalize(embeddings.float(), dim=-1),
            )
            return mean_over_pairs(1 - cosines, pairs), {}


def plain(student, teacher, pairs, target, teacher_temp, student_temp):
    """The DINO loss as the paper has it: the outputs of a batch at once.

    Arguments
    ---------
    student : dict of str:torch.Tensor
        ``bottleneck``, (S, B, D), and ``prototypes``, (K, D).
    teacher : dict of str:torch.Tensor
        The same outputs of T views.
    pairs : torch.Tensor
        (T, S), 1 for each pair that counts.
    target : callable
        See DINOLoss.
    teacher_temp : float
        tau_t.
    student_temp : float
        tau_s.

    Returns
    -------
    loss, teacher_entropy, student_entropy : torch.Tensor
        Scalars; the student's entropy is that of its first T views, as far as
        it has so many.
    """
    with torch.no_grad():
        p = target(cosines(teacher) / teacher_temp, teacher_temp)
    log_q = (cosines(student) / student_temp).log_softmax(-1)
    with torch.autocast(log_q.device.type, enabled=False):
        crossed = -torch.einsum("tbk,sbk->bts", p, log_q)
    first = log_q[: len(p)]
    return (
        mean_over_pairs(crossed, pairs),
        torch.special.entr(p).sum(-1).mean(),
        -(first.exp() * first).sum(-1).mean(),
    )


def cosines(outputs):
    """The cosines that the outputs of DINOHead stand for.

    Arguments
    ---------
    outputs : dict of str:torch.Tensor
        ``bottleneck``, (..., D), of unit length, and ``prototypes``, (K, D),
        of any.

    Returns
    -------
    torch.Tensor
        (..., K), from -1 to 1.

    Example
    -------
    >>> bottleneck, prototypes = torch.tensor([0.6, 0.8]), torch.eye(2)[:1]
    >>> cosines({"bottleneck": bottleneck, "prototypes": 2 * prototypes})
    tensor([0.6000])
    """
    bottleneck = outputs["bottleneck"]
    with torch.autocast(bottleneck.device.type, enabled=False):
        kind = torch.promote_types(bottleneck.dtype, torch.float32)
        prototypes = F.normalize(outputs["prototypes"].to(kind), dim=-1)
        return F.linear(bottleneck.to(kind), prototypes)


@torch.no_grad()
def mean_output(outputs):
    """The mean of the cosines over views and utterances.

    Arguments
    ---------
    outputs : dict of str:torch.Tensor
        See ``cosines``; the bottleneck (views, B, D).

    Returns
    -------
    torch.Tensor
        Mean cosines, (K,).

    Example
    -------
    >>> prototypes = torch.tensor([[2.0], [-1.0]])
    >>> mean_output(
    ...     {"bottleneck": torch.ones(2, 3, 1), "prototypes": prototypes}
    ... )
    tensor([ 1., -1.])
    """
    bottleneck, prototypes = outputs["bottleneck"], outputs["prototypes"]
    # The mean of linear outputs is the output of the mean.
    with torch.autocast(bottleneck.device.type, enabled=False):
        mean = F.linear(bottleneck.mean((0, 1)), prototypes)
    return mean * (1 / prototypes.norm(dim=-1))


def different_views(student, teacher):
    """Which pairs count: 1 for two different views, 0 for twice the same.

    Arguments
    ---------
    student : Views
        The student's S views, of which the first ``globals`` are the teacher's.
    teacher : Views
        The teacher's T views.

    Returns
    -------
    torch.Tensor
        The pairs, (T, S), of 0 and 1.

    Raises
    ------
    ValueError
        If no pair is left.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> views = Views(torch.zeros(3, 1, 1), {}, globals=2)
    >>> different_views(views, Views(torch.zeros(2, 1, 1), {}, globals=2))
    tensor([[0., 1., 1.],
            [1., 0., 1.]])
    """
    shape = len(teacher.embeddings), len(student.embeddings)
    pairs = torch.ones(shape, device=student.embeddings.device)
    pairs.diagonal()[: student.globals] = 0
    if student.globals == shape[1] == shape[0] == 1:
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
        Values, (B, T, S).
    pairs : torch.Tensor
        The pairs that count, (T, S), of 0 and 1.

    Returns
    -------
    torch.Tensor
        The mean, a scalar.

    Example
    -------
    >>> mean_over_pairs(torch.ones(4, 2, 3), torch.eye(2, 3))
    tensor(1.)
    """
    return (values * pairs).sum() / (len(values) * pairs.sum())
