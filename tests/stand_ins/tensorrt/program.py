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
from onnx import helper, shape_inference

from bidiff_deploy.engines.tensorrt.build.network import value_types

from . import nodes
from .objects import Refused

Shape = tuple[int, ...]
ALIGNMENT = 256


@dataclass
class Part:
    """Nodes that run together: one of the plugin's, or standard ones."""

    nodes: list[onnx.NodeProto]
    plugin: nodes.Node | None = None
    inputs: list[str] = field(default_factory=list)  # values from outside, constants apart
    outputs: list[str] = field(default_factory=list)  # values that are needed outside
    model: bytes = b""

    def run(self, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.outputs, _session(self.model).run(self.outputs, feeds)))


@dataclass
class Laid:
    """A program at fixed shapes: where everything is in the block of memory, relative to its
    begin; the workspace, which parts share, comes first."""

    shapes: dict[str, Shape]
    given: list[Any]  # tensors of the plugin's inputs, by part
    offsets: dict[str, int] = field(default_factory=dict)
    size: int = 0


class Program:
    """A parsed graph without functions; ``plugin``: nodes that the plugin runs, by their index.
    Raises Refused for types that it refuses."""

    def __init__(self, model: onnx.ModelProto, plugin: Mapping[int, nodes.Node]) -> None:
        graph = model.graph
        self.constants = {entry.name: entry for entry in graph.initializer}
        self.inputs = {value.name: (value.type.tensor_type.elem_type, _dims(value))
                       for value in graph.input if value.name not in self.constants}
        self.outputs = [value.name for value in graph.output]
        self.types = value_types(model)
        self.parts = self._split(graph.node, plugin)
        for part in self.parts:
            if part.plugin is not None:
                try:
                    part.plugin.configure([self.types[name] for name in part.nodes[0].input])
                except nodes.NodeError as error:
                    raise Refused(str(error)) from None
                continue
            inputs, outputs = ([helper.make_tensor_value_info(name, self.types[name], None)
                                for name in names] for names in (part.inputs, part.outputs))
            read = dict.fromkeys(name for node in part.nodes for name in node.input)
            made = helper.make_graph(part.nodes, "part", inputs, outputs, [
                self.constants[name] for name in read if name in self.constants])
            part.model = helper.make_model(made, ir_version=min(model.ir_version, 10),
                                           opset_imports=model.opset_import).SerializeToString()

    def _split(self, all_nodes: Sequence[onnx.NodeProto],
               plugin: Mapping[int, nodes.Node]) -> list[Part]:
        """Parts in an order in which they can run."""
        levels: dict[str, tuple[int, bool]] = {}  # of a value: when it is there, and by whom
        grouped: dict[tuple[int, int], Part] = {}
        for index, node in enumerate(all_nodes):
            ours = index in plugin
            level = max((found + (by != ours) for found, by in
                         (levels[name] for name in node.input if name in levels)), default=0)
            levels.update(dict.fromkeys(node.output, (level, ours)))
            key = level, index if ours else -1
            grouped.setdefault(key, Part([], plugin.get(index))).nodes.append(node)
        parts = [part for _, part in sorted(grouped.items(), key=lambda item: item[0])]
        for part in parts:
            made = {name for node in part.nodes for name in node.output if name}
            part.inputs = [name for name in dict.fromkeys(
                name for node in part.nodes for name in node.input)
                if name and name not in made and name not in self.constants]
            wanted = {name for other in parts if other is not part for node in other.nodes
                      for name in node.input}.union(self.outputs)
            part.outputs = [name for node in part.nodes for name in node.output if name in wanted]
        return [part for part in parts if part.outputs]

    def dtype(self, name: str) -> np.dtype:
        """numpy's type of a value."""
        return helper.tensor_dtype_to_np_dtype(self.types[name])

    def byte_count(self, name: str, shape: Shape) -> int:
        """Bytes of a value of that shape."""
        return int(np.prod(shape, dtype=np.int64)) * self.dtype(name).itemsize

    def lay(self, shapes: Mapping[str, Shape], workspace: Sequence[int] = ()) -> Laid:
        """Shapes of everything, given the inputs', and places for it. ``workspace``: bytes of the
        plugin's parts, at the largest shapes. Raises Refused where they contradict each other."""
        laid = Laid({**{name: tuple(entry.dims) for name, entry in self.constants.items()},
                     **shapes}, [])
        values: dict[str, np.ndarray] = {}
        try:
            for part in self.parts:
                given = None
                if part.plugin is None:
                    self._infer(part, laid.shapes, values)
                else:
                    node = part.nodes[0]
                    given = nodes.tensors([laid.shapes[name] for name in node.input],
                                          [self.types[name] for name in node.input])
                    laid.shapes[node.output[0]] = part.plugin.output(given)
                laid.given.append(given)
            laid.size = max(workspace or self.workspaces(laid), default=0)
        except Exception as error:
            raise Refused(f"invalid shapes: {' '.join(str(error).split())[:400]}") from None
        for part in self.parts:
            for name in part.outputs:
                if name not in self.outputs:
                    laid.size = -(-laid.size // ALIGNMENT) * ALIGNMENT
                    laid.offsets[name] = laid.size
                    laid.size += self.byte_count(name, laid.shapes[name])
        return laid

    def workspaces(self, laid: Laid) -> list[int]:
        """Bytes that each of the plugin's parts needs at these shapes."""
        return [part.plugin.workspace(given) for part, given in zip(self.parts, laid.given)
                if part.plugin is not None]

    def _infer(self, part: Part, known: dict[str, Shape], values: dict[str, np.ndarray]) -> None:
        """Shapes by ONNX's inference, or where they depend on sizes, by computing them."""
        if not any(name in values for name in part.inputs) and all(
                self.dtype(name).kind == "f" for name in part.outputs):
            model = onnx.load_model_from_string(part.model)
            for value in model.graph.input:
                value.CopyFrom(helper.make_tensor_value_info(
                    value.name, self.types[value.name], known[value.name]))
            found = shape_inference.infer_shapes(model, data_prop=True).graph.output
            made = {value.name: _dims(value) for value in found}
            if all(value.type.tensor_type.HasField("shape") and -1 not in made[value.name]
                   for value in found):
                known.update(made)
                return
        for name, value in part.run({name: values.get(name, np.zeros(known[name], self.dtype(name)))
                                     for name in part.inputs}).items():
            known[name] = value.shape
            if value.dtype.kind in "iub":
                values[name] = value

    def enqueue(self, laid: Laid, addresses: Mapping[str, int], memory: int, stream: int,
                keep: list[object]) -> None:
        """Everything on the stream, in order.

        Args:
            addresses: of inputs, outputs, and constants that the plugin reads.
            memory: address of a block of ``laid.size`` bytes.
            keep: gets what has to live as long as a graph that captures this.
        """
        where = {**{name: memory + offset for name, offset in laid.offsets.items()}, **addresses}

        def view(name: str) -> np.ndarray:
            return nodes.view(where[name], laid.shapes[name], self.dtype(name))

        def compute(part: Part) -> None:
            for name, value in part.run({name: view(name) for name in part.inputs}).items():
                view(name)[...] = value

        for part, given in zip(self.parts, laid.given):
            if part.plugin is None:
                nodes.launch(stream, functools.partial(compute, part), keep)
            else:
                node = part.nodes[0]
                part.plugin.enqueue(given, [where[name] for name in node.input],
                                    where[node.output[0]], memory, stream)


def _dims(value: onnx.ValueInfoProto) -> Shape:
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1
                 for dim in value.type.tensor_type.shape.dim)


@functools.lru_cache(maxsize=256)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # As they stand, so that a result is that of the graph's own operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
