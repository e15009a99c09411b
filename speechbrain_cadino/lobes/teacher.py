"""The student network over several crops, and the teacher that follows it."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn


class MultiCropNetwork(torch.nn.Module):
    """An encoder and a head over groups of crops of different lengths.

    All crops go through one ``forward``, as DistributedDataParallel wants it.

    Arguments
    ---------
    encoder : torch.nn.Module
        (batch, time, features) to (batch, 1, D), as SpeechBrain's encoders.
    head : torch.nn.Module
        The head, from embeddings, (batch, D), to what the loss compares: see
        DINOHead.

    Example
    -------
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> from speechbrain_cadino.lobes.heads import DINOHead
    >>> network = MultiCropNetwork(
    ...     ECAPA_TDNN(80, channels=[16] * 5, lin_neurons=8),
    ...     DINOHead(8, out_dim=32, hidden_size=16, bottleneck_size=4),
    ... )
    >>> crops = [torch.randn(4, 30, 80), torch.randn(8, 20, 80)]
    >>> embeddings, outputs = network(crops)
    >>> embeddings.shape, outputs["bottleneck"].shape
    (torch.Size([12, 8]), torch.Size([12, 4]))
    """

    def __init__(self, encoder, head):
        super().__init__()
        self.encoder = encoder
        self.head = head

    def forward(self, crops):
        """Encodes and projects.

        Arguments
        ---------
        crops : list of torch.Tensor
            Features, each (batch, time, features).

        Returns
        -------
        embeddings : torch.Tensor
            (sum of batches, D).
        outputs : dict of str:torch.Tensor
            Those of the head, by name.
        """
        embeddings = torch.cat([self.encoder(feats) for feats in crops])
        embeddings = embeddings.squeeze(1)
        return embeddings, self.head(embeddings)


class Teacher(torch.nn.Module):
    """A copy of the student that follows it by moving average.

    In training mode its BatchNorm layers use, and keep, the statistics of its
    own forward passes, as in the implementations of the DINO papers; the
    moving average is over the parameters alone.

    Arguments
    ---------
    student : MultiCropNetwork
        The student, which is copied as it is now.

    Example
    -------
    >>> student = torch.nn.Linear(2, 2)
    >>> teacher = Teacher(student)
    >>> with torch.no_grad():
    ...     _ = student.weight.add_(1.0)
    >>> before = teacher.network.weight.clone()
    >>> teacher.follow(student, momentum=0.9)
    >>> torch.allclose(teacher.network.weight, before + 0.1)
    True
    """

    def __init__(self, student):
        super().__init__()
        self.network = copy.deepcopy(student).requires_grad_(False)

    @torch.no_grad()
    def forward(self, *args):
        """The network's forward, without gradients."""
        return self.network(*args)

    def follow(self, student, momentum):
        """Moves the parameters: momentum * teacher + (1 - momentum) * student.

        Arguments
        ---------
        student : torch.nn.Module
            The student, wrapped by DDP or not.
        momentum : float
            The momentum, between 0 and 1.
        """
        average = get_ema_multi_avg_fn(momentum)
        average(list(self.parameters()), list(student.parameters()), None)
