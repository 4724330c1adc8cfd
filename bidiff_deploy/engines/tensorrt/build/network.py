"""A lowered graph as TensorRT's network, and the builder's configuration.

Precision is the graph's. TensorRT before 10 chooses types itself, so each layer is set to the type
that its values have in the graph, and gets another only if there is no kernel in that type. TF32 is
always off. Needs ``onnx``.
"""

from __future__ import annotations

import ctypes
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import onnx
from onnx import TensorProto

from ....errors import EngineError, UsageError, one_line
from ....operators.shapes import STANDARD
from ....operators.names import DOMAIN
from ..api import Api, plugin_missing
from ..log import NO_REASON
from ..plugin.library import PluginLibrary
from ..profiles import Profile, Shape

if TYPE_CHECKING:
    from ....graphs.lowering import TensorRtGraph

__all__ = ["Parsed", "Settings", "configure", "keep_precision", "parse", "value_types"]

# Libraries of the kernels that TensorRT before 10 takes from elsewhere. Which file it needs depends
# on the version of CUDA that it was built for: always 11 before TensorRT 8.6.
_KERNEL_LIBRARIES = {
    "CUBLAS": ("libcublas.so.11", "libcublas.so.12"),
    "CUBLAS_LT": ("libcublasLt.so.11", "libcublasLt.so.12"),
    "CUDNN": ("libcudnn.so.8", "libcudnn.so.9"),
}
# Nodes that define types themselves, so no precision is set for their layers.
_TYPED = ("Cast", "QuantizeLinear", "DequantizeLinear", "Shape", "Constant")
_COMPARISONS = ("Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Not", "And", "Or")


@dataclass(frozen=True)
class Settings:
    """Options of a build: the variant, whether maps are float16, the shapes, the workspace's limit
    in bytes and the optimization level (None: TensorRT's defaults), and what TensorRT-RTX compiles
    for."""

    variant: str
    float16: bool
    profile: Profile
    workspace: int | None = None
    level: int | None = None
    capabilities: tuple[int, ...] = ()


@dataclass(frozen=True)
class Parsed:
    """A network and its parser, which owns the memory of the network's weights."""

    network: Any
    parser: Any


def parse(api: Api, builder: Any, graph: TensorRtGraph, plugin: PluginLibrary | None) -> Parsed:
    """The network of a graph. ``plugin``: the loaded plugin library, if the graph needs one.

    Raises:
        EngineError: the parser refuses the graph.
    """
    api.log.clear()
    if api.rtx:
        _require_standard(api, graph.model)
    network = builder.create_network(api.network_flags)
    parser = api.trt.OnnxParser(network, api.logger)
    if not api.weakly_typed:  # graphs for older ones have no InstanceNormalization
        parser.set_flag(api.trt.OnnxParserFlag.NATIVE_INSTANCENORM)
    if parser.parse(graph.model):
        if api.rtx:
            api.vectors_innermost(network)
        return Parsed(network, parser)
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    reason = "; ".join(dict.fromkeys(one_line(error.desc()) for error in errors[:3]))
    index = errors[0].node() if errors else -1
    node = _node(graph.model, index)
    ours = node is None or node.domain == DOMAIN
    if plugin_missing(f"{reason}\n{api.log.text()}") and plugin is not None and ours:
        raise EngineError(f"{plugin.file} is loaded, but TensorRT {api.name} does not find its "
                          f"plugins: it was built for TensorRT {plugin.tensorrt}; build it again "
                          "with bidiff-deploy build-plugin --overwrite, or build with --no-plugin")
    known = "" if node is None else f"{node.op_type} {node.name}".rstrip()
    where = f" at node {index} ({known})" if known else ""
    raise EngineError(f"{api.product} refuses the graph{where}: "
                      f"{reason or api.log.sentence(NO_REASON)}")


def configure(api: Api, builder: Any, network: Any, graph: TensorRtGraph,
              settings: Settings, notes: list[str]) -> Any:
    """The builder's configuration. Sentences about libraries it cannot use are added to ``notes``.

    Raises:
        UsageError: an optimization level, in a version without them.
        EngineError: TensorRT refuses the shapes.
    """
    trt, config = api.trt, builder.create_builder_config()
    config.clear_flag(trt.BuilderFlag.TF32)
    if api.rtx:
        api.compute_capabilities(config, settings.capabilities)
    if settings.workspace is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, settings.workspace)
    if settings.level is not None:
        if not hasattr(config, "builder_optimization_level"):
            raise UsageError(f"{api.product} has no optimization levels (8.6 and later "
                             "have them); leave out --optimization-level")
        config.builder_optimization_level = settings.level
    if api.weakly_typed:
        if settings.float16:
            config.set_flag(trt.BuilderFlag.FP16)
            # Not OBEY: then a layer without a kernel in its type ends the build. TensorRT 8 has
            # such a layer: a softmax between int8 convolutions.
            config.set_flag(trt.BuilderFlag.PREFER_PRECISION_CONSTRAINTS)
            keep_precision(api, network, graph.model)
        if b"QuantizeLinear" in graph.model:  # of variant dense-int8 and of bundles in int8
            config.set_flag(trt.BuilderFlag.INT8)
        _leave_out_libraries(api, config, notes)
    if not settings.profile.static:
        _add_profile(builder, config, graph, settings.profile)
    return config


