"""The graph that TensorRT's parser is given, derived from a bundle's step graph.

It is the graph for CUDA (``cuda_graph``) with the loop's update behind it (``loop_graph``),
without function bodies, which parsers before 10.7 would put in our nodes' place, in the opset and
the operators that every supported parser takes (``lower_opset``). Our operators are nodes of the
plugin (``nodes``) or standard operators (``dense``). The types of its values say
what is computed in float16: TensorRT 11 knows no other way, and 10 is told to do likewise. All
weights are inside; what differs between steps are inputs. Needs ``onnx``, no runtime.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from ..bundle.step_graphs import PromotedGraph
from ..errors import EngineError, UsageError
from ..networks.bi_diffsr.config import NetworkConfig
from ..operators.definitions import opened
from ..operators.names import DOMAIN, VERSION
from ..operators.shapes import infer_shapes
from . import cuda as cuda_graph
from .dense import Dense
from .graph_writer import OPSET, OPSET_OF_10
from .lower_opset import Lowering
from .plugin_nodes import PluginNodes, Words
from .update import LATENT, append_update

__all__ = ["VARIANTS", "TensorRtGraph", "derive"]

PLUGIN, DENSE, DENSE_INT8 = VARIANTS = ("plugin", "dense", "dense-int8")
_IR_VERSION = 8  # what ONNX wrote when TensorRT 8.5 came; 9 is the first with opset 19
_LIMIT = (1 << 31) - 1  # bytes of a message of protobuf


@dataclass(frozen=True)
class TensorRtGraph:
    """A derived graph.

    model    a serialised ModelProto, for ``parser.parse``
    inputs   dimensions of every input, in order: ``noisy``, ``condition``, the step's constants
             (without plugin as ``step_rows.rows_apart`` has them), the four ``loop_graph.FACTORS``;
             a dimension that is free is "N", "H" or "W". All float32, as the outputs are
    outputs  ``prediction`` and ``latent``, the image at the next timestep
    opset    of standard operators
    """

    model: bytes
    inputs: dict[str, tuple[int | str, ...]]
    outputs: tuple[str, ...]
    opset: int


def derive(promoted: PromotedGraph, config: NetworkConfig, *, variant: str, float16: bool,
           plugin: Words | None = None, shape: tuple[int, int, int] | None = None,
           opset: int = OPSET) -> TensorRtGraph:
    """The graph for TensorRT of a bundle's promoted graph.

    Args:
        config: the bundle's network.
        variant: one of ``VARIANTS``: our plugin's nodes; no plugin, binary convolutions in the
            type of the maps; no plugin, these in int8.
        float16: whether maps between the first layer and the prediction are float16.
        plugin: of variant ``plugin``: what prepares words. None: the contract's words stay, and
            the plugin prepares them in every run.
        shape: (N, H, W) of the images; None leaves them free.
        opset: 17, which every TensorRT takes, or 19, which those from 10 on do: with it, variant
            ``dense-int8`` has float16 between its convolutions where maps are.

    Raises:
        UsageError: an unknown variant or opset, or a shape that the network can not take.
        EngineError: a graph that TensorRT can not take, with the reason.
    """
    if variant not in VARIANTS:
        raise UsageError(f"{variant!r} is no variant of a TensorRT graph; use one of "
                         f"{', '.join(VARIANTS)}")
    if opset not in (OPSET, OPSET_OF_10):
        raise UsageError(f"opset {opset} is none that graphs for TensorRT are written in; use "
                         f"{OPSET} or {OPSET_OF_10}")
    multiple = config.size_multiple
    if shape is not None and (len(shape) != 3 or min(shape) < 1 or shape[1] % multiple
                              or shape[2] % multiple):
        raise UsageError(f"the shape {shape} must be a batch, a height and a width, the latter "
                         f"two multiples of {multiple}")
    derived = cuda_graph.derive(promoted, config, float16=float16)
    height, width = shape[1:] if shape else (8 * multiple, 8 * multiple)
    _, shapes = infer_shapes(opened(onnx.load_model_from_string(promoted.model)), height, width)
    ours = PluginNodes(plugin) if variant == PLUGIN else Dense(int8=variant == DENSE_INT8)
    if variant != PLUGIN:
        _take_apart(derived.model.graph)
    lowering = Lowering(derived.model, derived.constants, shapes, shape[0] if shape else None,
                        ours, opset)
    try:
        nodes, constants = lowering.run()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise EngineError("the bundle's graph is not as its network's is, so TensorRT's can not be "
                          f"made of it ({error!r}); export the bundle again") from None
    source = derived.model.graph
    graph = helper.make_graph(nodes, "step", source.input, source.output)
    imports = [helper.make_opsetid("", opset)]
    if variant == PLUGIN:
        imports.append(helper.make_opsetid(DOMAIN, VERSION))
    model = append_update(helper.make_model(graph, producer_name="bidiff_deploy",
                                            opset_imports=imports,
                                            ir_version=_IR_VERSION + (opset > OPSET)))
    images = dict(zip("NHW", shape)) if shape else {}
    for value in (*model.graph.input, *model.graph.output):
        if value.type.tensor_type.elem_type != TensorProto.FLOAT:
            raise EngineError(f"the input {value.name} is not float32; export the bundle again")
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param in images:
                dim.dim_value = images[dim.dim_param]
    return TensorRtGraph(_serialised(model, constants),
                         {value.name: tuple(dim.dim_value or dim.dim_param
                                            for dim in value.type.tensor_type.shape.dim)
                          for value in model.graph.input},
                         (source.output[0].name, LATENT), opset)


def _take_apart(graph: onnx.GraphProto) -> None:
    """Inputs as ``step_rows.rows_apart`` has them: three slices for every RPReLU, in every step,
    would be kernels of their own."""
    apart = []
    for value in graph.input:
        sizes = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
        if len(sizes) != 2:
            apart.append(value)
            continue
        kind = value.type.tensor_type.elem_type
        apart += [helper.make_tensor_value_info(f"{value.name}/{index}", kind, sizes[1:])
                  for index in range(sizes[0])]
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in apart]
    del graph.input[:]
    graph.input.extend(kept)


def _serialised(model: onnx.ModelProto, constants: dict[str, np.ndarray]) -> bytes:
    """The model with its constants inside."""
    size = sum(value.nbytes for value in constants.values())
    if size < _LIMIT:
        model.graph.initializer.extend(numpy_helper.from_array(np.asarray(value, order="C"), name)
                                       for name, value in constants.items())
        if model.ByteSize() <= _LIMIT:
            return model.SerializeToString(deterministic=True)
    raise EngineError(f"the graph's weights take {size} bytes, but one that TensorRT parses can "
                      f"have {_LIMIT}; use a backend with packed weights")
