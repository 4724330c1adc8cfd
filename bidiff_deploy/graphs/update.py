"""Pass ``update``: the update of the sampling loop is part of the graph.

Before: ``noisy`` and ``condition`` -> ``prediction``. After: also ``latent``, the image at the next
time step, so that a loop's image stays on the device. The four numbers of an update are inputs of
one element each.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import onnx
from onnx import TensorProto, helper

from .record import Options, ParameterizedGraph

LATENT = "latent"
# Names of the inputs, in the order of ``sampler.update_factors``.
FACTORS = ("update/noise", "update/image", "update/image_next", "update/noise_next")


def update(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph with the update at its end."""
    return dataclasses.replace(graph, model=append_update(graph.model))


def append_update(model: onnx.ModelProto, clip: float = 1.0) -> onnx.ModelProto:
    """A copy of the graph with ``sampler.ddim_update`` at its end: the same operations in the same
    order, so that a runtime that rounds after each returns the same bits."""
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    graph = changed.graph
    noise, image, image_next, noise_next = FACTORS
    graph.input.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])
                       for name in FACTORS)
    for name, value in (("update/low", -clip), ("update/high", clip)):
        graph.initializer.append(onnx.numpy_helper.from_array(np.float32(value), name))
    for op, inputs, output in (
            ("Mul", [noise, "prediction"], "update/removed"),
            ("Sub", ["noisy", "update/removed"], "update/scaled"),
            ("Div", ["update/scaled", image], "update/unclipped"),
            ("Clip", ["update/unclipped", "update/low", "update/high"], "update/clipped"),
            ("Mul", [image_next, "update/clipped"], "update/kept"),
            ("Mul", [noise_next, "prediction"], "update/added"),
            ("Add", ["update/kept", "update/added"], LATENT)):
        graph.node.append(helper.make_node(op, inputs, [output], name=output))
    dims = ["N", *(_dim(dim) for dim in graph.output[0].type.tensor_type.shape.dim[1:])]
    graph.output.append(helper.make_tensor_value_info(LATENT, TensorProto.FLOAT, dims))
    return changed


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str:
    return dim.dim_value or dim.dim_param
