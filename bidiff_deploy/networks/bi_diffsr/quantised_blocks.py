"""Full-precision residual blocks of a bundle in int8: convolutions between QuantizeLinear nodes.

Each runtime turns QuantizeLinear and DequantizeLinear around a convolution into one convolution of
bytes; without that the graph computes the same in float32. Bounds are those of
``networks.quantised``.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from ...operators.names import DOMAIN, GROUP_NORM_SWISH
from ...operators.value_names import short
from ..quantised import MAP_LEVELS, Array, weight_integers, weight_scale
from .architecture import Block
from .graph_builder import BlockWriters, Builder, residual


def _half(b: Builder, block: Block, index: int, output: str, x: str, time: str, skip: str) -> str:
    name, state = f"{block.name}.conv{index}", b.weights.state
    h = b.write.op(GROUP_NORM_SWISH, x, *b.norm(f"{block.name}.norm{index}"), domain=DOMAIN,
                   groups=b.config.norm_groups, name=f"{output}/normal")
    y = _convolution(b, h, name, state[f"{name}.weight"], state[f"{name}.bias"], f"{output}/sums")
    added = b.write.per_channel(time, f"{output}/time") if index == 1 else skip
    return b.write.op("Add", y, added, name=output)


QUANTISED: BlockWriters = {"residual": partial(residual, _half)}


def _convolution(b: Builder, x: str, name: str, weight: Array, bias: Array, output: str) -> str:
    """A convolution of int8 maps and weights with a bias; its output is rounded to int8 too."""
    key, op, bounds, k = short(name), b.write.op, b.weights.bounds[name], weight.shape[-1]
    scale = weight_scale(bounds)
    x = _rounded(b, x, f"{key}.input_scale", bounds.input, f"{key}/input")
    taps = op("DequantizeLinear",
              b.write.initializer(f"{key}.weight", weight_integers(weight, scale)),
              b.write.initializer(f"{key}.weight_scale", scale),
              b.write.constant(np.zeros(len(weight), np.int8), f"zeros_{len(weight)}"), axis=0,
              name=f"{key}/weight")
    y = op("Conv", x, taps, b.write.initializer(f"{key}.bias", bias), kernel_shape=[k, k],
           pads=[k // 2] * 4, name=f"{key}/conv")
    return _rounded(b, y, f"{key}.output_scale", bounds.output, output)


def _rounded(b: Builder, x: str, scale: str, bound: float, output: str) -> str:
    """A map through int8 and back."""
    b.write.initializer(scale, np.array(bound / MAP_LEVELS, np.float32))
    zero = b.write.constant(np.int8(0), "zero_byte")
    stored = b.write.op("QuantizeLinear", x, scale, zero, name=f"{output}/int8")
    return b.write.op("DequantizeLinear", stored, scale, zero, name=output)
