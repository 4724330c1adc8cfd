"""Pass ``float16``: maps between the layers become float16.

Before: every map is float32. After: maps, and the weights of convolutions, are float16 from the
first layer's output on. Float32 remain the inputs and outputs of the graph, the first layer (every
sign depends on its sums), sums with the image itself, statistics over many values (group norms,
softmax) and vectors of our operators. A value that is read in both types is cast once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..errors import EngineError
from ..operators.names import (
    BINARY_CONV,
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    DOMAIN,
    GROUP_NORM_SWISH,
    NORM_BINARY_CONV,
)
from ..operators.shapes import STANDARD
from .graph_writer import Array
from .record import Options, ParameterizedGraph

FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16
# Which inputs of our operators are maps; other floats are vectors, always float32.
MAPS = {BINARY_CONV: (0, 5), GROUP_NORM_SWISH: (0,), NORM_BINARY_CONV: (0, 8),
        BINARY_FUSION: (0, 1), BINARY_DOWN: (0,), BINARY_UP: (0,)}
# Products of many terms, which tensor cores read in float16 and add in float32.
_PRODUCTS = ("Conv", "MatMul")
# They compute in the type of their inputs: float16 if one of them is.
_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Concat", "LeakyRelu")
# They move the values of their first input.
_MOVERS = ("Reshape", "Transpose", "Split", "Slice", "Identity", "Gather")
_NEUTRAL = ("Shape", "Constant", "Cast")  # the type of their output does not depend on inputs


def float16(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph with float16 maps. Raises EngineError for weights beyond the range of float16."""
    model, constants = half(graph.model, graph.constants, graph.float32)
    return dataclasses.replace(graph, model=model, constants=constants)


def half(model: onnx.ModelProto, constants: Mapping[str, Array],
         float32: frozenset[str]) -> tuple[onnx.ModelProto, dict[str, Array]]:
    """The graph with float16 maps, and the values of its external initializers.

    ``model``: a graph of standard operators and those of ``MAPS``. ``constants``: values of its
    external initializers. ``float32``: outputs of nodes that remain float32. The arguments are not
    changed. Raises EngineError for a weight beyond the range of float16.
    """
    return _Halver(model, constants, float32).run()


class _Halver:
    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, Array],
                 float32: frozenset[str]) -> None:
        self._model, self._constants, self._float32 = model, dict(constants), float32
        graph = model.graph
        self._initializers = {tensor.name: tensor for tensor in graph.initializer}
        self._types: dict[str, int] = {
            value.name: value.type.tensor_type.elem_type for value in graph.input}
        self._types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
        self._nodes: list[onnx.NodeProto] = []
        self._cast: dict[tuple[str, int], str] = {}
        self._added: list[TensorProto] = []

    def run(self) -> tuple[onnx.ModelProto, dict[str, Array]]:
        """The result of ``half``."""
        graph = self._model.graph
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            kind = self._convert(copy)
            self._nodes.append(copy)
            self._types.update(dict.fromkeys(copy.output, kind))
        for value in graph.output:
            self._restore(value.name)
        used = {name for node in self._nodes for name in node.input}
        kept = [tensor for tensor in (*graph.initializer, *self._added) if tensor.name in used]
        changed = helper.make_graph(self._nodes, graph.name, graph.input, graph.output, kept)
        model = helper.make_model(changed, opset_imports=self._model.opset_import,
                                  ir_version=self._model.ir_version)
        return model, {name: value for name, value in self._constants.items() if name in used}

    def _convert(self, node: onnx.NodeProto) -> int:
        """Cast the node's inputs to their types; returns the type of its outputs."""
        if node.domain == DOMAIN and node.op_type in MAPS:
            for index in MAPS[node.op_type]:
                self._want(node, index, HALF)
            return HALF
        standard = node.domain in STANDARD
        if standard and node.op_type in _NEUTRAL:
            return _output_type(node)
        floats = [index for index, name in enumerate(node.input)
                  if self._types.get(name) in (FLOAT, HALF)]
        if standard and node.op_type in _MOVERS:
            return self._types.get(node.input[0], TensorProto.UNDEFINED)
        if not floats:
            return self._types.get(node.input[0], TensorProto.UNDEFINED) if node.input else FLOAT
        narrow = standard and not self._float32.intersection(node.output) and (
            node.op_type in _PRODUCTS or node.op_type in _ELEMENTWISE
            and any(self._types[node.input[index]] == HALF for index in floats))
        for index in floats:
            self._want(node, index, HALF if narrow else FLOAT)
        return HALF if narrow else FLOAT

    def _want(self, node: onnx.NodeProto, index: int, kind: int) -> None:
        """Replace input ``index`` of a node by its value in the type ``kind``."""
        name = node.input[index] if index < len(node.input) else ""
        if not name or self._types.get(name) == kind:
            return
        if (name, kind) not in self._cast:
            new = f"{name}/{'half' if kind == HALF else 'float'}"
            self._cast[name, kind] = new
            self._types[new] = kind
            if name in self._initializers and kind == HALF:
                self._round(name, new)
            else:
                self._nodes.append(helper.make_node("Cast", [name], [new], to=kind))
        node.input[index] = self._cast[name, kind]

    def _round(self, name: str, new: str) -> None:
        """Add an initializer's value in float16 as the initializer ``new``."""
        tensor = self._initializers[name]
        external = tensor.data_location == TensorProto.EXTERNAL
        wide = (self._constants[name] if external else onnx.numpy_helper.to_array(tensor))
        with np.errstate(over="ignore"):
            narrow = wide.astype(np.float16)
        if not np.array_equal(np.isfinite(wide), np.isfinite(narrow)):
            raise EngineError(f"the weights {name} have values beyond the range of float16; export "
                              "the bundle with --precision exact")
        if not external:
            self._added.append(onnx.numpy_helper.from_array(narrow, new))
            return
        copy = TensorProto(name=new, data_type=HALF, dims=tensor.dims,
                           data_location=TensorProto.EXTERNAL)
        for entry in tensor.external_data:
            value = str(narrow.nbytes) if entry.key == "length" else entry.value
            copy.external_data.add(key=entry.key, value=value)
        self._added.append(copy)
        self._constants[new] = narrow

    def _restore(self, name: str) -> None:
        """Make an output of the graph float32 again under its own name."""
        if self._types.get(name) != HALF:
            return
        narrow = f"{name}/half"
        for node in self._nodes:
            for names in (node.input, node.output):
                for index, found in enumerate(names):
                    if found == name:
                        names[index] = narrow
        self._nodes.append(helper.make_node("Cast", [narrow], [name], to=FLOAT))


def _output_type(node: onnx.NodeProto) -> int:
    """The type of a neutral node's output."""
    if node.op_type == "Shape":
        return TensorProto.INT64
    for attribute in node.attribute:
        if attribute.name == "to":
            return int(attribute.i)
        if attribute.name == "value":
            return int(attribute.t.data_type)
        if attribute.name in ("value_float", "value_floats"):
            return FLOAT
    return TensorProto.INT64
