"""Projection heads, and classifiers in fp32."""

import torch
import torch.nn.functional as F


def classify(classifier, embeddings):
    """The cosines of embeddings to classes, in fp32 whatever the precision of
    training: times the scale of a loss, the error of bf16 is 0.1 and more.

    Arguments
    ---------
    classifier : torch.nn.Module
        The classifier, from (batch, 1, D) to (batch, 1, C), as SpeechBrain's.
    embeddings : torch.Tensor
        Embeddings, (batch, 1, D).

    Returns
    -------
    torch.Tensor
        Cosines, (batch, C), fp32.

    Example
    -------
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     cosines = classify(torch.nn.Linear(8, 3), torch.randn(2, 1, 8))
    >>> cosines.shape, cosines.dtype
    (torch.Size([2, 3]), torch.float32)
    """
    with torch.autocast(embeddings.device.type, enabled=False):
        return classifier(embeddings.float()).squeeze(1)


class DINOHead(torch.nn.Module):
    """The DINO head: MLP, bottleneck, L2 norm, weight-normalised prototypes.

    The last layer's rows have unit length (weight normalisation with its gain
    frozen at one), so an output is the cosine between the bottleneck and a
    prototype. The outputs of a batch would fill gigabytes: the head gives the
    two sides of the cosines, and DINOLoss computes those it needs at a time.
    Sizes of Caron et al. (2021).

    Arguments
    ---------
    input_size : int
        Size of the embeddings.
    out_dim : int
        K, the number of prototypes. 65536 in the paper.
    hidden_size : int
        Width of the two hidden layers. 2048 in the paper.
    bottleneck_size : int
        The size of the bottleneck. 256 in the paper.
    batch_norm : bool
        Whether the hidden layers have a BatchNorm.
    expander_size : int, optional
        Width of a linear layer before the bottleneck, whose outputs are what
        RDINO regularises: 8192 there. None for none.
    init_prototypes : callable, optional
        The function that fills the prototypes in place, at the start. They are
        drawn as the other weights are by default.

    Raises
    ------
    ValueError
        If a size is below 1.

    Example
    -------
    >>> head = DINOHead(192, out_dim=1024, hidden_size=512, bottleneck_size=64)
    >>> outputs = head(torch.randn(4, 192))
    >>> outputs["bottleneck"].shape, outputs["prototypes"].shape
    (torch.Size([4, 64]), torch.Size([1024, 64]))
    """

    # The names of the outputs that are the same for all samples
    shared = ("prototypes",)

    def __init__(
        self,
        input_size,
        out_dim=65536,
        hidden_size=2048,
        bottleneck_size=256,
        batch_norm=False,
        expander_size=None,
        init_prototypes=None,
    ):
        super().__init__()
        sizes = {
            "input_size": input_size,
            "out_dim": out_dim,
            "hidden_size": hidden_size,
            "bottleneck_size": bottleneck_size,
        }
        if expander_size:
            sizes["expander_size"] = expander_size
        if min(sizes.values()) < 1:
            sizes = ", ".join(f"{key}={size}" for key, size in sizes.items())
            raise ValueError(f"A head of {sizes}: give 1 or more of each.")
        layers = []
        for size in (input_size, hidden_size):
            layers.append(torch.nn.Linear(size, hidden_size))
            if batch_norm:
                layers.append(torch.nn.BatchNorm1d(hidden_size))
            layers.append(torch.nn.GELU())
        width = expander_size or bottleneck_size
        layers.append(torch.nn.Linear(hidden_size, width))
        self.mlp = torch.nn.Sequential(*layers)
        self.reduce = None
        if expander_size:
            self.reduce = torch.nn.Linear(expander_size, bottleneck_size)
        self.prototypes = torch.nn.Linear(bottleneck_size, out_dim, bias=False)
        for layer in self.modules():
            if isinstance(layer, torch.nn.Linear):
                torch.nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    torch.nn.init.zeros_(layer.bias)
        if init_prototypes is not None:
            init_prototypes(self.prototypes.weight)

    def forward(self, embeddings):
        """Projects embeddings to where the prototypes are.

        Arguments
        ---------
        embeddings : torch.Tensor
            Embeddings, (batch, input_size).

        Returns
        -------
        dict of str:torch.Tensor
            ``bottleneck``, (batch, bottleneck_size), of unit length, in the
            precision of the parameters whatever that of the step;
            ``prototypes``, (out_dim, bottleneck_size): any length, of which
            only the direction counts; and ``expanded``,
            (batch, expander_size), if there is that layer.
        """
        prototypes = self.prototypes.weight
        outputs, x = {}, self.mlp(embeddings)
        if self.reduce is not None:
            outputs["expanded"], x = x, self.reduce(x)
        return {
            "bottleneck": F.normalize(x.to(prototypes.dtype), dim=-1),
            # A view: DDP with find_unused_parameters takes a parameter that is
            # an output itself for one that is not used
            "prototypes": prototypes.view_as(prototypes),
            **outputs,
        }


class NoHead(torch.nn.Module):
    """The head of a network whose objective takes embeddings alone.

    Attributes
    ----------
    shared : tuple
        The names of outputs that all samples share: none, see DINOHead.
    prototypes : torch.nn.Module
        A module without parameters.

    Example
    -------
    >>> NoHead()(torch.randn(4, 8))
    {}
    """

    shared = ()

    def __init__(self):
        super().__init__()
        self.prototypes = torch.nn.Identity()

    def forward(self, embeddings):
        """No outputs.

        Arguments
        ---------
        embeddings : torch.Tensor
            Embeddings, shape (batch, D).

        Returns
        -------
        dict
            The outputs by name: none.
        """
        return {}
