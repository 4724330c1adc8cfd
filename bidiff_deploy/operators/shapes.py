"""Shapes of every value of a graph, by ONNX's own inference."""

from __future__ import annotations

import onnx
from onnx import TensorProto, helper, shape_inference

from .names import BINARY_CONV, DOMAIN, GROUP_NORM_SWISH, SCALED_BINARY_CONV, SELECTIVE_SCAN

# Operators whose output has the shape of their input.
SAME_SHAPE = (GROUP_NORM_SWISH, SELECTIVE_SCAN)
STANDARD = ("", "ai.onnx")  # names of the standard domain
Shape = tuple[int | None, ...]


def infer_shapes(model: onnx.ModelProto, height: int, width: int) -> dict[str, Shape]:
    """``{name: shape}`` of every value, for one image.

    Shapes come from ONNX's own inference on a copy in which our operators are replaced by standard
    ones with the same output, and external tensors by inputs.
    """
    graph = onnx.GraphProto(name=model.graph.name or "step")
    for value in model.graph.input:
        tensor = value.type.tensor_type
        dims = [dim.dim_value or None for dim in tensor.shape.dim]
        if len(dims) == 4:
            dims = [1, dims[1], height, width]
        graph.input.append(helper.make_tensor_value_info(value.name, tensor.elem_type, dims))
    words = {}
    for tensor in model.graph.initializer:
        words[tensor.name] = tuple(tensor.dims)
        if tensor.data_location == TensorProto.EXTERNAL:
            graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type,
                                                             tensor.dims))
        else:
            graph.initializer.append(tensor)
    for node in model.graph.node:
        if node.domain in STANDARD:
            graph.node.append(node)
        elif node.domain != DOMAIN:
            continue  # its output and everything computed from it has no known shape
        elif (node.op_type in (BINARY_CONV, SCALED_BINARY_CONV)
              and len(words.get(node.input[1], ())) == 4):
            cout, k, _, _ = words[node.input[1]]
            weight = f"{node.output[0]}/float"
            graph.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT,
                                                             [cout, None, k, k]))
            graph.node.append(helper.make_node("Conv", [node.input[0], weight], node.output,
                                               kernel_shape=[k, k], pads=[k // 2] * 4))
        elif node.op_type in SAME_SHAPE:
            graph.node.append(helper.make_node("Identity", node.input[:1], node.output))
    graph.output.extend(helper.make_empty_tensor_value_info(value.name)
                        for value in model.graph.output)
    standard = [opset for opset in model.opset_import if opset.domain in STANDARD]
    copy = helper.make_model(graph, opset_imports=standard, ir_version=model.ir_version)
    inferred = shape_inference.infer_shapes(copy, data_prop=True).graph
    shapes: dict[str, Shape] = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        tensor = value.type.tensor_type
        if tensor.HasField("shape"):
            shapes[value.name] = tuple(dim.dim_value if dim.HasField("dim_value") else None
                                       for dim in tensor.shape.dim)
    for tensor in graph.initializer:
        shapes[tensor.name] = tuple(tensor.dims)
    return shapes
