"""Blocks whose binary layers are BinaryConv between standard operators.

The fused binary operators have the published binarizer inside. Others keep the packed kernel for
what it is, sum, scale and shortcut, and what they add stands around it as ONNX operators. The
output of a layer's BinaryConv has the layer's name ("e3.c1"), what surrounds it is named after it
("e3.c1/scaled").
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .architecture import Block
from ...operators.block_functions import pixel_unshuffle
from ...operators.names import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH, PLUGIN_VERSION
from .graph_builder import Builder
from ...operators.value_names import short


class PlainBuilder(Builder):
    """Writes the graphs of binarizers that no fused operator fits."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.literals: dict[str, ir.Value] = {}

    def norm_binary_conv(self, x: ir.Value, block: Block, index: int, output: str, time: ir.Value,
                         skip: ir.Value) -> ir.Value:
        h = self.op(GROUP_NORM_SWISH, x, *self.norm(f"{block.name}.norm{index}"), domain=DOMAIN,
                    groups=self.config.norm_groups, name=f"{short(block.name)}/n{index}")
        y = self.layer(h, f"{block.name}.conv{index}")
        added = self.per_channel(time, f"{output}/time") if index == 1 else skip
        return self.op("Add", y, added, name=output)

    def fusion(self, x: ir.Value, skip: ir.Value, block: Block) -> ir.Value:
        if not block.binary:
            return super().fusion(x, skip, block)
        name, parts = short(block.name), []
        for index in (1, 2):
            pieces = [self.every_other(value, start, f"{name}/{label}{index}")
                      for value, start, label in ((x, 2 - index, "x"), (skip, index - 1, "skip"))]
            mixed = self.op("Concat", *pieces, axis=1, name=f"{name}/mixed{index}")
            parts.append(self.layer(mixed, f"{block.name}.conv{index}"))
        return self.op("Add", *parts, name=name)

    def down(self, x: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        halves = self.split(x, 1, f"{name}/first", f"{name}/second")
        parts = [self.layer(half, f"{block.name}.conv{index}")
                 for index, half in enumerate(halves, 1)]
        return pixel_unshuffle(self, self.op("Add", *parts, name=f"{name}/sum"), name, f"{name}/")

    def up(self, x: ir.Value, block: Block) -> ir.Value:
        name = short(block.name)
        both = [self.layer(x, f"{block.name}.conv{index}") for index in (1, 2)]
        y = self.op("Concat", *both, axis=1, name=f"{name}/both")
        return self.op("DepthToSpace", y, blocksize=2, mode="CRD", name=name)

    # -- layers ---------------------------------------------------------------------------------
    def layer(self, x: ir.Value, name: str) -> ir.Value:
        """One binary layer with its shortcut."""
        write = {"reactnet": self.reactnet, "xnor": self.xnor, "dab": self.dab}
        return write[self.config.binarizer](x, name)

    def reactnet(self, x: ir.Value, name: str) -> ir.Value:
        """BinaryConv with its shortcut, then RPReLU."""
        key = short(name)
        y = self.node(x, name, residual=x)
        y = self.op("Add", y, self.column(f"{name}.shift_in"), name=f"{key}/moved")
        y = self.op("PRelu", y, self.column(f"{name}.slope"), name=f"{key}/rectified")
        return self.op("Add", y, self.column(f"{name}.shift_out"), name=f"{key}/y")

    def xnor(self, x: ir.Value, name: str) -> ir.Value:
        """BinaryConv times K: |x| averaged over channels, then over the kernel's window."""
        key = short(name)
        k = self.checkpoint.binary[f"{name}.weight"].words.shape[1]
        mean = self.op("ReduceMean", self.op("Abs", x, name=f"{key}/abs"), self.integers(1),
                       name=f"{key}/mean")
        scale = mean if k == 1 else self.op(
            "AveragePool", mean, kernel_shape=[k, k], pads=[k // 2] * 4, count_include_pad=1,
            name=f"{key}/scale")
        y = self.op("Mul", self.node(x, name), scale, name=f"{key}/scaled")
        return self.op("Add", y, x, name=f"{key}/y")

    def dab(self, x: ir.Value, name: str) -> ir.Value:
        """BinaryConv of x - t times s, both of the picture's own statistics."""
        key = short(name)
        mean = self.op("ReduceMean", x, self.integers(2, 3), name=f"{key}/mean")
        t = self.op("Mul", self.column(f"{name}.center"), mean, name=f"{key}/center")
        t = self.op("Add", t, self.column(f"{name}.threshold"), name=f"{key}/t")
        shifted = self.op("Sub", x, t, name=f"{key}/shifted")
        size = self.op("ReduceMean", self.op("Abs", shifted, name=f"{key}/abs"),
                       self.integers(1, 2, 3), name=f"{key}/size")
        size = self.op("Sub", size, self.init("one", lambda: np.ones(1, np.float32)),
                       name=f"{key}/excess")
        scale = self.op("Exp", self.op("Mul", self.parameter(f"{name}.sharpness"), size,
                                       name=f"{key}/exponent"), name=f"{key}/scale")
        y = self.op("Mul", self.node(shifted, name), scale, name=f"{key}/scaled")
        return self.op("Add", y, x, name=f"{key}/y")

    def node(self, x: ir.Value, name: str, residual: ir.Value | None = None) -> ir.Value:
        """BinaryConv alone: alpha * sum, and the shortcut if there is one."""
        key = short(name)
        return self.op(BINARY_CONV, x, *self.branch(name),
                       self.none() if residual is None else residual, self.none(), domain=DOMAIN,
                       name=key, label=key, plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION)

    # -- small things ---------------------------------------------------------------------------
    def column(self, name: str) -> ir.Value:
        """A parameter (C,) as a map's factor or term, (C, 1, 1)."""
        return self.init(f"{short(name)}_map",
                         lambda: self.checkpoint.state[name].reshape(-1, 1, 1))

    def every_other(self, x: ir.Value, start: int, name: str) -> ir.Value:
        """Every other channel from ``start``."""
        return self.op("Slice", x, self.integers(start), self.integers(1 << 31), self.integers(1),
                       self.integers(2), name=name)

    def integers(self, *values: int) -> ir.Value:
        """A constant int64 vector; one node for each value there is."""
        name = "integers_" + "_".join(map(str, values))
        if name not in self.literals:
            self.literals[name] = self.constant(np.array(values, np.int64), name)
        return self.literals[name]
