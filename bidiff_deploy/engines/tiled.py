"""An image run tile by tile, with overlaps blended or with exact borders.

Memory holds the image, the result in its own bit depth, one tile's loop and the float rows of one
row of tiles (a few more where colours are matched). Beyond the result itself it does not grow with
the image's height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from ..images.image import Image
from ..images.resample import crop_of_condition, pad_reflect, source_crop, to_unit
from ..images.tiles import MIN_TILE, Axis, Blender, TilePlan
from ..sampling.color_match import ColorMatcher
from ..sampling.sampler import OnStep

__all__ = ["tile_condition", "to_tensor", "upscale_blended", "upscale_exactly"]

_COLORS = 3


RunTile = Callable[[int, int, OnStep | None], np.ndarray]


def upscale_blended(run: RunTile, image: Image, scale: int, plan: TilePlan, *,
                    match_color: bool = False, on_step: OnStep | None = None,
                    on_tile: OnStep | None = None) -> Image:
    """``image`` enlarged by ``scale``, tile by tile; overlaps are blended.

    run          (top, left of a tile, ``on_step``) -> float32 (1, 3, tile height, tile width)
    match_color  whether to replace the blended rows' low frequencies by the condition's, with the
                 result that ``color_match.match_color`` has on the whole image
    """
    pixels = np.empty((plan.height, plan.width, image.pixels.shape[2]), image.pixels.dtype)
    # Rounds rows and averages grey as a whole image's ``enlarged`` does.
    form = Image(np.empty((1, 1, pixels.shape[2]), pixels.dtype))
    blender = Blender(plan)
    matcher = ColorMatcher(plan.height) if match_color else None
    done = 0

    def step(steps: int, all_steps: int) -> None:
        if on_step is not None:
            on_step(done * all_steps + steps, plan.count * all_steps)

    # An engine may run a loop without ``on_step`` as one piece of work.
    listen = None if on_step is None else step
    for row, top in enumerate(plan.rows.starts):
        for column, left in enumerate(plan.columns.starts):
            tile = run(top, left, listen)
            blender.add(row, column, tile[0])
            done += 1
            if on_tile is not None:
                on_tile(done, plan.count)
        for start, rows in blender.finish(row):
            finished = [(start, rows)] if matcher is None else matcher.add(
                rows, crop_of_condition(image.pixels, scale, start, 0, rows.shape[1],
                                        plan.width))
            for place, ready in finished:
                pixels[place:place + ready.shape[1]] = form.enlarged(ready, 1).pixels
    return replace(image, pixels=pixels, alpha=_enlarged_alpha(image.alpha, scale),
                   metadata=image.metadata.scaled(scale))


def upscale_exactly(run: Callable[[np.ndarray], np.ndarray], image: Image, scale: int,
                    plan: TilePlan, on_tile: OnStep | None = None) -> Image:
    """``image`` enlarged by a local function, tile by tile, with the pixels of the whole image.

    ``run``: float32 (1, 3, H, W) -> (1, 3, H * scale, W * scale), such as ``OneRun.enlarge``. Its
    output pixels depend only on input pixels within a fixed reach: there is no noise, no norm over
    the map, no attention. So each tile contributes the part up to the middle of its overlaps, and
    nothing is blended. Tiles must overlap by twice the reach; with less, pixels along the seams may
    differ. ``on_tile`` is called with (tiles done, tiles in all).
    """
    if plan.whole:
        result = image.enlarged(run(to_tensor(image.pixels))[0], scale)
        if on_tile is not None:
            on_tile(1, 1)
        return result
    pixels = np.empty((plan.height, plan.width, image.pixels.shape[2]), image.pixels.dtype)
    form = Image(np.empty((1, 1, pixels.shape[2]), pixels.dtype))
    done = 0
    for top, rows in _kept_parts(plan.rows):
        for left, columns in _kept_parts(plan.columns):
            y, x = top // scale, left // scale
            tile = run(to_tensor(image.pixels[y:y + plan.tile_height // scale,
                                              x:x + plan.tile_width // scale]))[0]
            tile = tile[:, rows.start - top:rows.stop - top,
                        columns.start - left:columns.stop - left]
            pixels[rows, columns] = form.enlarged(tile, 1).pixels
            done += 1
            if on_tile is not None:
                on_tile(done, plan.count)
    return replace(image, pixels=pixels, alpha=_enlarged_alpha(image.alpha, scale),
                   metadata=image.metadata.scaled(scale))


def to_tensor(pixels: np.ndarray) -> np.ndarray:
    """Contiguous float32 (1, 3, H, W) in [0, 1] of uint8 or uint16 (H, W, 3) or (H, W, 1)."""
    image = to_unit(pixels).transpose(2, 0, 1)[None]
    return np.ascontiguousarray(np.broadcast_to(image, (1, _COLORS, *image.shape[2:])))


def tile_condition(pixels: np.ndarray, scale: int, plan: TilePlan, top: int, left: int,
                   unit: int) -> np.ndarray:
    """A tile's crop of the whole image's padded condition, float32 (1, 3, tile, tile).

    Only the last tile of a row or column reaches into the padding. It contains every pixel that
    the padding mirrors, so its own padding equals the whole image's.
    """
    height = min(plan.tile_height, plan.height - top)
    width = min(plan.tile_width, plan.width - left)
    crop = crop_of_condition(pixels, scale, top, left, height, width)
    return np.ascontiguousarray(pad_reflect(crop, unit)[0][None])


def _kept_parts(axis: Axis) -> Iterator[tuple[int, slice]]:
    """Yields each tile's start along an axis and the output pixels that the tile contributes."""
    cuts = [0, *((a + axis.tile + b) // 2 for a, b in zip(axis.starts, axis.starts[1:])), axis.size]
    for start, first, last in zip(axis.starts, cuts, cuts[1:]):
        yield start, slice(first, last)


def _enlarged_alpha(alpha: np.ndarray | None, scale: int) -> np.ndarray | None:
    """Alpha as ``Image.enlarged`` returns it, computed in strips."""
    if alpha is None:
        return None
    height, width = alpha.shape[0] * scale, alpha.shape[1] * scale
    out = np.empty((height, width), alpha.dtype)
    no_pixels, no_sample = np.empty((1, 1, 1), alpha.dtype), np.zeros((3, 1, 1), np.float32)
    for top in range(0, height, MIN_TILE):
        rows, above = source_crop(top, min(MIN_TILE, height - top), scale, alpha.shape[0])
        strip = Image(no_pixels, alpha[rows]).enlarged(no_sample, scale).alpha
        assert strip is not None
        out[top:top + MIN_TILE] = strip[above:above + MIN_TILE]
    return out
