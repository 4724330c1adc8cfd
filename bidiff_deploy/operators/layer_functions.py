"""Definitions of the operators that are one layer: BinaryConv, ScaledBinaryConv, GroupNormSwish.

A graph contains these definitions as model-local functions, so it runs, slowly, in a stock ONNX
Runtime; if our op library is registered, its kernels replace them.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, TensorProto, helper

from .names import (
    BINARY_CONV,
    DOMAIN,
    EPSILON,
    GROUP_NORM_SWISH,
    ONNX_OPSET,
    PLUGIN_VERSION,
    SCALED_BINARY_CONV,
)
from .node_writer import NodeWriter, integer_reference
from .sign_bits import WORD_BITS

_STANDARD = {"": ONNX_OPSET}


def binary_conv() -> FunctionProto:
    """y = RPReLU(alpha * conv(sign(x + threshold), sign bits)) + residual + time.

    The binarised map is padded with zeros, not with a sign, so taps outside add nothing.
    Equations 4 to 8 of the paper; TaR is ``threshold``, TaA is ``rprelu``.
    """
    inputs = ("x", "words", "alpha", "threshold", "rprelu", "residual", "time")
    x, words, alpha, threshold, rprelu, residual, time = inputs
    b = NodeWriter()

    one = b.constant(np.float32(1), "one")
    minus_one = b.constant(np.float32(-1), "minus_one")
    zero = b.constant(np.float32(0), "zero")

    weight = _sign_weight(b, words, x, one, minus_one)
    shifted = b.op("Add", x, b.per_channel(threshold, "threshold_map"), name="shifted")
    activation = b.op("Where", b.op("GreaterOrEqual", shifted, zero, name="positive"),
                      one, minus_one, name="activation")
    # k is 1 or 3, so SAME_UPPER is k // 2 on every side.
    sums = b.op("Conv", activation, weight, auto_pad="SAME_UPPER", name="sums")
    y = b.op("Mul", sums, b.per_channel(alpha, "alpha_map"), name="scaled")

    y = _rprelu(b, y, rprelu)
    y = b.op("Add", y, residual, name="with_residual")
    b.op("Add", y, b.per_channel(time, "time_map"), name="y")
    return b.function(BINARY_CONV, inputs, opsets=_STANDARD, defaults=[
        helper.make_attribute("plugin_namespace", DOMAIN),
        helper.make_attribute("plugin_version", PLUGIN_VERSION)])


def scaled_binary_conv() -> FunctionProto:
    """y = RPReLU(alpha * conv(mean |x| * sign(x), sign bits)) + conv1x1(x, up . down + S).

    The layer of BiMaCoSR (Chen et al., ICML 2025, arXiv 2502.00333): mean |x| is over the channels
    of each pixel, sign(0) = 0, and the sparse matrix S (Cout, Cin) is ``values`` at ``indices``,
    whose first row are outputs and second row inputs; values at equal indices are added.
    """
    inputs = ("x", "words", "alpha", "rprelu", "down", "up", "values", "indices")
    x, words, alpha, rprelu, down, up, values, indices = inputs
    b = NodeWriter()
    one = b.constant(np.float32(1), "one")
    weight = _sign_weight(b, words, x, one, b.constant(np.float32(-1), "minus_one"))
    scale = b.op("ReduceMean", b.op("Abs", x, name="magnitude"), b.integers("channels", 1),
                 keepdims=1, name="scale")
    activation = b.op("Mul", b.op("Sign", x, name="signs_of_x"), scale, name="activation")
    sums = b.op("Conv", activation, weight, auto_pad="SAME_UPPER", name="sums")
    y = b.op("Mul", sums, b.per_channel(alpha, "alpha_map"), name="scaled")
    y = _rprelu(b, y, rprelu)

    size = b.op("Concat", b.op("Shape", up, end=1, name="rows"),
                b.op("Shape", down, start=1, name="columns"), axis=0, name="size")
    places = b.op("Cast", b.op("Transpose", indices, perm=[1, 0], name="pairs"),
                  to=TensorProto.INT64, name="places")
    sparse = b.op("ScatterND", b.op("ConstantOfShape", size, name="zeros"), places, values,
                  reduction="add", name="sparse")
    dense = b.op("Add", b.op("MatMul", up, down, name="low_rank"), sparse, name="dense")
    dense = b.op("Unsqueeze", dense, b.integers("taps", 2, 3), name="dense_weight")
    b.op("Add", y, b.op("Conv", x, dense, name="branches"), name="y")
    return b.function(SCALED_BINARY_CONV, inputs, opsets=_STANDARD)


def group_norm_swish() -> FunctionProto:
    """y = n * sigmoid(n), n = GroupNorm(x) with ``groups`` groups, epsilon 1e-5.

    InstanceNormalization over (N, groups, rest) is GroupNorm before its scale and bias, which are
    per channel.
    """
    b, inputs = NodeWriter(), ("x", "scale", "bias")
    n = group_norm(b, *inputs)
    b.op("Mul", n, b.op("Sigmoid", n, name="gate"), name="y")
    return b.function(GROUP_NORM_SWISH, inputs, ["groups"], opsets=_STANDARD)


def group_norm(b: NodeWriter, x: str, scale: str, bias: str) -> str:
    """GroupNorm(x) by the function's attribute ``groups``."""
    groups = b.op("Constant", value_int=integer_reference("value_int", "groups"),
                  name="groups_scalar")
    # Unsqueeze, not Reshape: shape inference follows its values.
    count = b.op("Unsqueeze", groups, b.integers("first_axis", 0), name="groups_vector")
    shape = b.op("Concat", b.integers("batch", 0), count, b.integers("rest", -1), axis=0,
                 name="grouped_shape")
    normal = b.op("InstanceNormalization", b.op("Reshape", x, shape, name="grouped"),
                  b.op("Expand", b.constant(np.float32(1), "one"), count, name="unit_scale"),
                  b.op("Expand", b.constant(np.float32(0), "zero"), count, name="no_bias"),
                  epsilon=EPSILON, name="normal")
    normal = b.op("Reshape", normal, b.op("Shape", x, name="x_shape"), name="normal_map")
    channel = b.integers("channel_shape", 1, -1, 1, 1)
    n = b.op("Mul", normal, b.op("Reshape", scale, channel, name="scale_map"), name="normal_scaled")
    return b.op("Add", n, b.op("Reshape", bias, channel, name="bias_map"), name="n")


