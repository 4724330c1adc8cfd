"""Group norms in standard operators, in the form that each TensorRT makes the fewest kernels of.

    two_passes  any TensorRT from 8.5 on: four reductions, mean before variance
    one_pass    float16 maps, TensorRT from 10 on: mean and mean square in one reduction
    instance    TensorRT from 10 on: InstanceNormalization, which one kernel computes with Swish.

Each returns (x - mean) * factor / sqrt(variance + epsilon) + bias, mean and variance by group: in
float32, whatever the map's type, but for ``instance``, which has the map's.

TensorRT-RTX 1.7 makes of one block's norm, Swish, threshold and signs: four to six kernels of
``two_passes``, and two of ``one_pass``, the first of which is part of the layer before. In a map of
more than 2^14 pixels it splits each reduction of ``one_pass`` in two; there ``instance`` costs
three, of which one only clears a counter. It writes reductions of up to four values into the kernel
that reads them, so groups are averaged four channels at a time.
"""

from __future__ import annotations

import numpy as np

from .graph_writer import GraphWriter
from .opset import OPSET

_INLINED = 4  # values of a reduction that is no kernel of its own
_LARGE = 1 << 14  # pixels of a map whose reduction is split


def normalise(graph: GraphWriter, x: str, groups: int, factor: str, epsilon: float,
              output: str, bias: str = "") -> str:
    """The normalised map. ``x``: a map, or its float32 form. ``factor``: float32 (1, groups,
    C / groups). ``bias``: float32 (1, C, 1, 1), or absent."""
    size = graph.image_size(x)
    if graph.opset == OPSET:
        n = two_passes(graph, x, groups, factor, epsilon, output)
    elif size is not None and (graph.dtype_of(graph.narrow(x)) == np.float32
                               or size[0] * size[1] > _LARGE):
        return instance(graph, x, groups, factor, epsilon, output, bias)
    elif graph.dtype_of(graph.narrow(x)) == np.float16:
        return one_pass(graph, x, groups, factor, epsilon, output, bias)
    else:
        n = two_passes(graph, x, groups, factor, epsilon, output)
    return graph.op("Add", n, bias, output=f"{output}/n") if bias else n


def two_passes(graph: GraphWriter, x: str, groups: int, factor: str, epsilon: float,
               output: str) -> str:
    """Without a bias. Only vectors are reshaped, and a map keeps its layout."""
    channels, x = graph.channels(x), graph.cast(x, np.float32)
    each = graph.constant(np.ones((1, 1, channels // groups), np.float32), "ones")

    def of_groups(of: str, label: str) -> str:
        inner = graph.mean(of, (2, 3), f"{output}/{label}_channel")
        return graph.mean(graph.reshape(inner, 0, groups, -1), (2,), f"{output}/{label}")

    center = graph.op("Mul", of_groups(x, "mean"), each, output=f"{output}/center")
    moved = graph.op("Sub", x, graph.reshape(center, 0, channels, 1, 1), output=f"{output}/moved")
    square = graph.op("Mul", moved, moved, output=f"{output}/square")
    by = _over_deviation(graph, of_groups(square, "variance"), factor, epsilon, output)
    return graph.op("Mul", moved, graph.reshape(by, 0, channels, 1, 1), output=output)


def one_pass(graph: GraphWriter, x: str, groups: int, factor: str, epsilon: float,
             output: str, bias: str) -> str:
    """Of a float16 map, for which the sums of squares are exact enough: they are float32, and the
    map's own rounding costs more unless a mean is a thousand deviations. What is subtracted from
    the map is the mean in float16, so that no kernel stores the map in float32; the rest of the
    mean is subtracted behind the factor."""
    channels, narrow = graph.channels(x), graph.narrow(x)
    wide = graph.cast(narrow, np.float32)
    each = graph.constant(np.ones((1, 1, channels // groups), np.float32), "ones")

    def of_groups(of: str, label: str) -> str:
        found = graph.mean(of, (2, 3), f"{output}/{label}_channel")
        left = channels // groups
        while left > 1:
            part = _INLINED if left % _INLINED == 0 else left
            found = graph.mean(graph.reshape(found, 0, -1, part), (2,), f"{output}/{label}")
            left //= part
        return graph.reshape(found, 0, groups, 1)

    mean = of_groups(wide, "mean")
    square = of_groups(graph.op("Mul", wide, wide, output=f"{output}/square"), "square_mean")
    variance = graph.op("Sub", square, graph.op("Mul", mean, mean, output=f"{output}/mean_square"),
                        output=f"{output}/difference")
    # Rounding may have made a variance of 0 negative.
    variance = graph.op("Relu", variance, output=f"{output}/variance")
    by = _over_deviation(graph, variance, factor, epsilon, output)
    each_mean = graph.op("Mul", mean, each, output=f"{output}/center")
    center = graph.cast(graph.reshape(each_mean, 0, channels, 1, 1), np.float16)
    moved = graph.cast(graph.op("Sub", narrow, center, output=f"{output}/moved"), np.float32)
    by = graph.reshape(by, 0, channels, 1, 1)
    rest = graph.op("Sub", graph.reshape(each_mean, 0, channels, 1, 1),
                    graph.cast(center, np.float32), output=f"{output}/rest")
    scaled = graph.op("Mul", moved, by, output=f"{output}/scaled")
    rest = graph.op("Mul", rest, by, output=f"{output}/rest_scaled")
    if bias:
        rest = graph.op("Sub", rest, bias, output=f"{output}/shift")
    return graph.op("Sub", scaled, rest, output=output)


def instance(graph: GraphWriter, x: str, groups: int, factor: str, epsilon: float,
             output: str, bias: str) -> str:
    """In the type of the map, whose size must be known. A runtime's statistics are float32."""
    channels, narrow, size = graph.channels(x), graph.narrow(x), graph.image_size(x)
    assert size is not None
    dtype = graph.dtype_of(narrow)
    one, zero = (graph.constant(np.full(groups, value, dtype), f"{name}_{dtype}")
                 for name, value in (("one", 1), ("zero", 0)))
    n = graph.op("InstanceNormalization", graph.reshape(narrow, 0, groups, -1), one, zero,
                 output=f"{output}/groups", epsilon=epsilon)
    n = graph.reshape(n, 0, channels, *size)
    n = graph.op("Mul", n, graph.cast(graph.reshape(factor, 1, channels, 1, 1), dtype),
                 output=output if dtype == np.float32 and not bias else f"{output}/scaled")
    if bias:
        n = graph.op("Add", n, graph.cast(bias, dtype), output=f"{output}/n")
    return n


def _over_deviation(graph: GraphWriter, variance: str, factor: str, epsilon: float,
                    output: str) -> str:
    """factor / sqrt(variance + epsilon); ``variance``: (N, groups, 1)."""
    added = graph.op("Add", variance, graph.constant(np.full((1, 1, 1), epsilon, np.float32),
                                                     "epsilon"), output=f"{output}/sum")
    deviation = graph.op("Sqrt", added, output=f"{output}/deviation")
    return graph.op("Div", factor, deviation, output=f"{output}/factor")
