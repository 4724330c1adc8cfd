"""Counts Hi-Mamba's convolutions, scans and parameters."""

from __future__ import annotations

import math

from ...errors import UsageError
from ...operators.names import SCAN_PRODUCTS
from ..costs import MAX_SIDE, Count, Layer
from .architecture import HiMambaConfig, Scan, parameters, parts

_REASON = "a network of selective scans has no binary layers"


def count(config: HiMambaConfig, height: int, width: int) -> Count:
    """Costs of one run for one low-resolution image of ``height`` x ``width`` pixels. A scan counts
    as a product of activations, 3 multiply-accumulates for each state of a pixel and channel.

    Raises UsageError for sides below 1 or above MAX_SIDE.
    """
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UsageError(f"size {height}x{width} does not fit: both must be from 1 to {MAX_SIDE}")
    found = []
    for part in parts(config):
        rows, columns = (-(-side // config.region) if part.regions else side
                         for side in (height, width))
        shape = () if isinstance(part, Scan) else part.shape
        each = (SCAN_PRODUCTS * config.inner * config.states if isinstance(part, Scan)
                else math.prod(shape))
        found.append(Layer(part.name, False, shape, rows, columns, each * rows * columns,
                           "" if isinstance(part, Scan) else _REASON))
    sizes = [math.prod(parameter.shape) for parameter in parameters(config).values()]
    return Count(height, width, tuple(found), sum(sizes), 0, 0)
