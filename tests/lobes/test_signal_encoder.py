import pytest
import torch

from speechbrain.lobes.features import Fbank
from speechbrain.processing.features import InputNormalization
from speechbrain_cadino.lobes.signal_encoder import SignalEncoder


class Alone(torch.nn.Module):
    def forward(self, features):
        return features.mean(1, keepdim=True)


class WithLengths(torch.nn.Module):
    def forward(self, features, lengths=None):
        return features.mean(1, keepdim=True)


def test_features_that_would_not_be_trained_are_refused():
    norm = InputNormalization(norm_type="sentence")
    for learnt in (True, False):
        front = Fbank(requires_grad=learnt)
        network = SignalEncoder(front, norm, WithLengths())
        if not learnt:
            network.check()
            continue
        with pytest.raises(ValueError, match="Fbank has parameters to train"):
            network.check()


def test_an_encoder_that_no_signal_can_be_embedded_with_is_refused():
    """It trained for hours, and broke at its first evaluation."""
    norm = InputNormalization(norm_type="sentence")
    SignalEncoder(torch.nn.Identity(), norm, WithLengths()).check()
    for modules in [(norm, Alone()), (torch.nn.Identity(), WithLengths())]:
        with pytest.raises(ValueError, match="forward takes features alone"):
            SignalEncoder(torch.nn.Identity(), *modules).check()
