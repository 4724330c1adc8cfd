"""Geometric self-ensemble: the mean of what a network makes of an image's turned and mirrored
copies, each brought back (Timofte et al., "Seven ways to improve example-based single image super
resolution", CVPR 2016; Lim et al., EDSR, CVPR workshops 2017)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..checks import whole_number
from ..errors import UsageError

__all__ = ["COUNTS", "check_count", "enlarge_copies"]

COUNTS = (1, 2, 4, 8)

# Axes that are mirrored. The first two turn by 180 degrees, which gains most of what any two copies
# do; four need no other tile shapes; the same with rows and columns exchanged make eight.
_MIRRORED: tuple[tuple[int, ...], ...] = ((), (2, 3), (3,), (2,))
_COPIES = tuple((exchanged, axes) for exchanged in (False, True) for axes in _MIRRORED)


def check_count(count: int) -> int:
    """``count``; raises UsageError if it is not one of ``COUNTS``."""
    number = whole_number("ensemble", count, COUNTS[0], COUNTS[-1], unit="copies")
    if number not in COUNTS:
        raise UsageError(f"ensemble is {number}; it must be {', '.join(map(str, COUNTS[:-1]))} or "
                         f"{COUNTS[-1]} copies")
    return number


def enlarge_copies(enlarge: Callable[[np.ndarray], np.ndarray], count: int,
                   image: np.ndarray) -> np.ndarray:
    """The mean of ``count`` results of ``enlarge``, float32 (N, 3, H * scale, W * scale).

    enlarge  float32 (N, 3, H, W) -> (N, 3, H * scale, W * scale), of any height and width
    count    one of ``COUNTS``; 1: the result of ``enlarge`` itself
    image    float32 (N, 3, H, W)

    Takes ``count`` times the time, and the memory of one run and one more result.
    """
    if count == 1:
        return enlarge(image)
    total = np.float32(0)
    for exchanged, axes in _COPIES[:count]:
        copy = np.flip(image.swapaxes(2, 3) if exchanged else image, axes)
        result = np.flip(enlarge(np.ascontiguousarray(copy)), axes)
        total = total + (result.swapaxes(2, 3) if exchanged else result)
    return np.ascontiguousarray(total * np.float32(1 / count))  # a power of two: exact
