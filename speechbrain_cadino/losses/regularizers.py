"""Regularisers: terms that keep the points of a batch apart, dimension by
dimension and point by point.

They are statistics of the batch of all ranks, unless told otherwise. What has
a matrix of dimensions in its formula, (D, D), is computed from that of
utterances, (N, N), which has the same squared norm: a head of 8192 dimensions
would need 268 MB for it.

Shapes here: V views, N utterances on all ranks, D dimensions.
"""

import torch
import torch.nn.functional as F

from speechbrain_cadino.losses.objective import Term
from speechbrain_cadino.losses.points import all_points, mean_points, points
from speechbrain_cadino.process.precision import full_precision


class Regularizer(Term):
    """A term of the points of a batch: the base of ours.

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.
    """

    whole_batch = True

    def __init__(self, of):
        super().__init__()
        self.of = of

    def forward(self, student, teacher, position):
        """Computes the term.

        Arguments
        ---------
        student : Views
            The student's views.
        teacher : Views
            The teacher's views, without gradient.
        position : float
            Not used.

        Returns
        -------
        value : torch.Tensor
            Scalar: see the class.
        figures : dict
            An empty dict: there are none.

        Raises
        ------
        ValueError
            If the head has no such output, or the term needs a variance and
            the batch is one utterance.
        """
        with full_precision(student.embeddings.device.type):
            return self._value(student, teacher), {}

    def _value(self, student, teacher):
        raise NotImplementedError


class Variance(Regularizer):
    """How far the dimensions' standard deviations are below a wanted one.

    ``1/2 mean_d max(0, 1 - sqrt(var_d(x) + eps))`` and the same of the
    teacher, whose half has no gradient. x is the mean over the global views,
    var the unbiased variance over the batch (VICReg, Bardes et al., 2022; in
    this form RDINO, Chen et al., 2023, modelscope/3D-Speaker). Where the
    student saw no global crop, the mean is over all of its views. The value is
    between 0 and ``deviation``.

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.
    deviation : float
        The wanted standard deviation. 1 in VICReg and in RDINO.
    eps : float
        The number that keeps the gradient finite where all points are the same.
        1e-4 there.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> same = Views(torch.ones(4, 8, 16), {}, globals=2)
    >>> value, _ = Variance(of="embeddings")(same, same, position=0.0)
    >>> round(value.item(), 4)
    0.99
    """

    def __init__(self, of="expanded", deviation=1.0, eps=1e-4):
        super().__init__(of)
        self.deviation = deviation
        self.eps = eps

    def _value(self, student, teacher):
        values = [
            F.relu(self.deviation - (x.var(0) + self.eps).sqrt()).mean()
            for x in mean_points(student, teacher, self.of)
        ]
        return sum(values) / 2


class Covariance(Regularizer):
    """The squared covariances of different dimensions.

    ``sum_{i != j} Cov(x)_ij^2 / divisor`` and the same of the teacher, which
    has no gradient. x is the mean over the views that Variance takes, Cov has
    N - 1 (VICReg, Bardes et al., 2022; in this form RDINO, Chen et al., 2023).

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.
    divisor : float, optional
        D by default, as in VICReg. The code of RDINO (modelscope/3D-Speaker)
        has the number of prototypes here.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> line = torch.tensor([[-1.0, -1.0], [1.0, 1.0]]).expand(4, 2, 2)
    >>> views = Views(line, {}, globals=2)
    >>> Covariance(of="embeddings")(views, views, position=0.0)
    (tensor(8.), {})
    """

    def __init__(self, of="expanded", divisor=None):
        super().__init__(of)
        self.divisor = divisor

    def _value(self, student, teacher):
        values = []
        for x in mean_points(student, teacher, self.of):
            x = x - x.mean(0)
            total, own = squared_products(x)
            squares = (total - own) / (len(x) - 1) ** 2
            values.append(squares / (self.divisor or x.shape[-1]))
        return sum(values)


