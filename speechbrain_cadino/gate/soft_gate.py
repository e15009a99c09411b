"""The soft loss gate: how far a label can be trusted, from 0 to 1."""

import math

from speechbrain_cadino.gate.loss_gate import DynamicLossGate
from speechbrain_cadino.gate.mixture import LOWEST, LossMixture

# Figures of both Gaussians
OF_EACH = ("mean", "variance", "weight")
FIGURES = {f"{name}_{end}" for name in OF_EACH for end in ("low", "high")}


class SoftLossGate(DynamicLossGate):
    """Weights of samples instead of a threshold: the posterior of right labels.

    As DynamicLossGate fits two Gaussians to the losses of an epoch; in the next
    one a sample weighs as much as the lower component's share of the density
    at its loss. The threshold is where that is a half. Noisy label modelling
    of SSRL (Cai et al., 2024, https://arxiv.org/abs/2401.01473); ours: beyond
    the means the posterior is that at the means, as it would turn around where
    the variances differ.

    Arguments
    ---------
    gate : str or float
        The gate: "dynamic", "none", or a constant in nats. Only what is
        "dynamic" is soft. See DynamicLossGate.
    first_epoch : int
        The first epoch with a gate, counted from 1.
    mixture : object, optional
        TwoGaussians, or another one with its figures.
    window : int
        The number of the last optimiser steps whose losses a dynamic gate is
        of; 0 for those of the epoch before.

    Raises
    ------
    ValueError
        If the mixture has others.

    Example
    -------
    >>> import numpy as np
    >>> import torch
    >>> gate = SoftLossGate(first_epoch=2)
    >>> right, wrong = np.geomspace(0.01, 0.5, 500), np.geomspace(4, 20, 300)
    >>> _ = gate.update(np.concatenate([right, wrong]))
    >>> gate.start_epoch(2)
    >>> losses = torch.tensor([0.01, gate.threshold, 20.0])
    >>> [round(weight, 2) for weight in gate.weigh(losses).tolist()]
    [0.99, 0.5, 0.0]
    """

    def __init__(self, gate="dynamic", first_epoch=2, mixture=None, window=0):
        super().__init__(gate, first_epoch, mixture, window)
        if self.gate == "dynamic" and not FIGURES <= set(self.mixture.columns):
            raise ValueError(
                "mixture: SSRL weighs by the means, variances and weights of "
                "two Gaussians, which are not among the columns of "
                f"{type(self.mixture).__name__}."
            )
        self._fitted = None  # the fields of the LossMixture

    def _take(self, threshold, figures):
        super()._take(threshold, figures)
        pairs = [
            (float(figures[f"{name}_low"]), float(figures[f"{name}_high"]))
            for name in OF_EACH
        ]
        self._fitted = [*pairs, figures.get("scale", "log_odds")]

    def weigh(self, losses):
        """How far the labels of samples are trusted.

        Arguments
        ---------
        losses : torch.Tensor
            Losses, (B,), in nats.

        Returns
        -------
        torch.Tensor
            Weights, (B,), from 0 to 1; 1 as long as there is no gate.
        """
        if self.gate != "dynamic" or math.isinf(self.threshold):
            return (losses < self.threshold).float()
        mixture = LossMixture(*self._fitted)
        # On the CPU, as Apple's GPUs have no float64
        on = "cpu" if losses.device.type == "mps" else losses.device
        values = losses.to(on).double().clamp(min=LOWEST)
        # See gate.mixture: the two scales, as tensors
        if mixture.scale == "log_odds":
            values = values + (-(-values).expm1()).log()
        else:
            values = values.log()
        values = values.clamp(*mixture.means)
        low, high = (
            math.log(weight)
            - (values - mean) ** 2 / (2 * variance)
            - math.log(variance) / 2
            for mean, variance, weight in zip(
                mixture.means, mixture.variances, mixture.weights
            )
        )
        return (low - high).sigmoid().float().to(losses.device)

    def state_dict(self):
        """As DynamicLossGate's."""
        return {**super().state_dict(), "fitted": self._fitted}

    def load_state_dict(self, state):
        """As DynamicLossGate's."""
        super().load_state_dict(state)
        self._fitted = state["fitted"]
