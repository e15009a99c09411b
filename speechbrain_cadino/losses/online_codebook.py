"""The online codebook of DinoSR: clusters that follow what a teacher says.

Liu et al., 2023, "DinoSR: Self-Distillation and Online Clustering for
Self-supervised Speech Representation Learning" (NeurIPS), and the authors' code
(Alexander-H-Liu/dinosr).
"""

import torch

from speechbrain.utils.distributed import ddp_all_reduce, if_main_process
from speechbrain_cadino.process.precision import full_precision


class OnlineCodebook(torch.nn.Module):
    """Codebooks, one for each layer of a teacher, without gradients.

    A frame gets the nearest code of its layer. Once per optimiser step each
    code moves to what it got: with decay t, ``n <- t n + (1 - t) count`` and
    ``s <- t s + (1 - t) sum``, and the code is ``s / n``. A code that got
    nothing stays as it is, to the bit. Counts and sums are those of all
    micro-batches and ranks.

    Arguments
    ---------
    codebooks : int
        The number of layers.
    codes : int
        The number of codes in each codebook. 256 in the paper.
    size : int
        The size of the frames.
    decay : float
        t, from 0 to 1. 0.9 in the authors' code.
    start : str
        The start of the codes: "noise", of mean 0 and variance 1 in each
        dimension, as in the authors' code; "frames", frames of the first
        batch, drawn at random (ours: where frames spread over few directions,
        most of the others are never the nearest).

    Raises
    ------
    ValueError
        If ``start`` is neither, or the decay is out of its range.

    Example
    -------
    >>> codebook = OnlineCodebook(codebooks=1, codes=2, size=2)
    >>> codebook.sums.copy_(torch.tensor([[[1.0, 0], [-1, 0]]])).shape
    torch.Size([1, 2, 2])
    >>> codebook(torch.tensor([[[2.0, 0], [3, 0]]]))
    tensor([[0, 0]])
    >>> codebook.after_step()
    >>> codebook.counts
    tensor([[1.1000, 1.0000]])
    >>> codebook.centers[0, 0]  # (0.9 * 1 + 0.1 * 5) / 1.1
    tensor([1.2727, 0.0000])
    >>> codebook.end_epoch()["used"]
    tensor([0.5000])
    """

    def __init__(self, codebooks, codes, size, decay=0.9, start="noise"):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"A decay of {decay}: give 0 or more, below 1.")
        if start not in ("noise", "frames"):
            raise ValueError(f"code_start={start}: give noise or frames.")
        self.decay = decay
        self.start = start
        # As the frames: of mean 0 and variance 1 in each dimension
        noise = torch.randn(codebooks, codes, size)
        noise = (noise - noise.mean(1, keepdim=True)) / noise.std(
            1, correction=0, keepdim=True
        ).clamp(min=1e-5)
        self.register_buffer("sums", noise)
        self.register_buffer("counts", torch.ones(codebooks, codes))
        # Whether codes that start at frames have done so
        # A number, as what a step has changed of these is undone with it
        self.register_buffer("begun", torch.tensor(0.0))
        # How often each code was given in the epoch
        self.register_buffer("hits", torch.zeros(codebooks, codes))
        self._collected = None

    @property
    def centers(self):
        """The codes, (codebooks, codes, size)."""
        return self.sums / self.counts.unsqueeze(-1)

    @torch.no_grad()
    def forward(self, frames):
        """The codes of frames; in training, they are noted for the update.

        Arguments
        ---------
        frames : torch.Tensor
            Frames, (codebooks, frames, size).

        Returns
        -------
        torch.Tensor
            Codes, (codebooks, frames), int64: the nearest, the first of those
            that are equally near.
        """
        # Whatever the precision of training: sums over many frames
        with full_precision(frames.device.type):
            frames = frames.to(self.sums.dtype)
            # From the left: to read a buffer, a GPU's host would have to wait
            if self.training and self.start == "frames" and not self.begun:
                self._begin(frames)
            centers = self.centers
            # |f - e|^2, less |f|^2
            far = centers.square().sum(-1).unsqueeze(1)
            codes = (far - 2 * frames @ centers.mT).argmin(-1)
            if self.training:
                given = torch.nn.functional.one_hot(codes, centers.shape[1])
                given = given.to(frames.dtype)
                self._collect(given.sum(1), given.mT @ frames)
        return codes

    def _begin(self, frames):
        """Lets the codes begin at frames: on all ranks, at those of one."""
        places = torch.randperm(frames.shape[1])[: self.sums.shape[1]]
        self.sums[:, : len(places)] = frames[:, places.to(frames.device)]
        if not if_main_process():
            self.sums.zero_()
        total = torch.distributed.ReduceOp.SUM
        self.sums.copy_(ddp_all_reduce(self.sums, total))
        self.begun.fill_(1.0)

    def _collect(self, counts, sums):
        """Adds to what is noted since the last update."""
        if self._collected is not None:
            counts = counts + self._collected[0]
            sums = sums + self._collected[1]
        self._collected = counts, sums

    @torch.no_grad()
    def after_step(self):
        """Moves the codes that were given since the last update, on all ranks
        or on none of them."""
        if self._collected is None:
            return
        total = torch.distributed.ReduceOp.SUM
        counts, sums = (ddp_all_reduce(each, total) for each in self._collected)
        self._collected = None
        hit = counts > 0
        moved = torch.lerp(counts, self.counts, self.decay)
        self.counts.copy_(torch.where(hit, moved, self.counts))
        moved = torch.lerp(sums, self.sums, self.decay)
        self.sums.copy_(torch.where(hit.unsqueeze(-1), moved, self.sums))
        self.hits += counts

    def forget(self):
        """Forgets what was noted since the last update."""
        self._collected = None

    def end_epoch(self):
        """How the codes were used, from the last call on.

        Returns
        -------
        dict of str:torch.Tensor
            ``used``, the share of the codes that were given at all, and
            ``perplexity``, as many codes as if all were given equally often:
            (codebooks,) each.
        """
        shares = self.hits / self.hits.sum(-1, keepdim=True).clamp(min=1)
        figures = {
            "used": (self.hits > 0).float().mean(-1),
            "perplexity": torch.special.entr(shares).sum(-1).exp(),
        }
        self.hits.zero_()
        return figures


