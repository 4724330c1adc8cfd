"""Pass ``split_rows``: a step's tables become one input a row.

Before: inputs (R, C), the parameters of every RPReLU. After: R inputs (C), called ``name/0`` and so
on, as ``engines.gpu.step_rows.rows_apart`` names them: three slices for every RPReLU would be
kernels of their own in every step.
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
        if len(sizes) == 2:
            parts = [helper.make_tensor_value_info(f"{value.name}/{index}", tensor.elem_type,
                                                   sizes[1:]) for index in range(sizes[0])]
        else:
            parts = [ValueInfoProto.FromString(value.SerializeToString())]
        split += parts
        if value.name in graph.inputs:
            rows += [part.name for part in parts]
    del inputs[:]
    inputs.extend(split)
    return dataclasses.replace(graph, inputs=tuple(rows))
