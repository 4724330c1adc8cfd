"""A picture through a feed-forward network in tiles that give what the whole picture gives.

An output pixel depends on ``BbcuConfig.reach`` input pixels around it and on nothing else: there is
no noise, no norm over the map, no attention. So tiles overlap by twice that, each keeps the part up
to the middle of its overlaps, and nothing is blended. With a smaller overlap a seam may differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..images.image import Image
from ..images.resample import to_unit
from ..sampling.sampler import OnStep
from .tiled import enlarged_alpha
from ..images.tiles import Axis, TilePlan

Run = Callable[[np.ndarray], np.ndarray]


def planes(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) or (H, W, 1), uint8 or uint16 -> float32 (1, 3, H, W) in [0, 1], contiguous."""
    picture = to_unit(pixels).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(np.broadcast_to(picture, (1, 3, *picture.shape[2:])))


def upscale(run: Run, image: Image, scale: int, plan: TilePlan,
            on_tile: OnStep | None = None) -> Image:
    """``image`` enlarged by ``run``, float32 (1, 3, H, W) -> (1, 3, H * scale, W * scale).

    ``on_tile`` is called with (tiles done, tiles in all).
    """
    if plan.whole:
        result = image.enlarged(run(planes(image.pixels))[0], scale)
        if on_tile is not None:
            on_tile(1, 1)
        return result
    pixels = np.empty((plan.height, plan.width, image.pixels.shape[2]), image.pixels.dtype)
    form = Image(np.empty((1, 1, pixels.shape[2]), pixels.dtype))
    done = 0
    for top, rows in _kept(plan.rows):
        for left, columns in _kept(plan.columns):
            y, x = top // scale, left // scale
            tile = run(planes(image.pixels[y:y + plan.tile_height // scale,
                                           x:x + plan.tile_width // scale]))[0]
            tile = tile[:, rows.start - top:rows.stop - top,
                        columns.start - left:columns.stop - left]
            pixels[rows, columns] = form.enlarged(tile, 1).pixels
            done += 1
            if on_tile is not None:
                on_tile(done, plan.count)
    return replace(image, pixels=pixels, alpha=enlarged_alpha(image.alpha, scale))


def _kept(axis: Axis) -> Iterator[tuple[int, slice]]:
    """Of each tile along an axis: where it begins, and which pixels of the output it gives."""
    cuts = [0, *((a + axis.tile + b) // 2 for a, b in zip(axis.starts, axis.starts[1:])), axis.size]
    for start, first, last in zip(axis.starts, cuts, cuts[1:]):
        yield start, slice(first, last)
