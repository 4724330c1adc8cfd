"""Attention as products of matrices with one row a pixel, for TensorRT from 10 on.

The graph has attention's projections as 1x1 convolutions, whose output (N, C, H, W) is reshaped,
split and transposed before a matrix product reads it: TensorRT-RTX copies each of the three parts
twice. Maps are stored with their channels innermost, so as (N, H W, C) they need no copy.

    before  Conv 1x1 -> Reshape -> Split -> (Div, Transpose) -> MatMul, Softmax
            -> Transpose -> MatMul -> Reshape -> Conv 1x1
    after   a MatMul for each part of the split, and no Transpose between it and the last Conv,
            which is a MatMul.
"""

from __future__ import annotations

import numpy as np
import onnx

from .graph_writer import GraphWriter

__all__ = ["by_rows"]


def by_rows(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    """Write a node of attention; returns the value that replaces each of its outputs, none if the
    node is not one of attention's."""
    written = _WRITERS.get(node.op_type)
    return {} if written is None else written(graph, node)


def _split(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    """A Split of the channels of a 1x1 convolution in equal parts."""
    reshape = _producer(graph, node.input[0], "Reshape")
    conv = None if reshape is None else _producer(graph, reshape.input[0], "Conv")
    axis = next((a.i for a in node.attribute if a.name == "axis"), 0)
    if reshape is None or conv is None or len(conv.input) != 2 or axis != 1:
        return {}
    shape, weight = graph.constants.get(reshape.input[1]), _matrix(graph, conv.input[1])
    if shape is None or shape.tolist() != [0, 0, -1] or weight is None or (
            len(node.input) > 1 or weight.shape[1] % len(node.output)):
        return {}
    pixels = graph.turned(graph.reshape(conv.input[0], 0, 0, -1))
    return {output: graph.turned(graph.op(
                "MatMul", pixels, graph.constant(np.ascontiguousarray(part), f"{output}/weight"),
                output=f"{output}/rows"))
            for part, output in zip(np.split(weight, len(node.output), axis=1), node.output)}


def _div(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    rows = _rows(graph, node.input[0])
    return {} if not rows else {node.output[0]: graph.turned(
        graph.op("Div", rows, node.input[1], output=f"{node.output[0]}/rows"))}


def _transpose(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    rows = _rows(graph, node.input[0])
    return {node.output[0]: rows} if rows else {}


def _mat_mul(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    """The product of transposed rows and a transposed matrix is a transposed product."""
    rows = _rows(graph, node.input[0])
    turned = _producer(graph, graph.uncast(node.input[1]), "Transpose")
    if not rows or turned is None:
        return {}
    left = graph.cast(turned.input[0], graph.dtype_of(node.input[1]))
    return {node.output[0]: graph.turned(
        graph.op("MatMul", left, rows, output=f"{node.output[0]}/rows"))}


def _conv(graph: GraphWriter, node: onnx.NodeProto) -> dict[str, str]:
    """A 1x1 convolution of reshaped rows."""
    reshape, weight = _producer(graph, node.input[0], "Reshape"), _matrix(graph, node.input[1])
    rows = "" if reshape is None else _rows(graph, reshape.input[0])
    if reshape is None or not rows or weight is None:
        return {}
    output = node.output[0]
    y = graph.op("MatMul", rows, graph.constant(weight, f"{output}/weight"),
                 output=f"{output}/rows")
    if len(node.input) > 2:
        y = graph.op("Add", y, graph.reshape(node.input[2], 1, 1, -1), output=f"{output}/biased")
    return {output: graph.op("Reshape", graph.turned(y), reshape.input[1], output=output)}


_WRITERS = {"Split": _split, "Div": _div, "Transpose": _transpose, "MatMul": _mat_mul,
            "Conv": _conv}


def _producer(graph: GraphWriter, name: str, kind: str) -> onnx.NodeProto | None:
    node = graph.producers.get(name)
    return node if node is not None and node.op_type == kind else None


def _rows(graph: GraphWriter, name: str) -> str:
    """The matrices that ``graph.turned`` has transposed to ``name``, else ""."""
    node = _producer(graph, name, "Transpose")
    return node.input[0] if node is not None and graph.was_turned(node.input[0], name) else ""


def _matrix(graph: GraphWriter, name: str) -> np.ndarray | None:
    """The constant weight of a 1x1 convolution, (Cin, Cout); None if ``name`` is not one."""
    weight = graph.constants.get(name)
    if weight is None or weight.shape[2:] != (1, 1):
        return None
    return np.ascontiguousarray(weight[:, :, 0, 0].T)
