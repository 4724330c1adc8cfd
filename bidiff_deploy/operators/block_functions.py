"""Definitions of the operators that fuse several layers.

Each is made of BinaryConv, GroupNormSwish and standard operators, so that putting its definition
in its place (``op_definitions.opened``) gives the graph that a backend without it takes.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .layer_functions import group_norm
from .names import (ATTENTION, BINARY_CONV, BINARY_DOWN, BINARY_FUSION, BINARY_UP, CONV3X3, DOMAIN,
                    GROUP_NORM_SWISH, NORM_BINARY_CONV, NORM_CONV, PAIR_CONV, PLUGIN_VERSION, Body,
                    integer_reference)

_GROUPS = ir.Attr("groups", ir.AttributeType.INT, None)
# A permission, not a promise: factors of float products may be rounded to this type.
_COMPUTE = ir.Attr("compute", ir.AttributeType.STRING, None)
_BRANCH = ("words", "alpha", "threshold", "rprelu")


def block_functions() -> list[ir.Function]:
    """Definitions of the fused operators, in a fixed order."""
    return [_conv3x3(), _pair_conv(), _norm_conv(), _norm_binary_conv(), _binary_fusion(),
            _binary_down(), _binary_up(), _attention()]


class _Block(Body):
    """A definition under way: its inputs by name, and the layers it is made of."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        self.inputs = [ir.Value(name=name) for name in names]
        self.named = {value.name: value for value in self.inputs}

    def __getitem__(self, name: str) -> ir.Value:
        return self.named[name]

    def finish(self, name: str, output: ir.Value, *attributes: ir.Attr) -> ir.Function:
        return self.function(name, self.inputs, output, attributes, ours=True)

    def norm_swish(self) -> ir.Value:
        return self.op(GROUP_NORM_SWISH, self["x"], self["scale"], self["bias"], domain=DOMAIN,
                       groups=integer_reference("groups", "groups"), name="h")

    def branch(self, x: ir.Value, index: int | str, time: ir.Value, name: str) -> ir.Value:
        """BinaryConv with the inputs of one branch and its own input as shortcut."""
        weights = [self[f"{part}{index}"] for part in _BRANCH]
        return self.op(BINARY_CONV, x, *weights, x, time, domain=DOMAIN, name=name,
                       plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION)

    def integers(self, name: str, *values: int) -> ir.Value:
        return self.constant(np.array(values, np.int64), name)

    def none(self) -> ir.Value:
        return self.constant(np.zeros(1, np.float32), "none")


def _two_branches(*maps: str) -> _Block:
    return _Block(*maps, *(f"{part}{index}" for index in (1, 2) for part in _BRANCH))


def _conv3x3() -> ir.Function:
    """The network's first layer. Without ``compute``: every sign depends on its last bits."""
    b = _Block("x", "weight", "bias")
    y = b.op("Conv", *b.inputs, kernel_shape=[3, 3], pads=[1] * 4, name="y")
    return b.finish(CONV3X3, y)


def _pair_conv() -> ir.Function:
    """A 1x1 convolution of two maps beside each other: a full-precision CS-Fusion."""
    b = _Block("x", "second", "weight", "bias")
    both = b.op("Concat", b["x"], b["second"], axis=1, name="both")
    y = b.op("Conv", both, b["weight"], b["bias"], kernel_shape=[1, 1], name="y")
    return b.finish(PAIR_CONV, y, _COMPUTE)


def _norm_conv() -> ir.Function:
    """conv3x3(swish(GroupNorm(x))) + time + skip: half a full-precision residual block."""
    b = _Block("x", "scale", "bias", "weight", "conv_bias", "time", "skip")
    y = b.op("Conv", b.norm_swish(), b["weight"], b["conv_bias"], kernel_shape=[3, 3],
             pads=[1] * 4, name="convolved")
    y = b.op("Add", y, b.per_channel(b["time"], "time_map"), name="timed")
    y = b.op("Add", y, b["skip"], name="y")
    return b.finish(NORM_CONV, y, _GROUPS, _COMPUTE)


def _norm_binary_conv() -> ir.Function:
    """h = swish(GroupNorm(x)); BinaryConv(h) + h + time + skip: half a binary residual block."""
    b = _Block("x", "scale", "bias", *_BRANCH, "time", "skip")
    y = b.branch(b.norm_swish(), "", b["time"], "convolved")
    y = b.op("Add", y, b["skip"], name="y")
    return b.finish(NORM_BINARY_CONV, y, _GROUPS)


