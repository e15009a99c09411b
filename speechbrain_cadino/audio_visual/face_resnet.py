"""A residual network from the frames of a face track to an embedding."""

import torch

from speechbrain.lobes.models.ResNet import BasicBlock, SEBasicBlock


class FaceNormalization(torch.nn.Module):
    """Each frame with zero mean and unit variance: the light matters less.

    Takes the place of ``mean_var_norm`` in the recipes of speech.

    Example
    -------
    >>> frames = torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)
    >>> normal = FaceNormalization()(frames)
    >>> normal.shape, normal[0, 0].mean().abs().item() < 1e-4
    (torch.Size([2, 4, 3, 32, 32]), True)
    """

    def forward(self, frames, lengths=None):
        """Normalises frames.

        Arguments
        ---------
        frames : torch.Tensor
            Pixels, (batch, frames, 3, height, width), from 0 to 255.
        lengths : torch.Tensor, optional
            The relative lengths, ignored: tracks come without padding, see
            Embedder.

        Returns
        -------
        torch.Tensor
            Normalised frames, (batch, frames, 3, height, width), float32.
        """
        frames = frames.float()
        # A frame of one colour has no variance
        variance, mean = torch.var_mean(frames, (-3, -2, -1), keepdim=True)
        return (frames - mean) * (variance + 1.0).rsqrt()


class FaceResNet(torch.nn.Module):
    """A ResNet of SpeechBrain's residual blocks over frames of any size.

    Arguments
    ---------
    channels : list of int
        Channels of each stage.
    block_sizes : list of int
        Residual blocks of each stage. [3, 4, 6, 3] makes a ResNet-34.
    stem_stride : int
        The stride of the first convolution; 1 for small frames.
    squeeze : bool
        Whether the blocks have squeeze-and-excitation.
    lin_neurons : int
        D, size of the embedding.

    Example
    -------
    >>> model = FaceResNet([8, 16], block_sizes=[1, 1], lin_neurons=12)
    >>> model(torch.randn(2, 5, 3, 32, 32)).shape
    torch.Size([2, 1, 12])
    """

    def __init__(
        self,
        channels=(64, 128, 256, 512),
        block_sizes=(3, 4, 6, 3),
        stem_stride=2,
        squeeze=True,
        lin_neurons=192,
    ):
        super().__init__()
        block = SEBasicBlock if squeeze else BasicBlock
        self.stem = torch.nn.Conv2d(
            3, channels[0], 5, stem_stride, padding=2, bias=False
        )
        layers, width = [], channels[0]
        for stage, (wide, count) in enumerate(zip(channels, block_sizes)):
            for number in range(count):
                stride = 2 if stage and not number else 1
                layers.append(_make_block(block, width, wide, stride))
                width = wide
        self.layers = torch.nn.Sequential(*layers)
        self.norm = torch.nn.BatchNorm2d(width)
        self.fc = torch.nn.Linear(width, lin_neurons)
        self.norm_embed = torch.nn.BatchNorm1d(lin_neurons)
        for module in self.modules():
            if isinstance(module, torch.nn.Conv2d):
                torch.nn.init.kaiming_normal_(
                    module.weight, mode="fan_out", nonlinearity="relu"
                )

    def forward(self, frames, lengths=None):
        """Embeds tracks: the mean over their frames.

        Arguments
        ---------
        frames : torch.Tensor
            Frames, (batch, frames, 3, height, width), normalised.
        lengths : torch.Tensor, optional
            The relative lengths, ignored: tracks come without padding, see
            Embedder.

        Returns
        -------
        torch.Tensor
            Embeddings, (batch, 1, D).
        """
        maps = self.layers(self.stem(frames.flatten(0, 1)))
        pooled = self.norm(maps).relu().mean((2, 3))
        embeddings = self.norm_embed(self.fc(pooled))
        return embeddings.unflatten(0, frames.shape[:2]).mean(1, keepdim=True)


def _make_block(block, width, wide, stride):
    """A residual block; where its size changes, the shortcut is projected."""
    shortcut = None
    if stride != 1 or width != wide:
        shortcut = torch.nn.Sequential(
            torch.nn.Conv2d(width, wide, 1, stride, bias=False),
            torch.nn.BatchNorm2d(wide),
        )
    return block(width, wide, stride=stride, downsample=shortcut)