def _sign_weight(b: NodeWriter, words: str, x: str, one: str, minus_one: str) -> str:
    """The weight (Cout, Cin, k, k) of +1 and -1 that ``words`` store; Cin is that of ``x``."""
    # Bits of a word, least significant first; the last is the sign bit of an int32.
    masks = (np.uint32(1) << np.arange(WORD_BITS, dtype=np.uint32)).view(np.int32)
    last = b.integers("last_axis", -1)
    bits = b.op("Cast", b.op("BitwiseAnd", b.op("Unsqueeze", words, last, name="words_column"),
                             b.constant(masks, "masks"), name="masked"),
                to=TensorProto.BOOL, name="bits")
    signs = b.op("Where", bits, one, minus_one, name="signs")
    # (Cout, k, k, words, 32) -> (Cout, k, k, Cin) -> (Cout, Cin, k, k)
    flat = b.op("Reshape", signs, b.integers("flat_shape", 0, 0, 0, -1), name="signs_flat")
    cin = b.op("Shape", x, start=1, end=2, name="in_channels")
    valid = b.op("Slice", flat, b.integers("first", 0), cin, b.integers("channel_axis", 3),
                 name="signs_valid")
    return b.op("Transpose", valid, perm=[0, 3, 1, 2], name="weight")


def _rprelu(b: NodeWriter, y: str, rprelu: str) -> str:
    """RPReLU(y) by the rows shift_in, slope and shift_out of ``rprelu``."""
    def row(index: int, name: str) -> str:
        picked = b.op("Gather", rprelu, b.constant(np.array(index, np.int64), f"{name}_row"),
                      axis=0, name=f"{name}_vector")
        return b.per_channel(picked, name)

    y = b.op("Add", y, row(0, "shift_in"), name="moved")
    slope = b.op("Reshape", b.op("Gather", rprelu, b.constant(np.array(1, np.int64), "slope_row"),
                                 axis=0, name="slope_vector"),
                 b.integers("slope_shape", -1, 1, 1), name="slope")
    y = b.op("PRelu", y, slope, name="rectified")
    return b.op("Add", y, row(2, "shift_out"), name="activated")
