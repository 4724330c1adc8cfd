"""Bicubic enlargement as the network's condition needs it, and padding by reflection.

numpy only, on arrays whose last two axes are height and width.
"""

from __future__ import annotations

import numpy as np

from ..checks import whole_number
from ..errors import ImageError
from .borders import mirrored

__all__ = ["CUBIC_A", "crop_of_condition", "enlarge", "pad_reflect", "source_crop", "to_condition",
           "to_unit"]

_REACH = 2  # an output depends on the input pixel it is in, and on this many before and after it
# OpenCV's and torch's parameter of the cubic convolution kernel (Matlab and Pillow take -0.5).
CUBIC_A = -0.75


def to_condition(pixels: np.ndarray, scale: int) -> np.ndarray:
    """The network's condition: the low-resolution image enlarged to the output's size.

    ``pixels``: (H, W, 3), (H, W, 1) or (H, W), uint8, uint16, or floats of [0, 1]; grey fills the
    three channels. Returns float32 (3, H * scale, W * scale), about [0, 1] and not clipped: cubic
    interpolation overshoots at edges, and the network was trained on that. It is OpenCV's
    INTER_CUBIC on float32 values, see ``enlarge``. Raises ImageError for another shape or type,
    UsageError for a scale that is not a whole number of at least 1.
    """
    if pixels.ndim == 2:
        pixels = pixels[:, :, None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3) or 0 in pixels.shape:
        raise ImageError(f"an image of shape {pixels.shape} cannot be enlarged; give (height, "
                         "width), or (height, width, 3), with at least one pixel")
    planes = enlarge(to_unit(pixels).transpose(2, 0, 1), scale)
    return np.repeat(planes, 3, axis=0) if planes.shape[0] == 1 else planes


def crop_of_condition(pixels: np.ndarray, scale: int, top: int, left: int, height: int,
                      width: int) -> np.ndarray:
    """``to_condition(pixels, scale)[:, top:top + height, left:left + width]``, equal to the bit,
    computed only from the pixels it depends on. All sizes are in output pixels."""
    rows, above = source_crop(top, height, scale, pixels.shape[0])
    columns, before = source_crop(left, width, scale, pixels.shape[1])
    crop = to_condition(pixels[rows, columns], scale)
    return crop[:, above:above + height, before:before + width]


def source_crop(start: int, length: int, scale: int, size: int) -> tuple[slice, int]:
    """Which of ``size`` input pixels the outputs ``start`` to ``start + length`` depend on, and how
    many outputs the enlarged crop has before ``start``."""
    first = max(start // scale - _REACH, 0)
    last = min(-(-(start + length) // scale) + _REACH, size)
    return slice(first, last), start - first * scale


def to_unit(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 pixels as float32 in [0, 1]; floats are converted to float32."""
    if pixels.dtype in (np.uint8, np.uint16):
        unit: np.ndarray = pixels.astype(np.float32) / np.float32(np.iinfo(pixels.dtype).max)
        return unit
    if pixels.dtype in (np.float16, np.float32, np.float64):
        return pixels.astype(np.float32, copy=False)
    raise ImageError(f"pixels of type {pixels.dtype} are not supported; give uint8 or uint16")


def enlarge(planes: np.ndarray, scale: int) -> np.ndarray:
    """Bicubic enlargement of float32 (..., H, W) to (..., H * scale, W * scale).

    Cubic convolution (Keys, "Cubic convolution interpolation for digital image processing", IEEE
    TASSP 1981) with a = -0.75, pixel centres at half integers, borders replicated and no
    antialiasing, columns before rows: what OpenCV's INTER_CUBIC computes.
    """
    scale = whole_number("scale", scale, 1)
    if scale == 1:
        return np.array(planes, np.float32)
    return _enlarge_rows(_enlarge_columns(np.asarray(planes, np.float32), scale), scale)


def _phases(scale: int) -> list[tuple[int, np.ndarray]]:
    """The first tap and the four weights of each of the ``scale`` outputs in an input pixel."""
    a, phases = CUBIC_A, []
    for phase in range(scale):
        position = (phase + 0.5) / scale - 0.5
        first = int(np.floor(position))
        t = position - first
        weights = [((a * (t + 1) - 5 * a) * (t + 1) + 8 * a) * (t + 1) - 4 * a,
                   ((a + 2) * t - (a + 3)) * t * t + 1,
                   ((a + 2) * (1 - t) - (a + 3)) * (1 - t) * (1 - t) + 1]
        phases.append((first - 1, np.array([*weights, 1 - sum(weights)], np.float32)))
    return phases


def _enlarge_columns(planes: np.ndarray, scale: int) -> np.ndarray:
    width = planes.shape[-1]
    # Taps reach from 2 columns before a pixel to 2 after it.
    padded = np.pad(planes, [(0, 0)] * (planes.ndim - 1) + [(2, 2)], mode="edge")
    out = np.empty((*planes.shape[:-1], width * scale), np.float32)
    for phase, (first, weights) in enumerate(_phases(scale)):
        taps = [padded[..., 2 + first + k:2 + first + k + width] for k in range(4)]
        out[..., phase::scale] = _weighted(taps, weights)
    return out


def _enlarge_rows(planes: np.ndarray, scale: int) -> np.ndarray:
    height, width = planes.shape[-2:]
    padded = np.pad(planes, [(0, 0)] * (planes.ndim - 2) + [(2, 2), (0, 0)], mode="edge")
    out = np.empty((*planes.shape[:-2], height * scale, width), np.float32)
    for phase, (first, weights) in enumerate(_phases(scale)):
        taps = [padded[..., 2 + first + k:2 + first + k + height, :] for k in range(4)]
        out[..., phase::scale, :] = _weighted(taps, weights)
    return out


def _weighted(taps: list[np.ndarray], weights: np.ndarray) -> np.ndarray:
    total: np.ndarray = taps[0] * weights[0]
    for tap, weight in zip(taps[1:], weights[1:]):
        total += tap * weight
    return total


def pad_reflect(x: np.ndarray, multiple: int) -> tuple[np.ndarray, tuple[int, int]]:
    """``x`` with height and width, the last two axes, extended to multiples of ``multiple``.

    Pads on the right and at the bottom by reflection without repeating the last pixel, more than
    once if the image is smaller than the padding; an axis of one pixel repeats it. Returns the
    padded array (``x`` itself if nothing is added) and the (H, W) to crop to.
    """
    height, width = x.shape[-2:]
    rows, columns = (mirrored(np.arange(-(-side // multiple) * multiple), side, repeat_edge=False)
                     for side in (height, width))
    if len(rows) > height:
        x = x[..., rows, :]
    if len(columns) > width:
        x = x[..., columns]
    return x, (height, width)
