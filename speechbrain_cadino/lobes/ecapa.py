"""SpeechBrain's ECAPA-TDNN, computed faster.

The modules, their parameters and the names of both are SpeechBrain's own, so
checkpoints go back and forth unchanged. Only the forward pass differs:

- Activations are (batch, time, channels) in memory. Convolutions then run
  channels-last, and batch normalisation reads whole rows.
- The attention's global context is constant over time, so it is multiplied
  once per utterance: ``W [x; mean; std] = W1 x + (W2 mean + W3 std)``.
- Batch normalisation on a CPU, reflection padding and statistics pooling are
  written out, with their backward passes.
- No mask is made where there is no padding.
"""

import functools

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from speechbrain.dataio.dataio import length_to_mask
from speechbrain.lobes.models import ECAPA_TDNN as reference


class ECAPA_TDNN(reference.ECAPA_TDNN):
    """A drop-in replacement for SpeechBrain's ECAPA-TDNN.

    It has the same arguments and ``state_dict``, and gives the same embeddings
    and gradients in less time and memory. With an activation other than ReLU,
    or with dropout, training is left to SpeechBrain's own forward pass.
    Second derivatives are not supported.

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

    _mode = None  # of torch.compile, for training

    def compile_training(self, mode="default"):
        """Has ``torch.compile`` make what it can of a training step.

        It takes effect where ``forward`` is called in training mode, without
        lengths. The first step with crops of another length takes a minute;
        evaluation is left as it is.

        Arguments
        ---------
        mode : str, optional
            See ``torch.compile``; None for no more of it.
        """
        self._mode = mode

    def forward(self, x, lengths=None):
        """Computes one embedding per utterance.

        Arguments
        ---------
        x : torch.Tensor
            Features (batch, time, input_size).
        lengths : torch.Tensor, optional
            Relative lengths (batch,). Leave them out where nothing is padded:
            the result is the same as with ones, and comes sooner.

        Returns
        -------
        torch.Tensor
            Embeddings (batch, 1, lin_neurons).

        Raises
        ------
        ValueError
            If there are fewer frames than the widest convolution mirrors.
        """
        first = self.blocks[0]
        dropout = self.training and first.dropout.p > 0
        if dropout or not isinstance(first.activation, torch.nn.ReLU):
            return super().forward(x, lengths)
        if self._mode is not None and self.training and lengths is None:
            return _compiled(self._mode)(self, x)
        mask = None
        if lengths is not None:
            time = x.shape[1]
            mask = length_to_mask(lengths * time, time, device=x.device)
            mask = mask.unsqueeze(2)
        return _embed(self, x, mask)


@functools.cache
def _compiled(mode):
    """One for all encoders: an object of it in one could not be copied."""
    return torch.compile(_embed, dynamic=False, mode=mode)


def _embed(encoder, x, mask=None):
    x = _tdnn(encoder.blocks[0], x)
    outputs = []
    for block in encoder.blocks[1:]:
        x = _se_res2net(block, x, mask)
        outputs.append(x)
    x = _tdnn(encoder.mfa, torch.cat(outputs, dim=2))
    x = _normalize(encoder.asp_bn, _pool(encoder.asp, x, mask))
    return _convolve(encoder.fc, x)


def _tdnn(block, x):
    return _normalize(block.norm, _convolve(block.conv, x).relu())


def _normalize(layer, x):
    norm = layer.norm
    own = x.is_cpu and type(norm) is torch.nn.BatchNorm1d
    if own and norm.training and x.shape[1] > 1:
        return _batch_norm(norm, x)
    return norm(x.flatten(0, 1)).view_as(x)


def _batch_norm(norm, x):
    y, mean, variance = _BatchNorm.apply(x, norm.weight, norm.bias, norm.eps)
    with torch.no_grad():
        norm.num_batches_tracked += 1
        momentum = norm.momentum
        if momentum is None:  # PyTorch's way to ask for the plain average
            momentum = 1 / int(norm.num_batches_tracked)
        count = x.shape[0] * x.shape[1]
        norm.running_mean.lerp_(mean, momentum)
        norm.running_var.lerp_(variance * count / (count - 1), momentum)
    return y


class _BatchNorm(torch.autograd.Function):
    """Batch normalisation over batch and time, for training on a CPU.

    PyTorch's adds up the rows of a matrix one after the other in fp32, so that
    its variance is wrong by 1e-4 for 40,000 frames; and its backward pass is
    up to 40 times slower if the gradient is a slice of a wider tensor.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, eps):
        batch, time, channels = x.shape
        # The statistics of ``batch`` groups of ``time`` frames, then of all.
        ignored = weight.new_zeros(batch * channels)
        means, variances = torch.batch_norm_update_stats(
            x.reshape(time, batch * channels), ignored, ignored, 0.0
        )
        means = means.view(batch, channels)
        mean = means.mean(0)
        variance = variances.view(batch, channels).mean(0)
        variance += means.var(0, correction=0)
        ctx.eps = eps
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.mark_non_differentiable(mean, variance)
        y = F.batch_norm(x.flatten(0, 1), mean, variance, weight, bias, eps=eps)
        return y.view_as(x), mean, variance

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, *_):
        x, weight, mean, inverse_std = ctx.saved_tensors
        gradients = torch.ops.aten.native_batch_norm_backward(
            grad.flatten(0, 1).contiguous(),
            x.flatten(0, 1),
            weight,
            None,  # the running mean and variance
            None,
            mean,
            inverse_std,
            True,  # training
            ctx.eps,
            [True, True, True],
        )
        return gradients[0].view_as(x), *gradients[1:], None


