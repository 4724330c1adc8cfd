"""Bounds of GroupNorm's and LayerNorm's rounding errors; see ``rounding``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .arithmetic import AVERAGE, NORM, gamma

Bounded = Any  # ``rounding.Bounded``, which imports this module


def group_norm(x: Bounded, groups: int, weight: Tensor | None = None, bias: Tensor | None = None,
               eps: float = 1e-5) -> Bounded:
    """``torch.nn.functional.group_norm``."""
    n, channels = x.shape[:2]
    scale = torch.ones(channels, dtype=torch.float64) if weight is None else weight
    offset = torch.zeros_like(scale) if bias is None else bias
    return _normalised(x, (n, groups, channels // groups, -1), (2, 3),
                       scale.reshape(1, groups, -1, 1), offset.reshape(1, groups, -1, 1), eps)


def layer_norm(x: Bounded, shape: Sequence[int], weight: Tensor, bias: Tensor,
               eps: float = 1e-5) -> Bounded:
    """``torch.nn.functional.layer_norm`` over the last axis. Engines may compute the variance as
    the difference of two means, of squares and the squared one."""
    return _normalised(x, x.shape, (len(x.shape) - 1,), weight, bias, eps, by_squares=True)


def _normalised(x: Bounded, shape: Sequence[int], axes: tuple[int, ...], scale: Tensor,
                offset: Tensor, eps: float, by_squares: bool = False) -> Bounded:
    value = x.value.reshape(shape)

    def mean(part: Tensor) -> Tensor:
        return part.mean(axes, keepdim=True)

    centre = mean(value)
    gap = value - centre
    sigma = (mean(gap * gap) + eps).sqrt()
    normal = torch.addcmul(offset, gap, scale / sigma)

    roundings = gamma(x.arithmetic.mean_roundings(value[(0,) * (value.ndim - len(axes))].numel())
                      + AVERAGE)
    sizes, gaps = value.abs().float(), gap.abs_().float()
    shift, relative = roundings * mean(sizes), torch.full_like(sigma, roundings)
    if by_squares:
        relative = relative + 2 * roundings * (mean(value * value) + centre ** 2) / sigma ** 2
    error: Any = None
    if not x.exact:
        error = x.error.reshape(shape)
        shift = shift + mean(error) * (1 + roundings)
        relative = relative + (2 * mean(gaps * (error + mean(error))) + mean(error ** 2)
                               ) / sigma ** 2
    relative = relative + (shift / sigma) ** 2
    # 1 / sqrt(1 +- r) is within r / 2 / (1 - r) ** 1.5 of 1.
    stretch = (0.5 * relative / (1 - relative).clamp_min(1e-3) ** 1.5).float()
    slope = (scale.abs() / sigma).float()
    # (error + shift) (1 + stretch) + gaps * stretch + NORM u (sizes + |centre| + |offset| / slope),
    # all times slope.
    constant = (shift * (1 + stretch) + gamma(NORM) * centre.abs()) * slope + gamma(
        NORM) * offset.abs()
    bound = torch.addcmul(constant.float(), gaps, slope * stretch)
    bound = torch.addcmul(bound, sizes, gamma(NORM) * slope)
    if not x.exact:
        bound = torch.addcmul(bound, error, slope * (1 + stretch))
    return type(x)(normal.reshape(x.shape), bound.reshape(x.shape), x.arithmetic)
