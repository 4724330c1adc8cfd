"""Counts of the UNet's layers: convolutions, linear layers, attention's products, branches.

The published network has 118.59 M parameters and 50.66 G multiply-accumulates a step at a latent of
64x64. Of BiMaCoSR's, 118.42 M are binary.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..costs import Count, Layer
from ..resshift.costs import check_size, counted
from .architecture import UnetLayer, layers, parameters
from .config import UnetConfig

__all__ = ["count"]

_WHY = "the network is full precision"
_WHY_END = "BiMaCoSR keeps its first and last convolution"
_BRANCHES = "its low-rank and sparse branches"


def count(config: UnetConfig, height: int, width: int) -> Count:
    """Costs of one step at a latent of ``height`` x ``width``. Raises UsageError for a size that
    the network cannot run at."""
    check_size(height, width, config.size_multiple)
    found: list[Layer] = []
    time_macs = 0
    for layer in layers(config):
        if layer.kind in ("norm", "table"):
            continue
        if layer.level is None:
            time_macs += layer.cin * layer.cout
        else:
            found += _layers(config, layer, height >> layer.level, width >> layer.level)
    every = {name: parameter for name, parameter in parameters(config)
             if not name.endswith(".indices_float")}  # where values are, no values themselves
    return counted(height, width, found, every, time_macs)


def _layers(config: UnetConfig, layer: UnetLayer, rows: int, columns: int) -> Iterator[Layer]:
    pixels, shape = rows * columns, (layer.cout, layer.cin, layer.kernel, layer.kernel)
    binary = bool(config.rank and layer.binary)
    why = "" if binary else _WHY_END if config.rank else _WHY
    yield Layer(layer.name, binary, shape, rows, columns, math.prod(shape) * pixels, why)
    if binary and layer.stride == 1:
        macs = config.rank * (layer.cin + layer.cout) + 2 * max(layer.cin, layer.cout)
        yield Layer(f"{layer.name}.lora", False, (config.rank, layer.cin + layer.cout, 1, 1), rows,
                    columns, macs * pixels, _BRANCHES)
    if layer.name.endswith(".attn.qkv"):
        tokens = config.level(layer.level or 0).window ** 2
        for product in ("scores", "mixed"):
            yield Layer(f"{layer.name.removesuffix('.qkv')}.{product}", False, (), rows, columns,
                        layer.cin * tokens * pixels)
