"""Pass ``inline``: fused operators without a CUDA kernel become their definitions.

Before: every operator of ours, with its definition as a function of the model. After: of ours only
those with kernels (``KERNELS``, BinaryConv, GroupNormSwish); cuDNN and cuBLAS, or TensorRT, compute
the convolutions and matrix products of the others. Function bodies are removed, so that nothing
falls back to them silently. ``Shape`` nodes that read a number of channels become constants.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection, Mapping
from types import MappingProxyType

import numpy as np
import onnx
from onnx import helper

from ..operators.definitions import inline_fused
from ..operators.names import (
    BINARY_DOWN,
    BINARY_FUSION,
    BINARY_UP,
    NORM_BINARY_CONV,
)
from ..operators.shapes import STANDARD, Shape, infer_shapes
from .record import Options, ParameterizedGraph

# Fused operators with kernels; BinaryConv and GroupNormSwish have them as well.
KERNELS = (NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)
_SIZE = 8  # side of the image that shapes are inferred at, in multiples of the network's unit
_KEPT_BYTES = 16 << 20  # of a graph whose weights are in files; others are not kept


def inline(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph with ``float32`` and ``shapes`` filled in."""
    bundle = options.graphs.bundle
    side = _SIZE * bundle.network.size_multiple(bundle.config)
    return inline_at(graph, *(options.shape[1:] if options.shape else (side, side)))


def inline_at(graph: ParameterizedGraph, height: int, width: int) -> ParameterizedGraph:
    """As ``inline``; shapes are those of an input of this size."""
    if graph.model.ByteSize() > _KEPT_BYTES:
        model, shapes = _inline(graph.model, height, width)
    else:
        inlined, shapes = _inlined(graph.model.SerializeToString(deterministic=True), height, width)
        model = onnx.load_model_from_string(inlined)
    images = {value.name for value in model.graph.input} - set(graph.inputs)
    float32 = _float32(model.graph, images, graph.inputs)
    _fold_channels(model.graph, shapes)
    return dataclasses.replace(graph, model=model, float32=float32, shapes=shapes)


@functools.lru_cache(maxsize=4)  # plans of other shapes and types begin with the same graph
def _inlined(model: bytes, height: int, width: int) -> tuple[bytes, Mapping[str, Shape]]:
    """``_inline`` of a serialised model."""
    inlined, shapes = _inline(onnx.load_model_from_string(model), height, width)
    return bytes(inlined.SerializeToString()), MappingProxyType(shapes)


def _inline(model: onnx.ModelProto, height: int,
            width: int) -> tuple[onnx.ModelProto, Mapping[str, Shape]]:
    """A model after inlining, without functions, and the shapes of its values."""
    shapes = infer_shapes(inline_fused(model), height, width)
    inlined = inline_fused(model, keep=KERNELS)
    del inlined.functions[:]
    return inlined, shapes


def _float32(graph: onnx.GraphProto, images: Collection[str],
             step: Collection[str]) -> frozenset[str]:
    """Outputs of the first layers, which read the image, and of the nodes that add the image, or
    what is made of it and constants, to a map. ``step``: inputs that are constants of a step."""
    image, found = set(images), []
    constants = {*step, *(tensor.name for tensor in graph.initializer)}
    for node in graph.node:
        read = {name for name in node.input if name} - constants
        if not read:
            constants.update(node.output)
        elif read <= image and node.op_type != "Conv":
            image.update(node.output)
        elif read & image:
            found.append(node.output[0])
    return frozenset(found)


def _fold_channels(graph: onnx.GraphProto, shapes: Mapping[str, Shape]) -> None:
    """Replaces ``Shape`` nodes that read a number of channels, the same at every size, by
    constants.

    The CPU would compute them and copy them to the GPU in every step, which a CUDA graph cannot
    contain.
    """
    for index, node in enumerate(graph.node):
        if node.op_type != "Shape" or node.domain not in STANDARD:
            continue
        places = {attribute.name: attribute.i for attribute in node.attribute}
        shape = shapes.get(node.input[0], ())
        if (places.get("start"), places.get("end")) == (1, 2) and len(shape) == 4 and shape[1]:
            value = onnx.numpy_helper.from_array(np.array([shape[1]], np.int64))
            graph.node[index].CopyFrom(helper.make_node("Constant", [], [node.output[0]],
                                                        value=value))
