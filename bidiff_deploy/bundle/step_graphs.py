"""The step graphs of a bundle as one graph that takes its step's constants as inputs.

All steps have the same nodes, so one session serves them all: the initializers that differ are
made inputs, and each step's values are views of the shared weights file. Needs ``onnx``, not an
inference runtime.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError

from ..errors import BundleError
from .guard import objection
from .record import Bundle

MAX_GRAPH_BYTES = 64 << 20
_DTYPES = {onnx.TensorProto.FLOAT: np.dtype("<f4"), onnx.TensorProto.INT32: np.dtype("<i4")}


@dataclass(frozen=True)
class PromotedGraph:
    """One graph for all steps.

    model      serialised; the step's constants are inputs, other tensors are external
    constants  ``{name: array}`` of its external initializers, views of the weights file
    inputs     names of the inputs that a step fills
    """

    model: bytes
    constants: dict[str, np.ndarray]
    inputs: tuple[str, ...]


class StepGraphs:
    """Reads the step graphs of a verified bundle; all arrays are read-only views of its file."""

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle
        self._weights = np.memmap(bundle.path / bundle.weights, np.uint8, mode="r")
        self._files = {step.timestep: step.file for step in bundle.steps}

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self._bundle.path

    def promoted(self) -> PromotedGraph:
        """The graph of the first step with every step's constants as inputs."""
        file = self._bundle.steps[0].file
        model = self._read(file)
        if reason := objection(model, self._bundle.config):
            raise self._broken(file, reason)
        graph = model.graph
        names = set(self._bundle.step_initializers)
        found = {tensor.name for tensor in graph.initializer}
        if not names <= found:
            raise self._broken(file, f"it has no initializer {sorted(names - found)[0]}")
        constants = {}
        kept = []
        for tensor in graph.initializer:
            if tensor.name in names:
                graph.input.append(onnx.helper.make_tensor_value_info(
                    tensor.name, tensor.data_type, list(tensor.dims)))
            else:
                kept.append(tensor)
                if tensor.data_location == onnx.TensorProto.EXTERNAL:
                    constants[tensor.name] = self._view(tensor, file)
        del graph.initializer[:]
        graph.initializer.extend(kept)
        return PromotedGraph(model.SerializeToString(deterministic=True), constants,
                             self._bundle.step_initializers)

    def constants(self, timestep: int) -> dict[str, np.ndarray]:
        """``{name: array}`` of the initializers that are this step's."""
        file = self._files[timestep]
        names = set(self._bundle.step_initializers)
        result = {tensor.name: self._view(tensor, file)
                  for tensor in self._read(file).graph.initializer if tensor.name in names}
        if missing := names - set(result):
            raise self._broken(file, f"it has no initializer {sorted(missing)[0]}")
        return result

    def _read(self, file: str) -> onnx.ModelProto:
        path = Path(self._bundle.path) / file
        try:
            if path.stat().st_size > MAX_GRAPH_BYTES:
                raise self._broken(file, "it is larger than a step graph can be")
            model = onnx.load_model_from_string(path.read_bytes())
        except OSError as error:
            raise BundleError(f"{path} can not be read: {error.strerror or error}") from None
        except (DecodeError, ValueError):
            raise self._broken(file, "it is no ONNX graph") from None
        if any(_refers_outside(node) for owner in (model.graph, *model.functions)
               for node in owner.node) or model.graph.sparse_initializer:
            # Only initializers are read from the weights file, by _view; nothing else may name
            # a file, or a stranger's graph could read one.
            raise self._broken(file, "a node refers to external data")
        return model

    def _view(self, tensor: onnx.TensorProto, file: str) -> np.ndarray:
        place = {entry.key: entry.value for entry in tensor.external_data}
        dtype = _DTYPES.get(tensor.data_type)
        try:
            offset, length = int(place["offset"]), int(place["length"])
        except (KeyError, ValueError):
            raise self._broken(file, f"{tensor.name} is not in the weights file") from None
        if place.get("location") != self._bundle.weights or dtype is None or (
                min(tensor.dims, default=0) < 0 or length < 0 or offset < 0
                or offset % dtype.itemsize or offset + length > self._weights.size
                or length != math.prod(tensor.dims) * dtype.itemsize):
            raise self._broken(file, f"{tensor.name} points outside the weights file or has "
                                     "another size")
        return self._weights[offset:offset + length].view(dtype).reshape(tuple(tensor.dims))

    def _broken(self, file: str, reason: str) -> BundleError:
        return BundleError(f"{self._bundle.path / file} does not fit its bundle: {reason}; "
                           "export the bundle again")


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
