"""Frame encoders: a front end, a transformer in context, and heads at layers.

All networks are SpeechBrain's, so that what is trained is loaded by stock
SpeechBrain: the front end is a ``LengthsCapableSequential`` from signals to
latents, the rest a ``TransformerASR`` without a decoder.
"""

import contextlib
from typing import NamedTuple

import torch

from speechbrain_cadino.lobes.teacher import Teacher


class FrameOutputs(NamedTuple):
    """What a student says of a batch: see ``FrameStudent``."""

    latents: torch.Tensor  # (batch, frames, size), without a mask
    mask: torch.Tensor  # (batch, frames), True: hidden from the student
    logits: list  # of each head, (frames hidden, codes)


class ContextNetwork(torch.nn.Module):
    """The layers of a transformer over the latents of a front end.

    Arguments
    ---------
    transformer : TransformerASR
        SpeechBrain's, of ``encoder_module`` transformer or conformer, without
        a decoder and with ``output_hidden_states``, without layer drop.

    Raises
    ------
    ValueError
        If it says nothing of its layers, or drops some.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import (
    ...     TransformerASR,
    ... )
    >>> network = ContextNetwork(
    ...     TransformerASR(
    ...         *(1, 6), d_model=8, nhead=2, d_ffn=16, num_encoder_layers=3,
    ...         num_decoder_layers=0, causal=False, output_hidden_states=True,
    ...     )
    ... )
    >>> layers = network(torch.randn(2, 5, 6))
    >>> len(layers), layers[0].shape
    (3, torch.Size([2, 5, 8]))
    """

    def __init__(self, transformer):
        super().__init__()
        encoder = transformer.encoder
        if not transformer.output_hidden_states or encoder.layerdrop_prob:
            raise ValueError(
                "The transformer of a frame encoder needs "
                "output_hidden_states=True and layerdrop_prob=0, as targets "
                "and heads are at its layers."
            )
        self.transformer = transformer

    @property
    def depth(self):
        """The number of layers."""
        return len(self.transformer.encoder.layers)

    def forward(self, latents, feed_forward=False):
        """What each layer says.

        Arguments
        ---------
        latents : torch.Tensor
            Latents, (batch, frames, size).
        feed_forward : bool
            Whether to return what the (last) feed-forward network of each
            layer adds, in place of the layer's output.

        Returns
        -------
        list of torch.Tensor
            The frames of each layer, (batch, frames, d_model).
        """
        with self._listening() as added:
            last, hidden = self.transformer.encode(latents)
        if feed_forward:
            return added
        # The first is the input; the last one goes through a norm
        return [*hidden[1:-1], last]

    @contextlib.contextmanager
    def _listening(self):
        """A list of what the feed-forward networks say meanwhile."""
        added = []
        hooks = [
            _feed_forward_of(layer).register_forward_hook(
                lambda module, inputs, output: added.append(output)
            )
            for layer in self.transformer.encoder.layers
        ]
        try:
            yield added
        finally:
            for hook in hooks:
                hook.remove()


def _feed_forward_of(layer):
    """The last feed-forward network of a layer of SpeechBrain's."""
    return layer.ffn_module2 if hasattr(layer, "ffn_module2") else layer.pos_ffn


class ContextTeacher(Teacher):
    """A teacher of frames: it is never in training mode, so that nothing is
    dropped out of what it says.

    Arguments
    ---------
    student : ContextNetwork
        The network, which is copied as it is now.

    Example
    -------
    >>> ContextTeacher(torch.nn.Dropout(0.5)).train().network.training
    False
    """

    def __init__(self, student):
        super().__init__(student)
        self.eval()

    def train(self, mode=True):
        """As PyTorch's, but for evaluation always."""
        return super().train(False)


class SpanMask:
    """Draws which frames the student does not see: spans, as in wav2vec 2.0.

    Of each row, ``share * frames / length`` spans begin at frames drawn
    without repetition, and may overlap; then some frames are shown again, so
    that as many are hidden in each row (Baevski et al., 2020, and fairseq's
    ``compute_mask_indices`` with ``require_same_masks``).

    Arguments
    ---------
    share : float
        The share that would be hidden if no spans overlapped: 0.8 in DinoSR,
        which hides about half of the frames.
    length : int
        The length of a span, in frames. 10 in DinoSR.

    Raises
    ------
    ValueError
        If no such spans can be drawn.

    Example
    -------
    >>> mask = SpanMask(share=0.8, length=10)(4, 200)
    >>> mask.shape, len(set(mask.sum(1).tolist()))
    (torch.Size([4, 200]), 1)
    """

    def __init__(self, share=0.8, length=10):
        if not 0 < share <= 1 or length < 1:
            raise ValueError(
                f"mask_share={share}, mask_length={length}: give a share above "
                "0, up to 1, and a length of 1 or more frames."
            )
        self.share = share
        self.length = length

    def __call__(self, batch, frames, generator=None):
        """Draws masks.

        Arguments
        ---------
        batch : int
            The number of rows.
        frames : int
            The number of frames of each row.
        generator : torch.Generator, optional
            The source of all that is random, on the CPU: that of PyTorch by
            default, which a Brain seeds in each step.

        Returns
        -------
        torch.Tensor
            The mask, (batch, frames), bool: True where the student does not
            see.

        Raises
        ------
        ValueError
            If the rows are not longer than a span.
        """
        if frames <= self.length:
            raise ValueError(
                f"Spans of {self.length} frames do not fit into crops of "
                f"{frames}: raise crop_seconds or lower mask_length."
            )
        dice = torch.rand((), generator=generator).item()
        # Rounded up as often as its fraction says
        spans = int(self.share * frames / self.length + dice)
        places = frames - self.length + 1
        spans = min(max(spans, 1), places)
        order = torch.rand(batch, places, generator=generator).argsort(1)
        starts = torch.zeros(batch, frames)
        starts.scatter_(1, order[:, :spans], 1.0)
        # A frame is hidden if a span began at it or shortly before
        begun = starts.cumsum(1)
        ended = torch.nn.functional.pad(begun, (self.length, 0))[:, :frames]
        mask = begun > ended
        most = int(mask.sum(1).min())
        lots = torch.rand(batch, frames, generator=generator) + mask
        kept = lots.argsort(1, descending=True)[:, :most]
        return torch.zeros_like(mask).scatter_(1, kept, True)


