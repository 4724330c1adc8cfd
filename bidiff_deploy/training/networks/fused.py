"""The BIConv as one autograd function: the operations of its parts, fewer passes over memory.

A step of training on a CPU is bound by memory and by the number of calls, not by arithmetic. Kept
for the gradient are x + threshold and the convolution's result; the signs are made anew.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def signs(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (so for both zeros), -1 elsewhere; same shape, dtype and layout."""
    # Several times faster than torch.where with two numbers.
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


def passed_by_clamp(grad: Tensor, weight: Tensor) -> Tensor:
    """``grad`` where ``-1 <= weight <= 1``, 0 elsewhere: the gradient of clamp(weight, -1, 1)."""
    # hardtanh's own bounds are open; 1 + eps is the next number above 1.
    bound = 1 + torch.finfo(weight.dtype).eps
    return torch.ops.aten.hardtanh_backward(grad, weight, -bound, bound)


def binary_conv2d(x: Tensor, weight: Tensor, alpha: Tensor, threshold: Tensor, shift_in: Tensor,
                  slope: Tensor, shift_out: Tensor, group: Tensor, padding: int) -> Tensor:
    """RPReLU(conv(sign(x + threshold), alpha * sign(weight))) + x, with BI-DiffSR's gradients.

    ``x``: (N, C, H, W); ``weight``: (C, C, k, k); ``alpha``: (C, 1, 1, 1), not differentiated;
    ``threshold`` to ``shift_out``: (groups, C), of which row ``group``, int64 (1,), is used.
    Returns (N, C, H, W). The gradients are those of ``binarize.sign_activation`` and
    ``binarize.sign_weight``.

    Under autocast only the products of +1 and -1 and their sums are in low precision, and so are
    the products of the gradient. Thresholds are compared, scales multiplied and everything else is
    added in float32, and the result is float32.
    """
    low = autocast_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        return _BinaryConv2d.apply(x.float() if low else x, weight, alpha, threshold, shift_in,
                                   slope, shift_out, group, padding, low)


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, alpha: Tensor, threshold: Tensor,
                shift_in: Tensor, slope: Tensor, shift_out: Tensor, group: Tensor,
                padding: int, low: torch.dtype | None) -> Tensor:
        shifted = x + _channel(threshold, group)
        # Sums of +1 and -1 are exact, whatever their order. Sums of alpha and -alpha are not, and
        # the slope of RPReLU would hang on their rounding wherever as many are added as taken.
        dtype = low or x.dtype
        y = F.conv2d(signs(shifted).to(dtype), signs(weight).to(dtype), padding=padding)
        y = y.to(x.dtype).mul_(alpha.view(1, -1, 1, 1)).add_(_channel(shift_in, group))
        ctx.save_for_backward(shifted, y, weight, alpha, slope, group)
        ctx.padding, ctx.low = padding, low
        return F.prelu(y, slope.index_select(0, group).view(-1)).add_(
            _channel(shift_out, group)).add_(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        shifted, y, weight, alpha, slope, group = ctx.saved_tensors
        grad = grad.contiguous(memory_format=_layout(shifted))
        positive = torch.ops.aten.threshold_backward(grad, y, 0)
        negative = grad - positive
        grad_slope = _sum(negative * y)
        grad_shift_out = _sum(grad)
        grad_y = torch.addcmul(positive, negative, _channel(slope, group))
        grad_shift_in = _sum(grad_y)
        grad_bits, grad_weight = convolution_backward(
            grad_y, signs(shifted), signs(weight), alpha, ctx.padding, ctx.low)
        # -2 (|x| - 1) inside (-1, 1): the slope of the clipped parabola.
        ramp = shifted.abs().sub_(1).clamp_max_(0).mul_(grad_bits)
        grad_threshold = _sum(ramp).mul_(-2)
        grad_x = grad.add(ramp, alpha=-2)
        rows = (torch.zeros_like(slope).index_copy_(0, group, total[None])
                for total in (grad_threshold, grad_shift_in, grad_slope, grad_shift_out))
        return grad_x, passed_by_clamp(grad_weight, weight), None, *rows, None, None, None


def convolution_backward(grad: Tensor, bits: Tensor, weight: Tensor, alpha: Tensor, padding: int,
                         low: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Gradients of conv(bits, alpha * weight), by the bits and by alpha * weight; ``weight``, +1
    and -1, is overwritten."""
    def backward(grad: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, ...]:
        return torch.ops.aten.convolution_backward(
            grad, bits, weight, None, (1, 1), (padding, padding), (1, 1), False, (0, 0), 1,
            (*wanted, False))[:2]

    if low is None:
        return backward(grad, weight.mul_(alpha), (True, True))
    bits, weight = bits.to(low), weight.to(low)  # exact, unlike alpha * weight
    by_bits, _ = backward((grad * alpha.view(1, -1, 1, 1)).to(low), weight, (True, False))
    _, by_weight = backward(grad.to(low), weight, (False, True))
    return by_bits.float(), by_weight.float()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """What autocast computes convolutions in; None without it."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _channel(rows: Tensor, group: Tensor) -> Tensor:
    return rows.index_select(0, group).view(1, -1, 1, 1)


def _sum(x: Tensor) -> Tensor:
    return x.sum((0, 2, 3))


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
