"""BBCU-M as one ONNX graph: low-resolution image -> upscaled image.

Input ``picture`` float32 (N, 3, H, W), output ``enlarged`` (N, 3, H * scale, W * scale); N, H and W
are free, and the output is not clipped. Values have the names of the layers that compute them.
"""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto, TensorProto, helper

from ...operators.block_functions import winograd_conv
from ...operators.definitions import functions
from ...operators.names import (
    BINARY_CONV,
    CONV3X3,
    DOMAIN,
    INT8,
    PLUGIN_VERSION,
    WINOGRAD_CONV,
)
from ...operators.node_writer import NodeWriter
from ..base import Store, Weights
from ..quantised_nodes import int8_convolution
from .architecture import COLORS, LEAK, BbcuConfig, Layer, int8_layers, layers, winograd_layers

_INPUT, _OUTPUT = "picture", "enlarged"  # part of the bundle format


def build_graph(weights: Weights, store: Store, compute: str) -> ModelProto:
    """Build the graph; ``store`` and ``compute`` as in ``networks.base``. Of the first layer every
    product is of float32."""
    return _Builder(weights, store, compute).build()


class _Builder:
    def __init__(self, weights: Weights, store: Store, compute: str) -> None:
        self.write, self.weights = NodeWriter(store), weights
        self.config: BbcuConfig = weights.config
        self.winograd = winograd_layers(self.config)
        self.int8 = int8_layers(self.config) if compute == INT8 else {}
        self.compute = "float32" if compute == INT8 else compute

    def build(self) -> ModelProto:
        config, op = self.config, self.write.op
        # Not folded into the stem: its sums would round differently, which would flip signs.
        alignment = self.write.constant(np.float32(config.alignment), "alignment")
        x = aligned = op("Mul", self.continued(_INPUT), alignment, name="aligned")
        write = {"stem": self.stem, "up": self.up, "head": self.head}
        for layer in layers(config):
            x = write.get(layer.kind, self.binary if layer.binary else self.float_body)(x, layer)
        scales = self.write.constant(np.array([1, 1, config.scale, config.scale], np.float32),
                                     "scales")
        base = op("Resize", aligned, "", scales, mode="linear",
                  coordinate_transformation_mode="half_pixel", name="base")
        restored = op("Add", x, base, name="restored")
        if config.border:
            op("Div", restored, alignment, name="whole")
            self.cropped("whole")
        else:
            op("Div", restored, alignment, name=_OUTPUT)
        used = [*functions(), *([winograd_conv()] if self.winograd else [])]
        image = helper.make_tensor_value_info(_INPUT, TensorProto.FLOAT, ["N", COLORS, "H", "W"])
        return self.write.model("network", [image], ["N", COLORS, *(
            f"{config.scale}*{side}" for side in "HW")], used)

    def continued(self, image: str) -> str:
        """The image with copies of its outermost pixels on each side, by operators that every
        parser has."""
        border, write = self.config.border, self.write
        if not border:
            return image
        for axis, side in ((2, "rows"), (3, "columns")):
            along = write.integers(f"{side}.axis", axis)
            first, last = (write.op("Slice", image, write.integers(f"{side}.{name}.start", start),
                                    write.integers(f"{side}.{name}.end", end), along,
                                    name=f"{side}.{name}")
                           for name, start, end in (("first", 0, 1), ("last", -1, 1 << 31)))
            image = write.op("Concat", *border * [first], image, *border * [last], axis=axis,
                             name=f"continued.{side}")
        return image

    def cropped(self, x: str) -> str:
        """The output, without what ``continued`` added."""
        edge = self.config.border * self.config.scale
        return self.write.op("Slice", x, self.write.integers("first", edge, edge),
                             self.write.integers("end", -edge, -edge),
                             self.write.integers("sides", 2, 3), name=_OUTPUT)

    def stem(self, x: str, layer: Layer) -> str:
        if layer in self.winograd:
            return self.winograd_conv(x, layer, layer.name, slope=LEAK)
        return self.leaky(self.direct_conv(x, layer), layer)

    def head(self, x: str, layer: Layer) -> str:
        if layer in self.winograd:
            x = self.winograd_conv(x, layer, layer.name, input_slope=LEAK)
        else:
            x = self.direct_conv(self.leaky(x, layer), layer)
        return self.pixel_shuffle(x, layer, math.isqrt(layer.cout // COLORS))

    def float_body(self, x: str, layer: Layer) -> str:
        """A full-precision layer of the body: LeakyReLU(conv(x)) + x."""
        name = layer.name
        if name not in self.int8:
            return self.winograd_conv(x, layer, f"{name}.sum", skip=x, slope=LEAK)
        weight, bias = (self.weights.state[f"{name}.{part}"] for part in ("weight", "bias"))
        y = int8_convolution(self.write, self.weights.bounds[name], x, name, weight, bias, name)
        return self.write.op("Add", self.leaky(y, layer), x, name=f"{name}.sum")

    def leaky(self, x: str, layer: Layer) -> str:
        return self.write.op("LeakyRelu", x, alpha=LEAK, name=f"{layer.name}.leaky")

    def direct_conv(self, x: str, layer: Layer) -> str:
        return self.write.op(CONV3X3, x, *self.parameters(layer), domain=DOMAIN, name=layer.name,
                             label=True)

    def winograd_conv(self, x: str, layer: Layer, name: str, *, skip: str | None = None,
                      slope: float = 1.0, input_slope: float = 1.0) -> str:
        return self.write.op(WINOGRAD_CONV, x, *self.parameters(layer), skip or self.none(),
                             domain=DOMAIN, name=name, label=True, slope=slope,
                             input_slope=input_slope,
                             compute="float32" if layer.kind == "stem" else self.compute)

    def parameters(self, layer: Layer) -> list[str]:
        """Weight and bias of a full-precision layer."""
        return [self.write.initializer(name, self.weights.state[name])
                for name in (f"{layer.name}.weight", f"{layer.name}.bias")]

    def none(self) -> str:
        """What is added where nothing is."""
        return self.write.initializer("none", np.zeros(1, np.float32))

    def up(self, x: str, layer: Layer) -> str:
        """BIConv of C -> C r^2, whose shortcut repeats each channel r^2 times; PixelShuffle."""
        squared = layer.upsampling ** 2
        repeats = self.write.integers(f"{layer.name}.channels",
                                      *np.repeat(np.arange(layer.cin), squared))
        repeated = self.write.op("Gather", x, repeats, axis=1, name=f"{layer.name}.repeated")
        return self.pixel_shuffle(self.binary(x, layer, repeated), layer, layer.upsampling)

    def pixel_shuffle(self, wide: str, layer: Layer, r: int) -> str:
        """(N, C r^2, H, W), the output of ``layer`` -> (N, C, H r, W r) in torch's order: channel
        c * r^2 + i * r + j goes to row i and column j of channel c.

        Two transposes of one axis each; in ONNX Runtime 3.6 times as fast as DepthToSpace.
        """
        if r == 1:
            return wide
        channels, name, op = layer.cout // r ** 2, layer.name, self.write.op

        def part(value: str, axis: int, of_what: str) -> str:
            return op("Shape", value, start=axis, end=axis + 1, name=f"{name}.{of_what}")

        def reshaped(value: str, to: str, *shape: int | str) -> str:
            # Reshape copies N for the 0 and computes the one -1.
            parts = [size if isinstance(size, str) else
                     self.write.integers(f"{name}.{to}.{index}", size)
                     for index, size in enumerate((0, *shape))]
            sizes = op("Concat", *parts, axis=0, name=f"{name}.{to}.shape")
            return op("Reshape", value, sizes, name=f"{name}.{to}")

        columns = reshaped(wide, "columns", channels * r, r, -1)  # (N, C r, j, H W)
        columns = op("Transpose", columns, perm=[0, 1, 3, 2], name=f"{name}.columns.moved")
        rows = reshaped(columns, "rows", channels, r, part(wide, 2, "height"), -1)
        width = part(rows, 4, "width")
        rows = op("Transpose", rows, perm=[0, 1, 3, 2, 4], name=f"{name}.rows.moved")
        return reshaped(rows, "shuffled", channels, -1, width)

    def binary(self, x: str, layer: Layer, residual: str | None = None) -> str:
        """BIConv whose shortcut is ``residual``, by default its own input."""
        state, weight = self.weights.state, self.weights.binary[f"{layer.name}.weight"]
        rprelu = np.concatenate([state[f"{layer.name}.{part}"]
                                 for part in ("shift_in", "slope", "shift_out")])
        inputs = [self.write.initializer(f"{layer.name}.{part}", value) for part, value in (
            ("words", weight.words), ("alpha", weight.alpha),
            ("threshold", state[f"{layer.name}.threshold"][0]), ("rprelu", rprelu))]
        return self.write.op(BINARY_CONV, x, *inputs, residual or x, self.none(), domain=DOMAIN,
                             name=layer.name, label=True, plugin_namespace=DOMAIN,
                             plugin_version=PLUGIN_VERSION)
