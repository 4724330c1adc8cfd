"""Counts of DiT-SR's layers: convolutions, linear layers, attention's products, AdaFM's matrices.

The published real-world network has 60.79 M parameters, and 48.1 G multiply-accumulates a step at a
latent of 64x64 without AdaFM: 35.9 of convolutions, 10.5 of linear layers and 1.7 of attention.
AdaFM's matrices add 1.75 G.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from ..costs import Count, Layer
from ..resshift.costs import check_size, counted
from .architecture import Block, DitSrConfig, blocks, parameters

__all__ = ["count"]

_WHY = "DiT-SR is full precision"
_ADAFM = "AdaFM at a fixed timestep: a matrix for each cell"


def count(config: DitSrConfig, height: int, width: int) -> Count:
    """Costs of one step at a latent of ``height`` x ``width``. Raises UsageError for a size that
    the network cannot run at."""
    check_size(height, width, config.size_multiple)
    every = dict(parameters(config))
    found: list[Layer] = []
    for block in blocks(config):
        rows, columns = height >> block.level, width >> block.level
        if block.kind == "stage":
            found += _stage(config, block, rows, columns)
        elif block.kind != "none":
            if block.kind == "down":
                rows, columns = rows // 2, columns // 2
            elif block.kind == "up":
                rows, columns = rows * 2, columns * 2
            name = f"{block.name}.2" if block.kind == "head" else block.name
            found.append(_weighted(name, (block.cout, block.cin, 3, 3), rows, columns))
    time_macs = sum(math.prod(parameter.shape) for name, parameter in every.items()
                    if name.endswith(".weight")
                    and ("time_embed." in name or ".adaLN_scale_" in name))
    return counted(height, width, found, every, time_macs)


def _weighted(name: str, shape: tuple[int, ...], rows: int, columns: int,
              why: str = _WHY) -> Layer:
    return Layer(name, False, shape, rows, columns, math.prod(shape) * rows * columns, why)


def _stage(config: DitSrConfig, block: Block, rows: int, columns: int) -> Iterator[Layer]:
    width, hidden, pixels = config.swin_embed_dim, config.hidden, rows * columns
    tokens, cell = config.level(block.level).window ** 2, config.cell(block.level) ** 2
    yield _weighted(f"{block.name}.patch_embed.proj", (width, block.cin, 1, 1), rows, columns)
    for index in range(block.depth):
        name = f"{block.name}.blocks.{index}"
        for part, linear in (("msa", (("attn.qkv", width, 3 * width), ("scores", 0, 0),
                                      ("mixed", 0, 0), ("attn.proj", width, width))),
                             ("mlp", (("mlp.fc1", width, hidden), ("mlp.fc2", hidden, width)))):
            yield Layer(f"{name}.adaLN_scale_{part}", False, (cell, cell), rows, columns,
                        cell * width * pixels, _ADAFM)
            for label, cin, cout in linear:
                if cin:
                    yield _weighted(f"{name}.{label}", (cin, cout), rows, columns)
                else:
                    yield Layer(f"{name}.attn.{label}", False, (), rows, columns,
                                width * tokens * pixels)
    yield _weighted(f"{block.name}.patch_unembed.proj", (block.cout, width, 1, 1), rows, columns)
