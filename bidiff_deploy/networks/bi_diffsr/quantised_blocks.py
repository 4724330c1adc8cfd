"""Full-precision residual blocks of a bundle in int8."""

from __future__ import annotations

from functools import partial

from ...operators.names import DOMAIN, GROUP_NORM_SWISH
from ...operators.value_names import short
from ..quantised_nodes import int8_convolution
from .architecture import Block
from .graph_builder import BlockWriters, Builder, residual


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    name, state = f"{block.name}.conv{index}", b.weights.state
    h = b.write.op(GROUP_NORM_SWISH, x, *b.norm(f"{block.name}.norm{index}"), domain=DOMAIN,
                   groups=b.config.norm_groups, name=f"{output}/normal")
    y = int8_convolution(b.write, b.weights.bounds[name], h, short(name), state[f"{name}.weight"],
                         state[f"{name}.bias"], f"{output}/sums")
    added = b.write.per_channel(time, f"{output}/time") if index == 1 else skip
    return b.write.op("Add", y, added, name=output)


QUANTISED: BlockWriters = {"residual": partial(residual, _half)}
