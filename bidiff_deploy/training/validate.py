"""Validation: whole photos that are not trained on, and the scores of restored ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..images.resample import to_condition
from ..images.scores import bicubic, score
from .photos import find_sources
from .recipe_parts import Photo

__all__ = ["Pair", "load_pairs", "measured"]

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Pair:
    """A whole photo and its low-resolution image, uint8 (H, W, 3) each."""

    name: str
    high: Image
    low: Image

    @property
    def scale(self) -> int:
        return len(self.high) // len(self.low)

    @property
    def condition(self) -> npt.NDArray[np.float32]:
        """The network's condition, float32 (3, H, W)."""
        return to_condition(self.low, self.scale)


def load_pairs(photos: Sequence[Photo], folder: Path, *scales: int) -> list[Pair]:
    """The pair of every photo at each of ``scales``; paths are relative to ``folder``.

    Rows and columns beyond a multiple of the scale are cut off. Raises UsageError as
    ``photos.find_sources`` does, and ImageError for a file whose pixels are damaged.
    """
    pairs = []
    for scale in scales:
        for source in find_sources(photos, folder, scale, cut=True):
            high = source.files.read_high()
            pairs.append(Pair(source.files.name, high, source.files.read_low(high)))
    return pairs


def measured(pair: Pair, restored: Image, *, images: bool = False) -> dict[str, Any]:
    """The scores of ``restored``, uint8 (H, W, 3), as ``bidiff-deploy evaluate`` measures them.

    name, scale  of the pair
    network  PSNR-Y of ``restored`` in dB, infinite for a perfect image
    bicubic  PSNR-Y of Matlab's bicubic
    ssim_y   of ``restored``; NaN for a photo that is too small
    images   with ``images``: bicubic, restored and the photo
    """
    enlarged = bicubic(pair.low, pair.scale)
    figures = score(restored, pair.high, pair.scale)
    found: dict[str, Any] = {
        "name": pair.name, "scale": pair.scale, "network": _or(figures["psnr_y"], math.inf),
        "bicubic": _or(score(enlarged, pair.high, pair.scale)["psnr_y"], math.inf),
        "ssim_y": _or(figures["ssim_y"], math.nan)}
    if images:
        found["images"] = [enlarged, restored, pair.high]
    return found


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value
