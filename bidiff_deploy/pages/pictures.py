"""Pictures of a page: as how many bytes, and which part of a large one is shown."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["MAX_PIXELS", "Encoded", "Part", "busiest", "encode", "part_of"]

Part = tuple[int, int, int, int]  # left, top, width, height

MAX_PIXELS = 4_000_000  # of each picture; of larger ones a part is shown
_PIXELS = (MAX_PIXELS, 2_000_000, 1_000_000, 500_000, 250_000, 120_000, 60_000, 30_000)
# Characters a pixel of all pictures that not even smooth ones are below, with and without loss.
_LEAST_BYTES, _LOSSLESS_BYTES = 0.4, 1.5
_LOSSLESS_PIXELS = 1_000_000  # more take seconds
_QUALITIES = (95, 88)
_OVERVIEW_SIDE = 512  # pixels in which the part with the most edges is looked for
_SMOOTHED = 9  # pixels a side over which directions of gradients are averaged


@dataclass(frozen=True)
class Encoded:
    """Pictures as data URIs by name, which are all shown in one size.

    part     of the whole pictures, all of them if it is as large
    quality  of the pictures as JPEG; None: without loss
    """

    uris: dict[str, str] = field(repr=False)
    part: Part
    quality: int | None

    @property
    def characters(self) -> int:
        """How many the page needs for them."""
        return sum(map(len, self.uris.values()))


def encode(pictures: Callable[[int], tuple[Part, dict[str, PillowImage]]], budget: int
           ) -> Encoded | None:
    """Pictures of mode RGB in at most ``budget`` characters together: without loss if that fits,
    else with it, else less of them; None where nothing fits.

    ``pictures(n)``: a part of at most ``n`` pixels, and each picture of it by name.
    """
    for pixels in _PIXELS:
        if _LEAST_BYTES * pixels > budget and pixels > _PIXELS[-1]:
            continue
        part, opened = pictures(pixels)
        area = part[2] * part[3]
        lossless = [None] if area <= min(_LOSSLESS_PIXELS, budget / _LOSSLESS_BYTES) else []
        for quality in (*lossless, *_QUALITIES):
            found = Encoded({name: _data_uri(picture, quality) for name, picture in opened.items()},
                            part, quality)
            if found.characters <= budget:
                return found
    return None


def part_of(pixels: np.ndarray, most: float) -> Part:
    """The part with the most edges that has at most ``most`` of the pixels, (H, W, C), and about
    their shape; all of them if they are no more."""
    height, width = pixels.shape[:2]
    share = (most / (width * height)) ** 0.5
    if share >= 1:
        return 0, 0, width, height
    # The shorter side first, which may be a single pixel.
    shorter = max(1, int(share * min(width, height)))
    longer = max(1, int(most / shorter))
    across, down = (longer, shorter) if width > height else (shorter, longer)
    step = -(-max(width, height) // _OVERVIEW_SIDE)
    top, left = busiest(pixels[::step, ::step], max(1, down // step), max(1, across // step))
    return min(left * step, width - across), min(top * step, height - down), across, down


def _data_uri(picture: PillowImage, quality: int | None) -> str:
    """A picture of mode RGB as a data URI. ``quality``: of a JPEG with whole colour resolution;
    None: without loss, as WebP, or PNG where Pillow has no WebP."""
    from PIL import features

    options: dict[str, Any]
    if quality is not None:
        kind, options = "jpeg", {"quality": quality, "subsampling": 0}
    elif features.check("webp"):
        # Little effort: twice as fast for a tenth more bytes.
        kind, options = "webp", {"lossless": True, "method": 2, "quality": 30}
    else:
        kind, options = "png", {}
    stream = io.BytesIO()
    picture.save(stream, kind.upper(), **options)
    return f"data:image/{kind};base64,{base64.b64encode(stream.getvalue()).decode()}"


def busiest(pixels: np.ndarray, height: int, width: int) -> tuple[int, int]:
    """(top, left) of the window of that size with the most edges: gradients count as far as they
    agree in direction with those around them. ``pixels``: (H, W, C). In the middle if the window is
    too small to tell."""
    if min(height, width) <= _SMOOTHED:
        return (pixels.shape[0] - height) // 2, (pixels.shape[1] - width) // 2
    dy, dx = np.gradient(pixels.astype(np.float32).mean(-1))
    xx, yy, xy = (_sums(product, _SMOOTHED, _SMOOTHED)
                  for product in (dx * dx, dy * dy, dx * dy))
    sums = _sums(np.hypot(xx - yy, 2 * xy), height - _SMOOTHED + 1, width - _SMOOTHED + 1)
    top, left = np.unravel_index(sums.argmax(), sums.shape)
    return int(top), int(left)


def _sums(values: np.ndarray, height: int, width: int) -> np.ndarray:
    """Sums over all windows of that size."""
    total: np.ndarray = np.pad(values.cumsum(0, dtype=np.float64).cumsum(1), ((1, 0), (1, 0)))
    inner: np.ndarray = (total[height:, width:] - total[:-height, width:]
                         - total[height:, :-width] + total[:-height, :-width])
    return inner
