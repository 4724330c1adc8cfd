"""An ONNX graph that computes: nodes of the plugin by its own C++ code on the emulated GPU, others
by ONNX Runtime on the CPU, those that follow each other in one session."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping

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

    @functools.cached_property
    def _parts(self) -> list[tuple[nodes.Node | None, onnx.NodeProto | bytes]]:
        """Parts in their order: a node of the plugin's, or a model of standard ones. Most programs
        are built and never run."""
        found: list[tuple[nodes.Node | None, onnx.NodeProto | bytes]] = []
        order = list(self.model.graph.node)
        last_read = {name: index for index, node in enumerate(order) for name in node.input}
        last_read |= dict.fromkeys(self.outputs, len(order))
        for plugin, group in itertools.groupby(range(len(order)), self.plugin.get):
            indices = list(group)
            part = [order[index] for index in indices]
            if plugin is not None:
                found.append((plugin, *part))
            elif wanted := [name for node in part for name in node.output
                            if last_read.get(name, -1) > indices[-1]]:
                found.append((None, self._model(part, wanted)))
        return found

    def _model(self, part: list[onnx.NodeProto], wanted: list[str]) -> bytes:
        """Nodes as a model of what they need of others and others of them."""
        graph = self.model.graph
        made = {name for node in part for name in node.output}
        read = dict.fromkeys(name for node in part for name in node.input if name)
        inputs, outputs = ([helper.make_tensor_value_info(name, self.types[name], None)
                            for name in names] for names in (
            [name for name in read if name not in made and name not in self.constants],
            wanted))
        return helper.make_model(
            helper.make_graph(part, "part", inputs, outputs,
                              [entry for entry in graph.initializer if entry.name in read]),
            ir_version=min(self.model.ir_version, 10),
            opset_imports=self.model.opset_import).SerializeToString()

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
