"""Pass ``parameterize``: initializers that differ from step to step are lifted to inputs.

Before: the graph of a bundle's first step, its tensors in the weights file. After: a graph for all
steps, whose nodes are the same; the step's constants are inputs, and the values of the other
external initializers are views of the weights file.
"""

from __future__ import annotations

from onnx import helper

from .record import Options, ParameterizedGraph


def parameterize(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph of the first step for every step."""
    reader, graph_proto = options.graphs, graph.model.graph
    names, kept = set(reader.bundle.step_initializers), []
    for tensor in graph_proto.initializer:
        if tensor.name in names:
            graph_proto.input.append(helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            kept.append(tensor)
    del graph_proto.initializer[:]
    graph_proto.initializer.extend(kept)
    return ParameterizedGraph(graph.model, reader.shared(), reader.bundle.step_initializers)
