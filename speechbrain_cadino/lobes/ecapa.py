"""SpeechBrain's ECAPA-TDNN, computed faster.

The modules, the parameters and their names are SpeechBrain's own, so
checkpoints go back and forth unchanged; only the forward pass differs:

- Activations lie in memory as (batch, time, channels). A convolution of width
  one is then one matrix product over all frames, batch normalisation reads
  whole rows, and the wider convolutions run channels-last.
- The attention's global context is constant over time, so it is multiplied
  once per utterance: ``W [x; mean; std] = W1 x + (W2 mean + W3 std)``.
- The statistics pooling has its backward pass written out.
"""

import torch
import torch.nn.functional as F

from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models import ECAPA_TDNN as reference


class ECAPA_TDNN(reference.ECAPA_TDNN):
    """A drop-in replacement for SpeechBrain's ECAPA-TDNN, only faster.

    It takes the same arguments, has the same ``state_dict`` and gives the same
    embeddings and gradients. An activation other than ReLU, or dropout, is
    computed by SpeechBrain's own forward pass.

    Give ``lengths`` only if there is padding: without it no mask is made.

    Arguments
    ---------
    *args, **kwargs
        See ``speechbrain.lobes.models.ECAPA_TDNN.ECAPA_TDNN``.

    Example
    -------
    >>> features = torch.rand(5, 120, 80)  # batch, time, features
    >>> encoder = ECAPA_TDNN(80, lin_neurons=192)
    >>> encoder(features).shape
    torch.Size([5, 1, 192])
    """

    def forward(self, x, lengths=None):
        """Computes one embedding per utterance.

        Arguments
        ---------
        x : torch.Tensor
            Features (batch, time, input_size).
        lengths : torch.Tensor, optional
            Relative lengths (batch,), in (0, 1].

        Returns
        -------
        torch.Tensor
            Embeddings (batch, 1, lin_neurons).
        """
        first = self.blocks[0]
        if not isinstance(first.activation, torch.nn.ReLU) or (
            self.training and first.dropout.p > 0
        ):
            return super().forward(x, lengths)
        mask = _padding_mask(x, lengths)
        x = _tdnn(first, x)
        outputs = []
        for block in self.blocks[1:]:
            x = _se_res2net(block, x, mask)
            outputs.append(x)
        x = _tdnn(self.mfa, torch.cat(outputs, dim=2))
        x = _normalize(self.asp_bn, _pool(self.asp, x, mask))
        return _convolve(self.fc, x)


def _padding_mask(x, lengths):
    """1 for a frame and 0 for padding, (batch, time, 1), or None."""
    if lengths is None:
        return None
    time = x.shape[1]
    return length_to_mask(lengths * time, time, device=x.device).unsqueeze(2)


def _se_res2net(block, x, mask):
    residual = x if block.shortcut is None else _convolve(block.shortcut, x)
    x = _tdnn(block.tdnn1, x)
    x = _res2net(block.res2net_block, x)
    x = _tdnn(block.tdnn2, x)
    if mask is None:
        squeezed = x.mean(1, keepdim=True)
    else:
        squeezed = (x * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True)
    gate = _convolve(block.se_block.conv1, squeezed).relu()
    gate = _convolve(block.se_block.conv2, gate).sigmoid()
    return torch.addcmul(residual, gate, x)


def _res2net(block, x):
    parts = list(x.chunk(block.scale, dim=2))
    for i, tdnn in enumerate(block.blocks, start=1):
        part = parts[i] if i == 1 else parts[i] + parts[i - 1]
        parts[i] = _tdnn(tdnn, part)
    return _Concatenate.apply(*parts)


def _tdnn(block, x):
    return _normalize(block.norm, _convolve(block.conv, x).relu())


def _pool(pooling, x, mask):
    """Attentive mean and standard deviation, (batch, 1, 2 * channels)."""
    if mask is None:
        padding = x.new_zeros(1, x.shape[1], 1)
    else:
        padding = mask.log()
    layer = pooling.tdnn.conv.conv
    wide = x.float()
    if pooling.global_context:
        context = _statistics(wide, padding, pooling.eps)
        weight, context_weight = layer.weight.squeeze(2).split(
            [x.shape[2], 2 * x.shape[2]], dim=1
        )
        context = F.linear(context, context_weight, layer.bias)
        hidden = F.linear(x, weight) + context
    else:
        hidden = F.linear(x, layer.weight.squeeze(2), layer.bias)
    hidden = _normalize(pooling.tdnn.norm, hidden.relu()).tanh()
    logits = _convolve(pooling.conv, hidden).float()
    if mask is not None:
        logits = logits + padding
    return _statistics(wide, logits, pooling.eps)


