"""Pass ``lower_dense``: operators of ours become standard ones, for TensorRT without our plugin.

Before: ``BinaryConv``, ``GroupNormSwish`` and operators that fuse them. After: convolutions of +1
and -1 with +-alpha, in the type of the maps or in int8, and group norms as ``norms`` writes them.

- The sign is Sign(Sign(x + threshold) + 0.5), which is +1 at both zeros. Comparisons return
  booleans and ``Where`` is a layer of its own, which older versions do not fuse. (The result for
  NaN is no sign and need not be: the shortcut passes NaN on.)
- The convolution pads the binarised map with zeros, as the op contract says.
- QuantizeLinear and DequantizeLinear express int8. Signs have scale 1; weights are stored as floats
  that their channel's alpha turns into +-1, because 8.5 accepts no int8 constants. Scales are
  float32, the only type that opset 17 allows; in opset 19 they have the type of the maps.
- With float16 maps the inside of an operator is float32 between two casts, as its kernel computes
  it, because signs of rounded values would differ: the norm, the sum whose sign is taken, and
  everything after a convolution. Operators that only move values are float16, and convolutions
  have the type of the maps, or that of their scales.
- In opset 19, which compilers fuse further, a value is stored in one type where that saves a
  kernel or a copy: a norm's value is float16 for its signs and its shortcut, the last addition of a
  block is float16, and halves of a map whose signs are taken are halves of its float32 form.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import onnx

from ..errors import EngineError
from ..operators.block_functions import block_functions, winograd_conv
from ..operators.names import BINARY_CONV, DOMAIN, EPSILON, GROUP_NORM_SWISH, SCALED_BINARY_CONV
from ..operators.sign_bits import dense_weight, words_per_tap
from .graph_writer import Array
from .lower_opset import Lowering, lower_opset
from .opset import OPSET
from .record import Options, ParameterizedGraph


def lower_dense(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """Pass of the same name: ``lower_opset`` without operators of ours. Raises EngineError for an
    operator or weights that have no standard form."""
    return lower_opset(graph, options, Dense(int8=options.int8))


class Dense:
    """Writes a node of our domain in standard operators; ``int8``: convolutions are quantised."""

    def __init__(self, *, int8: bool) -> None:
        self._int8 = int8

    def __call__(self, graph: Lowering, node: onnx.NodeProto) -> None:
        """Raises EngineError for an operator that is not ours, or whose weights are unknown."""
        maps = graph.dtype_of(node.input[0])
        if node.op_type in (BINARY_CONV, GROUP_NORM_SWISH):
            y = self._layer(graph, node, maps)
        elif node.op_type == SCALED_BINARY_CONV:
            y = self._scaled(graph, node, maps)
        elif node.domain == DOMAIN and node.op_type in _bodies():
            y = self._fused(graph, node, maps)
        else:
            raise EngineError(f"{node.domain}.{node.op_type} has no form in standard operators; "
                              "export the bundle again")
        graph.finish(graph.cast(y, maps), node.output[0])

    def _fused(self, graph: Lowering, call: onnx.NodeProto, maps: np.dtype[Any]) -> str:
        """Writes the nodes of an operator's definition, named as by ``inline_fused``; returns its
        value, float32 or in the type of the maps."""
        body, output = _bodies()[call.op_type], call.output[0]
        sums, halves = np.dtype(np.float32), maps
        if graph.opset > OPSET:
            sums, halves = halves, sums
        names = dict(zip(body.input, call.input))
        given = {attribute.name: attribute for attribute in call.attribute}
        for inner in body.node:
            node = onnx.NodeProto()
            node.CopyFrom(inner)
            layer = node.op_type in (BINARY_CONV, GROUP_NORM_SWISH)
            # Moved values are the same in either type.
            wanted = {"Add": sums, "Split": halves}.get(node.op_type, maps)
            for index, name in enumerate(inner.input):
                name = graph.found(names[name])
                if not layer and graph.dtype_of(name).kind == "f":
                    name = graph.cast(name, wanted)
                node.input[index] = name
            for index, name in enumerate(inner.output):
                names[name] = node.output[index] = f"{output}/{name}"
            for attribute in node.attribute:
                if attribute.ref_attr_name:
                    attribute.CopyFrom(given[attribute.ref_attr_name])
            if layer:
                names[inner.output[0]] = self._layer(graph, node, maps)
            else:
                graph.standard(node)
        return graph.found(names[body.output[0]])

    def _layer(self, graph: Lowering, node: onnx.NodeProto, maps: np.dtype[Any]) -> str:
        """Writes one layer; returns its value, float32 or in the type of the maps."""
        if node.op_type == GROUP_NORM_SWISH:
            return _group_norm_swish(graph, node)
        inputs = [*node.input, *[""] * (7 - len(node.input))]
        x, words, alpha, threshold, rprelu, residual, time = inputs
        name = words.rpartition(".")[0] or node.output[0]
        if graph.opset > OPSET and graph.dtype_of(x) != maps:  # a norm's value, read twice
            x, residual = (value and graph.cast(value, maps) for value in (x, residual))
            y = graph.signs(x, threshold, name)
        else:
            y = graph.signs(graph.cast(x, np.float32), threshold, name)
        y = self._convolution(graph, name, y, _weight(graph, words, alpha, x), maps)
        y = graph.cast(y, np.float32)
        y = _rprelu(graph, name, y, rprelu)
        if not graph.absent(residual):
            y = graph.op("Add", y, graph.cast(residual, np.float32), output=f"{name}/shortcut")
        if not graph.absent(time):
            y = graph.op("Add", y, graph.column(time), output=f"{name}/timed")
        graph.as_large_as(y, name)
        return y

    def _scaled(self, graph: Lowering, node: onnx.NodeProto, maps: np.dtype[Any]) -> str:
        """Writes a ScaledBinaryConv, whose branches become one dense 1x1 convolution; returns its
        value, float32."""
        x, words, alpha, rprelu, down, up, values, indices = node.input
        name, wide = words.rpartition(".")[0], graph.cast(x, np.float32)
        scale = graph.mean(graph.op("Abs", wide, output=f"{name}/sizes"), [1], f"{name}/scale")
        signs = graph.op("Sign", wide, output=f"{name}/signs_of_x")
        y = graph.op("Mul", signs, scale, output=f"{name}/activation")
        y = self._convolution(graph, name, y, _weight(graph, words, alpha, x), maps)
        y = _rprelu(graph, name, graph.cast(y, np.float32), rprelu)
        constants = [graph.constants.get(part) for part in (down, up, values, indices)]
        if any(value is None for value in constants):
            raise EngineError(f"the branches of {name} are no constants, which a graph without our "
                              "operators needs; export the bundle again")
        low, high, sparse, places = (np.asarray(value) for value in constants)
        dense = high @ low
        np.add.at(dense, tuple(places), sparse)
        if dense.any():
            weight = graph.constant(dense[:, :, None, None].astype(maps), f"{name}/branches")
            branch = graph.op("Conv", graph.cast(x, maps), weight, output=f"{name}/branch",
                              kernel_shape=[1, 1])
            y = graph.op("Add", y, graph.cast(branch, np.float32), output=f"{name}/both")
        graph.as_large_as(y, name)
        return y

    def _convolution(self, graph: Lowering, name: str, signs: str, weight: Array,
                     maps: np.dtype[Any]) -> str:
        """Writes the convolution of a map of signs; raises EngineError for scales beyond the range
        of its type."""
        k = weight.shape[-1]
        if self._int8 and graph.opset == OPSET:
            maps = np.dtype(np.float32)
        with np.errstate(over="ignore"):
            narrow = weight.astype(maps)
        if not np.array_equal(np.isfinite(weight), np.isfinite(narrow)):
            raise EngineError(f"the scales of {name} are beyond the range of float16; export the "
                              "bundle with --precision exact")
        signs, taps = graph.cast(signs, maps), graph.constant(narrow, f"{name}/weight")
        if self._int8:
            signs = _quantised(graph, signs, np.ones((), maps), f"{name}/signs")
            scale = np.abs(narrow).max(axis=(1, 2, 3))
            scale[scale == 0] = 1
            taps = _quantised(graph, taps, scale, f"{name}/weight")
        return graph.op("Conv", signs, taps, output=f"{name}/sums", kernel_shape=[k, k],
                        pads=[k // 2] * 4)


def _weight(graph: Lowering, words: str, alpha: str, x: str) -> Array:
    """The weights +-alpha, float32 (Cout, Cin, k, k). Raises EngineError for words that are no
    constant or do not fit the channels of ``x``."""
    if words not in graph.constants or alpha not in graph.constants:
        raise EngineError(f"the weights {words} are no constants, which a graph without our "
                          "plugin needs; export the bundle again")
    packed, scale, channels = graph.constants[words], graph.constants[alpha], graph.channels(x)
    if packed.ndim != 4 or packed.shape[3] != words_per_tap(channels) or (
            scale.shape != packed.shape[:1]):
        raise EngineError(f"the weights {words} have shape {packed.shape}, which does not fit "
                          f"{channels} channels; export the bundle again")
    return dense_weight(packed, scale, channels)


def _quantised(graph: Lowering, name: str, scale: Array, label: str) -> str:
    """A value through int8 and back; ``scale``: one number, or one per output channel."""
    zero = graph.constant(np.zeros(scale.shape, np.int8), f"zero_{scale.size}")
    factor = graph.constant(scale, f"{label}_scale" if scale.ndim else "unit_scale")
    axis: dict[str, Any] = {"axis": 0} if scale.ndim else {}
    stored = graph.op("QuantizeLinear", name, factor, zero, output=f"{label}_int8", **axis)
    return graph.op("DequantizeLinear", stored, factor, zero, output=f"{label}_float", **axis)


def _rprelu(graph: Lowering, name: str, y: str, rprelu: str) -> str:
    """Writes the RPReLU of ``y``, unless it is absent or the identity."""
    if graph.absent(rprelu):
        return y
    rows = graph.constants.get(rprelu)
    if rows is not None and not rows[0].any() and not rows[2].any() and np.all(rows[1] == 1):
        return y
    before, slope, after = graph.columns(rprelu, 3)
    y = graph.op("Add", y, before, output=f"{name}/moved")
    y = graph.rectify(y, slope, f"{name}/rectified")
    return graph.op("Add", y, after, output=f"{name}/activated")


def _group_norm_swish(graph: Lowering, node: onnx.NodeProto) -> str:
    x, scale, bias = node.input
    name = node.output[0]
    groups = next(a.i for a in node.attribute if a.name == "groups")
    n = graph.normalise(x, groups, graph.reshape(scale, 1, groups, -1), EPSILON,
                        f"{name}/normal", graph.column(bias))
    gate = graph.op("Sigmoid", n, output=f"{name}/gate")
    y = graph.op("Mul", n, gate, output=f"{name}/swish")
    graph.as_large_as(y, name)
    return y


@functools.lru_cache(maxsize=1)
def _bodies() -> dict[str, onnx.FunctionProto]:
    return {function.name: function for function in (*block_functions(), winograd_conv())}
