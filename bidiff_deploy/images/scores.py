"""What a picture is worth against the original, as super-resolution papers report it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ImageError
from .matlab_bicubic import imresize
from .metrics import psnr_y, ssim_y

__all__ = ["Scores", "bicubic", "mean_scores", "score"]

Scores = dict[str, "float | None"]  # by name; None: equal images, or too small to tell


def score(picture: np.ndarray, truth: np.ndarray, border: int) -> Scores:
    """``psnr_y`` in dB and ``ssim_y`` of 8-bit images, uint8 (H, W, 3) each, ``border`` pixels
    (the scale, by custom) cut off at every side. Raises ImageError for images of other sizes."""
    if picture.shape != truth.shape:
        raise ImageError(f"a picture of {picture.shape[1]}x{picture.shape[0]} pixels can not be "
                         f"compared with an original of {truth.shape[1]}x{truth.shape[0]}")
    found: Scores = {}
    for name, measure in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
        try:
            value = measure(picture, truth, border)
        except ImageError:  # too small
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found


def bicubic(low: np.ndarray, scale: int) -> np.ndarray:
    """Matlab's bicubic enlargement, the baseline of the field's tables: uint8 (H, W, 3) ->
    (H * scale, W * scale, 3)."""
    return imresize(low, low.shape[0] * scale, low.shape[1] * scale)


def mean_scores(scores: Sequence[Mapping[str, float | None]]) -> Scores:
    """The mean of each figure over the images that have it; None where none does."""
    found: Scores = {}
    for name in dict.fromkeys(name for one in scores for name in one):
        values = [one[name] for one in scores if one.get(name) is not None]
        found[name] = sum(values) / len(values) if values else None
    return found
