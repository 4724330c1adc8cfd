"""Bicubic resizing as Matlab's ``imresize`` does it: how the field makes low-resolution images.

Cubic convolution (Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP
1981) with a = -0.5; to make an image smaller the kernel is widened by the factor, which is the
antialiasing. Borders are mirrored with the edge pixel repeated. ``resample``, which computes the
network's condition, uses a = -0.75 instead.
"""

from __future__ import annotations

import numpy as np

from ..errors import ImageError, UsageError
from .borders import mirrored

__all__ = ["imresize", "make_low"]

_A = -0.5
_SUPPORT = 4.0  # width of the kernel when an image becomes larger


def imresize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """``pixels``, (H, W) or (H, W, C), resized to (height, width) or (height, width, C).

    uint8 becomes uint8, rounded (halves up) after each axis, as in Matlab; floats become float64,
    neither rounded nor clipped. The axis that shrinks more is resized first, rows if both shrink
    equally. Raises ImageError for another shape or type, UsageError for a size below one pixel.
    """
    if pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError(f"an image of shape {pixels.shape} cannot be resized; give (height, "
                         "width) or (height, width, channels), with at least one pixel")
    if pixels.dtype != np.uint8 and pixels.dtype.kind != "f":
        raise ImageError(f"pixels of type {pixels.dtype} cannot be resized; give uint8 or floats")
    if height < 1 or width < 1:
        raise UsageError(f"an image cannot be resized to {width}x{height}; each side must have at "
                         "least one pixel")
    factors = height / pixels.shape[0], width / pixels.shape[1]
    for axis in sorted((0, 1), key=lambda axis: factors[axis]):
        length = (height, width)[axis]
        if length != pixels.shape[axis]:
            pixels = _resize_axis(pixels, axis, length)
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.float64, copy=False)


def make_low(photo: np.ndarray, scale: int) -> np.ndarray:
    """The low-resolution image of a uint8 photo whose height and width are multiples of ``scale``.
    """
    height, width = photo.shape[:2]
    if height % scale or width % scale:
        raise UsageError(f"{width}x{height} pixels are not a multiple of the scale {scale}; crop "
                         "the photo first")
    return imresize(photo, height // scale, width // scale)


def _resize_axis(pixels: np.ndarray, axis: int, length: int) -> np.ndarray:
    weights, indices = _contributions(pixels.shape[axis], length)
    shape = [1] * pixels.ndim
    shape[axis] = length
    total = np.zeros((*pixels.shape[:axis], length, *pixels.shape[axis + 1:]), np.float64)
    for weight, index in zip(weights, indices):
        total += weight.reshape(shape) * pixels.take(index, axis)
    if pixels.dtype != np.uint8:
        return total
    return np.floor(total.clip(0, 255) + 0.5).astype(np.uint8)


def _contributions(size: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights and indices of the inputs of ``length`` outputs, (taps, length) each."""
    factor = length / size
    widened = min(factor, 1.0)
    support = _SUPPORT / widened
    # Centres of the outputs on the axis of the inputs, pixel i covering [i - 1/2, i + 1/2].
    centre = (np.arange(length) + 0.5) / factor - 0.5
    first = np.floor(centre - support / 2).astype(np.int64)
    taps = first + np.arange(int(np.ceil(support)) + 2)[:, None]
    weights = _cubic((centre - taps) * widened)
    weights /= weights.sum(axis=0)
    used = weights.any(axis=1)
    return weights[used], mirrored(taps[used], size, repeat_edge=True)


def _cubic(x: np.ndarray) -> np.ndarray:
    x = np.abs(x)
    near = ((_A + 2) * x - (_A + 3)) * x * x + 1
    far = ((_A * x - 5 * _A) * x + 8 * _A) * x - 4 * _A
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
