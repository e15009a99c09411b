"""Baselines of faces: an encoder of them has to beat these."""

import torch

from speechbrain_cadino.audio_visual.face_resnet import FaceNormalization


class Pixels(torch.nn.Module):
    """The pixels of a face, each frame with zero mean and unit variance.

    An encoder of faces that is no better has learned no more than where it is
    light and where it is dark.

    Arguments
    ---------
    sample_rate : int
        Not used: frames have no rate.

    Example
    -------
    >>> Pixels()(torch.randint(256, (2, 5, 3, 8, 8))).shape
    torch.Size([2, 192])
    """

    def __init__(self, sample_rate=1):
        super().__init__()
        self.normalise = FaceNormalization()

    def forward(self, frames, lengths=None):
        """Embeds tracks of equal length.

        Arguments
        ---------
        frames : torch.Tensor
            Shape (B, frames, 3, height, width), from 0 to 255.
        lengths : torch.Tensor, optional
            The relative lengths, ignored: tracks come without padding, see
            Embedder.

        Returns
        -------
        torch.Tensor
            Shape (B, 3 x height x width): the mean over the frames.
        """
        return self.normalise(frames).mean(1).flatten(1)
