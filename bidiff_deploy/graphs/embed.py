"""Passes ``fix_sizes`` and ``embed``: what a parser of TensorRT is given is one complete model.

``fix_sizes`` before: inputs and outputs with dimensions N, H and W, or 2*H. After: all of them
float32, and where the target has a shape, its numbers instead. ``embed`` before: values in
``constants``. After: all of them initializers of the model, in memory.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from onnx import TensorProto, numpy_helper

from ..errors import EngineError
from .record import Options, ParameterizedGraph

MAX_MODEL_BYTES = (1 << 31) - 1  # of a message of protobuf


def fix_sizes(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph at the target's shape. Raises EngineError for an input that is not float32."""
    images = dict(zip("NHW", options.shape)) if options.shape else {}
    for value in (*graph.model.graph.input, *graph.model.graph.output):
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise EngineError(f"the input {value.name} is not float32; export the bundle again")
        for dim in value.type.tensor_type.shape.dim:
            factor, _, side = dim.dim_param.rpartition("*")
            if side in images:
                dim.dim_value = int(factor or 1) * images[side]
    return graph


def embed(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph with all weights inside. Raises EngineError where they are too large for that."""
    size = sum(value.nbytes for value in graph.constants.values())
    if size < MAX_MODEL_BYTES:
        graph.model.graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value, order="C"), name)
            for name, value in graph.constants.items())
        if graph.model.ByteSize() <= MAX_MODEL_BYTES:
            return dataclasses.replace(graph, constants={})
    raise EngineError(f"the graph's weights have {size} bytes, but TensorRT parses a model of at "
                      f"most {MAX_MODEL_BYTES}; use a backend with packed weights")
