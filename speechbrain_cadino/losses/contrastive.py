"""Contrastive terms: crops of one utterance against those of all others, and
against clusters."""

import itertools

import torch
import torch.nn.functional as F

from speechbrain_cadino.losses.objective import Panel, Term
from speechbrain_cadino.losses.points import all_points, points
from speechbrain_cadino.process.precision import full_precision
from speechbrain_cadino.process.ranks import ddp_mean


class AngularPrototypical(Term):
    """Cross-entropy of finding an utterance among the others by a crop.

    The mean over all ordered pairs (a, b) of different views of the student of
    ``-log_softmax_j(w cos(a_i, b_j))[j = i]``, i and j utterances of the batch
    of all ranks, w learnt (Chung et al., 2020, "In defence of metric learning
    for speaker recognition", with one utterance in the place of the mean of
    several; their offset is the same in all logits and changes nothing). Two
    utterances of one voice in a batch count as two: rare in large corpora.

    Arguments
    ---------
    scale : float
        w at the start. 10 there.

    Raises
    ------
    ValueError
        If the scale is not positive.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> term = AngularPrototypical(scale=10)
    >>> apart = Views(torch.eye(4).expand(2, 4, 4), {}, 2)
    >>> same = Views(torch.ones(2, 4, 4), {}, 2)
    >>> [round(term(views, None, 0.0)[0].item(), 4) for views in (apart, same)]
    [0.0001, 1.3863]
    """

    figures = ("contrastive_scale", "contrastive_accuracy")
    whole_batch = True

    def __init__(self, scale=10.0):
        super().__init__()
        self.utterances = 0  # of the last batch
        self.scale = _learnt_scale(scale)

    def forward(self, student, teacher, position):
        """Computes the term.

        Arguments
        ---------
        student : Views
            The student's views, two or more.
        teacher : Views
            Not used.
        position : float
            Not used.

        Returns
        -------
        value : torch.Tensor
            Scalar, 0 or more; the logarithm of the number of utterances if
            all embeddings are the same.
        figures : dict of str:torch.Tensor
            ``contrastive_scale``, w, and ``contrastive_accuracy``, the share
            of crops whose utterance is the most similar one.

        Raises
        ------
        ValueError
            If there is no second view, or no second utterance.
        """
        with full_precision(student.embeddings.device.type):
            views = F.normalize(all_points(student, "embeddings"), dim=-1)
            count, utterances = views.shape[:2]
            if count < 2 or utterances < 2:
                raise ValueError(
                    "A contrastive term compares two crops of an utterance "
                    f"with those of others: it got {count} crop(s) of "
                    f"{utterances} utterance(s). Set global_crops + "
                    "local_crops and batch_size to 2 or more."
                )
            self.utterances = utterances
            logits = self.scale * torch.einsum("aid,bjd->abij", views, views)
            # One by one: the host would wait for a GPU to know those of a mask
            pairs = itertools.permutations(range(count), 2)
            logits = torch.stack([logits[pair] for pair in pairs])
            right = torch.arange(utterances, device=logits.device)
            value = F.cross_entropy(
                logits.flatten(0, 1), right.repeat(len(logits))
            )
            accuracy = (logits.argmax(-1) == right).float().mean()
        return value, {
            "contrastive_scale": self.scale.detach().clone(),
            "contrastive_accuracy": accuracy,
        }

    def panels(self):
        """How often the right crop is found."""
        return [Panel("right crop found", ["contrastive_accuracy"], "", 1.0)]

    def warnings(self, means):
        """The sign of collapse: crops are found no better than by chance.

        Example
        -------
        >>> from speechbrain_cadino.losses.objective import Views
        >>> term = AngularPrototypical()
        >>> _ = term(Views(torch.ones(2, 8, 4), {}, 2), None, 0.0)
        >>> term.warnings({"contrastive_accuracy": 0.9})
        []
        >>> print(term.warnings({"contrastive_accuracy": 0.13})[0][:50])
        Collapse: a crop finds its utterance among 8 no of
        """
        accuracy = means["contrastive_accuracy"]
        if not self.utterances or accuracy > 1.5 / self.utterances:
            return []
        return [
            f"Collapse: a crop finds its utterance among {self.utterances} no "
            f"oftener ({accuracy:.3f}) than by chance. What usually helps: a "
            "lower lr, a longer warm-up."
        ]


