"""Definitions of the operators that fuse several layers.

Each consists of BinaryConv, GroupNormSwish and standard operators, so that inlining a definition
gives a graph for backends that do not have the operator.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, TensorProto

from .layer_functions import group_norm
from .names import (
    ATTENTION,
    BINARY_CONV,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    CONV3X3,
    DOMAIN,
    GROUP_NORM_SWISH,
    NORM_BINARY_CONV,
    NORM_CONV,
    PAIR_CONV,
    PLUGIN_VERSION,
    WINOGRAD_CONV,
)
from .node_writer import NodeWriter, float_reference, integer_reference

# The type to which factors of float products may be rounded; a kernel need not do so.
_COMPUTE = "compute"
_BRANCH = ("words", "alpha", "threshold", "rprelu")
_TWO_BRANCHES = tuple(f"{part}{index}" for index in (1, 2) for part in _BRANCH)


def block_functions() -> list[FunctionProto]:
    """Definitions of the fused operators, in a fixed order."""
    return [_conv3x3(), _pair_conv(), _norm_conv(), _norm_binary_conv(), _binary_fusion(),
            _binary_down(), _binary_up(), _attention()]


def _conv3x3() -> FunctionProto:
    """The network's first layer. It has no ``compute``: every sign depends on its last bits."""
    b, inputs = NodeWriter(), ("x", "weight", "bias")
    b.op("Conv", *inputs, kernel_shape=[3, 3], pads=[1] * 4, name="y")
    return b.function(CONV3X3, inputs)


def winograd_conv() -> FunctionProto:
    """LeakyReLU(conv3x3(LeakyReLU(x)) + bias) + skip, with a slope for each LeakyReLU.

    Its kernel may use Winograd's algorithm, which rounds about ten times as much and takes less
    than half the time."""
    b = NodeWriter()
    h = b.op("LeakyRelu", "x", alpha=float_reference("alpha", "input_slope"), name="h")
    y = b.op("Conv", h, "weight", "bias", kernel_shape=[3, 3], pads=[1] * 4, name="convolved")
    y = b.op("LeakyRelu", y, alpha=float_reference("alpha", "slope"), name="rectified")
    b.op("Add", y, "skip", name="y")
    return b.function(WINOGRAD_CONV, ["x", "weight", "bias", "skip"],
                      [_COMPUTE, "slope", "input_slope"])


def _pair_conv() -> FunctionProto:
    """A 1x1 convolution of two concatenated maps: a full-precision CS-Fusion."""
    b = NodeWriter()
    both = b.op("Concat", "x", "second", axis=1, name="both")
    b.op("Conv", both, "weight", "bias", kernel_shape=[1, 1], name="y")
    return b.function(PAIR_CONV, ["x", "second", "weight", "bias"], [_COMPUTE])


def _norm_conv() -> FunctionProto:
    """conv3x3(swish(GroupNorm(x))) + time + skip: half a full-precision residual block."""
    b = NodeWriter()
    y = b.op("Conv", _norm_swish(b), "weight", "conv_bias", kernel_shape=[3, 3], pads=[1] * 4,
             name="convolved")
    y = b.op("Add", y, b.per_channel("time", "time_map"), name="timed")
    b.op("Add", y, "skip", name="y")
    return b.function(NORM_CONV, ["x", "scale", "bias", "weight", "conv_bias", "time", "skip"],
                      ["groups", _COMPUTE])


def _norm_binary_conv() -> FunctionProto:
    """h = swish(GroupNorm(x)); BinaryConv(h) + h + time + skip: half a binary residual block."""
    b = NodeWriter()
    y = _branch(b, _norm_swish(b), "", "time", "convolved")
    b.op("Add", y, "skip", name="y")
    return b.function(NORM_BINARY_CONV, ["x", "scale", "bias", *_BRANCH, "time", "skip"],
                      ["groups"])


def _binary_fusion() -> FunctionProto:
    """CS-Fusion: odd channels of one map with even ones of the other, and the reverse."""
    b = NodeWriter()
    end, axis, stride = (b.integers(name, value) for name, value in
                         (("end", 1 << 31), ("axis", 1), ("stride", 2)))
    starts = b.integers("even", 0), b.integers("odd", 1)
    none, parts = _none(b), []
    for index in (1, 2):
        pieces = [b.op("Slice", value, starts[start], end, axis, stride, name=f"{value}{index}")
                  for value, start in (("x", 2 - index), ("skip", index - 1))]
        mixed = b.op("Concat", *pieces, axis=1, name=f"mixed{index}")
        parts.append(_branch(b, mixed, index, none, f"part{index}"))
    b.op("Add", *parts, name="y")
    return b.function(BINARY_FUSION, ["x", "skip", *_TWO_BRANCHES])


