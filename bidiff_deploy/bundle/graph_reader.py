"""Reads from a step graph's nodes and tensors what it computes, whatever the manifest states.

Every node that multiplies (convolution, matrix product) becomes a ``GraphLayer``: how its weights
are stored, in what type it multiplies, the size of its map, its multiply-accumulates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from ..operators.definitions import defined_by_us, inline_fused
from ..operators.names import BINARY_CONV, DOMAIN, FUSED
from ..operators.shapes import SAME_SHAPE, STANDARD, Shape, infer_shapes
from ..operators.sign_bits import words_per_tap

_KINDS: dict[int, str] = {
    TensorProto.FLOAT: "float", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8", TensorProto.UINT8: "int8", TensorProto.DOUBLE: "float64"}
# Operators that multiply: indices of their activation and weight inputs.
_MULTIPLIERS = {"Conv": (0, 1), "ConvInteger": (0, 1), "QLinearConv": (0, 3), "MatMul": (0, 1),
                "MatMulInteger": (0, 1), "QLinearMatMul": (0, 3), "Gemm": (0, 1)}
_INTEGER = ("ConvInteger", "QLinearConv", "MatMulInteger", "QLinearMatMul")
# Kinds of the types in the attribute `compute` of a fused operator.
_ROUNDED = {b"bfloat16": "bf16", b"float16": "fp16"}
# Standard operators that multiply, but are in none of our networks.
_UNCOUNTED = ("ConvTranspose", "DeformConv", "Einsum", "Attention", "RNN", "GRU", "LSTM")


@dataclass(frozen=True)
class GraphLayer:
    """One node that multiplies.

    name           of its weights without the last part ("d3.c1" of "d3.c1.weight"), or of its
                   output if both factors are activations ("m0.a.scores" of "m0.a/scores")
    op             operator, with its domain unless that is the standard one
    inside         output of the fused operator that it is part of, or None
    kind           packed | int8 | bf16 | fp16 | float | ...: the type in which it multiplies, or
                   to which its fused operator may round
    bits           bits of a stored weight; None if both factors are activations
    shape          of its weights, (Cout, Cin, k, k); empty if both factors are activations
    height, width  of its output; None if unknown
    macs           multiply-accumulates for one image; None if unknown
    tensors        names of the initializers that it reads, shared ones included
    """

    name: str
    op: str
    inside: str | None
    kind: str
    bits: int | None
    shape: Shape
    height: int | None
    width: int | None
    macs: int | None
    tensors: tuple[str, ...]


class GraphReader:
    """The nodes of one step graph at one image size, including those inside fused operators.

    A fused operator is inlined if the graph's definition of it is ours; else it counts as unknown.
    ``shapes``: of every value, by name; inlining keeps the names of fused operators' outputs.
    """

    def __init__(self, model: onnx.ModelProto, height: int, width: int) -> None:
        foreign = [f for f in model.functions if f.domain == DOMAIN and not defined_by_us(f)]
        self._foreign = {function.name for function in foreign}
        self._operators = Counter(_op(node) for node in model.graph.node)
        if foreign:  # a copy without their definitions, which could be recursive
            without = onnx.ModelProto()
            without.CopyFrom(model)
            for function in foreign:
                without.functions.remove(function)
            model = without
        defined = {function.name for function in model.functions if function.domain == DOMAIN}
        self._calls = {node.output[0]: node for node in model.graph.node
                       if node.domain == DOMAIN and node.op_type in FUSED
                       and node.op_type in defined and node.output}
        model = inline_fused(model)
        self.graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        self._producers = {output: node for node in self.graph.node for output in node.output}
        # Values computed from initializers only -> these initializers.
        self._constants: dict[str, tuple[str, ...]] = {name: (name,) for name in self.initializers}
        for node in self.graph.node:
            inputs = [name for name in node.input if name]
            if all(name in self._constants for name in inputs):
                sources = {source: None for name in inputs for source in self._constants[name]}
                self._constants.update(dict.fromkeys(node.output, tuple(sources)))
        self._types, self.shapes = infer_shapes(model, height, width)

    def operators(self) -> dict[str, int]:
        """Number of nodes of each operator in the graph as it is stored, fused ones not inlined."""
        return dict(self._operators)

    def unknown_operators(self) -> list[str]:
        """Operators whose products are not counted: other domains, inner graphs, rare ones."""
        found = []
        for node in self.graph.node:
            ours = (node.domain == DOMAIN and node.op_type in (BINARY_CONV, *SAME_SHAPE)
                    and node.op_type not in self._foreign)
            inside = any(a.HasField("g") or a.graphs for a in node.attribute)
            standard = node.domain in STANDARD and node.op_type not in _UNCOUNTED
            if not (ours or standard) or inside:
                found.append(_op(node))
        return sorted(set(found))

    def layers(self) -> Iterator[GraphLayer]:
        """Every node that multiplies, in the order of the graph."""
        for node in self.graph.node:
            if node.domain == DOMAIN and node.op_type == BINARY_CONV and len(node.input) > 1:
                yield self._binary(node)
            elif node.domain in STANDARD and node.op_type in _MULTIPLIERS:
                activation, weight = _MULTIPLIERS[node.op_type]
                if len(node.input) > max(activation, weight):
                    yield self._float(node, node.input[activation], node.input[weight])

    def consumers(self, name: str) -> set[str]:
        """Operators that read a value."""
        return {_op(node) for node in self.graph.node if name in node.input}

    def _binary(self, node: onnx.NodeProto) -> GraphLayer:
        words = self.initializers.get(node.input[1])
        dims = tuple(words.dims) if words is not None else (None,) * 4
        cin = self._dim(node.input[0], 1)
        packed = (words is not None and words.data_type == TensorProto.INT32 and len(dims) == 4
                  and cin is not None and dims[1] == dims[2] and dims[3] == words_per_tap(cin))
        cout, k = dims[:2] if len(dims) == 4 else (None, None)
        return self._layer(node, _stem(words.name if words is not None else node.output[0]),
                           "packed" if packed else "unknown", 1 if packed else None,
                           (cout, cin, k, k), _product(cin, k, k))

    def _float(self, node: onnx.NodeProto, activation: str, weight: str) -> GraphLayer:
        sources = self._constants.get(weight)
        shape = self.shapes.get(weight, ())
        if sources is None:  # both factors are computed
            return self._layer(node, node.output[0].replace("/", "."), self._kind(weight), None, (),
                               self._dim(activation, -1))
        name = max(sources, key=lambda name: math.prod(self.initializers[name].dims), default="")
        bits = _stored_bits(self.initializers[name].data_type) if name else None
        producer = self._producers.get(activation)
        quantised = node.op_type in _INTEGER or (
            bits == 8 and producer is not None and producer.op_type == "DequantizeLinear")
        each = _product(*shape[1:]) if len(shape) == 4 else self._dim(activation, -1)
        return self._layer(node, _stem(name) if name else node.output[0],
                           "int8" if quantised else self._kind(weight), bits, shape, each)

    def _layer(self, node: onnx.NodeProto, name: str, kind: str, bits: int | None, shape: Shape,
               each: int | None) -> GraphLayer:
        """``each``: multiply-accumulates per element of the output."""
        output = self.shapes.get(node.output[0], (None,))
        height, width = output[2:] if len(output) == 4 else (None, None)
        tensors = {name: None for value in node.input for name in self._constants.get(value, ())}
        inside = self._inside(node, tensors)
        if inside is not None and kind == "float":
            compute = next((a.s for a in self._calls[inside].attribute if a.name == "compute"), b"")
            kind = _ROUNDED.get(compute, kind)
        return GraphLayer(name, _op(node), inside, kind, bits, shape, height, width,
                          _product(each, *output), tuple(tensors))

    def _inside(self, node: onnx.NodeProto, tensors: Iterable[str]) -> str | None:
        """Output of the fused operator that a node of the inlined graph was part of."""
        owner: str = node.output[0].partition("/")[0]
        if owner in self._calls:
            return owner
        # A BinaryConv is named after its words, which only one fused operator reads.
        if node.op_type != BINARY_CONV:
            return None
        return next((output for output, call in self._calls.items()
                     if set(tensors) <= set(call.input)), None)

    def _kind(self, value: str) -> str:
        found = self._types.get(value, TensorProto.UNDEFINED)
        return _KINDS.get(found) or str(TensorProto.DataType.Name(found)).lower()

    def _dim(self, value: str, axis: int) -> int | None:
        shape = self.shapes.get(value, ())
        return shape[axis] if -len(shape) <= axis < len(shape) else None


def _product(*factors: int | None) -> int | None:
    known = [factor for factor in factors if factor is not None]
    return math.prod(known) if len(known) == len(factors) else None


def _stored_bits(data_type: int) -> int:
    if data_type in (TensorProto.INT4, TensorProto.UINT4):
        return 4  # a byte in numpy
    if data_type == TensorProto.INT32:
        return 1  # sign words, which the graph itself unpacks
    return 8 * helper.tensor_dtype_to_np_dtype(data_type).itemsize


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _op(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
