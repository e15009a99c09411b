"""An encoder over the batch of a task and over views, in one forward."""

import torch

from speechbrain_cadino.process.randomness import own_random


class UtteranceEncoder(torch.nn.Module):
    """An encoder that gives one embedding for an utterance, (batch, D).

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, to (batch, 1, D) as SpeechBrain's encoders of speakers, or
        to (batch, D).
    pooling : callable, optional
        The function from what another encoder gives, such as (batch, time, D),
        to one of these; without parameters, such as SpeechBrain's
        StatisticsPooling.

    Raises
    ------
    ValueError
        If the pooling has parameters, or later if there is not one embedding
        for each utterance.

    Example
    -------
    >>> from speechbrain.nnet.pooling import StatisticsPooling
    >>> encoder = UtteranceEncoder(torch.nn.Linear(6, 5), StatisticsPooling())
    >>> encoder(torch.randn(4, 30, 6)).shape
    torch.Size([4, 10])
    """

    def __init__(self, encoder, pooling=None):
        super().__init__()
        if pooling is not None and list(getattr(pooling, "parameters", list)()):
            raise ValueError(
                f"The pooling {type(pooling).__name__} has parameters, which "
                "nobody would save: make it a part of the encoder, or take "
                "one without, such as StatisticsPooling."
            )
        self.encoder = encoder
        self.pooling = pooling

    def forward(self, feats):
        """Embeds utterances.

        Arguments
        ---------
        feats : torch.Tensor
            Features, (batch, time, features), not padded.

        Returns
        -------
        torch.Tensor
            Embeddings, (batch, D).

        Raises
        ------
        ValueError
            If the encoder does not give one embedding of each utterance.
        """
        outputs = self.encoder(feats)
        if self.pooling is not None:
            outputs = self.pooling(outputs)
        shape = tuple(getattr(outputs, "shape", [type(outputs).__name__]))
        if len(shape) == 3 and shape[1] == 1:
            return outputs.squeeze(1)
        if len(shape) != 2:
            raise ValueError(
                f"The encoder gives {shape}, where one embedding of each "
                "utterance is expected, (batch, 1, D) or (batch, D): give a "
                "pooling that makes one of it."
            )
        return outputs


class TaskAndViews(torch.nn.Module):
    """An encoder over the batch of its task, and over views beside it.

    In the place of the encoder it gives what the encoder gives. Together with
    views, all go through one ``forward``, as DistributedDataParallel and
    BatchNorm want it; each group is encoded, and normalised, for itself.

    Arguments
    ---------
    utterances : UtteranceEncoder
        The encoder.

    Example
    -------
    >>> network = TaskAndViews(UtteranceEncoder(torch.nn.Linear(6, 5)))
    >>> own = network(torch.randn(4, 30, 6))
    >>> own.shape
    torch.Size([4, 30, 5])
    >>> views = [torch.randn(8, 1, 6), torch.randn(16, 1, 6)]
    >>> own, embeddings = network(torch.randn(4, 30, 6), views=views)
    >>> own.shape, embeddings.shape
    (torch.Size([4, 30, 5]), torch.Size([24, 5]))
    """

    def __init__(self, utterances):
        super().__init__()
        self.utterances = utterances

    def forward(self, *args, views=(), where=(), **kwargs):
        """Encodes.

        Arguments
        ---------
        *args
            The encoder's arguments for its task.
        views : list of torch.Tensor
            Features of groups of views, each (views * batch, time, features).
        where : tuple
            See ``own_random``, for what the encoder draws for the views.
        **kwargs
            The encoder's named arguments for its task.

        Returns
        -------
        own : torch.Tensor
            The encoder's output for its task; this alone without views.
        embeddings : torch.Tensor
            Embeddings of the views, (sum of the groups, D).
        """
        own = self.utterances.encoder(*args, **kwargs)
        if not views:
            return own
        with own_random(where, views[0].device):
            return own, torch.cat([self.utterances(view) for view in views])
