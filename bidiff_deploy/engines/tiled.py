"""An image through an engine in tiles: float rows live only until they are rounded.

What is held is the image, the result in its own depth, one tile's loop and the rows of one row of
tiles (with matched colours a few more); so memory does not grow with the height of the image beyond
the result itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from ..sampling.color_match import ColorMatcher
from ..images.image import Image
from ..sampling.noise import gaussian_noise
from ..images.resample import crop_of_condition, pad_reflect, source_crop
from ..sampling.sampler import OnStep
from ..images.tiles import MIN_TILE, Blender, TilePlan

if TYPE_CHECKING:
    from .noise_predictor import NoisePredictor

__all__ = ["enlarged_alpha", "upscale"]


def upscale(engine: NoisePredictor, image: Image, plan: TilePlan, *, seed: int = 0,
            match_color: bool = False, on_step: OnStep | None = None,
            on_tile: OnStep | None = None, **loop: Any) -> Image:
    """``image`` enlarged by ``engine.scale``, tile by tile; ``loop``: options of ``sample``.

    ``match_color``: the blended rows' low frequencies are replaced by those of the condition, as
    ``color_match.match_color`` does it on the whole image.
    """
    pixels = np.empty((plan.height, plan.width, image.pixels.shape[2]), image.pixels.dtype)
    # Rows are rounded, and grey is averaged, as a whole image would be.
    form = Image(np.empty((1, 1, pixels.shape[2]), pixels.dtype))
    blender = Blender(plan)
    matcher = ColorMatcher(plan.height) if match_color else None
    done = 0

    def step(steps: int, all_steps: int) -> None:
        on_step(done * all_steps + steps, plan.count * all_steps)

    # An engine may run a loop that nothing listens to as one piece of work.
    loop["on_step"] = None if on_step is None else step
    for row, top in enumerate(plan.rows.starts):
        for column, left in enumerate(plan.columns.starts):
            condition = _condition(image.pixels, engine.scale, plan, top, left, engine.unit)
            noise = gaussian_noise(condition.shape, seed, top=top, left=left)
            tile = engine.sample(condition, noise=noise, seed=seed, **loop)
            blender.add(row, column, tile[0])
            done += 1
            if on_tile is not None:
                on_tile(done, plan.count)
        for start, rows in blender.finish(row):
            finished = [(start, rows)] if matcher is None else matcher.add(
                rows, crop_of_condition(image.pixels, engine.scale, start, 0, rows.shape[1],
                                        plan.width))
            for place, ready in finished:
                pixels[place:place + ready.shape[1]] = form.enlarged(ready, 1).pixels
    return replace(image, pixels=pixels, alpha=enlarged_alpha(image.alpha, engine.scale))


def _condition(pixels: np.ndarray, scale: int, plan: TilePlan, top: int, left: int,
               unit: int) -> np.ndarray:
    """A tile's crop of the whole image's padded condition, float32 (1, 3, tile, tile).

    Only a last tile reaches into the padding. It holds all that the padding mirrors, so that its
    own padding is the same.
    """
    height = min(plan.tile_height, plan.height - top)
    width = min(plan.tile_width, plan.width - left)
    crop = crop_of_condition(pixels, scale, top, left, height, width)
    return np.ascontiguousarray(pad_reflect(crop, unit)[0][None])


def enlarged_alpha(alpha: np.ndarray | None, scale: int) -> np.ndarray | None:
    """Alpha as ``Image.enlarged`` has it, in strips."""
    if alpha is None:
        return None
    height, width = alpha.shape[0] * scale, alpha.shape[1] * scale
    out = np.empty((height, width), alpha.dtype)
    nothing = np.empty((1, 1, 1), alpha.dtype), np.zeros((3, 1, 1), np.float32)
    for top in range(0, height, MIN_TILE):
        rows, above = source_crop(top, min(MIN_TILE, height - top), scale, alpha.shape[0])
        strip = Image(nothing[0], alpha[rows]).enlarged(nothing[1], scale).alpha
        out[top:top + MIN_TILE] = strip[above:above + MIN_TILE]
    return out
