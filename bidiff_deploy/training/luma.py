"""Luma and SSIM of tensors, equal to those of ``images.metrics``, for losses."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..images.metrics import LUMA, LUMA_OFFSET, SSIM_CONSTANTS, WINDOW

__all__ = ["luma", "ssim"]


def luma(image: Tensor) -> Tensor:
    """Float (N, 3, H, W), RGB in [0, 1] -> (N, 1, H, W), luma as ``images.metrics`` has it, over
    255."""
    factors = torch.tensor(LUMA / 255, dtype=image.dtype, device=image.device)
    return (image * factors[:, None, None]).sum(1, keepdim=True) + LUMA_OFFSET / 255


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each of two (N, 1, H, W) in [0, 1] with sides of at least 11, as
    ``images.metrics.ssim_y`` computes it: (N,)."""
    window = torch.tensor(WINDOW, dtype=first.dtype, device=first.device)
    maps = torch.cat([first, second, first * first, second * second, first * second])
    with torch.autocast(first.device.type, enabled=False):  # a variance is a small difference
        maps = F.conv2d(F.conv2d(maps, window[None, None, None]), window[None, None, :, None])
    mean_a, mean_b, square_a, square_b, product = maps.split(len(first))
    (c1, c2), both = SSIM_CONSTANTS, mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    found = (2 * both + c1) * (2 * (product - both) + c2) / (
        (squares + c1) * (square_a + square_b - squares + c2))
    return found.mean((1, 2, 3))