def over_time(frames):
    """Frames with mean 0 and variance 1 over the time of an utterance.

    Arguments
    ---------
    frames : torch.Tensor
        Frames, (batch, frames, size).

    Returns
    -------
    torch.Tensor
        Normalised frames, (batch, frames, size), of single precision or more.

    Example
    -------
    >>> over_time(torch.tensor([[[1.0], [3.0]]])).flatten()
    tensor([-1.0000,  1.0000])
    """
    frames = frames.to(torch.promote_types(frames.dtype, torch.float32))
    # Instance normalisation, with its epsilon
    variance = frames.var(1, correction=0, keepdim=True)
    return (frames - frames.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()


def code_loss(logits, codes):
    """The cross-entropy of what heads say and the codes of the frames.

    Arguments
    ---------
    logits : list of torch.Tensor
        The logits of each head, (frames, codes).
    codes : torch.Tensor
        The codes of the frames, (heads, frames).

    Returns
    -------
    loss : torch.Tensor
        Scalar, the mean over frames and heads.
    accuracy : torch.Tensor
        Scalar, the share of frames whose most likely code is right.

    Raises
    ------
    ValueError
        If there are more or fewer heads than codebooks.

    Example
    -------
    >>> codes = torch.zeros(1, 3, dtype=torch.int64)
    >>> loss, accuracy = code_loss([torch.zeros(3, 4)], codes)
    >>> loss.exp(), accuracy
    (tensor(4.), tensor(1.))
    """
    if len(logits) != len(codes):
        raise ValueError(
            f"{len(logits)} heads of the student for {len(codes)} codebooks of "
            "the target: set codebooks to as many."
        )
    # In half precision, the sum over the codes would be rounded
    least = torch.float32
    logits = [
        said.to(torch.promote_types(said.dtype, least)) for said in logits
    ]
    losses = [
        torch.nn.functional.cross_entropy(said, right)
        for said, right in zip(logits, codes)
    ]
    hits = [
        (said.argmax(-1) == right).float().mean()
        for said, right in zip(logits, codes)
    ]
    return torch.stack(losses).mean(), torch.stack(hits).mean()