class FrameStudent(torch.nn.Module):
    """A front end and a context network that guess codes of hidden frames.

    Arguments
    ---------
    front_end : torch.nn.Module
        The front end, from signals, (batch, samples), to latents, (batch,
        frames, size).
    context : ContextNetwork
        The context network, from latents to the frames of each layer.
    size : int
        The size of the latents.
    d_model : int
        The size of the layers.
    heads : int
        The number of codebooks.
    codes : int
        The number of codes in each codebook.
    heads_at : str
        "last": all heads read the last layer, as in DinoSR (Liu et al., 2023);
        "each": the heads of the last ``heads`` layers read what their own
        says, after SpidR (2512.20308), whose authors found that the codes of
        deep layers go to waste otherwise.
    mask : SpanMask
        The draw of the frames that are hidden behind a learnt vector.

    Raises
    ------
    ValueError
        If ``heads_at`` is neither, or there are more heads than layers.

    Example
    -------
    >>> from speechbrain.lobes.models.transformer.TransformerASR import (
    ...     TransformerASR,
    ... )
    >>> context = ContextNetwork(
    ...     TransformerASR(
    ...         *(1, 6), d_model=8, nhead=2, d_ffn=16, num_encoder_layers=3,
    ...         num_decoder_layers=0, causal=False, output_hidden_states=True,
    ...     )
    ... )
    >>> front_end = torch.nn.Unflatten(1, (-1, 6))
    >>> student = FrameStudent(
    ...     front_end, context, size=6, d_model=8, heads=2, codes=5
    ... )
    >>> outputs = student(torch.randn(4, 180))
    >>> outputs.latents.shape, len(outputs.logits)
    (torch.Size([4, 30, 6]), 2)
    >>> outputs.logits[0].shape == (outputs.mask.sum(), 5)
    True
    """

    def __init__(
        self,
        front_end,
        context,
        size,
        d_model,
        heads,
        codes,
        heads_at="last",
        mask=None,
    ):
        super().__init__()
        if heads_at not in ("last", "each"):
            raise ValueError(f"heads_at={heads_at}: give last or each.")
        if heads_at == "each" and heads > context.depth:
            raise ValueError(
                f"{heads} codebooks for {context.depth} layers: lower "
                "codebooks, or set heads_at to last."
            )
        self.front_end = front_end
        self.context = context
        self.heads_at = heads_at
        self.draw = SpanMask() if mask is None else mask
        # As in wav2vec 2.0
        self.hidden = torch.nn.Parameter(torch.rand(size))
        self.heads = torch.nn.ModuleList(
            torch.nn.Linear(d_model, codes) for _ in range(heads)
        )

    def forward(self, wavs, mask=None):
        """Guesses the codes of what is hidden.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples).
        mask : torch.Tensor, optional
            The frames that are hidden, (batch, frames), bool; drawn if not
            given.

        Returns
        -------
        FrameOutputs
            The latents, the mask, and the logits of each head.
        """
        latents = self.front_end(wavs)
        if mask is None:
            mask = self.draw(*latents.shape[:2]).to(latents.device)
        hidden = self.hidden.to(latents.dtype)
        seen = torch.where(mask.unsqueeze(-1), hidden, latents)
        layers = self.context(seen)
        logits = [
            head(layer[mask])
            for head, layer in zip(self.heads, self._read(layers))
        ]
        return FrameOutputs(latents, mask, logits)

    def _read(self, layers):
        """The layer that each head reads."""
        if self.heads_at == "each":
            return layers[-len(self.heads) :]
        return layers[-1:] * len(self.heads)

    @torch.no_grad()
    def describe(self, wavs):
        """All that is said of frames in the open.

        Arguments
        ---------
        wavs : torch.Tensor
            Signals, (batch, samples).

        Returns
        -------
        layers : list of torch.Tensor
            The frames of each layer, (batch, frames, d_model).
        codes : list of torch.Tensor
            The probabilities of the codes of each head, (batch, frames,
            codes).
        """
        layers = self.context(self.front_end(wavs))
        codes = [
            head(layer).softmax(-1)
            for head, layer in zip(self.heads, self._read(layers))
        ]
        return layers, codes
