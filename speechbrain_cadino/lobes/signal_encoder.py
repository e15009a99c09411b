"""From signals to embeddings: features, their norm, an encoder."""

import inspect
from typing import NamedTuple

import torch


class SignalEncoder(NamedTuple):
    """The networks between a signal and its embedding.

    Arguments
    ---------
    compute_features : torch.nn.Module
        The module from waveforms, (batch, samples), to features, (batch, time,
        bands).
    mean_var_norm : torch.nn.Module
        The normalisation of features.
    encoder : torch.nn.Module
        The encoder, from features to embeddings, (batch, 1, D).

    Example
    -------
    >>> from speechbrain.lobes.features import Fbank
    >>> from speechbrain.lobes.models.ECAPA_TDNN import ECAPA_TDNN
    >>> from speechbrain.processing.features import InputNormalization
    >>> network = SignalEncoder(
    ...     Fbank(n_mels=8),
    ...     InputNormalization(norm_type="sentence"),
    ...     ECAPA_TDNN(8, channels=[16] * 5, lin_neurons=4).eval(),
    ... )
    >>> network.embed(torch.randn(2, 8000)).shape
    torch.Size([2, 1, 4])
    """

    compute_features: torch.nn.Module
    mean_var_norm: torch.nn.Module
    encoder: torch.nn.Module

    def check(self):
        """Raises if ``embed`` could not call a module, which a training does
        for the first time hours after it began; or if features have what a
        training would leave as it is.

        Raises
        ------
        ValueError
            Naming the class.
        """
        for module in (self.compute_features, self.mean_var_norm):
            if any(one.requires_grad for one in module.parameters()):
                raise ValueError(
                    f"{type(module).__name__} has parameters to train, and "
                    "features are made without gradient: let it be a part of "
                    "embedding_model, or set requires_grad=False."
                )
        for module in (self.mean_var_norm, self.encoder):
            try:
                inspect.signature(module.forward).bind(None, None)
            except TypeError as error:
                raise ValueError(
                    f"{type(module).__name__}.forward takes features alone. "
                    "Give it a second argument, lengths=None: SpeechBrain "
                    "embeds with the relative lengths of signals."
                ) from error

    def features(self, crops, augment=None):
        """Features of crops, without gradient.

        Arguments
        ---------
        crops : torch.Tensor
            Crops of signals, (batch, samples), on the device.
        augment : callable, optional
            The augmentation, which changes each crop on its own.

        Returns
        -------
        torch.Tensor
            Normalised features, (batch, time, bands).
        """
        # In fp32 whatever the precision of the networks
        with torch.no_grad(), torch.autocast(crops.device.type, enabled=False):
            if augment is not None:
                crops = augment(crops)
            return self.mean_var_norm(self.compute_features(crops))

    def embed(self, signals, lengths=None):
        """Embeds whole signals; the networks are in eval mode.

        Arguments
        ---------
        signals : torch.Tensor
            Signals, (batch, samples), on the device.
        lengths : torch.Tensor, optional
            Relative lengths, (batch,).

        Returns
        -------
        torch.Tensor
            Embeddings, (batch, 1, D).
        """
        if lengths is None:
            lengths = torch.ones(len(signals), device=signals.device)
        feats = self.compute_features(signals)
        return self.encoder(self.mean_var_norm(feats, lengths), lengths)
