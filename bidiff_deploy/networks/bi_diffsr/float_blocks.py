"""Blocks without binary layers.

Every network has such a stem and head. Residual blocks and CS-Fusions use our fused operators
(NormConv, PairConv). CP-Down and CP-Up are one standard convolution and a shuffle each.
"""

from __future__ import annotations

from functools import partial

from ...operators.block_functions import pixel_unshuffle
from ...operators.names import CONV3X3, NORM_CONV, PAIR_CONV
from ...operators.value_names import short
from .architecture import Block
from .graph_builder import BlockWriters, Builder, residual
from .step_constants import pair_of_convolutions


def _stem(b: Builder, block: Block, x: str) -> str:
    return b.ours(CONV3X3, short(block.name), x, *b.weight_and_bias(block.name))


def _head(b: Builder, block: Block, x: str) -> str:
    output = short(block.name) if b.config.preconditioning else "prediction"
    return _norm_conv(b, output, x, f"{block.name}.norm", f"{block.name}.conv", b.none(), b.none())


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    return _norm_conv(b, output, x, f"{block.name}.norm{index}", f"{block.name}.conv{index}", time,
                      skip)


def _norm_conv(b: Builder, output: str, x: str, norm: str, conv: str, time: str, skip: str) -> str:
    return b.ours(NORM_CONV, output, x, *b.norm(norm), *b.weight_and_bias(conv), time, skip,
                  groups=b.config.norm_groups, compute=b.compute)


def _fusion(b: Builder, block: Block, x: str, skip: str) -> str:
    return b.ours(PAIR_CONV, short(block.name), x, skip, *_pair(b, block), compute=b.compute)


def _down(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    return pixel_unshuffle(b.write, _convolution(b, block, x, f"{name}/sum"), name, f"{name}/")


def _up(b: Builder, block: Block, x: str) -> str:
    name = short(block.name)
    y = _convolution(b, block, x, f"{name}/both")
    return b.write.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name, label=True)


def _convolution(b: Builder, block: Block, x: str, output: str) -> str:
    return b.write.op("Conv", x, *_pair(b, block), kernel_shape=[3, 3], pads=[1] * 4, name=output,
                      label=True)


def _pair(b: Builder, block: Block) -> list[str]:
    """Weight and bias of the one convolution that equals the block's two."""
    return [b.write.initializer(f"{short(block.name)}.{part}", value)
            for part, value in pair_of_convolutions(b.weights.state, block).items()]


FLOAT: BlockWriters = {
    "stem": _stem, "head": _head, "residual": partial(residual, _half), "fusion": _fusion,
    "down": _down, "up": _up}
