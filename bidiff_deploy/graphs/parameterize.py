"""Pass ``parameterize``: initializers that differ from step to step are lifted to inputs.

Before: the graph of a bundle's first step, its tensors in the weights file. After: a graph for all
steps, whose nodes are the same; the step's constants are inputs, and the values of the other
external initializers are views of the weights file.
"""

from __future__ import annotations

from onnx import TensorProto, helper

from .record import Options, ParameterizedGraph


def parameterize(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph of the first step for every step. Raises BundleError for a step constant that the
    graph does not have, or a tensor that is not in the weights file."""
    reader, graph_proto = options.graphs, graph.model.graph
    bundle = reader.bundle
    file = bundle.steps[0].file
    names = set(bundle.step_initializers)
    reader.require(names, {tensor.name for tensor in graph_proto.initializer}, file)
    constants, kept = {}, []
    for tensor in graph_proto.initializer:
        if tensor.name in names:
            graph_proto.input.append(helper.make_tensor_value_info(
                tensor.name, tensor.data_type, list(tensor.dims)))
        else:
            kept.append(tensor)
            if tensor.data_location == TensorProto.EXTERNAL:
                constants[tensor.name] = reader.view(tensor, file)
    del graph_proto.initializer[:]
    graph_proto.initializer.extend(kept)
    return ParameterizedGraph(graph.model, constants, bundle.step_initializers)
