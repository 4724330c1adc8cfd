"""Reads the step graphs of a bundle and the tensors that they have in its weights file.

A graph may come from a stranger: its size is bounded, it may name no other file, and every tensor
must be inside the weights file. Needs ``onnx``, no runtime.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError

from ..errors import BundleError
from .record import Bundle

MAX_GRAPH_BYTES = 64 << 20
_DTYPES: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.FLOAT: np.dtype("<f4"),
    onnx.TensorProto.INT32: np.dtype("<i4")}


class StepGraphs:
    """Reads the step graphs of a verified bundle; arrays are read-only views of its weights file.

    bundle  the bundle that is read
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self._weights = np.memmap(bundle.path / bundle.weights, np.uint8, mode="r")
        self._files = {step.timestep: step.file for step in bundle.steps}

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self.bundle.path

    def constants(self, timestep: int) -> dict[str, npt.NDArray[Any]]:
        """``{name: array}`` of the initializers that differ from step to step, as this step has
        them. Raises BundleError if the graph does not have them all."""
        file = self._files[timestep]
        names = set(self.bundle.step_initializers)
        result = {tensor.name: self.view(tensor, file)
                  for tensor in self.read(file).graph.initializer if tensor.name in names}
        self.require(names, set(result), file)
        return result

    def require(self, names: set[str], found: set[str], file: str) -> None:
        """Raises BundleError if a graph's initializers ``found`` are not all of ``names``."""
        if missing := names - found:
            raise misfit(self.path / file, f"it has no initializer {min(missing)}")

    def read(self, file: str) -> onnx.ModelProto:
        """A step's graph, its tensors in the weights file. Raises BundleError for a file that is
        no graph, or that refers to any other file."""
        path = self.path / file
        try:
            if path.stat().st_size > MAX_GRAPH_BYTES:
                raise misfit(path, "it is larger than a step graph can be")
            model = onnx.load_model_from_string(path.read_bytes())
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
        except (DecodeError, ValueError):
            raise misfit(path, "it is no ONNX graph") from None
        if any(_refers_outside(node) for owner in (model.graph, *model.functions)
               for node in owner.node) or model.graph.sparse_initializer:
            # Only initializers are read from the weights file, by view; nothing else may name
            # a file, or a stranger's graph could read one.
            raise misfit(path, "a node refers to external data")
        return model

    def view(self, tensor: onnx.TensorProto, file: str) -> npt.NDArray[Any]:
        """The values of an external tensor of the graph in ``file``, float32 or int32, as a view
        of the weights file. Raises BundleError for a tensor that is not inside it."""
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = _DTYPES.get(tensor.data_type)
        try:
            offset, length = int(place["offset"]), int(place["length"])
        except (KeyError, ValueError):
            raise misfit(self.path / file, f"{tensor.name} is not in the weights file") from None
        if place.get("location") != self.bundle.weights or dtype is None or (
                min(tensor.dims, default=0) < 0 or length < 0 or offset < 0
                or offset % dtype.itemsize or offset + length > self._weights.size
                or length != math.prod(tensor.dims) * dtype.itemsize):
            raise misfit(self.path / file, f"{tensor.name} points outside the weights file or has "
                                           "another size")
        values: npt.NDArray[Any] = self._weights[offset:offset + length].view(dtype)
        return values.reshape(tuple(tensor.dims))


def misfit(path: Path, reason: str) -> BundleError:
    """The error for a graph that does not fit its bundle."""
    return BundleError(f"{path} does not fit its bundle: {reason}; export the bundle again")


def _refers_outside(node: onnx.NodeProto) -> bool:
    """Whether an attribute of the node, or of a graph inside it, names external data."""
    for attribute in node.attribute:
        tensors = [attribute.t, *attribute.tensors]
        for graph in (attribute.g, *attribute.graphs):
            tensors += graph.initializer
            if graph.sparse_initializer or any(map(_refers_outside, graph.node)):
                return True
        if attribute.HasField("sparse_tensor") or attribute.sparse_tensors or any(
                tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in tensors):
            return True
    return False