def keep_precision(api: Api, network: Any, model: bytes) -> None:
    """Set each layer of a weakly typed network to the type of its values in the graph.

    A node may become several layers. The last one has the name of the node's output; those before
    it get the same type.
    """
    proto = onnx.load_model_from_string(model)
    types = value_types(proto)
    nodes = {name: node for node in proto.graph.node for name in node.output}
    trt, waiting = api.trt, []
    floats: dict[int, Any] = {TensorProto.FLOAT: trt.float32, TensorProto.FLOAT16: trt.float16}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        waiting.append(layer)
        named = [name for name in (layer.get_output(i).name for i in range(layer.num_outputs))
                 if name in nodes]
        if not named:
            continue
        kind = floats.get(types.get(named[0], TensorProto.UNDEFINED))
        node = nodes[named[0]]
        if kind is not None and node.op_type not in _TYPED:
            # Plugins declare their own precision; the nodes before a layer declare int8.
            only_outputs = node.domain not in STANDARD or any(
                name in nodes and nodes[name].op_type == "DequantizeLinear"
                for name in node.input)
            for one in waiting:
                _keep(trt, one, kind, only_outputs)
        waiting = []


def _keep(trt: Any, layer: Any, kind: Any, only_outputs: bool) -> None:
    floats, kinds = (trt.float32, trt.float16), trt.LayerType
    outputs = [layer.get_output(index) for index in range(layer.num_outputs)]
    cast = getattr(kinds, "CAST", kinds.IDENTITY)  # TensorRT 8.5 has no CAST
    if layer.type in (kinds.CONSTANT, kinds.SHAPE, kinds.IDENTITY, cast) or any(
            output.is_shape_tensor or output.dtype not in floats for output in outputs):
        return
    if not only_outputs:
        layer.precision = kind
    for index in range(len(outputs)):
        layer.set_output_type(index, kind)


def value_types(model: onnx.ModelProto) -> dict[str, int]:
    """The element type of each value of a lowered graph, inferred from its operators."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in graph.input}
    types.update((tensor.name, tensor.data_type) for tensor in graph.initializer)
    for node in graph.node:
        types.update(dict.fromkeys(node.output, _result(node, types)))
    return types


def _result(node: onnx.NodeProto, types: dict[str, int]) -> int:
    given = [types.get(name, TensorProto.UNDEFINED) for name in node.input]
    if node.domain not in STANDARD:
        return given[0] if node.domain == DOMAIN and given else TensorProto.UNDEFINED
    if node.op_type in _COMPARISONS:
        return TensorProto.BOOL
    if node.op_type in ("Shape", "Size"):
        return TensorProto.INT64
    if node.op_type == "QuantizeLinear":
        return given[2] if len(given) > 2 else TensorProto.UINT8
    for attribute in node.attribute:
        if node.op_type == "Cast" and attribute.name == "to":
            return int(attribute.i)
        if node.op_type in ("Constant", "ConstantOfShape") and attribute.name == "value":
            return int(attribute.t.data_type)
        if node.op_type == "Constant" and attribute.name.startswith("value_"):
            return (TensorProto.INT64 if attribute.name.startswith("value_int")
                    else TensorProto.FLOAT)
    if node.op_type == "ConstantOfShape":
        return TensorProto.FLOAT
    index = 1 if node.op_type in ("Where", "DequantizeLinear") else 0
    return given[index] if len(given) > index else TensorProto.UNDEFINED


def _require_standard(api: Api, model: bytes) -> None:
    """Raise EngineError for a node that is not standard: if a plugin of its name is registered, the
    parser of TensorRT-RTX ends the process."""
    for node in onnx.load_model_from_string(model).graph.node:
        if node.domain not in STANDARD:
            raise EngineError(f"{api.product} runs no plugins, but the graph has the node "
                              f"{node.op_type} {node.name}".rstrip() + "; export the bundle again")


def _add_profile(builder: Any, config: Any, graph: TensorRtGraph, profile: Profile) -> None:
    made = builder.create_optimization_profile()
    try:
        for name, dims in graph.inputs.items():
            if any(isinstance(dim, str) for dim in dims):
                made.set_shape(name, *(_dims(dims, shape) for shape in (
                    profile.minimum, profile.optimum, profile.maximum)))
        taken = config.add_optimization_profile(made) >= 0
    except RuntimeError:  # the bindings raise it for a refused shape
        taken = False
    if not taken:
        raise EngineError(f"TensorRT refuses the shapes {profile.label}; build a static plan with "
                          "--size")


def _dims(dims: tuple[int | str, ...], shape: Shape) -> tuple[int, ...]:
    sizes = dict(zip(("N", "H", "W"), shape))
    return tuple(sizes[dim] if isinstance(dim, str) else dim for dim in dims)


def _leave_out_libraries(api: Api, config: Any, notes: list[str]) -> None:
    """Exclude kernels of libraries that are not installed, which would fail the build."""
    sources, missing = config.get_tactic_sources(), []
    for name, files in _KERNEL_LIBRARIES.items():
        source = getattr(api.trt.TacticSource, name, None)
        usable = files[:1] if api.version < (8, 6) else files
        if source is None or not sources >> int(source) & 1 or any(map(_can_open, usable)):
            continue
        sources &= ~(1 << int(source))
        missing.append(name)
    if missing:
        config.set_tactic_sources(sources)
        notes.append(f"built without kernels of {', '.join(missing)}, whose libraries were not "
                     "found")


def _can_open(file: str) -> bool:
    """Whether TensorRT would find the library: loaded, on the system, or in an installed wheel."""
    try:
        ctypes.CDLL(file)
    except OSError:
        spec = importlib.util.find_spec("nvidia")
        places = [] if spec is None else list(spec.submodule_search_locations or ())
        return any(next(Path(place).glob(f"*/lib/{file}"), None) for place in places)
    return True


def _node(model: bytes, index: int) -> onnx.NodeProto | None:
    """The node of a parser's index; None for an index of no node."""
    nodes = onnx.load_model_from_string(model).graph.node
    return nodes[index] if 0 <= index < len(nodes) else None