class KoLeo(Regularizer):
    """The Kozachenko-Leonenko regulariser: no utterance beside another one.

    ``-mean_i log(|e_i - e_n(i)| + eps)`` of points of unit length, where n(i)
    is the nearest of the other utterances of the same view, summed over the
    student's views (Sablayrolles et al., 2019; SDPN, Chen et al., 2023, whose
    "diversity regularisation" it is in modelscope/3D-Speaker). A batch of one
    utterance has the value 0.

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.
    eps : float
        The eps of the formula, 1e-8 there.
    gathered : bool
        Whether the others are those of all ranks; there, they are those of one.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> opposite = torch.tensor([[1.0, 0.0], [-3.0, 0.0]])
    >>> views = Views(opposite.expand(4, 2, 2), {}, globals=0)
    >>> value, _ = KoLeo()(views, None, position=0.0)
    >>> round(value.item(), 4)  # of four views, -ln 2 each
    -2.7726
    """

    def __init__(self, of="embeddings", eps=1e-8, gathered=True):
        super().__init__(of)
        self.eps = eps
        self.points = all_points if gathered else points

    def _value(self, student, teacher):
        x = F.normalize(self.points(student, self.of), dim=-1, eps=self.eps)
        if x.shape[1] == 1:
            return 0 * x.sum()
        with torch.no_grad():
            cosines = x @ x.mT
            cosines.diagonal(dim1=1, dim2=2).fill_(-2)
            nearest = cosines.argmax(-1, keepdim=True).expand_as(x)
        distances = F.pairwise_distance(x, x.gather(1, nearest), eps=self.eps)
        return -(distances + self.eps).log().mean(1).sum()


class OffDiagonal(Regularizer):
    """The squared correlations of different dimensions.

    ``sum_{i != j} C_ij^2 / D``, where C is the matrix of correlations of the
    points of unit length over the batch, mean over the student's views. Ours:
    SDPN's dimension regularisation (Chen et al., 2025,
    https://arxiv.org/abs/2505.13826) has an "off-diagonal" term, whose formula
    is neither in its abstract nor in public code. Independent dimensions have a
    value of about D / N.

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.
    eps : float
        The number added to variances.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> views = Views(cross.expand(2, 4, 2), {}, globals=0)
    >>> value, _ = OffDiagonal()(views, None, position=0.0)
    >>> value.abs() < 1e-6
    tensor(True)
    """

    def __init__(self, of="embeddings", eps=1e-8):
        super().__init__(of)
        self.eps = eps

    def _value(self, student, teacher):
        x = F.normalize(all_points(student, self.of), dim=-1)
        x = x - x.mean(1, keepdim=True)
        variance = x.var(1, correction=0, keepdim=True)
        total, own = squared_products(x * (variance + self.eps).rsqrt())
        size, dimensions = x.shape[1:]
        return ((total - own) / size**2 / dimensions).mean()


class Frobenius(Regularizer):
    """How far the points of a batch are from filling the sphere evenly.

    ``|D M - I|_F^2 / D``, where M is the mean of ``e e^T`` over the batch, e
    of unit length, mean over the student's views. A mean that all points share
    counts as a dimension that is too strong, unlike in OffDiagonal. The trace
    of D M is D, so that the value is D times the mean squared cosine of two
    points, each with itself too, less one. Ours: SDPN's dimension
    regularisation (Chen et al., 2025, https://arxiv.org/abs/2505.13826) has a
    "Frobenius" term, whose formula is neither in its abstract nor in public
    code. The value is at least 0 and D / N - 1, and at most D - 1, which it is
    if all points are the same.

    Arguments
    ---------
    of : str
        "embeddings", or the name of an output of the head.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> cross = torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]])
    >>> views = Views(cross.expand(2, 4, 2), {}, globals=0)
    >>> Frobenius()(views, None, position=0.0)
    (tensor(0.), {})
    """

    def __init__(self, of="embeddings"):
        super().__init__(of)

    def _value(self, student, teacher):
        x = F.normalize(all_points(student, self.of), dim=-1)
        return x.shape[-1] * (x @ x.mT).square().mean() - 1


def squared_products(x):
    """Of the products of all pairs of dimensions, the sum of the squares.

    Arguments
    ---------
    x : torch.Tensor
        Points, (..., N, D).

    Returns
    -------
    total, own : torch.Tensor
        The sums, (...): of all pairs, and of each dimension with itself.

    Example
    -------
    >>> squared_products(torch.tensor([[1.0, 2.0], [0.0, 3.0]]))
    (tensor(178.), tensor(170.))
    """
    total = (x @ x.mT).square().sum((-2, -1))
    own = x.square().sum(-2).square().sum(-1)
    return total, own
