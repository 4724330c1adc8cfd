"""All definitions of our operators: to attach, to recognise, to inline."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable
from typing import Any

import onnx

from .block_functions import block_functions, winograd_conv
from .layer_functions import binary_conv, group_norm_swish, scaled_binary_conv
from .names import BINARY_CONV, DOMAIN, FUSED
from .scan_function import selective_scan


def functions() -> list[onnx.FunctionProto]:
    """Definitions of the operators of BI-DiffSR, in a fixed order: part of its graphs."""
    return [binary_conv(), group_norm_swish(), *block_functions()]


def scaled_functions() -> list[onnx.FunctionProto]:
    """Definitions of the operators of BiMaCoSR, in a fixed order."""
    return [group_norm_swish(), scaled_binary_conv()]


def inline_fused(model: onnx.ModelProto, keep: Collection[str] = ()) -> onnx.ModelProto:
    """The model with every fused operator, except those of ``keep``, replaced by its definition,
    one level deep; the model itself if it has none.

    A BinaryConv's output is named after its words without the last part ("e3.c1" for
    "e3.c1.words"); outputs of fused operators keep their names, which are the beginning of the
    names of the values inside ("m0.a/scores").
    """
    import onnx.inliner

    inside = {function.name: [node.output for node in function.node]
              for function in model.functions
              if function.domain == DOMAIN and function.name in FUSED
              and function.name not in keep}
    if not inside:
        return model
    flat = onnx.inliner.inline_selected_functions(model, [(DOMAIN, name) for name in inside])
    taken = {name for node in flat.graph.node for name in (*node.input, *node.output)}
    renamed: dict[str, str] = {}
    nodes = iter(flat.graph.node)
    for call in model.graph.node:
        body = inside.get(call.op_type) if call.domain == DOMAIN else None
        # Each node of a definition becomes one node, in the same order.
        for outputs in [()] if body is None else body:
            node = next(nodes)
            for old, inner in zip(node.output, outputs):
                binary = node.domain == DOMAIN and node.op_type == BINARY_CONV
                new = node.input[1].rpartition(".")[0] if binary else f"{call.output[0]}/{inner}"
                if old not in call.output and new and new not in taken:
                    taken.add(new)
                    renamed[old] = new
    for node in flat.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    _drop_absent_leaks(flat.graph)
    return flat


def _drop_absent_leaks(graph: onnx.GraphProto) -> None:
    """Remove every LeakyRelu of slope 1, which in a definition means that there is none."""
    same: dict[str, str] = {}
    outputs = {value.name for value in graph.output}
    kept = []
    for node in graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = same.get(name, name)
        if (node.op_type == "LeakyRelu" and node.attribute and node.attribute[0].f == 1
                and node.output[0] not in outputs):
            same[node.output[0]] = node.input[0]
        else:
            kept.append(node)
    if same:
        del graph.node[:]
        graph.node.extend(kept)


def every_function() -> list[onnx.FunctionProto]:
    """Definitions of every operator of the domain."""
    return [*functions(), winograd_conv(), selective_scan(), scaled_binary_conv()]


def defined_by_us(function: onnx.FunctionProto) -> bool:
    """Whether a function is one of our operators with our definition."""
    return _definitions().get((function.domain, function.name)) == _canonical(function)


@functools.lru_cache(maxsize=1)
def _definitions() -> dict[tuple[str, str], tuple[Any, ...]]:
    return {(function.domain, function.name): _canonical(function) for function in every_function()}


def _canonical(function: onnx.FunctionProto) -> tuple[Any, ...]:
    """What a definition computes, to be compared: all of it but the names of its nodes."""
    def attributes(found: Iterable[onnx.AttributeProto]) -> list[bytes]:
        return sorted(attribute.SerializeToString(deterministic=True) for attribute in found)

    return (list(function.input), list(function.output), sorted(function.attribute),
            attributes(function.attribute_proto),
            [(opset.domain, opset.version) for opset in function.opset_import],
            [(node.domain, node.op_type, list(node.input), list(node.output),
              attributes(node.attribute)) for node in function.node])
