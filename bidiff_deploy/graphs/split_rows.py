"""Pass ``split_rows``: a step's tables become one input a row, and its vectors have a map's rank.

Before: inputs (C), and (R, C), the parameters of every RPReLU. After: inputs (1, C, 1, 1), a row
of a table being called ``name/0`` and so on, as ``engines.gpu.step_rows.rows_apart`` has them:
slices and reshapes of inputs would be kernels of their own in every step.
"""

from __future__ import annotations

import dataclasses

from onnx import ValueInfoProto, helper

from .record import Options, ParameterizedGraph


def split_rows(graph: ParameterizedGraph, options: Options) -> ParameterizedGraph:
    """The graph with its inputs split; the nodes that read them are ``lower_opset``'s to write."""
    inputs, split, rows = graph.model.graph.input, [], []
    for value in inputs:
        tensor = value.type.tensor_type
        sizes = [dim.dim_value for dim in tensor.shape.dim]
        if value.name in graph.inputs and len(sizes) in (1, 2):
            names = [value.name] if len(sizes) == 1 else [
                f"{value.name}/{index}" for index in range(sizes[0])]
            parts = [helper.make_tensor_value_info(name, tensor.elem_type, [1, sizes[-1], 1, 1])
                     for name in names]
        else:
            parts = [ValueInfoProto.FromString(value.SerializeToString())]
        split += parts
        if value.name in graph.inputs:
            rows += [part.name for part in parts]
    del inputs[:]
    inputs.extend(split)
    return dataclasses.replace(graph, inputs=tuple(rows))
