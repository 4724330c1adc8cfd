"""Reduces an image by Lanczos' filter, widened by the factor, which prevents aliasing.

Pillow computes it on floats, plane by plane: so 16 bits stay 16 bits, and each value is rounded
once. Colours are weighted by alpha, so that colours of transparent pixels do not show.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from .hidden_colours import without_hidden_colours
from .image import Image, is_opaque, quantise
from .resample import to_unit

__all__ = ["reduced", "size_within"]

_SUPPORT = 3  # output pixels to either side that a pixel depends on
_ROWS = 64  # rows of the result at once: floats take four to eight times the memory of the image


def size_within(width: int, height: int, longest: int) -> tuple[int, int]:
    """(width, height) of the same proportions whose longer side is ``longest`` pixels."""
    factor = longest / max(width, height)
    return max(round(width * factor), 1), max(round(height * factor), 1)


def reduced(image: Image, width: int, height: int) -> Image:
    """``image`` with ``width`` x ``height`` pixels, at most as many as it has to either side.

    Depth, channels, profile and metadata are kept; positions in pixels are scaled.
    """
    if (width, height) == (image.width, image.height):
        return image
    pixels = np.empty((height, width, image.pixels.shape[2]), image.pixels.dtype)
    alpha = np.empty((height, width), pixels.dtype)
    weighted = not is_opaque(image)
    factor = image.height / height
    for first in range(0, height, _ROWS):
        last = min(first + _ROWS, height)
        top = max(math.floor((first - _SUPPORT) * factor) - 1, 0)
        end = min(math.ceil((last + _SUPPORT) * factor) + 1, image.height)
        box = (0, first * factor - top, image.width, min(last * factor, image.height) - top)
        if image.alpha is not None:
            shares = to_unit(image.alpha[top:end])
            opacity = _resized(shares, width, last - first, box)
            alpha[first:last] = quantise(opacity, alpha.dtype)
        for channel in range(pixels.shape[2]):
            plane = to_unit(image.pixels[top:end, :, channel])
            if weighted:
                colour = _resized(plane * shares, width, last - first, box)
                plane = np.divide(colour, opacity, out=np.zeros_like(colour),
                                  where=alpha[first:last] > 0)
            else:
                plane = _resized(plane, width, last - first, box)
            pixels[first:last, :, channel] = quantise(plane, pixels.dtype)
    return without_hidden_colours(replace(
        image, pixels=pixels, alpha=None if image.alpha is None else alpha,
        metadata=image.metadata.scaled(width / image.width)))


def _resized(plane: np.ndarray, width: int, height: int,
             box: tuple[float, float, float, float]) -> np.ndarray:
    """float32 (height, width) of a part of a plane, (left, top, right, bottom) in its pixels."""
    from PIL import Image as pillow

    large = pillow.fromarray(np.ascontiguousarray(plane))
    return np.asarray(large.resize((width, height), pillow.Resampling.LANCZOS, box))
