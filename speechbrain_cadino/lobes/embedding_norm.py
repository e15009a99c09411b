"""A BatchNorm after an encoder's embeddings, which an export folds away."""

import copy

import torch


class EmbeddingNorm(torch.nn.Module):
    """An encoder and a BatchNorm of its embeddings.

    WeSpeaker's DINO recipe has one (``emb_bn``; "better in SSL for SV", says
    its code). Once trained, it is a scale and a shift of each dimension, which
    the encoder's last layer can do as well: see ``folded``.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, from (batch, time, features) to (batch, 1, D), as
        SpeechBrain's.
    size : int
        D, the size of the embedding.
    last_layer : str
        The name of the encoder's last layer, a Linear or a convolution with a
        bias, after which nothing comes.

    Raises
    ------
    ValueError
        If there is no such layer.

    Example
    -------
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> encoder = ECAPA_TDNN(80, channels=[16] * 5, lin_neurons=8)
    >>> normed = EmbeddingNorm(encoder, size=8)
    >>> _ = normed(torch.randn(4, 30, 80)); _ = normed.eval()
    >>> feats = torch.randn(4, 30, 80)
    >>> torch.allclose(normed(feats), normed.folded()(feats), atol=1e-5)
    True
    """

    def __init__(self, encoder, size, last_layer="fc.conv"):
        super().__init__()
        layer = dict(encoder.named_modules()).get(last_layer)
        weight = getattr(layer, "weight", None)
        if getattr(layer, "bias", None) is None or len(weight) != size:
            raise ValueError(
                f"The encoder has no layer {last_layer} with a bias and {size} "
                "outputs, into which the norm of the embeddings could be "
                "folded: give last_layer of student_encoder, or "
                "embedding_norm: False."
            )
        self.encoder = encoder
        self.norm = torch.nn.BatchNorm1d(size)
        self.last_layer = last_layer

    def forward(self, *args, **kwargs):
        """As the encoder's: embeddings, (batch, 1, D)."""
        embeddings = self.encoder(*args, **kwargs)
        return self.norm(embeddings.squeeze(1)).unsqueeze(1)

    @torch.no_grad()
    def folded(self):
        """An encoder that gives the same embeddings in evaluation.

        Returns
        -------
        torch.nn.Module
            A copy of the encoder, the norm folded into its last layer.
        """
        encoder, norm = copy.deepcopy(self.encoder), self.norm
        layer = encoder.get_submodule(self.last_layer)
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        layer.weight.mul_(scale.view(-1, *[1] * (layer.weight.ndim - 1)))
        layer.bias.sub_(norm.running_mean).mul_(scale).add_(norm.bias)
        return encoder


def with_norm(encoder, size, wanted=True, last_layer="fc.conv"):
    """An encoder with a norm of its embeddings, if wanted.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, from (batch, time, features) to (batch, 1, D).
    size : int
        D, the size of the embedding.
    wanted : bool
        Whether it gets one; else the encoder is returned as it is.
    last_layer : str
        The name of the encoder's last layer. See EmbeddingNorm.

    Returns
    -------
    torch.nn.Module
        The encoder, in an EmbeddingNorm if wanted.
    """
    return EmbeddingNorm(encoder, size, last_layer) if wanted else encoder


def without_norm(encoder):
    """The encoder that gives the same embeddings without such a norm.

    Arguments
    ---------
    encoder : torch.nn.Module
        The encoder, with such a norm or without.

    Returns
    -------
    torch.nn.Module
        The encoder without the norm; itself if it has none.
    """
    normed = isinstance(encoder, EmbeddingNorm)
    return encoder.folded() if normed else encoder
