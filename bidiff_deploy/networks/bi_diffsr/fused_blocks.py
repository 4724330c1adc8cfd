"""Blocks whose binary layers are inside fused operators: two layers with identity shortcuts."""

from __future__ import annotations

from functools import partial

from ...operators.names import BINARY_DOWN, BINARY_FUSION, BINARY_UP, NORM_BINARY_CONV
from ...operators.value_names import short
from .architecture import Block
from .graph_builder import BlockWriters, Builder, residual


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    return b.ours(NORM_BINARY_CONV, output, x, *b.norm(f"{block.name}.norm{index}"),
                  *b.branch(f"{block.name}.conv{index}"), time, skip, groups=b.config.norm_groups)


def _block(op: str, b: Builder, block: Block, *maps: str) -> str:
    return b.ours(op, short(block.name), *maps, *b.branches(block))


FUSED: BlockWriters = {
    "residual": partial(residual, _half), "fusion": partial(_block, BINARY_FUSION),
    "down": partial(_block, BINARY_DOWN), "up": partial(_block, BINARY_UP)}