def _convolve(layer, x):
    conv = layer.conv
    side = conv.dilation[0] * (conv.kernel_size[0] - 1) // 2
    if side > 0:
        x = _ReflectPad.apply(x, side)
    return _convolve_valid(
        x,
        conv.weight,
        conv.bias,
        dilation=(1, *conv.dilation),
        groups=conv.groups,
    )


def _convolve_valid(x, weight, bias, **options):
    # An image of height 1: only for images are there channels-last kernels.
    image = x.transpose(1, 2).unsqueeze(2)
    image = F.conv2d(image, weight.unsqueeze(2), bias, **options)
    return image.squeeze(2).transpose(1, 2)


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
    return residual + gate * x


def _res2net(block, x):
    parts = list(x.chunk(block.scale, dim=2))
    for i, tdnn in enumerate(block.blocks, start=1):
        part = parts[i] if i == 1 else parts[i] + parts[i - 1]
        parts[i] = _tdnn(tdnn, part)
    return torch.cat(parts, dim=2)


def _pool(pooling, x, mask):
    """Attentive mean and standard deviation, (batch, 1, 2 * channels)."""
    # The statistics are computed in fp32, also under autocast.
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    padding = wide.new_zeros(1, x.shape[1], 1) if mask is None else mask.log()
    layer = pooling.tdnn.conv.conv
    if pooling.global_context:
        channels = x.shape[2]
        context = _statistics(wide, padding, pooling.eps)
        weight, context_weight = layer.weight.split([channels, 2 * channels], 1)
        hidden = _convolve_valid(x, weight, None)
        hidden = hidden + _convolve_valid(context, context_weight, layer.bias)
    else:
        hidden = _convolve_valid(x, layer.weight, layer.bias)
    hidden = _normalize(pooling.tdnn.norm, hidden.relu()).tanh()
    logits = _convolve(pooling.conv, hidden).to(wide.dtype)
    if mask is not None:
        logits = logits + padding
    return _statistics(wide, logits, pooling.eps)


def _statistics(x, logits, eps):
    mean, variance = _SoftmaxMoments.apply(x, logits)
    return torch.cat([mean, variance.clamp(eps).sqrt()], dim=2)


class _SoftmaxMoments(torch.autograd.Function):
    """Mean and variance over time under the weights softmax(logits).

    ``x`` is (batch, time, channels) and ``logits`` broadcasts to it. With the
    weights w and d = x - mean, the derivatives of mean = sum w x and variance
    = sum w d^2 are w and 2 w d by x, w d and w (d^2 - variance) by the logits.
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
    @once_differentiable
    def backward(ctx, grad_mean, grad_variance):
        x, weights, mean, variance = ctx.saved_tensors
        deviation = x - mean
        half = torch.addcmul(grad_mean, grad_variance, deviation)
        grad_logits = None
        if ctx.needs_input_grad[1]:
            shift = -grad_variance * variance
            grad_logits = torch.addcmul(shift, half, deviation).mul_(weights)
        grad_x = half.addcmul_(grad_variance, deviation).mul_(weights)
        return grad_x, grad_logits


class _ReflectPad(torch.autograd.Function):
    """Mirrors ``side`` frames at both ends of (batch, time, channels).

    PyTorch's own casts to fp32 under autocast, and on a GPU it gives up the
    memory layout and sums its gradient in an arbitrary order.
    """

    @staticmethod
    def forward(ctx, x, side):
        if x.shape[1] <= side:
            raise ValueError(
                f"An utterance of {x.shape[1]} frames is too short for this "
                f"encoder: it needs {side + 1} or more."
            )
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
