"""DOBI: the bounds of a quantiser, searched so that a tensor changes least.

Source: Liu et al., "2DQuant: Low-bit Post-Training Quantization for Image Super-Resolution"
(NeurIPS 2024, arXiv 2406.06649), section 3.2, and its published code. As published a tensor has two
bounds, l and u, and 2^bits values from l to u. Engines multiply symmetric integers, so
``symmetric_bounds`` is the same search with l = -u, for one tensor or each output channel of a
weight.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["POINTS", "Searched", "dobi", "fake_quantised", "symmetric_bounds"]

Array = npt.NDArray[Any]
POINTS = 100  # bounds that are tried


@dataclass(frozen=True)
class Searched:
    """The two bounds, and the L2 norm of what they change."""

    lower: float
    upper: float
    error: float


def fake_quantised(values: Array, lower: float, upper: float, bits: int) -> Array:
    """``values`` rounded to the nearest of the 2^bits values from ``lower`` to ``upper``,
    float64."""
    steps = 2 ** bits - 1
    scale = (upper - lower) / steps or 1.0
    whole: Array = np.rint((np.clip(values, lower, upper) - lower) / scale)
    return whole * scale + lower


def dobi(values: Array, bits: int, *, one_direction: bool = False) -> Searched:
    """The published search. Of POINTS pairs that narrow from the range of the values, the first
    with the least L2 norm of the change.

    ``one_direction``: only the upper bound moves, for values that crowd at their minimum, such as
    those of softmax and GELU; otherwise both move by the same amounts.
    """
    values = np.asarray(values, np.float64).ravel()
    low, high = float(values.min()), float(values.max())
    best = Searched(low, high, np.inf)
    for index in range(POINTS):
        move = index * (high - low) / POINTS
        lower, upper = (low, high - move) if one_direction else (low + move / 2, high - move / 2)
        error = float(np.linalg.norm(fake_quantised(values, lower, upper, bits) - values))
        if error < best.error:
            best = Searched(lower, upper, error)
    return best


def symmetric_bounds(values: Array, levels: int) -> npt.NDArray[np.float32]:
    """Bounds u of quantisers with whole numbers from -``levels`` to ``levels`` times u / levels.

    ``values``: float (rows, n). Each row has its own bound, float32 (rows,): of POINTS that narrow
    from its largest magnitude, the first with the least L2 norm of the change. A row of zeros has
    the bound 1.
    """
    largest = np.abs(values).max(axis=1).astype(np.float64)
    largest[largest == 0] = 1
    best, least = largest.copy(), np.full(len(values), np.inf)
    for index in range(POINTS):
        bound = largest * (1 - index / POINTS)
        scale = (bound / levels)[:, None].astype(values.dtype)
        change = np.rint(values / scale).clip(-levels, levels) * scale - values
        error = np.einsum("ij,ij->i", change, change, dtype=np.float64)
        better = error < least
        best[better], least[better] = bound[better], error[better]
    found: npt.NDArray[np.float32] = best.astype(np.float32)
    return found
