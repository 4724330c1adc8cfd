"""An ONNX graph that computes: nodes of the plugin by its own C++ code on the emulated GPU, all
others by ONNX Runtime on the CPU, in as few sessions as their order allows."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bidiff_deploy.engines.tensorrt.build.network import value_types

from . import nodes
from .objects import Refused

Arrays = dict[str, np.ndarray]


class Part:
    """Nodes that run together: one of the plugin's, or standard ones. ``inputs`` are values from
    outside, ``outputs`` those that are needed outside."""

    def __init__(self, plugin: nodes.Node | None) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.plugin = plugin
        self.inputs: list[str] = []
        self.outputs: list[str] = []
        self.model = b""

    def run(self, values: Arrays) -> None:
        """Add the outputs to all values."""
        if self.plugin is not None:
            values[self.outputs[0]] = self.plugin.run([values[name] for name in self.inputs])
        else:
            feeds = {name: values[name] for name in self.inputs}
            values.update(zip(self.outputs, _session(self.model).run(self.outputs, feeds)))


class Program:
    """A parsed graph without functions; ``plugin``: nodes that the plugin runs, by their index.
    Raises nodes.NodeError for types that it refuses."""

    def __init__(self, model: onnx.ModelProto, plugin: Mapping[int, nodes.Node]) -> None:
        graph = model.graph
        self.model = model
        self.constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        self.inputs = {value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1
            for dim in value.type.tensor_type.shape.dim) for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        self.types = value_types(model)
        self.parts = self._parts(plugin)

    def _parts(self, plugin: Mapping[int, nodes.Node]) -> list[Part]:
        """Parts in an order in which they can run."""
        graph = self.model.graph
        levels: dict[str, tuple[int, bool]] = {}  # of a value: when it is there, and by whom
        grouped: dict[tuple[int, int], Part] = {}
        for index, node in enumerate(graph.node):
            ours = index in plugin
            level = max((found + (by != ours) for found, by in
                         (levels[name] for name in node.input if name in levels)), default=0)
            levels.update(dict.fromkeys(node.output, (level, ours)))
            key = level, index if ours else -1
            grouped.setdefault(key, Part(plugin.get(index))).nodes.append(node)
        parts = [grouped[key] for key in sorted(grouped)]
        for part in parts:
            made = {name for node in part.nodes for name in node.output}
            read = dict.fromkeys(name for node in part.nodes for name in node.input if name)
            wanted = {name for other in parts if other is not part for node in other.nodes
                      for name in node.input}.union(self.outputs)
            part.outputs = [name for node in part.nodes for name in node.output if name in wanted]
            if part.plugin is not None:
                part.inputs = list(part.nodes[0].input)
                part.plugin.configure([self.types[name] for name in part.inputs])
                continue
            part.inputs = [name for name in read
                           if name not in made and name not in self.constants]
            inputs, outputs = ([helper.make_tensor_value_info(name, self.types[name], None)
                                for name in names] for names in (part.inputs, part.outputs))
            part.model = helper.make_model(helper.make_graph(
                part.nodes, "part", inputs, outputs,
                [entry for entry in graph.initializer if entry.name in read]),
                ir_version=min(self.model.ir_version, 10),
                opset_imports=self.model.opset_import).SerializeToString()
        return [part for part in parts if part.outputs]

    def dtype(self, name: str) -> np.dtype:
        """numpy's type of a value."""
        return helper.tensor_dtype_to_np_dtype(self.types[name])

    def run(self, feeds: Arrays) -> Arrays:
        """The outputs. Raises Refused for shapes that do not go together."""
        values = {**self.constants, **feeds}
        for part in self.parts:
            try:
                part.run(values)
            except nodes.NodeError:
                raise
            except Exception as error:
                raise Refused(f"invalid shapes: {' '.join(str(error).split())[:400]}") from None
        return {name: values[name] for name in self.outputs}


@functools.lru_cache(maxsize=256)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # As they stand, so that a result is that of the graph's own operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
