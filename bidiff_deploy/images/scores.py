"""Scores of an upscaled image against its original, as super-resolution papers report them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from ..errors import ImageError
from .matlab_bicubic import imresize
from .metrics import psnr_y, ssim_y

__all__ = ["Scores", "bicubic", "mean_scores", "score"]

Scores = dict[str, "float | None"]  # by name; None: infinite, or the images are too small


def score(image: np.ndarray, truth: np.ndarray, border: int) -> Scores:
    """``psnr_y`` in dB and ``ssim_y`` of 8-bit images, uint8 (H, W, 3) each, with ``border`` pixels
    (usually the scale) cropped from every side. Raises ImageError for images of different sizes."""
    if image.shape != truth.shape:
        raise ImageError(f"an image of {image.shape[1]}x{image.shape[0]} pixels cannot be compared "
                         f"with an original of {truth.shape[1]}x{truth.shape[0]}")
    found: Scores = {}
    for name, measure in (("psnr_y", psnr_y), ("ssim_y", ssim_y)):
        try:
            value = measure(image, truth, border)
        except ImageError:  # too small
            value = math.nan
        found[name] = value if math.isfinite(value) else None
    return found


def bicubic(low: np.ndarray, scale: int) -> np.ndarray:
    """Matlab's bicubic enlargement, the baseline of published tables: uint8 (H, W, 3) ->
    (H * scale, W * scale, 3)."""
    return imresize(low, low.shape[0] * scale, low.shape[1] * scale)


def mean_scores(scores: Sequence[Mapping[str, float | None]]) -> Scores:
    """The mean of each score over the images that have it; None if none has."""
    found: Scores = {}
    for name in dict.fromkeys(name for one in scores for name in one):
        values = [value for one in scores if (value := one.get(name)) is not None]
        found[name] = sum(values) / len(values) if values else None
    return found
