"""Pictures of a page: as data URIs, and which part of one is worth a look."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image as PillowImage

__all__ = ["busiest", "data_uri"]

_SMOOTHED = 9  # pixels a side over which directions of gradients are averaged


def data_uri(picture: PillowImage, quality: int | None) -> str:
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
