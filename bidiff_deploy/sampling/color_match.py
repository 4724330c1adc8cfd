"""Prevents colour shifts: replaces the low frequencies of the result by the condition's.

    matched = result + low_pass(condition - result)

Diffusion models for super-resolution, SR3 above all, are known to change the hue of whole areas,
while the low-resolution image has the right hue. Splitting by an undecimated wavelet transform and
exchanging the coarse part is due to Wang et al., "Exploiting Diffusion Prior for Real-World Image
Super-Resolution" (StableSR, IJCV 2024, arXiv 2305.07015, section 3.3). Here the scaling function is
the linear B-spline: ``LEVELS`` passes of (1, 2, 1) / 4 with holes, together a triangle of
2 * REACH + 1 taps. Images are mirrored at their borders, the border pixel repeated.

Pixels are summed in a fixed order, so that parts of an image and the whole give the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ..images.borders import mirrored

__all__ = ["ColorMatcher", "LEVELS", "REACH", "low_pass", "match_color"]

Floats = npt.NDArray[np.float32]
LEVELS = 5
REACH = (1 << LEVELS) - 1  # pixels on either side that a low-passed pixel depends on


def match_color(image: Floats, condition: Floats) -> Floats:
    """``image`` with the low frequencies of ``condition``, clipped to [0, 1].

    Both are float32 (..., H, W) of one shape; ``condition`` is the enlarged low-resolution image,
    about [0, 1]. Returns float32 of that shape.
    """
    matched: Floats = np.clip(image + low_pass(condition - image), np.float32(0), np.float32(1))
    return matched


def low_pass(planes: Floats) -> Floats:
    """float32 (..., H, W) smoothed along both axes; constant images do not change."""
    wide = _smoothed_columns(np.asarray(planes, np.float32))
    rows = _mirrored(-REACH, planes.shape[-2] + REACH, planes.shape[-2])
    return _smoothed_rows(wide[..., rows, :])


class ColorMatcher:
    """``match_color`` of an image whose rows come in pieces, from the top.

    It keeps only the rows that others still depend on: at most 3 * REACH and a piece.
    """

    def __init__(self, height: int) -> None:
        self._height = height
        self._top = 0  # first row that is kept
        self._done = 0  # rows that were yielded
        self._image: Floats | None = None
        self._smooth: Floats | None = None  # condition - image, smoothed along rows

    def add(self, image: Floats, condition: Floats) -> Iterator[tuple[int, Floats]]:
        """Add the next rows, float32 (C, rows, W) in [0, 1], and those of the condition.

        Yields (top, float32 (C, rows, W)) for the rows that are then final; all of them once the
        last row was added.
        """
        smooth = _smoothed_columns(condition - image)
        if self._image is None or self._smooth is None:
            self._image, self._smooth = image.copy(), smooth
        else:
            self._image = np.concatenate([self._image, image], axis=-2)
            self._smooth = np.concatenate([self._smooth, smooth], axis=-2)
        there = self._top + self._image.shape[-2]
        end = there if there == self._height else there - REACH
        if end <= self._done:
            return
        rows = _mirrored(self._done - REACH, end + REACH, self._height) - self._top
        low = _smoothed_rows(self._smooth[..., rows, :])
        matched = self._image[..., self._done - self._top:end - self._top, :] + low
        top, self._done = self._done, end
        kept = max(end - REACH, 0) - self._top
        # A copy: a view would keep all of the rows before it alive.
        self._image = self._image[..., kept:, :].copy()
        self._smooth = self._smooth[..., kept:, :].copy()
        self._top += kept
        yield top, np.clip(matched, np.float32(0), np.float32(1))


def _mirrored(first: int, end: int, size: int) -> npt.NDArray[np.int64]:
    """Indices of the pixels ``first`` to ``end`` of an axis of ``size`` pixels, mirrored."""
    return mirrored(np.arange(first, end), size, repeat_edge=True)


def _smoothed_columns(planes: Floats) -> Floats:
    width = planes.shape[-1]
    planes = planes[..., _mirrored(-REACH, width + REACH, width)]
    for level in range(LEVELS):
        hole = 1 << level
        planes = _weighted(planes[..., :-2 * hole], planes[..., hole:-hole],
                           planes[..., 2 * hole:])
    return planes


def _smoothed_rows(planes: Floats) -> Floats:
    """float32 (..., H + 2 REACH, W) -> (..., H, W)."""
    for level in range(LEVELS):
        hole = 1 << level
        planes = _weighted(planes[..., :-2 * hole, :], planes[..., hole:-hole, :],
                           planes[..., 2 * hole:, :])
    return planes


def _weighted(before: Floats, centre: Floats, after: Floats) -> Floats:
    total = before + after
    total *= np.float32(0.25)
    total += np.float32(0.5) * centre
    return total
