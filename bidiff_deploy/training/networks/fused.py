"""The BIConv as one autograd function: the operations of its parts in fewer passes over memory.

A training step on a CPU is bound by memory and by the number of calls, not by arithmetic. Only
x + threshold and the convolution's result are kept for the gradient; the signs are computed again.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...networks.bi_diffsr.binarizers import cfb_groups


def apply(function: type[torch.autograd.Function], *inputs: Any) -> Tensor:
    """The output of an autograd function with one tensor as its result."""
    result: Tensor = function.apply(*inputs)  # type: ignore[no-untyped-call]  # torch has no types
    return result


def signs(x: Tensor) -> Tensor:
    """+1 where ``x >= 0`` (so for both zeros), -1 elsewhere; same shape, dtype and layout."""
    # Several times faster than torch.where with two constants.
    return torch.ge(x, 0, out=torch.empty_like(x)).mul_(2).sub_(1)


class SignFunction(torch.autograd.Function):
    """``signs(x)``; a subclass has the gradient, for which ``x`` is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x)


def passed_by_clamp(grad: Tensor, weight: Tensor) -> Tensor:
    """``grad`` where ``-1 <= weight <= 1``, 0 elsewhere: the gradient of clamp(weight, -1, 1)."""
    # The bounds of hardtanh are exclusive; 1 + eps is the next number above 1.
    bound = 1 + torch.finfo(weight.dtype).eps
    passed: Tensor = torch.ops.aten.hardtanh_backward(grad, weight, -bound, bound)
    return passed


def bypass(x: Tensor, outputs: int) -> Tensor:
    """BiDense's channel-adaptive full-precision bypass, (N, C, H, W) -> (N, ``outputs``, H, W);
    ``x`` itself for as many channels. See ``binarizers.cfb_groups``."""
    repeats, groups, size = cfb_groups(x.shape[1], outputs)
    if repeats == 1 and not groups:
        return x
    parts = [x] * repeats
    if size:
        parts.append(torch.unflatten(x[:, :groups * size], 1, (groups, size)).mean(1))
    if groups:
        parts.append(x[:, groups * size:].mean(1, keepdim=True))
    return torch.cat(parts, dim=1)


def binary_conv2d(x: Tensor, weight: Tensor, alpha: Tensor, threshold: Tensor, shift_in: Tensor,
                  slope: Tensor, shift_out: Tensor, group: Tensor, padding: int) -> Tensor:
    """RPReLU(conv(sign(x + threshold), alpha * sign(weight))) + bypass(x), with BI-DiffSR's
    gradients.

    ``x``: (N, Cin, H, W); ``weight``: (Cout, Cin, k, k); ``alpha``: (Cout, 1, 1, 1), not
    differentiated; ``threshold``: (groups, Cin), ``shift_in`` to ``shift_out``: (groups, Cout), of
    which row ``group``, int64 (1,), is used. Returns (N, Cout, H, W). The gradients are those of
    ``binarize.sign_activation`` and ``binarize.sign_weight``.

    Under autocast only the sums of signs and the products of their gradients are in low precision.
    Thresholds, scales, RPReLU, the shortcut and the result are float32.
    """
    low = autocast_dtype(x)
    with torch.autocast(x.device.type, enabled=False):
        x = x.float() if low else x
        y = apply(_BinaryConv2d, x, weight, alpha, threshold, shift_in, slope, shift_out, group,
                  padding, low)
        return y if len(weight) == x.shape[1] else y + bypass(x, len(weight))


class _BinaryConv2d(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, alpha: Tensor, threshold: Tensor,
                shift_in: Tensor, slope: Tensor, shift_out: Tensor, group: Tensor,
                padding: int, low: torch.dtype | None) -> Tensor:
        shifted = x + _channel(threshold, group)
        # Sums of +1 and -1 are exact in any order. Sums of alpha and -alpha are not: where they
        # cancel, their rounding would decide which side of RPReLU's kink is used.
        dtype = low or x.dtype
        y = F.conv2d(signs(shifted).to(dtype), signs(weight).to(dtype), padding=padding)
        y = y.to(x.dtype).mul_(alpha.view(1, -1, 1, 1)).add_(_channel(shift_in, group))
        ctx.save_for_backward(shifted, y, weight, alpha, slope, group)
        ctx.padding, ctx.low = padding, low
        rectified = F.prelu(y, slope.index_select(0, group).view(-1)).add_(
            _channel(shift_out, group))
        ctx.added = len(weight) == x.shape[1]
        return rectified.add_(x) if ctx.added else rectified

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
        grad_x = grad.add(ramp, alpha=-2) if ctx.added else -2 * ramp
        rows = (total.new_zeros(len(slope), len(total)).index_copy_(0, group, total[None])
                for total in (grad_threshold, grad_shift_in, grad_slope, grad_shift_out))
        return grad_x, passed_by_clamp(grad_weight, weight), None, *rows, None, None, None


def convolution_backward(grad: Tensor, bits: Tensor, weight: Tensor, alpha: Tensor, padding: int,
                         low: torch.dtype | None) -> tuple[Tensor, Tensor]:
    """Gradients of conv(bits, alpha * weight) with respect to the bits and to alpha * weight.

    ``weight``, +1 and -1, is overwritten.
    """
    def backward(grad: Tensor, weight: Tensor, wanted: tuple[bool, bool]) -> tuple[Tensor, Tensor]:
        by_bits, by_weight, _ = torch.ops.aten.convolution_backward(
            grad, bits, weight, None, (1, 1), (padding, padding), (1, 1), False, (0, 0), 1,
            (*wanted, False))
        return by_bits, by_weight

    if low is None:
        return backward(grad, weight.mul_(alpha), (True, True))
    bits, weight = bits.to(low), weight.to(low)  # exact, unlike alpha * weight
    by_bits, _ = backward((grad * alpha.view(1, -1, 1, 1)).to(low), weight, (True, False))
    _, by_weight = backward(grad.to(low), weight, (False, True))
    return by_bits.float(), by_weight.float()


def autocast_dtype(x: Tensor) -> torch.dtype | None:
    """The dtype in which autocast computes convolutions; None without autocast."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def _channel(rows: Tensor, group: Tensor) -> Tensor:
    return rows.index_select(0, group).view(1, -1, 1, 1)


def _sum(x: Tensor) -> Tensor:
    return x.sum((0, 2, 3))


def _layout(x: Tensor) -> torch.memory_format:
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if channels_last else torch.contiguous_format
