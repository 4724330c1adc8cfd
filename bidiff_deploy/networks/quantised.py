"""Int8 layers of a graph: their bounds, and their weights as integers.

A value v of bound u and n levels is clip(round(v / s), -n, n) s with s = u / n: symmetric, so zero
is exact and padding is too. Maps have one bound, weights one for each output channel, which is the
form that engines multiply in. Weights have 7 bits: a CPU without VNNI adds two products of an
unsigned and a signed byte in 16 bits, and 2 * 255 * 63 is less than 2^15, but 2 * 255 * 127 is not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Bounds", "LayerBounds", "MAP_LEVELS", "WEIGHT_LEVELS", "no_bounds",
           "weight_integers", "weight_scale"]

Array = npt.NDArray[Any]
MAP_LEVELS, WEIGHT_LEVELS = 127, 63


@dataclass(frozen=True)
class LayerBounds:
    """Largest magnitudes that a layer represents, above 0.

    weight          float32 (Cout,), of each output channel
    input, output   of its two maps; the output is that of the convolution with its bias
    """

    weight: Array
    input: float
    output: float


Bounds = Mapping[str, LayerBounds]


def no_bounds(channels: int) -> LayerBounds:
    """Bounds of a layer with ``channels`` outputs in a graph without values."""
    return LayerBounds(np.ones(channels, np.float32), 1.0, 1.0)


def weight_scale(bounds: LayerBounds) -> Array:
    """What one step of each output channel's weights is worth, float32 (Cout,)."""
    scale: Array = bounds.weight / np.float32(WEIGHT_LEVELS)
    return scale


def weight_integers(weight: Array, scale: Array) -> npt.NDArray[np.int8]:
    """Weights (Cout, Cin, k, k) as int8, by each channel's ``scale`` (Cout,). Halves are rounded to
    even."""
    exact = weight / np.reshape(scale, (-1, 1, 1, 1))
    whole: npt.NDArray[np.int8] = np.clip(np.rint(exact), -WEIGHT_LEVELS, WEIGHT_LEVELS
                                          ).astype(np.int8)
    return whole