def _statistics(x, logits, eps):
    mean, variance = _SoftmaxMoments.apply(x, logits)
    return torch.cat([mean, variance.clamp(eps).sqrt()], dim=2)


class _SoftmaxMoments(torch.autograd.Function):
    """Mean and variance over time under the weights softmax(logits).

    ``x`` is (batch, time, channels), ``logits`` broadcasts to it. With
    weights w and deviations d = x - mean, the derivatives of
    mean = sum w x and variance = sum w d^2 are w and 2 w d by x, and
    w d and w (d^2 - variance) by the logits.
    """

    @staticmethod
    def forward(ctx, x, logits):
        weights = logits.softmax(1)
        buffer = weights * x
        mean = buffer.sum(1, keepdim=True)
        torch.sub(x, mean, out=buffer).square_().mul_(weights)
        variance = buffer.sum(1, keepdim=True)
        ctx.save_for_backward(x, weights, mean, variance)
        return mean, variance

    @staticmethod
    def backward(ctx, grad_mean, grad_variance):
        x, weights, mean, variance = ctx.saved_tensors
        grad_logits = None
        if ctx.needs_input_grad[1]:
            half = torch.addcmul(
                grad_mean - grad_variance * mean, x, grad_variance
            )
            grad_logits = x - mean
            torch.addcmul(
                -grad_variance * variance, grad_logits, half, out=grad_logits
            ).mul_(weights)
        grad_x = torch.addcmul(
            grad_mean - 2 * grad_variance * mean, 2 * grad_variance, x
        ).mul_(weights)
        return grad_x, grad_logits


class _Concatenate(torch.autograd.Function):
    """Concatenates channels, and gives each part a contiguous gradient.

    The backward pass of batch normalisation on a CPU is up to 40 times slower
    when its gradient is a slice of a wider tensor.
    """

    @staticmethod
    def forward(ctx, *parts):
        ctx.widths = [part.shape[2] for part in parts]
        return torch.cat(parts, dim=2)

    @staticmethod
    def backward(ctx, grad):
        return tuple(part.contiguous() for part in grad.split(ctx.widths, 2))


def _normalize(layer, x):
    return layer.norm(x.flatten(0, 1)).view_as(x)


import os

LIN = os.environ.get("LIN")


def _convolve(layer, x):
    """Applies one of SpeechBrain's convolutions along the time of x."""
    conv = layer.conv
    side = conv.dilation[0] * (conv.kernel_size[0] - 1) // 2
    if side > 0:
        x = _ReflectPad.apply(x, side)
    if LIN and conv.kernel_size == (1,) and conv.groups == 1:
        return F.linear(x, conv.weight.squeeze(2), conv.bias)
    image = F.conv2d(
        x.transpose(1, 2).unsqueeze(2),  # of height 1, channels-last
        conv.weight.unsqueeze(2),
        conv.bias,
        dilation=(1, *conv.dilation),
        groups=conv.groups,
    )
    return image.squeeze(2).transpose(1, 2)


class _ReflectPad(torch.autograd.Function):
    """Mirrors ``side`` frames at both ends.

    PyTorch's own is fp32 only under autocast, is not deterministic in its
    backward pass on a GPU, and gives up the channels-last layout there.
    """

    @staticmethod
    def forward(ctx, x, side):
        ctx.side = side
        left, right = x[:, 1 : side + 1], x[:, -side - 1 : -1]
        return torch.cat([left.flip(1), x, right.flip(1)], dim=1)

    @staticmethod
    def backward(ctx, grad):
        side = ctx.side
        left, right = grad[:, :side], grad[:, -side:]
        grad = grad[:, side:-side].clone()
        grad[:, 1 : side + 1] += left.flip(1)
        grad[:, -side - 1 : -1] += right.flip(1)
        return grad, None
