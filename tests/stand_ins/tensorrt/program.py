"""An ONNX graph that computes on the emulated GPU: nodes of the plugin by its own C++ code, all
others by ONNX Runtime on the CPU, in as few sessions as their order allows.

What passes between the parts lies in one block of device memory, which the caller may have to give,
as an engine's activations do.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper, shape_inference

from bidiff_deploy.engines.tensorrt.build.network import value_types

from . import nodes
from .nodes import Node

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
_ALIGNMENT = 256
DOMAIN = "bidiff"


class Refused(Exception):
    """A graph that TensorRT would not build; the sentence is its, or the plugin's."""


@dataclass
class Part:
    """Nodes that run together: one of the plugin's, or standard ones."""

    nodes: list[onnx.NodeProto]
    inputs: list[str] = field(default_factory=list)  # values from outside, constants apart
    outputs: list[str] = field(default_factory=list)  # values that are needed outside
    plugin: Node | None = None
    constants: list[str] = field(default_factory=list)
    model: onnx.ModelProto | None = None

    @functools.cached_property
    def session(self) -> onnxruntime.InferenceSession:
        """Made when the part first runs: a build only infers shapes."""
        assert self.model is not None
        return _session(self.model.SerializeToString())


@dataclass
class Laid:
    """A program at fixed shapes: where everything is in the block of memory, relative to its
    begin; the workspace, which parts share, comes first."""

    shapes: Shapes
    offsets: dict[str, int]
    size: int
    given: list[Any]  # tensors of the plugin's inputs, by part


class Program:
    """``model``: a parsed graph, no functions; ``is_plugin`` says which nodes the plugin runs."""

    def __init__(self, model: onnx.ModelProto, plugin: Mapping[int, nodes.Node]) -> None:
        """``plugin``: nodes by their index. Raises Refused for types that it refuses."""
        graph = model.graph
        self._model = model
        self.inputs: dict[str, tuple[int, tuple[int, ...]]] = {
            value.name: _declared(value) for value in graph.input
            if value.name not in {entry.name for entry in graph.initializer}}
        self.outputs = [value.name for value in graph.output]
        self.constants = {entry.name: entry for entry in graph.initializer}
        self.types = value_types(model)
        self.parts = _split(graph.node, plugin, self.outputs, self.constants)
        for part in self.parts:
            self._prepare(part)

    def _prepare(self, part: Part) -> None:
        if part.plugin is not None:
            types = [self.types[name] for name in part.nodes[0].input]
            try:
                part.plugin.configure(types, types[0])
            except nodes.NodeError as error:
                raise Refused(str(error)) from None
            return
        inputs, outputs = ([helper.make_tensor_value_info(name, self.types[name], None)
                            for name in names] for names in (part.inputs, part.outputs))
        graph = helper.make_graph(part.nodes, "part", inputs, outputs,
                                  [self.constants[name] for name in part.constants])
        part.model = helper.make_model(graph, ir_version=min(self._model.ir_version, 10),
                                       opset_imports=self._model.opset_import)

    def dtype(self, name: str) -> np.dtype:
        """numpy's type of a value."""
        return helper.tensor_dtype_to_np_dtype(self.types[name])

    def byte_count(self, name: str, shape: Shape) -> int:
        """Bytes of a value of that shape."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype(name).itemsize

    def lay(self, shapes: Mapping[str, Shape], workspace: Sequence[int] = ()) -> Laid:
        """Shapes of everything, given the inputs', and places for it. ``workspace``: bytes of the
        plugin's parts, at the largest shapes. Raises Refused where they contradict each other."""
        known: Shapes = {**{name: tuple(entry.dims) for name, entry in self.constants.items()},
                         **shapes}
        values: dict[str, np.ndarray] = {}
        given: list[Any] = []
        for part in self.parts:
            if part.plugin is None:
                given.append(None)
                self._infer(part, known, values)
                continue
            node = part.nodes[0]
            tensors = nodes.tensors([known[name] for name in node.input],
                                    [self.types[name] for name in node.input])
            given.append(tensors)
            try:
                known[node.output[0]] = part.plugin.output(tensors)
            except nodes.NodeError as error:
                raise Refused(str(error)) from None
        if not workspace:
            workspace = self.workspaces(given)
        place, offsets = _aligned(max([0, *workspace])), {}
        for part in self.parts:
            for name in part.outputs:
                if name not in self.outputs:
                    offsets[name] = place
                    place += _aligned(self.byte_count(name, known[name]))
        return Laid(known, offsets, place, given)

    def workspaces(self, given: Sequence[Any]) -> list[int]:
        """Bytes that the plugin's nodes want, for these tensors and smaller ones."""
        try:
            return [part.plugin.workspace(tensors) for part, tensors in zip(self.parts, given)
                    if part.plugin is not None]
        except nodes.NodeError as error:
            raise Refused(str(error)) from None

    def _infer(self, part: Part, known: Shapes, values: dict[str, np.ndarray]) -> None:
        """Shapes by ONNX's inference, or where they depend on sizes, by computing them."""
        assert part.model is not None
        copy = onnx.ModelProto()
        copy.CopyFrom(part.model)
        if not any(name in values for name in part.inputs) and all(
                self.dtype(name).kind == "f" for name in part.outputs):
            for value in copy.graph.input:
                value.type.tensor_type.shape.CopyFrom(helper.make_tensor_type_proto(
                    1, known[value.name]).tensor_type.shape)
            found = shape_inference.infer_shapes(copy, data_prop=True)
            made = {value.name: _declared(value)[1] for value in found.graph.output}
            if all(-1 not in shape for shape in made.values()):
                known.update(made)
                return
        feeds = {name: values.get(name, np.zeros(known[name], self.dtype(name)))
                 for name in part.inputs}
        try:
            results = part.session.run(part.outputs, feeds)
        except Exception as error:
            raise Refused(f"invalid shapes: {' '.join(str(error).split())[:400]}") from None
        for name, value in zip(part.outputs, results):
            known[name] = value.shape
            if value.dtype.kind in "iub":
                values[name] = value

    def load(self) -> None:
        """The plugin's kernels into the current context; raises nodes.NodeError."""
        for part in self.parts:
            if part.plugin is not None:
                part.plugin.load()

    def enqueue(self, laid: Laid, addresses: Mapping[str, int], memory: int, stream: int,
                keep: list[object]) -> None:
        """Everything on the stream, in order.

        Args:
            laid: of ``lay``.
            addresses: of inputs, outputs, and constants that the plugin reads.
            memory: address of a block of ``laid.size`` bytes.
            keep: gets what has to live as long as a graph that captures this.
        """
        where = {**{name: memory + offset for name, offset in laid.offsets.items()}, **addresses}
        for part, given in zip(self.parts, laid.given):
            if part.plugin is not None:
                node = part.nodes[0]
                part.plugin.enqueue(given, [where[name] for name in node.input],
                                    where[node.output[0]], memory, stream)
            else:
                nodes.launch(stream, self._run(part, laid, where), keep)

    def _run(self, part: Part, laid: Laid, where: Mapping[str, int]) -> Any:
        def view(name: str) -> np.ndarray:
            return nodes.view(where[name], laid.shapes[name], self.dtype(name))

        def work() -> None:
            results = part.session.run(part.outputs, {name: view(name) for name in part.inputs})
            for name, value in zip(part.outputs, results):
                view(name)[...] = value

        return work


