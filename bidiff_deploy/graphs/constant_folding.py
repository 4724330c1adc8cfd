"""Values of nodes whose inputs are constants, as ONNX defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..errors import EngineError
from .graph_writer import reshaped

_MAX_FOLDED = 1 << 20  # elements of a constant that is larger than what it is computed from


def constant_of(node: onnx.NodeProto) -> np.ndarray:
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    kinds: dict[str, type] = {"value_int": np.int64, "value_ints": np.int64,
                              "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in kinds:
        raise EngineError(f"the constant {node.output[0]} is of a kind that no step graph has; "
                          "export the bundle again")
    return np.array(value, kinds[attribute.name])


def folded(kind: str, values: list[np.ndarray], attributes: Mapping[str, Any]
            ) -> np.ndarray | None:
    """What a node makes of constants; None where it is left to TensorRT."""
    if kind == "Unsqueeze":
        return np.expand_dims(values[0], tuple(values[1].tolist()))
    if kind == "Concat":
        return np.concatenate(values, attributes["axis"])
    if kind == "Reshape":
        return reshaped(values[0], tuple(values[1].tolist()))
    if kind == "Cast":
        return values[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if kind == "Sqrt":
        return np.sqrt(values[0])
    if kind == "Expand":
        shape = np.broadcast_shapes(values[0].shape, tuple(values[1].tolist()))
        return np.broadcast_to(values[0], shape) if math.prod(shape) <= _MAX_FOLDED else None
    return None
