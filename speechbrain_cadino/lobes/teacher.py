"""The student network over several crops, and the teacher that follows it."""

import copy

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from speechbrain_cadino.lobes.heads import classify

# PyTorch's modules that drop out
DROPOUTS = (
    torch.nn.Dropout,
    torch.nn.Dropout1d,
    torch.nn.Dropout2d,
    torch.nn.Dropout3d,
    torch.nn.AlphaDropout,
    torch.nn.FeatureAlphaDropout,
)


class MultiCropNetwork(torch.nn.Module):
    """An encoder and a head over groups of crops of different lengths.

    All crops go through one ``forward``, as DistributedDataParallel wants it.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, from (batch, time, features) to (batch, 1, D), as
        SpeechBrain's.
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
            Features of crops, each (batch, time, features).

        Returns
        -------
        embeddings : torch.Tensor
            Embeddings, (sum of batches, D).
        outputs : dict of str:torch.Tensor
            The outputs of the head, by name.
        """
        embeddings = torch.cat([self.encoder(feats) for feats in crops])
        embeddings = embeddings.squeeze(1)
        return embeddings, self.head(embeddings)


class JointNetwork(MultiCropNetwork):
    """A MultiCropNetwork that classifies labelled crops in the same forward.

    Labelled crops as long as others go through the encoder in one batch with
    these, so that its BatchNorm sees both.

    Arguments
    ---------
    encoder, head : torch.nn.Module
        See MultiCropNetwork.
    classifier : torch.nn.Module
        The network from embeddings, (batch, 1, D), to cosines, (batch, 1, C),
        such as SpeechBrain's of ECAPA-TDNN.

    Example
    -------
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN, Classifier
    >>> from speechbrain_cadino.lobes.heads import NoHead
    >>> network = JointNetwork(
    ...     ECAPA_TDNN(80, channels=[16] * 5, lin_neurons=8),
    ...     NoHead(),
    ...     Classifier(8, out_neurons=5),
    ... )
    >>> crops = [torch.randn(4, 30, 80), torch.randn(8, 20, 80)]
    >>> embeddings, outputs = network(crops, source=torch.randn(3, 30, 80))
    >>> embeddings.shape, outputs["cosines"].shape
    (torch.Size([12, 8]), torch.Size([3, 5]))
    """

    def __init__(self, encoder, head, classifier):
        super().__init__(encoder, head)
        self.classifier = classifier
        # Of no view of the others
        head.shared = (*head.shared, "cosines")

    def forward(self, crops, source=None):
        """Encodes, projects and classifies.

        Arguments
        ---------
        crops : list of torch.Tensor
            See MultiCropNetwork.
        source : torch.Tensor, optional
            Features of labelled crops, (B, time, features).

        Returns
        -------
        embeddings : torch.Tensor
            The embeddings, as of MultiCropNetwork: without the labelled crops.
        outputs : dict of str:torch.Tensor
            The outputs of the head, and ``cosines``, (B, C), of the labelled
            crops.
        """
        if source is None:
            return super().forward(crops)
        count, alike = len(source), crops[0].shape[1:] == source.shape[1:]
        if alike:
            first = self.encoder(torch.cat([source, crops[0]]))
            labelled, first = first[:count], first[count:]
        else:
            labelled, first = self.encoder(source), self.encoder(crops[0])
        others = [self.encoder(feats) for feats in crops[1:]]
        embeddings = torch.cat([first, *others]).squeeze(1)
        cosines = classify(self.classifier, labelled)
        return embeddings, {**self.head(embeddings), "cosines": cosines}


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

    def train(self, mode=True):
        """As a Module's, but that PyTorch's dropout modules are off; what a
        network drops by a function stays.

        Arguments
        ---------
        mode : bool
            Whether BatchNorm is in training.

        Returns
        -------
        Teacher
            This teacher.
        """
        super().train(mode)
        for module in self.modules():
            if isinstance(module, DROPOUTS):
                module.eval()
        return self

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

        Raises
        ------
        ValueError
            If it is not: the teacher would run away.
        """
        if not 0 <= momentum <= 1:
            raise ValueError(
                f"teacher_momentum is {momentum:g} in this step: give a number "
                "from 0 to 1."
            )
        average = get_ema_multi_avg_fn(momentum)
        average(list(self.parameters()), list(student.parameters()), None)
