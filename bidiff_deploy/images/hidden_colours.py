"""Replaces the colours of transparent pixels, which nobody has seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from .image import Image

__all__ = ["without_hidden_colours"]

_RINGS = 4  # pixels around the visible ones whose colours are computed one ring at a time


def without_hidden_colours(image: Image) -> Image:
    """The image with the colours of pixels of alpha 0 replaced by those of visible pixels nearby;
    itself if it has no such pixels.

    A network mixes neighbouring pixels, so hidden colours (often black) would show at the edges of
    what is visible. Near the edge a pixel becomes the mean of its neighbours, ring by ring; further
    away, the mean of the smallest block of 2x2, 4x4, ... pixels that contains visible ones. If
    nothing is visible, all become 0.
    """
    if image.alpha is None or image.alpha.all():
        return image
    visible = image.alpha > 0
    pixels = np.where(visible[:, :, None], image.pixels, 0)
    for _ in range(_RINGS if visible.any() else 0):
        counts = _sums_of_nine(visible.astype(np.uint8))
        ring = ~visible & (counts > 0)
        near = counts[ring]
        for channel in np.moveaxis(pixels, 2, 0):  # pixels that are not visible are 0
            channel[ring] = (_sums_of_nine(channel.astype(_wide(pixels)))[ring] + near // 2) // near
        visible |= ring
    return replace(image, pixels=_filled(pixels, visible))


def _wide(pixels: np.ndarray) -> type[np.unsignedinteger[Any]]:
    """A type that sums of nine pixels fit into."""
    return np.uint16 if pixels.dtype == np.uint8 else np.uint32


def _sums_of_nine(array: np.ndarray) -> np.ndarray:
    """The sum of the 3x3 values around each one, in place."""
    for lines in (array, array.T):
        before = lines.copy()
        lines[1:] += before[:-1]
        lines[:-1] += before[1:]
    return array


def _filled(pixels: np.ndarray, visible: np.ndarray) -> np.ndarray:
    """Every pixel that is not visible replaced by the mean of a block that has visible ones."""
    if visible.all() or not visible.any():
        return pixels
    height, width = visible.shape
    sums = _sums_of_four(pixels.astype(_wide(pixels)))
    counts = _sums_of_four(visible[:, :, None].astype(np.uint8))
    means = ((sums + counts // 2) // np.maximum(counts, 1)).astype(pixels.dtype)
    coarse = _filled(means, counts[:, :, 0] > 0)
    return np.where(visible[:, :, None], pixels,
                    coarse.repeat(2, axis=0).repeat(2, axis=1)[:height, :width])


def _sums_of_four(array: np.ndarray) -> np.ndarray:
    """The sum of each 2x2 values, of fewer at an odd end."""
    if array.shape[0] % 2 or array.shape[1] % 2:
        array = np.pad(array, ((0, array.shape[0] % 2), (0, array.shape[1] % 2), (0, 0)))
    total: np.ndarray = (array[::2, ::2] + array[1::2, ::2]
                         + array[::2, 1::2] + array[1::2, 1::2])
    return total
