"""An ONNX graph that computes: nodes of the plugin by its own C++ code on the emulated GPU, others
by ONNX Runtime on the CPU, those that follow each other in one session."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper

from bidiff_deploy.engines.tensorrt.build.network import value_types

from . import nodes

Arrays = dict[str, np.ndarray]


class Program:
    """A parsed graph without functions; ``plugin``: nodes that the plugin runs, by their index.
    Raises Refused for types that it does not take."""

    def __init__(self, model: onnx.ModelProto, plugin: Mapping[int, nodes.Node]) -> None:
        graph = model.graph
        self.model, self.plugin = model, plugin
        self.constants = {entry.name: numpy_helper.to_array(entry) for entry in graph.initializer}
        self.inputs = {value.name: tuple(
            dim.dim_value if dim.HasField("dim_value") else -1
            for dim in value.type.tensor_type.shape.dim) for value in graph.input}
        self.outputs = [value.name for value in graph.output]
        self.types = value_types(model)
        for index, node in plugin.items():
            node.configure([self.types[name] for name in graph.node[index].input])
        self._parts = list(self._split())

    def _split(self) -> Iterator[tuple[nodes.Node | None, onnx.NodeProto | bytes]]:
        """Parts in their order: a node of the plugin's, or a model of standard ones."""
        graph = self.model.graph
        for plugin, group in itertools.groupby(range(len(graph.node)), self.plugin.get):
            indices = set(group)
            if plugin is not None:
                yield plugin, graph.node[min(indices)]
            elif (part := self._model(indices)) is not None:
                yield None, part

    def _model(self, indices: set[int]) -> bytes | None:
        """Nodes as a model of what they need of others and others of them; None for nothing."""
        graph = self.model.graph
        part = [graph.node[index] for index in sorted(indices)]
        made = [name for node in part for name in node.output]
        read = dict.fromkeys(name for node in part for name in node.input if name)
        wanted = {name for index, node in enumerate(graph.node) if index not in indices
                  for name in node.input}.union(self.outputs)
        inputs, outputs = ([helper.make_tensor_value_info(name, self.types[name], None)
                            for name in names] for names in (
            [name for name in read if name not in made and name not in self.constants],
            [name for name in made if name in wanted]))
        return helper.make_model(
            helper.make_graph(part, "part", inputs, outputs,
                              [entry for entry in graph.initializer if entry.name in read]),
            ir_version=min(self.model.ir_version, 10),
            opset_imports=self.model.opset_import).SerializeToString() if outputs else None

    def run(self, feeds: Arrays) -> Arrays:
        """The outputs."""
        values = {**self.constants, **feeds}
        for plugin, part in self._parts:
            if plugin is not None:
                values[part.output[0]] = plugin.run([values[name] for name in part.input])
                continue
            session = _session(part)
            values.update(zip((one.name for one in session.get_outputs()), session.run(
                None, {one.name: values[one.name] for one in session.get_inputs()})))
        return {name: values[name] for name in self.outputs}


@functools.lru_cache(maxsize=256)
def _session(model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # As they stand, so that a result is that of the graph's own operators.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
