"""Reads from the nodes and tensors of a graph that we built what it computes.

Every node that multiplies (convolution, matrix product) values of an image becomes a
``GraphLayer``: how its weights are stored, in what type it multiplies, the size of its map, its
multiply-accumulates.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import onnx

from ..operators.definitions import inline_fused
from ..operators.names import (
    BINARY_CONV,
    DOMAIN,
    FUSED,
    SCALED_BINARY_CONV,
    SCAN_PRODUCTS,
    SELECTIVE_SCAN,
)
from ..operators.shapes import STANDARD, Shape, infer_shapes

__all__ = ["GraphLayer", "GraphReader"]

_MULTIPLIERS = ("Conv", "MatMul")  # standard operators that multiply, activation first
# Kinds of the types in the attribute `compute` of a fused operator.
_ROUNDED = {b"bfloat16": "bf16", b"float16": "fp16"}


@dataclass(frozen=True)
class GraphLayer:
    """One node that multiplies.

    name           of its weights without the last part ("d3.c1" of "d3.c1.weight"), or of its
                   output if both factors are activations ("m0.a.scores" of "m0.a/scores")
    output         name of its output
    op             operator, with its domain unless that is the standard one
    inside         output of the fused operator that it is part of, or None
    kind           packed | int8 | float | bf16 | fp16: the type in which it multiplies, or to which
                   its fused operator may round
    bits           bits of a stored weight; None if both factors are activations
    shape          of its weights, (Cout, Cin, k, k); empty if both factors are activations
    height, width  of its output; None if that is no map
    macs           multiply-accumulates for one image
    tensors        names of the initializers that it reads, shared ones included
    """

    name: str
    output: str
    op: str
    inside: str | None
    kind: str
    bits: int | None
    shape: Shape
    height: int | None
    width: int | None
    macs: int
    tensors: tuple[str, ...]


class GraphReader:
    """The nodes of a bundle's graph at one image size, including those inside fused operators.

    ``shapes``: of every value, by name; inlining keeps the names of fused operators' outputs.
    """

    def __init__(self, model: onnx.ModelProto, height: int, width: int) -> None:
        self._operators = Counter(_op(node) for node in model.graph.node)
        self._calls = {node.output[0]: node for node in model.graph.node
                       if node.domain == DOMAIN and node.op_type in FUSED}
        model = inline_fused(model)
        self.graph = model.graph
        self.initializers = {tensor.name: tensor for tensor in self.graph.initializer}
        # Values computed from initializers and sizes only -> these initializers.
        self._constants: dict[str, tuple[str, ...]] = {name: (name,) for name in self.initializers}
        for node in self.graph.node:
            inputs = [name for name in node.input if name and node.op_type != "Shape"]
            if all(name in self._constants for name in inputs):
                sources = {source: None for name in inputs for source in self._constants[name]}
                self._constants.update(dict.fromkeys(node.output, tuple(sources)))
        self.shapes = infer_shapes(model, height, width)

    def operators(self) -> dict[str, int]:
        """Number of nodes of each operator in the graph as it is stored, fused ones not inlined."""
        return dict(self._operators)

    def layers(self) -> Iterator[GraphLayer]:
        """Every node that multiplies, in the order of the graph. The binary convolutions of a
        layer of several bits are one."""
        layers: dict[tuple[str, ...], list[GraphLayer]] = {}
        for found in self._nodes():
            of_layer = found.op == f"{DOMAIN}.{BINARY_CONV}"
            key = (found.name,) if of_layer else (found.name, found.output)
            layers.setdefault(key, []).append(found)
        for each in layers.values():
            found = each[0]
            if len(each) == 1:
                yield found
            else:
                tensors = dict.fromkeys(name for one in each for name in one.tensors)
                words = [name for name in tensors
                         if self.initializers[name].data_type == onnx.TensorProto.INT32]
                yield replace(found, bits=len(words), macs=sum(one.macs for one in each),
                              tensors=tuple(tensors))

    def _nodes(self) -> Iterator[GraphLayer]:
        for node in self.graph.node:
            if node.domain == DOMAIN and node.op_type == BINARY_CONV:
                yield self._binary(node)
            elif node.domain == DOMAIN and node.op_type == SCALED_BINARY_CONV:
                yield from self._scaled(node)
            elif (node.domain in STANDARD and node.op_type in _MULTIPLIERS
                  and node.output[0] not in self._constants):
                factors = node.input[:2]
                if factors[0] in self._constants:  # a matrix times a map
                    factors = factors[::-1]
                yield self._float(node, *factors)
            elif node.domain == DOMAIN and node.op_type == SELECTIVE_SCAN:
                states = self.shapes[node.input[2]][1]
                yield self._layer(node, node.output[0], "float", None, (),
                                  _product(SCAN_PRODUCTS, states))

    def _binary(self, node: onnx.NodeProto) -> GraphLayer:
        cout, k, _, _ = self.initializers[node.input[1]].dims
        cin = self.shapes[node.input[0]][1]
        return self._layer(node, _stem(node.input[1]), "packed", 1, (cout, cin, k, k),
                           _product(cin, k, k))

    def _scaled(self, node: onnx.NodeProto) -> Iterator[GraphLayer]:
        """The binary part, and low-rank and sparse branches together unless these are zeros."""
        packed = self._binary(node)
        down, up, values, _ = of_branches = tuple(node.input[4:8])
        yield replace(packed, tensors=tuple(
            name for name in packed.tensors if name not in of_branches))
        rank, cin = self.initializers[down].dims
        cout, entries = self.initializers[up].dims[0], self.initializers[values].dims[0]
        if entries > 1:
            pixels = _product(packed.height, packed.width)
            yield replace(packed, name=f"{packed.name}.lora", kind="float", bits=32,
                          shape=(rank, cin + cout, 1, 1), tensors=of_branches,
                          macs=(rank * (cin + cout) + entries) * pixels)

    def _float(self, node: onnx.NodeProto, activation: str, weight: str) -> GraphLayer:
        sources = self._constants.get(weight)
        # The axis that is summed over is the last of a first factor.
        inner = self.shapes[node.input[0]][-1]
        if sources is None:  # both factors are computed
            return self._layer(node, node.output[0].replace("/", "."), "float", None, (),
                               _product(inner))
        shape = self.shapes[weight]
        name = max((source for source in sources
                    if self.initializers[source].data_type != onnx.TensorProto.INT32),
                   key=lambda name: math.prod(self.initializers[name].dims))
        each = _product(*shape[1:]) if len(shape) == 4 else _product(inner)
        byte = self.initializers[name].data_type == onnx.TensorProto.INT8
        return self._layer(node, _stem(name), *(("int8", 8) if byte else ("float", 32)), shape,
                           each)

    def _layer(self, node: onnx.NodeProto, name: str, kind: str, bits: int | None, shape: Shape,
               each: int) -> GraphLayer:
        """``each``: multiply-accumulates per element of the output."""
        output = self.shapes[node.output[0]]
        height, width = output[2:] if len(output) == 4 else (None, None)
        tensors = {name: None for value in node.input for name in self._constants.get(value, ())}
        inside = self._inside(node, tensors)
        if inside is not None and kind == "float":
            compute = next((a.s for a in self._calls[inside].attribute if a.name == "compute"), b"")
            kind = _ROUNDED.get(compute, kind)
        return GraphLayer(name, node.output[0], _op(node), inside, kind, bits, shape, height, width,
                          each * _product(*output), tuple(tensors))

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


def _product(*factors: int | None) -> int:
    """The product of a known shape."""
    assert None not in factors
    return math.prod(factor for factor in factors if factor is not None)


def _stem(name: str) -> str:
    return name.rpartition(".")[0] or name


def _op(node: onnx.NodeProto) -> str:
    return f"{node.domain}.{node.op_type}" if node.domain else node.op_type
