"""Counts BBCU-M's convolutions and parameters, in the way of BI-DiffSR's."""

from __future__ import annotations

import math

from ...errors import UsageError
from ..costs import MAX_SIDE, Count, Layer
from .architecture import BbcuConfig, layers, parameters

_REASONS = {"stem": "first convolution, its input is an image and not signs",
            "body": "one of float_layers, at an end of the body",
            "head": "last convolution, its output is the image"}


def count(config: BbcuConfig, height: int, width: int) -> Count:
    """Costs of one run for one low-resolution image of ``height`` x ``width`` pixels.

    Raises UsageError for sides below 1 or above MAX_SIDE.
    """
    if not (1 <= height <= MAX_SIDE and 1 <= width <= MAX_SIDE):
        raise UsageError(f"size {height}x{width} does not fit: both must be from 1 to {MAX_SIDE}")
    every = parameters(config)
    sizes = {name: math.prod(parameter.shape) for name, parameter in every.items()}
    found = []
    for layer in layers(config):
        shape = (layer.cout, layer.cin, 3, 3)
        rows, columns = ((side + 2 * config.border) * layer.factor for side in (height, width))
        found.append(Layer(layer.name, layer.binary, shape, rows, columns,
                           math.prod(shape) * rows * columns, _REASONS.get(layer.kind, "")))
    return Count(height, width, tuple(found), sum(sizes.values()),
                 sum(size for name, size in sizes.items() if every[name].binary), 0)