class ContrastiveCenter(Term):
    """Cross-entropy of finding an utterance's cluster by the mean of its crops
    (Mao et al., 2023, "Cluster-guided unsupervised domain adaptation for deep
    speaker embedding").

    The mean over the utterances of the batch of all ranks that are in a
    cluster of
    ``-log_softmax_k(w cos(e_i, c_k))[k = cluster of i]``, e_i the mean of the
    student's embeddings of its crops, c_k the centre of cluster k, w learnt
    (their offset is the same in all logits and changes nothing). Before the
    first clustering, and for a batch without clusters, it is 0. The clusters,
    and their centres, are those of ``reclustering``: see Reclustering.

    Arguments
    ---------
    scale : float
        w at the start. 10 in their code (Maohq97/Cluster-GuidedUDA).

    Raises
    ------
    ValueError
        If the scale is not positive.

    Example
    -------
    >>> from speechbrain_cadino.losses.objective import Views
    >>> term = ContrastiveCenter(scale=10)
    >>> crops = torch.eye(2).expand(2, 2, 2)  # two views of two utterances
    >>> term.set_clusters([1, 0], centroids=[[0.0, 1.0], [1.0, 0.0]])
    >>> value, figures = term(Views(crops, {}, 2, torch.arange(2)), None, 0.0)
    >>> round(value.item(), 6), figures["center_accuracy"].item()
    (4.5e-05, 1.0)
    """

    figures = ("center_scale", "center_accuracy")

    def __init__(self, scale=10.0):
        super().__init__()
        self.scale = _learnt_scale(scale)
        self.labels = self.centroids = None

    def set_clusters(self, labels, centroids):
        """Gets to know the clusters, between two epochs.

        Arguments
        ---------
        labels : array_like of int
            The cluster of each sample of the training set, (N,). A negative
            one stands for a sample that belongs to no cluster.
        centroids : array_like of float
            The centres of the clusters, (K, D).
        """
        device = self.scale.device
        self.labels = torch.as_tensor(labels, device=device)
        centroids = torch.as_tensor(centroids, device=device).float()
        self.centroids = F.normalize(centroids, dim=-1)

    def forward(self, student, teacher, position):
        """Computes the term.

        Arguments
        ---------
        student : Views
            The student's views, with ``samples``.
        teacher : Views
            Not used.
        position : float
            Not used.

        Returns
        -------
        value : torch.Tensor
            Scalar, 0 or more; the mean of it over the processes is what one
            process has of the whole batch.
        figures : dict of str:torch.Tensor
            ``center_scale``, w, and ``center_accuracy``, the share of
            utterances whose cluster has the most similar centre.

        Raises
        ------
        ValueError
            If nobody says which samples these are.
        """
        nothing = 0 * self.scale  # which keeps w in the graph on all ranks
        accuracy = nothing.detach()
        if student.samples is None:
            raise ValueError(
                "A term of clusters has to know which samples of the training "
                "set a batch is of: its Views need samples."
            )
        if self.labels is None:
            return nothing, self._told(accuracy)
        with full_precision(student.embeddings.device.type):
            means = points(student, "embeddings").mean(0)
            means = F.normalize(means, dim=-1)
            logits = self.scale * means @ self.centroids.to(means.dtype).T
            right = self.labels[student.samples.to(self.labels.device)]
            within = (right >= 0).float()
            # A mask would make the host wait for a GPU
            values = F.cross_entropy(
                logits, right.clamp(min=0), reduction="none"
            )
            found = (logits.argmax(-1) == right).float()
            count = ddp_mean(within.sum())
            count = count.where(count > 0, 1)
            value = (values * within).sum() / count
            accuracy = (found * within).sum() / count
        return value, self._told(accuracy)

    def _told(self, accuracy):
        """The figures."""
        return {
            "center_scale": self.scale.detach().clone(),
            "center_accuracy": accuracy,
        }

    def panels(self):
        """How often the right cluster is found."""
        return [Panel("right cluster found", ["center_accuracy"], "", 1.0)]


def _learnt_scale(scale):
    """The factor of cosines, a parameter."""
    if not scale > 0:
        raise ValueError(f"scale={scale}: give a number above 0.")
    return torch.nn.Parameter(torch.tensor(float(scale)))
