"""Blocks of a network without binary layers: standard operators, and ours where they fit.

Residual blocks and CS-Fusions have fused operators (NormConv, PairConv). CP-Down and CP-Up are
one standard convolution each and a shuffle.
"""

from __future__ import annotations

import onnx_ir as ir

from .architecture import Block
from ...operators.block_functions import pixel_unshuffle
from .graph_builder import Builder
from ...operators.value_names import short


class FloatBuilder(Builder):
    """Writes the graphs of binarizer ``none``."""

    def down(self, x: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        y = self.convolution(x, block, f"{name}/sum")
        return pixel_unshuffle(self, y, name, f"{name}/")

    def up(self, x: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        y = self.convolution(x, block, f"{name}/both")
        return self.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name, label=name)

    def convolution(self, x: ir.Value, block: Block, output: str) -> ir.Value:
        return self.op("Conv", x, *self.pair(block), kernel_shape=[3, 3], pads=[1] * 4,
                       name=output, label=output)
