"""Hi-Mamba as one ONNX graph: low-resolution image -> upscaled image.

Input ``picture`` float32 (N, 3, H, W), output ``enlarged`` (N, 3, H * scale, W * scale); N, H and W
are free, and the output is not clipped. Values have the names of the parts that compute them.
"""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from ...operators.definitions import every_function
from ...operators.names import CONV3X3, DOMAIN, SELECTIVE_SCAN
from ...operators.node_writer import NodeWriter
from ...operators.value_names import short
from ..base import Store, Weights
from .architecture import (
    BRANCHES,
    COLORS,
    EPSILON,
    Convolution,
    HiMambaConfig,
    Scan,
    block_names,
    branch,
    parts,
)

_INPUT, _OUTPUT = "picture", "enlarged"  # part of the bundle format


def build_graph(weights: Weights, store: Store) -> ModelProto:
    """Build the graph; ``store`` as in ``networks.base.Store``."""
    return _Builder(weights, store).build()


class _Builder:
    def __init__(self, weights: Weights, store: Store) -> None:
        self.write = NodeWriter(store)
        self.state = weights.state
        self.config: HiMambaConfig = weights.config
        self.convolutions = {part.name: part for part in parts(self.config)
                             if isinstance(part, Convolution)}

    def build(self) -> ModelProto:
        config, op = self.config, self.write.op
        x = shallow = self.convolution(_INPUT, "shallow")
        sides = op("Shape", x, start=2, end=4, name="sides")
        start = x
        for index, (name, direction) in enumerate(block_names(config)):
            x = self.block(x, name, direction, sides)
            if (index + 1) % config.blocks == 0:
                group = f"groups.{index // config.blocks}"
                x = start = op("Add", self.convolution(x, f"{group}.last"), start, name=group)
        x = self.convolution(op("Add", x, shallow, name="deep"), "head")
        op("DepthToSpace", x, blocksize=config.scale, mode="CRD", name=_OUTPUT)
        image = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["N", COLORS, "H", "W"])
        return self.write.model("network", [image], ["N", COLORS, *(
            f"{config.scale}*{side}" for side in "HW")], every_function())

    def block(self, x: str, name: str, direction: tuple[int, int], sides: str) -> str:
        """``sides``: height and width of every map of pixels."""
        write, op, region = self.write, self.write.op, self.config.region
        normal = self.norm(x, f"{name}.norm1")
        local = self.branch(normal, f"{name}.{BRANCHES[0]}", direction, False)
        regions = op("AveragePool", normal, kernel_shape=[region] * 2, strides=[region] * 2,
                     ceil_mode=1, name=f"{name}.regions")
        regions = self.branch(regions, f"{name}.{BRANCHES[1]}", direction, True)
        factors = write.constant(np.array([1, 1, region, region], np.float32), "region.factors")
        repeated = op("Resize", regions, "", factors, mode="nearest",
                      coordinate_transformation_mode="asymmetric", nearest_mode="floor",
                      name=f"{name}.repeated")
        repeated = op("Slice", repeated, write.integers("corner", 0, 0), sides,
                      write.integers("map_axes", 2, 3), name=f"{name}.cropped")
        # Shape inference does not follow the sizes of a Slice.
        repeated = op("Reshape", repeated, op("Shape", local, name=f"{name}.map_shape"),
                      name=f"{name}.repeated_map")
        share = write.initializer(f"{name}.share",
                                  self.state[f"{name}.share"].reshape(1, -1, 1, 1))
        mixed = op("Mul", op("Sub", local, repeated, name=f"{name}.difference"), share,
                   name=f"{name}.shared")
        x = op("Add", op("Add", mixed, repeated, name=f"{name}.mixed"), x, name=f"{name}.scanned")
        first, second = write.split(
            self.convolution(self.norm(x, f"{name}.norm2"), f"{name}.expand"), 1,
            f"{name}.first", f"{name}.second")
        gated = op("Mul", first, second, name=f"{name}.gated")
        return op("Add", self.convolution(gated, f"{name}.project"), x, name=name)

    def branch(self, x: str, name: str, direction: tuple[int, int], regions: bool) -> str:
        config, write, op = self.config, self.write, self.write.op
        enter, depthwise, read, step, scan, leave = branch(config, name, direction, regions)
        assert isinstance(scan, Scan)
        inner, z = write.split(self.convolution(x, enter.name), 1, f"{name}.x", f"{name}.z")
        inner = self.silu(self.convolution(inner, depthwise.name), f"{name}.given")
        read_out = self.convolution(inner, read.name)
        pieces = write.integers(f"{config.rank}_{config.states}", config.rank, config.states,
                                config.states)
        low, b, c = write.pieces(read_out, pieces, 1, f"{name}.low", f"{name}.b", f"{name}.c")
        delta = self.convolution(low, step.name)
        a = write.initializer(f"{scan.name}.a", -np.exp(self.state[f"{scan.name}.log_a"]))
        skip = write.initializer(f"{scan.name}.skip", self.state[f"{scan.name}.skip"])
        y = op(SELECTIVE_SCAN, inner, delta, b, c, a, skip, domain=DOMAIN, name=scan.name,
               label=True, columns=scan.columns, reverse=scan.reverse)
        gated = op("Mul", self.norm(y, f"{name}.norm"), self.silu(z, f"{name}.gate"),
                   name=f"{name}.gated")
        return self.convolution(gated, leave.name)

    def convolution(self, x: str, name: str) -> str:
        """The convolution of that name: a 3x3 one by our operator, others by the standard one."""
        part, write = self.convolutions[name], self.write
        weight = write.initializer(f"{name}.weight", self.state[f"{name}.weight"])
        bias = [write.initializer(f"{name}.bias", self.state[f"{name}.bias"])] if part.bias else []
        if part.size == 3 and not part.depthwise:
            return write.op(CONV3X3, x, weight, *bias, domain=DOMAIN, name=name, label=True)
        return write.op("Conv", x, weight, *bias, name=name, label=True,
                        group=part.cout if part.depthwise else 1,
                        kernel_shape=[part.size] * 2, pads=[part.size // 2] * 4)

    def silu(self, x: str, name: str) -> str:
        return self.write.op("Mul", x, self.write.op("Sigmoid", x, name=f"{name}.sigmoid"),
                             name=name)

    def norm(self, x: str, name: str) -> str:
        """LayerNorm over channels."""
        op = self.write.op
        parameters = [self.write.initializer(f"{name}.{part}", self.state[f"{name}.{part}"])
                      for part in ("weight", "bias")]
        last = op("Transpose", x, perm=[0, 2, 3, 1], name=f"{name}.last")
        normal = op("LayerNormalization", last, *parameters, axis=-1, epsilon=EPSILON,
                    name=f"{name}.normal")
        return op("Transpose", normal, perm=[0, 3, 1, 2], name=short(name))
