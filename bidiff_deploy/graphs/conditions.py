"""What passes require and ensure of a graph: in words, and as a cheap check of it.

A check reads names, types and operators, never values: it finds a pass that is missing or in the
wrong place, not a node that computes something else. Tests of the passes do that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from ..operators.names import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH
from ..operators.shapes import STANDARD
from .inline import KERNELS
from .opset import OPERATORS, OPERATORS_OF_10, OPSET
from .record import Options, ParameterizedGraph
from .update import FACTORS, LATENT

__all__ = ["AT_SHAPE", "COMPLETE", "Condition", "DEFINED", "FLOAT32", "INLINED", "LOOP", "LOWERED",
           "PARAMETERIZED", "PLUGIN_NODES", "ROWS", "STANDARD_ONLY"]


@dataclass(frozen=True)
class Condition:
    """``words`` say it; ``holds`` returns whether a graph meets it."""

    words: str
    holds: Callable[[ParameterizedGraph, Options], bool]


def _our_nodes(graph: ParameterizedGraph) -> list[onnx.NodeProto]:
    return [node for node in graph.model.graph.node if node.domain == DOMAIN]


def _interface(graph: ParameterizedGraph) -> list[onnx.TypeProto.Tensor]:
    return [value.type.tensor_type
            for value in (*graph.model.graph.input, *graph.model.graph.output)]


def _names(values: list[onnx.ValueInfoProto]) -> set[str]:
    return {value.name for value in values}


def _external(graph: ParameterizedGraph) -> set[str]:
    return {tensor.name for tensor in graph.model.graph.initializer
            if tensor.data_location == TensorProto.EXTERNAL}


def _defined(graph: ParameterizedGraph, _: Options) -> bool:
    defined = {function.name for function in graph.model.functions if function.domain == DOMAIN}
    return {node.op_type for node in _our_nodes(graph)} <= defined


def _parameterized(graph: ParameterizedGraph, _: Options) -> bool:
    return (set(graph.inputs) <= _names(graph.model.graph.input)
            and _external(graph) <= set(graph.constants))


def _inlined(graph: ParameterizedGraph, _: Options) -> bool:
    return not graph.model.functions and bool(graph.shapes) and {
        node.op_type for node in _our_nodes(graph)} <= {*KERNELS, BINARY_CONV, GROUP_NORM_SWISH}


def _float32(graph: ParameterizedGraph, _: Options) -> bool:
    return not any(tensor.data_type == TensorProto.FLOAT16
                   for tensor in graph.model.graph.initializer)


def _rows(graph: ParameterizedGraph, _: Options) -> bool:
    return all(len(tensor.shape.dim) == 4 for tensor in _interface(graph))


def _lowered(graph: ParameterizedGraph, options: Options) -> bool:
    versions = {opset.version for opset in graph.model.opset_import if opset.domain in STANDARD}
    operators = OPERATORS if options.opset == OPSET else OPERATORS_OF_10
    return versions == {options.opset} and not graph.model.graph.initializer and all(
        node.op_type in operators for node in graph.model.graph.node if node.domain in STANDARD)


def _plugin_nodes(graph: ParameterizedGraph, _: Options) -> bool:
    return all("plugin_version" in {attribute.name for attribute in node.attribute}
               for node in _our_nodes(graph))


def _standard_only(graph: ParameterizedGraph, _: Options) -> bool:
    return not _our_nodes(graph)


def _loop(graph: ParameterizedGraph, options: Options) -> bool:
    return not options.loop or (set(FACTORS) <= _names(graph.model.graph.input)
                                and LATENT in _names(graph.model.graph.output))


def _at_shape(graph: ParameterizedGraph, options: Options) -> bool:
    named = {dim.dim_param.rpartition("*")[2]
             for tensor in _interface(graph) for dim in tensor.shape.dim}
    return all(tensor.elem_type == TensorProto.FLOAT for tensor in _interface(graph)) and not (
        options.shape and named & set("NHW"))


def _complete(graph: ParameterizedGraph, _: Options) -> bool:
    return not _external(graph) and not graph.constants and bool(graph.model.graph.initializer)


DEFINED = Condition("every operator of ours has a definition in the model", _defined)
PARAMETERIZED = Condition("a step's constants are inputs, and every other external initializer has "
                          "a value", _parameterized)
INLINED = Condition("of our operators only those with CUDA kernels are left, no function body is, "
                    "and shapes are known", _inlined)
FLOAT32 = Condition("every weight is float32 or an integer", _float32)
ROWS = Condition("every input has the rank of a map", _rows)
LOWERED = Condition("standard operators are those that every supported TensorRT parses, in the "
                    "target's opset, and no constant is in the model", _lowered)
PLUGIN_NODES = Condition("every operator of ours is a node of the plugin", _plugin_nodes)
STANDARD_ONLY = Condition("no operator of ours is left", _standard_only)
LOOP = Condition("of a network with a loop, the image at the next time step is an output", _loop)
AT_SHAPE = Condition("inputs and outputs are float32, and have the target's shape if it has one",
                     _at_shape)
COMPLETE = Condition("every weight is in the model", _complete)
