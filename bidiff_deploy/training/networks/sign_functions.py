"""Sums of signs, and the signs of other methods with their gradients.

The sign of 0 is +1. Each has its paper's gradient; BI-DiffSR's are in ``binarize``.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ...networks.bi_diffsr.binarizers import DOREFA_LEVEL
from .fused import SignFunction, apply, convolution_backward, passed_by_clamp, signs

LEAST_SLOPE, MOST_SLOPE = 0.1, 10.0  # of IR-Net's estimator, at the begin and end of training


def clipped_sign(x: Tensor) -> Tensor:
    """sign(x); the gradient passes where |x| <= 1 (Binarized Neural Networks, XNOR-Net)."""
    return apply(_ClippedSign, x)


def estimated_sign(x: Tensor, progress: Tensor) -> Tensor:
    """sign(x); the gradient is that of k tanh(t x), t from 0.1 to 10 with ``progress`` from 0 to 1,
    k = max(1 / t, 1) (IR-Net)."""
    return apply(_EstimatedSign, x, progress)


def level_sign(x: Tensor) -> Tensor:
    """+1 where x >= DOREFA_LEVEL, else -1: twice DoReFa-Net's bit, less 1, whose gradient passes
    where 0 <= x <= 1."""
    return apply(_LevelSign, x)


def passed_weight(weight: Tensor, scale: Tensor) -> Tensor:
    """scale * sign(weight); the gradient passes as it is (DoReFa-Net)."""
    return apply(_PassedWeight, weight, scale)


def xnor_weight(weight: Tensor, alpha: Tensor) -> Tensor:
    """alpha * sign(weight), (Cout, Cin, k, k); the gradient is g (1 / n + alpha [|W| <= 1]), n the
    size of a filter (XNOR-Net)."""
    return apply(_XnorWeight, weight, alpha)


def sum_of_signs(bits: Tensor, scaled: Tensor, padding: int,
                 low: torch.dtype | None = None) -> Tensor:
    """conv(bits, scaled), computed as exact sums of signs times alpha.

    ``bits``: +1 and -1, (N, C, H, W); ``scaled``: alpha and -alpha, one alpha per filter,
    (Cout, C, k, k); ``low``: the dtype of the products, None for that of ``bits``. Gradients are
    those of the convolution.
    """
    return apply(_SumOfSigns, bits, scaled, padding, low)


class _SumOfSigns(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, bits: Tensor, scaled: Tensor, padding: int,
                low: torch.dtype | None) -> Tensor:
        dtype = low or bits.dtype
        ctx.save_for_backward(bits, scaled)
        ctx.padding, ctx.low = padding, low
        y = F.conv2d(bits.to(dtype), signs(scaled).to(dtype), padding=padding)
        return y.to(bits.dtype).mul_(_alpha(scaled).view(1, -1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        bits, scaled = ctx.saved_tensors
        return (*convolution_backward(grad, bits, signs(scaled), _alpha(scaled), ctx.padding,
                                      ctx.low), None, None)


def _alpha(scaled: Tensor) -> Tensor:
    return scaled[:, :1, :1, :1].abs()


class _ClippedSign(SignFunction):
    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return passed_by_clamp(grad, x)


class _EstimatedSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, progress: Tensor) -> Tensor:
        ctx.save_for_backward(x, progress)
        return signs(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        x, progress = ctx.saved_tensors
        t = LEAST_SLOPE * (MOST_SLOPE / LEAST_SLOPE) ** progress
        k = (1 / t).clamp_min(1)
        return grad * (k * t) * (1 - torch.tanh(t * x).square()), None


class _LevelSign(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return signs(x - DOREFA_LEVEL)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * grad * ((x >= 0) & (x <= 1))


class _PassedWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, scale: Tensor) -> Tensor:
        return signs(weight).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad, None


class _XnorWeight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight: Tensor, alpha: Tensor) -> Tensor:
        ctx.save_for_backward(weight, alpha)
        return signs(weight).mul_(alpha)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        weight, alpha = ctx.saved_tensors
        return grad / weight[0].numel() + passed_by_clamp(grad, weight) * alpha, None