def _binary_fusion() -> ir.Function:
    """CS-Fusion: odd channels of one map beside even ones of the other, and the reverse."""
    b = _two_branches("x", "skip")
    end, axis, stride = (b.integers(name, value) for name, value in
                         (("end", 1 << 31), ("axis", 1), ("stride", 2)))
    starts = b.integers("even", 0), b.integers("odd", 1)
    none, parts = b.none(), []
    for index in (1, 2):
        pieces = [b.op("Slice", b[value], starts[start], end, axis, stride, name=f"{value}{index}")
                  for value, start in (("x", 2 - index), ("skip", index - 1))]
        mixed = b.op("Concat", *pieces, axis=1, name=f"mixed{index}")
        parts.append(b.branch(mixed, index, none, f"part{index}"))
    return b.finish(BINARY_FUSION, b.op("Add", *parts, name="y"))


def _binary_down() -> ir.Function:
    """CP-Down: a BIConv on each half of the channels, their sum, PixelUnshuffle(2)."""
    b = _two_branches("x")
    none = b.none()
    parts = [b.branch(half, index, none, f"part{index}")
             for index, half in enumerate(b.split(b["x"], 1, "first", "second"), 1)]
    y = pixel_unshuffle(b, b.op("Add", *parts, name="sum"), "y", "")
    return b.finish(BINARY_DOWN, y)


def pixel_unshuffle(b: Body, y: ir.Value, name: str, prefix: str) -> ir.Value:
    """PixelUnshuffle(2) of ``y``, called ``name``; what is between has names with ``prefix``."""
    # ONNX SpaceToDepth puts the position before the channel; torch puts it after, so the channels
    # are one's and the position another axis's: swap them.
    y = b.op("SpaceToDepth", y, blocksize=2, name=f"{prefix}deep")
    shape = b.op("Shape", y, name=f"{prefix}deep_shape")
    size = b.op("Shape", y, start=2, name=f"{prefix}size")
    four = b.constant(np.array([0, 4, -1], np.int64), f"{prefix}four")
    split = b.op("Concat", four, size, axis=0, name=f"{prefix}split")
    y = b.op("Transpose", b.op("Reshape", y, split, name=f"{prefix}by_position"),
             perm=[0, 2, 1, 3, 4], name=f"{prefix}by_channel")
    return b.op("Reshape", y, shape, name=name)


def _binary_up() -> ir.Function:
    """CP-Up: two BIConvs on the same map, concatenated, PixelShuffle(2)."""
    b = _two_branches("x")
    none = b.none()
    both = [b.branch(b["x"], index, none, f"part{index}") for index in (1, 2)]
    y = b.op("Concat", *both, axis=1, name="both")
    return b.finish(BINARY_UP, b.op("DepthToSpace", y, blocksize=2, mode="CRD", name="y"))


def _attention() -> ir.Function:
    """Single-head self-attention over all positions, scale 1/sqrt(C), with a shortcut."""
    b = _Block("x", "scale", "bias", "qkv", "out_weight", "out_bias")
    x = b["x"]
    normal = group_norm(b, x, b["scale"], b["bias"])
    shape = b.op("Shape", x, name="map_shape")
    channels = b.op("Cast", b.op("Shape", x, start=1, end=2, name="channels"),
                    to=ir.DataType.FLOAT.value, name="channels_float")
    thirds = b.op("Conv", normal, b["qkv"], kernel_shape=[1, 1], name="thirds")
    thirds = b.op("Reshape", thirds, b.integers("flat_shape", 0, 0, -1), name="flat")
    q, k, v = b.split(thirds, 1, "q", "k", "v")
    q = b.op("Div", q, b.op("Sqrt", channels, name="root"), name="q_scaled")
    scores = b.op("MatMul", b.op("Transpose", q, perm=[0, 2, 1], name="q_turned"), k, name="scores")
    weights = b.op("Softmax", scores, axis=-1, name="weights")
    mixed = b.op("MatMul", v, b.op("Transpose", weights, perm=[0, 2, 1], name="weights_turned"),
                 name="mixed")
    mixed = b.op("Reshape", mixed, shape, name="mixed_map")
    y = b.op("Conv", mixed, b["out_weight"], b["out_bias"], kernel_shape=[1, 1], name="projected")
    return b.finish(ATTENTION, b.op("Add", y, x, name="y"), _GROUPS, _COMPUTE)
