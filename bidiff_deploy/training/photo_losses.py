"""Losses between an image and the photo: ``l1``, ``l2``, ``psnr`` or ``luma``.

``psnr`` is the mean over images of log10(mean square error + 1e-5). Its minimum is the largest mean
PSNR, in which a smooth photo counts as much as one with much detail, which decides L1. Source: Chen
et al., "HINet", CVPR workshops 2021; the constant, for images better than 50 dB, is ours.

``luma`` is what the eye sees most of and PSNR-Y and SSIM-Y measure: as ``psnr``, with the mean
square error 0.8 of luma and 0.2 of the colours, plus 0.25 log10(1 - SSIM of luma + 1e-3). SSIM:
Wang et al., IEEE Transactions on Image Processing 13(4), 2004; the weights are ours.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from ..images.metrics import LUMA, LUMA_OFFSET, SSIM_CONSTANTS, WINDOW

__all__ = ["photo_loss", "with_luma_of"]

_FLOOR = 1e-5
_LUMA_SHARE = 0.8  # the rest keeps colours right
_SSIM_SHARE, _SSIM_FLOOR = 0.25, 1e-3


def photo_loss(image: Tensor, photo: Tensor, kind: str) -> dict[str, Tensor]:
    """The loss of ``kind``, a scalar, under its name, and with ``luma`` its two parts; ``image``
    and ``photo``: float (N, 3, H, W), RGB in about [0, 1], for ``luma`` with sides of at least
    11."""
    error = image.float() - photo
    if kind == "l1":
        return {kind: error.abs().mean()}
    squares = error.square().mean((1, 2, 3))
    if kind == "l2":
        return {kind: squares.mean()}
    if kind == "psnr":
        return {kind: (squares + _FLOOR).log10().mean()}
    ours, theirs = _luma(image.float()), _luma(photo)
    of_luma = (ours - theirs).square().mean((1, 2))
    squares = _LUMA_SHARE * of_luma + (1 - _LUMA_SHARE) * squares
    parts = {"squares": (squares + _FLOOR).log10().mean(),
             "structure": (1 - _ssim(ours, theirs) + _SSIM_FLOOR).log10().mean()}
    return {kind: parts["squares"] + _SSIM_SHARE * parts["structure"], **parts}


def _luma(image: Tensor) -> Tensor:
    """Float (N, 3, H, W), RGB in [0, 1] -> (N, H, W), luma as ``images.metrics`` has it, over 255.
    """
    red, green, blue = (float(factor) / 255 for factor in LUMA)
    return red * image[:, 0] + green * image[:, 1] + blue * image[:, 2] + LUMA_OFFSET / 255


def with_luma_of(photo: Tensor, image: Tensor) -> Tensor:
    """``photo`` with the luma of ``image`` and its own colours (Cb and Cr), of their shape; float
    (N, 3, H, W), RGB in about [0, 1], not clipped."""
    grey = sum(map(float, LUMA)) / 255
    return photo + ((_luma(image.float()) - _luma(photo.float())) / grey)[:, None]


def _ssim(first: Tensor, second: Tensor) -> Tensor:
    """SSIM of each of two (N, H, W) in [0, 1] with sides of at least 11, as
    ``images.metrics.ssim_y`` computes it: (N,)."""
    mean_a, mean_b, square_a, square_b, product = (_blurred(values) for values in (
        first, second, first * first, second * second, first * second))
    (c1, c2), both = SSIM_CONSTANTS, mean_a * mean_b
    squares = mean_a * mean_a + mean_b * mean_b
    found = (2 * both + c1) * (2 * (product - both) + c2) / (
        (squares + c1) * (square_a + square_b - squares + c2))
    return torch.mean(found, (1, 2))


def _blurred(values: Tensor) -> Tensor:
    """The Gaussian mean where the window is inside. Sums, and no convolution: autocast and TF32
    would round it, and a variance is a small difference."""
    for axis in (1, 2):
        length = values.shape[axis] - len(WINDOW) + 1
        parts = [weight * values.narrow(axis, start, length)
                 for start, weight in enumerate(WINDOW.tolist())]
        values = functools.reduce(torch.add, parts)
    return values