def _binary_down() -> FunctionProto:
    """CP-Down: a BIConv on each half of the channels, their sum, PixelUnshuffle(2)."""
    b = NodeWriter()
    none = _none(b)
    parts = [_branch(b, half, index, none, f"part{index}")
             for index, half in enumerate(b.split("x", 1, "first", "second"), 1)]
    pixel_unshuffle(b, b.op("Add", *parts, name="sum"), "y", "")
    return b.function(BINARY_DOWN, ["x", *_TWO_BRANCHES])


def pixel_unshuffle(b: NodeWriter, y: str, name: str, prefix: str) -> str:
    """PixelUnshuffle(2) of ``y``, called ``name``; names of inner values begin with ``prefix``."""
    # ONNX SpaceToDepth puts the position before the channel, torch after it: split the axis in two
    # and swap them.
    y = b.op("SpaceToDepth", y, blocksize=2, name=f"{prefix}deep")
    shape = b.op("Shape", y, name=f"{prefix}deep_shape")
    size = b.op("Shape", y, start=2, name=f"{prefix}size")
    four = b.integers(f"{prefix}four", 0, 4, -1)
    split = b.op("Concat", four, size, axis=0, name=f"{prefix}split")
    y = b.op("Transpose", b.op("Reshape", y, split, name=f"{prefix}by_position"),
             perm=[0, 2, 1, 3, 4], name=f"{prefix}by_channel")
    return b.op("Reshape", y, shape, name=name)


def _binary_up() -> FunctionProto:
    """CP-Up: two BIConvs on the same map, concatenated, PixelShuffle(2)."""
    b = NodeWriter()
    none = _none(b)
    both = [_branch(b, "x", index, none, f"part{index}") for index in (1, 2)]
    y = b.op("Concat", *both, axis=1, name="both")
    b.op("DepthToSpace", y, blocksize=2, mode="CRD", name="y")
    return b.function(BINARY_UP, ["x", *_TWO_BRANCHES])


def _attention() -> FunctionProto:
    """Single-head self-attention over all positions, scale 1/sqrt(C), with a shortcut."""
    b = NodeWriter()
    normal = group_norm(b, "x", "scale", "bias")
    shape = b.op("Shape", "x", name="map_shape")
    channels = b.op("Cast", b.op("Shape", "x", start=1, end=2, name="channels"),
                    to=TensorProto.FLOAT, name="channels_float")
    thirds = b.op("Conv", normal, "qkv", kernel_shape=[1, 1], name="thirds")
    thirds = b.op("Reshape", thirds, b.integers("flat_shape", 0, 0, -1), name="flat")
    q, k, v = b.split(thirds, 1, "q", "k", "v")
    q = b.op("Div", q, b.op("Sqrt", channels, name="root"), name="q_scaled")
    scores = b.op("MatMul", b.op("Transpose", q, perm=[0, 2, 1], name="q_turned"), k, name="scores")
    weights = b.op("Softmax", scores, axis=-1, name="weights")
    mixed = b.op("MatMul", v, b.op("Transpose", weights, perm=[0, 2, 1], name="weights_turned"),
                 name="mixed")
    mixed = b.op("Reshape", mixed, shape, name="mixed_map")
    y = b.op("Conv", mixed, "out_weight", "out_bias", kernel_shape=[1, 1], name="projected")
    b.op("Add", y, "x", name="y")
    return b.function(ATTENTION, ["x", "scale", "bias", "qkv", "out_weight", "out_bias"],
                      ["groups", _COMPUTE])


def _norm_swish(b: NodeWriter) -> str:
    return b.op(GROUP_NORM_SWISH, "x", "scale", "bias", domain=DOMAIN,
                groups=integer_reference("groups", "groups"), name="h")


def _branch(b: NodeWriter, x: str, index: int | str, time: str, name: str) -> str:
    """BinaryConv with the inputs of one branch and its own input as shortcut."""
    weights = [f"{part}{index}" for part in _BRANCH]
    return b.op(BINARY_CONV, x, *weights, x, time, domain=DOMAIN, name=name,
                plugin_namespace=DOMAIN, plugin_version=PLUGIN_VERSION)


def _none(b: NodeWriter) -> str:
    return b.constant(np.zeros(1, np.float32), "none")
