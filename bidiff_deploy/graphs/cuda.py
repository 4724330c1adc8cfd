"""The graph that the CUDA backend runs, derived from a bundle's step graph.

Our operators that have CUDA kernels stay; the others are replaced by their definitions, whose
convolutions and matrix products cuDNN and cuBLAS compute. Function bodies go, so that nothing can
run through them unseen. Maps become float16 where the bundle's precision says so. Needs ``onnx``,
no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from ..bundle.step_graphs import PromotedGraph
from ..networks.bi_diffsr.config import NetworkConfig
from ..operators.definitions import opened
from ..operators.names import BINARY_DOWN, BINARY_FUSION, BINARY_UP, CONV3X3, NORM_BINARY_CONV
from ..operators.shapes import STANDARD, Shape, infer_shapes
from .float16 import half

# Fused operators with kernels; BinaryConv and GroupNormSwish have them as well.
KERNELS = (NORM_BINARY_CONV, BINARY_FUSION, BINARY_DOWN, BINARY_UP)


@dataclass(frozen=True)
class CudaGraph:
    """A derived graph: ``model`` and the values of its external initializers by name."""

    model: onnx.ModelProto
    constants: dict[str, np.ndarray]


def derive(promoted: PromotedGraph, config: NetworkConfig, *, float16: bool) -> CudaGraph:
    """The graph for CUDA of a bundle's promoted graph.

    ``config``: the bundle's network. ``float16``: whether maps become float16. Raises EngineError
    where a weight is beyond the range of float16.
    """
    shipped = onnx.load_model_from_string(promoted.model)
    first_layers = frozenset(node.output[0] for node in shipped.graph.node
                             if node.op_type == CONV3X3)
    side = 8 * config.size_multiple
    _, shapes = infer_shapes(opened(shipped), side, side)
    model = opened(shipped, keep=KERNELS)
    del model.functions[:]
    _fold_channels(model.graph, shapes)
    constants = promoted.constants
    if float16:
        model, constants = half(model, constants, first_layers)
    return CudaGraph(model, dict(constants))


def _fold_channels(graph: onnx.GraphProto, shapes: dict[str, Shape]) -> None:
    """Constants in the place of ``Shape`` nodes that read a number of channels.

    It is the same at every size. Computed by the graph it would be computed by the CPU and copied
    to the GPU in every step, which a CUDA graph can not do.
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
