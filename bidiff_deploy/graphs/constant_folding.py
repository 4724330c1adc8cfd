"""Values of nodes whose inputs are constants, as ONNX defines them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

from ..errors import EngineError
from .graph_writer import Array, reshaped

_MAX_FOLDED = 1 << 20  # elements of a constant that is larger than what it is computed from


def constant_of(node: onnx.NodeProto) -> Array:
    """The value of a Constant node. Raises EngineError for a kind that no step graph has."""
    attribute = node.attribute[0]
    value = helper.get_attribute_value(attribute)
    if attribute.name == "value":
        return numpy_helper.to_array(value)
    dtypes: dict[str, npt.DTypeLike] = {"value_int": np.int64, "value_ints": np.int64,
                                        "value_float": np.float32, "value_floats": np.float32}
    if attribute.name not in dtypes:
        raise EngineError(f"the constant {node.output[0]} has an unknown kind of value, "
                          f"{attribute.name}; export the bundle again")
    return np.array(value, dtypes[attribute.name])


def folded(kind: str, values: list[Array], attributes: Mapping[str, Any]) -> Array | None:
    """The output of a node whose inputs are constants; None if TensorRT is to compute it."""
    if kind == "Unsqueeze":
        return np.expand_dims(values[0], tuple(values[1].tolist()))
    if kind == "Concat":
        return np.concatenate(values, attributes["axis"])
    if kind == "Reshape":
        return reshaped(values[0], tuple(values[1].tolist()))
    if kind == "Cast":
        return values[0].astype(helper.tensor_dtype_to_np_dtype(attributes["to"]))
    if kind == "Sqrt":
        root: Array = np.sqrt(values[0])
        return root
    if kind == "Expand":
        shape = np.broadcast_shapes(values[0].shape, tuple(values[1].tolist()))
        return np.broadcast_to(values[0], shape) if math.prod(shape) <= _MAX_FOLDED else None
    return None
