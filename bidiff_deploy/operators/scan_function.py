"""Definition of SelectiveScan, a state-space model's recurrence whose steps depend on its input.

Source: Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (arXiv
2312.00752), algorithm 2, discretised as in its code: exp(step a) for the states, step b for the
input.
"""

from __future__ import annotations

import numpy as np
from onnx import FunctionProto, GraphProto, TensorProto, helper

from .names import ONNX_OPSET, SELECTIVE_SCAN
from .node_writer import NodeWriter, integer_reference

_INPUTS = ("x", "delta", "b", "c", "a", "skip")


def selective_scan() -> FunctionProto:
    """y of a scan over the pixels of a map, from states h of zero:

        step = softplus(delta),  h = exp(step a) h + step x b,  y = c . h + skip x

    x, delta, y (N, C, H, W); b, c (N, S, H, W); a (C, S), not above 0; skip (C), all float32.
    Attributes, 0 or 1: ``columns``, whether the order is down each column, from left to right,
    instead of along rows, from top to bottom; ``reverse``, whether it is the opposite one.
    """
    w = NodeWriter()
    x, delta, b, c, a, skip = _INPUTS
    one = w.constant(np.int64(1), "one")
    sizes = [w.op("Shape", x, start=axis, end=axis + 1, name=name)
             for axis, name in enumerate(("batch", "channels", "height", "width"))]
    count = w.op("Squeeze", w.op("Mul", *sizes[2:], name="pixel_count"), name="count")
    pixels = w.op("Range", w.constant(np.int64(0), "none"), count, one, name="pixels")

    # The pixel that is visited at each step, and the step at which each pixel is visited.
    columns = w.op("Cast", w.op("Constant", value_int=integer_reference("value_int", "columns"),
                                name="columns_given"), to=TensorProto.BOOL, name="by_columns")
    reverse = w.op("Constant", value_int=integer_reference("value_int", "reverse"),
                   name="reversed")
    last = w.op("Mul", reverse, w.op("Sub", count, one, name="last_pixel"), name="start")
    sign = w.op("Sub", one, w.op("Add", reverse, reverse, name="twice"), name="direction")

    def transposed(rows: str, width: str, name: str) -> str:
        shape = w.op("Concat", rows, width, axis=0, name=f"{name}_shape")
        table = w.op("Reshape", pixels, shape, name=f"{name}_table")
        turned = w.op("Transpose", table, perm=[1, 0], name=f"{name}_turned")
        flat = w.op("Reshape", turned, w.integers("all", -1), name=f"{name}_flat")
        return w.op("Where", columns, flat, pixels, name=name)

    def directed(steps: str, name: str) -> str:
        return w.op("Add", last, w.op("Mul", sign, steps, name=f"{name}_signed"), name=name)

    visited = w.op("Gather", transposed(sizes[2], sizes[3], "forward"),
                   directed(pixels, "steps"), axis=0, name="visited")
    back = directed(transposed(sizes[3], sizes[2], "step_of"), "back")

    def ordered(value: str) -> str:
        flat = w.op("Reshape", value, w.integers("flat", 0, 0, -1), name=f"{value}_flat")
        return w.op("Gather", flat, visited, axis=2, name=f"{value}_ordered")

    step = w.op("Softplus", ordered(delta), name="step")
    states = w.op("Shape", b, start=1, end=2, name="states")
    zero = w.op("ConstantOfShape", w.op("Concat", *sizes[:2], states, axis=0, name="h_shape"),
                name="h_before")
    sums = w.scan(_one_step(a), zero, step, ordered(x), ordered(b), ordered(c), axis=2,
                  names=("h_after", "sums"))
    y = w.op("Gather", sums, back, axis=2, name="y_flat")
    y = w.op("Reshape", y, w.op("Shape", x, name="x_shape"), name="y_map")
    w.op("Add", y, w.op("Mul", x, w.per_channel(skip, "skip_map"), name="skipped"), name="y")
    return w.function(SELECTIVE_SCAN, _INPUTS, ["columns", "reverse"],
                      opsets={"": ONNX_OPSET})


def _one_step(a: str) -> GraphProto:
    """h (N, C, S) and one pixel's step, x (N, C), b, c (N, S) -> h and the sum (N, C); ``a`` is a
    value outside."""
    w = NodeWriter()
    middle, last = w.integers("axis_1", 1), w.integers("axis_2", 2)

    def row(value: str, axis: str) -> str:
        return w.op("Unsqueeze", value, axis, name=f"{value}_row")

    decay = w.op("Exp", w.op("Mul", row("step_t", last), a, name="exponent"), name="decay")
    given = w.op("Mul", row(w.op("Mul", "step_t", "x_t", name="input"), last), row("b_t", middle),
                 name="given")
    h = w.op("Add", w.op("Mul", decay, "h", name="kept"), given, name="h_new")
    w.op("ReduceSum", w.op("Mul", h, row("c_t", middle), name="read"), last, keepdims=0,
         name="sum_t")
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
              for name, rank in (("h", 3), ("step_t", 2), ("x_t", 2), ("b_t", 2), ("c_t", 2),
                                 ("h_new", 3), ("sum_t", 2))]
    return helper.make_graph(w.nodes, "one_step", values[:5], values[5:])
