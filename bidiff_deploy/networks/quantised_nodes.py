"""A convolution of a bundle in int8: between QuantizeLinear and DequantizeLinear nodes.

Each runtime turns these nodes around a convolution into one convolution of bytes; without that the
graph computes the same in float32. Bounds are those of ``quantised``.
"""

from __future__ import annotations

import numpy as np

from ..operators.node_writer import NodeWriter
from .quantised import MAP_LEVELS, Array, LayerBounds, weight_integers, weight_scale

__all__ = ["int8_convolution"]


def int8_convolution(write: NodeWriter, bounds: LayerBounds, x: str, key: str, weight: Array,
                     bias: Array, output: str) -> str:
    """Write a convolution of int8 maps and weights (Cout, Cin, k, k) with a bias, of the layer that
    the graph calls ``key``; its output is rounded to int8 too, without which ONNX Runtime computes
    in float32."""
    op, k = write.op, weight.shape[-1]
    scale = weight_scale(bounds)
    x = _rounded(write, x, f"{key}.input_scale", bounds.input, f"{key}/input")
    taps = op("DequantizeLinear",
              write.initializer(f"{key}.weight", weight_integers(weight, scale)),
              write.initializer(f"{key}.weight_scale", scale),
              write.constant(np.zeros(len(weight), np.int8), f"zeros_{len(weight)}"), axis=0,
              name=f"{key}/weight")
    y = op("Conv", x, taps, write.initializer(f"{key}.bias", bias), kernel_shape=[k, k],
           pads=[k // 2] * 4, name=f"{key}/conv")
    return _rounded(write, y, f"{key}.output_scale", bounds.output, output)


def _rounded(write: NodeWriter, x: str, scale: str, bound: float, output: str) -> str:
    """A map through int8 and back."""
    write.initializer(scale, np.array(bound / MAP_LEVELS, np.float32))
    zero = write.constant(np.int8(0), "zero_byte")
    stored = write.op("QuantizeLinear", x, scale, zero, name=f"{output}/int8")
    return write.op("DequantizeLinear", stored, scale, zero, name=output)