def _split(all_nodes: Sequence[onnx.NodeProto], plugin: Mapping[int, nodes.Node],
           outputs: Sequence[str], constants: Mapping[str, Any]) -> list[Part]:
    """Parts in an order in which they can run."""
    levels: dict[str, tuple[int, bool]] = {}  # of a value: when it is there, and by whom
    grouped: dict[int, Part] = {}
    order: dict[int, list[Part]] = {}
    for index, node in enumerate(all_nodes):
        ours = index in plugin
        level = max((found + (by != ours) for found, by in
                     (levels[name] for name in _reads(node) if name in levels)), default=0)
        levels.update(dict.fromkeys(node.output, (level, ours)))
        if ours:
            order.setdefault(level, []).append(Part([node], plugin=plugin[index]))
        elif level in grouped:
            grouped[level].nodes.append(node)
        else:
            grouped[level] = Part([node])
            order.setdefault(level, []).append(grouped[level])
    parts = [part for level in sorted(order) for part in order[level]]
    for part in parts:
        made = {name for node in part.nodes for name in node.output if name}
        read = dict.fromkeys(name for node in part.nodes for name in _reads(node))
        part.inputs = [name for name in read if name not in made and name not in constants]
        part.constants = [name for name in read if name in constants]
        elsewhere = {name for other in parts if other is not part for node in other.nodes
                     for name in _reads(node)}
        part.outputs = [name for node in part.nodes for name in node.output
                        if name in elsewhere or name in outputs]
    return [part for part in parts if part.outputs]


def _reads(node: onnx.NodeProto) -> list[str]:
    return [name for name in node.input if name]


def _declared(value: onnx.ValueInfoProto) -> tuple[int, Shape]:
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return tensor.elem_type, (-1,)
    return tensor.elem_type, tuple(dim.dim_value if dim.HasField("dim_value") else -1
                                   for dim in tensor.shape.dim)


@functools.lru_cache(maxsize=16)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # As they stand, so that a result is that of the graph's own operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options,
                                        providers=["CPUExecutionProvider"])


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT


def constant_bytes(entry: onnx.TensorProto) -> bytes:
    """A constant as it lies in memory."""
    return numpy_helper.to_array(entry).tobytes()
