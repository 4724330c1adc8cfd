"""Definitions of the operators that are one layer: BinaryConv and GroupNormSwish.

A graph carries these definitions as model-local functions, so it runs, slowly, in a stock ONNX
Runtime; where our op library is registered, its kernels take their place.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .names import (BINARY_CONV, DOMAIN, EPSILON, GROUP_NORM_SWISH, PLUGIN_VERSION, Body,
                    integer_reference)
from .sign_bits import WORD_BITS


def binary_conv() -> ir.Function:
    """y = RPReLU(alpha * conv(sign(x + threshold), sign bits)) + residual + time.

    The binarised map is padded with zeros, not with a sign, so taps outside count nothing.
    Equations 4 to 8 of the paper; TaR is ``threshold``, TaA is ``rprelu``.
    """
    names = ("x", "words", "alpha", "threshold", "rprelu", "residual", "time")
    x, words, alpha, threshold, rprelu, residual, time = inputs = [
        ir.Value(name=name) for name in names]
    b = Body()

    one = b.constant(np.float32(1), "one")
    minus_one = b.constant(np.float32(-1), "minus_one")
    zero = b.constant(np.float32(0), "zero")

    # Bits of a word, least significant first: the top one is the sign bit of an int32.
    masks = (np.uint32(1) << np.arange(WORD_BITS, dtype=np.uint32)).view(np.int32)
    last = b.constant(np.array([-1], np.int64), "last_axis")
    bits = b.op("Cast", b.op("BitwiseAnd", b.op("Unsqueeze", words, last, name="words_column"),
                             b.constant(masks, "masks"), name="masked"),
                to=ir.DataType.BOOL.value, name="bits")
    signs = b.op("Where", bits, one, minus_one, name="signs")
    # (Cout, k, k, words, 32) -> (Cout, k, k, Cin) -> (Cout, Cin, k, k)
    flat = b.op("Reshape", signs, b.constant(np.array([0, 0, 0, -1], np.int64), "flat_shape"),
                name="signs_flat")
    cin = b.op("Shape", x, start=1, end=2, name="in_channels")
    valid = b.op("Slice", flat, b.constant(np.array([0], np.int64), "first"), cin,
                 b.constant(np.array([3], np.int64), "channel_axis"), name="signs_valid")
    weight = b.op("Transpose", valid, perm=[0, 3, 1, 2], name="weight")

    shifted = b.op("Add", x, b.per_channel(threshold, "threshold_map"), name="shifted")
    activation = b.op("Where", b.op("GreaterOrEqual", shifted, zero, name="positive"),
                      one, minus_one, name="activation")
    # k is 1 or 3, so SAME_UPPER is k // 2 on every side.
    sums = b.op("Conv", activation, weight, auto_pad="SAME_UPPER", name="sums")
    y = b.op("Mul", sums, b.per_channel(alpha, "alpha_map"), name="scaled")

    def row(index: int, name: str) -> ir.Value:
        picked = b.op("Gather", rprelu, b.constant(np.array(index, np.int64), f"{name}_row"),
                      axis=0, name=f"{name}_vector")
        return b.per_channel(picked, name)

    y = b.op("Add", y, row(0, "shift_in"), name="moved")
    slope = b.op("Reshape", b.op("Gather", rprelu, b.constant(np.array(1, np.int64), "slope_row"),
                                 axis=0, name="slope_vector"),
                 b.constant(np.array([-1, 1, 1], np.int64), "slope_shape"), name="slope")
    y = b.op("PRelu", y, slope, name="rectified")
    y = b.op("Add", y, row(2, "shift_out"), name="activated")
    y = b.op("Add", y, residual, name="with_residual")
    y = b.op("Add", y, b.per_channel(time, "time_map"), name="y")
    return b.function(BINARY_CONV, inputs, y, (ir.AttrString("plugin_namespace", DOMAIN),
                                               ir.AttrString("plugin_version", PLUGIN_VERSION)))


def group_norm_swish() -> ir.Function:
    """y = n * sigmoid(n), n = GroupNorm(x) with ``groups`` groups, epsilon 1e-5.

    InstanceNormalization over (N, groups, rest) is GroupNorm before its scale and bias, which are
    per channel.
    """
    x, scale, bias = inputs = [ir.Value(name=name) for name in ("x", "scale", "bias")]
    b = Body()
    n = group_norm(b, x, scale, bias)
    y = b.op("Mul", n, b.op("Sigmoid", n, name="gate"), name="y")
    return b.function(GROUP_NORM_SWISH, inputs, y,
                      (ir.Attr("groups", ir.AttributeType.INT, None),))


def group_norm(b: Body, x: ir.Value, scale: ir.Value, bias: ir.Value) -> ir.Value:
    """GroupNorm(x) by the function's attribute ``groups``."""
    groups = b.op("Constant", value_int=integer_reference("value_int", "groups"),
                  name="groups_scalar")
    # Unsqueeze, not Reshape: shape inference follows its values.
    count = b.op("Unsqueeze", groups, b.constant(np.array([0], np.int64), "first_axis"),
                 name="groups_vector")
    shape = b.op("Concat", b.constant(np.array([0], np.int64), "batch"), count,
                 b.constant(np.array([-1], np.int64), "rest"), axis=0, name="grouped_shape")
    normal = b.op("InstanceNormalization", b.op("Reshape", x, shape, name="grouped"),
                  b.op("Expand", b.constant(np.float32(1), "one"), count, name="unit_scale"),
                  b.op("Expand", b.constant(np.float32(0), "zero"), count, name="no_bias"),
                  epsilon=EPSILON, name="normal")
    normal = b.op("Reshape", normal, b.op("Shape", x, name="x_shape"), name="normal_map")
    channel = b.constant(np.array([1, -1, 1, 1], np.int64), "channel_shape")
    n = b.op("Mul", normal, b.op("Reshape", scale, channel, name="scale_map"), name="normal_scaled")
    return b.op("Add", n, b.op("Reshape", bias, channel, name="bias_map"), name="n")
