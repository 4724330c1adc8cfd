"""The graph of a bundle, and the values of its tensors.

The graph is built here, from the network that the manifest states; the manifest lists where each of
its tensors is in the weights file. The graphs in the bundle's folder are for other runtimes: they
are never run, and only compared with the one built here. Bundles of schema 1 list no places: theirs
are taken from these graphs once they are found equal. Needs ``onnx``, no runtime.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from google.protobuf.message import DecodeError, Message

from ..errors import BundleError, quoted
from ..networks.base import STEP
from .built_graph import BuiltGraph, build_graph
from .record import Bundle, Step

__all__ = ["StepGraphs"]

# How many bytes a file may have beyond the graph built here: a reference to the weights file for
# each tensor, and names of programs that write graphs.
_REFERENCE_BYTES = 160
_SLACK_BYTES = 4096
_MIN_ENTRY_BYTES = 40  # that a file of schema 1 needs for a tensor and its place
_MAX_DIGITS = 18  # of an offset


class StepGraphs:
    """A verified bundle's graph and tensors; all arrays are read-only views of its file."""

    def __init__(self, bundle: Bundle, part: str = STEP) -> None:
        """``part``: of ``networks.base.PARTS``. Raises BundleError for a bundle whose tensors are
        not those of its network."""
        places = bundle.places
        self.bundle = bundle = bundle.of_part(part)
        if bundle.data is not None:
            self._weights = bundle.data
        elif (bundle.path / bundle.weights).stat().st_size:
            self._weights = np.memmap(bundle.path / bundle.weights, np.uint8, mode="r")
        else:
            raise self._broken("its weights file is empty")
        size = self._weights.size
        try:
            self._built = build_graph(bundle.config, bundle.precision, bundle.steps[0].timestep,
                                      size, places if bundle.schema > 1 else self._places(),
                                      part)
        except BundleError as error:
            raise self._broken(str(error)) from None
        self._varying = bundle.step_initializers
        if sorted(self._built.step_names) != sorted(self._varying):
            raise self._broken("step_initializers are not those of its network")
        self._offsets = dict(bundle.tensors)
        self._step_offsets = {step.timestep: dict(zip(self._varying, step.offsets))
                              for step in bundle.steps}
        if bundle.schema == 1:
            self._read_offsets()
        self._check_offsets(size)

    @property
    def path(self) -> Path:
        """The bundle's folder."""
        return self.bundle.path

    @property
    def built(self) -> BuiltGraph:
        """The graph without values; it is shared, so it must not be changed."""
        return self._built

    def model(self, step: Step | None = None) -> onnx.ModelProto:
        """A step's graph, by default the first's, as export writes it: tensors name their
        places."""
        step = step or self.bundle.steps[0]
        model = onnx.ModelProto()
        model.CopyFrom(self._built.model)
        for tensor in model.graph.initializer:
            offset, length = self.place(tensor.name, step)
            for key, value in (("location", self.bundle.weights), ("offset", offset),
                               ("length", length)):
                tensor.external_data.add(key=key, value=str(value))
        return model

    def place(self, name: str, step: Step) -> tuple[int, int]:
        """(offset, length) in the weights file of a step's tensor, in bytes."""
        of_step = self._step_offsets[step.timestep]
        offset = of_step[name] if name in of_step else self._offsets[name]
        return offset, self._built.tensors[name].bytes

    def shared(self) -> dict[str, npt.NDArray[Any]]:
        """``{name: array}`` of the initializers that all steps share."""
        return {name: self._view(name, offset) for name, offset in self._offsets.items()}

    def constants(self, timestep: int) -> dict[str, npt.NDArray[Any]]:
        """``{name: array}`` of the initializers that are this step's."""
        return {name: self._view(name, offset)
                for name, offset in self._step_offsets[timestep].items()}

    def difference(self, step: Step) -> str | None:
        """How a step's file differs from the graph built here, in a few words; None if it is the
        same."""
        found = self._parse(step)
        if isinstance(found, str):
            return found
        return _compare(found, self.model(step))

    def require_equal(self) -> None:
        """Raises BundleError for a step whose file is not the graph built here. A bundle in memory
        has no files."""
        for step in self.bundle.steps if self.bundle.data is None else ():
            if reason := self.difference(step):
                raise self._misfit(step, reason)

    def _places(self) -> int:
        """At most how many tensors a bundle of schema 1 states places of."""
        file = self.bundle.steps[0].file
        return int(self.bundle.manifest["files"][file]["bytes"]) // _MIN_ENTRY_BYTES

    # -- places ---------------------------------------------------------------------------------
    def _view(self, name: str, offset: int) -> npt.NDArray[Any]:
        form = self._built.tensors[name]
        return self._weights[offset:offset + form.bytes].view(form.dtype).reshape(form.shape)

    def _check_offsets(self, size: int) -> None:
        forms, varying = self._built.tensors, set(self._varying)
        odd = sorted((set(forms) - varying) ^ set(self._offsets))
        if odd:
            raise self._broken(f"its tensors are not those of its network ({quoted(odd[0])})")
        for offsets in (self._offsets, *self._step_offsets.values()):
            if offsets is not self._offsets and set(offsets) != varying:
                raise self._broken("a step does not list all of step_initializers")
            for name, offset in offsets.items():
                if offset % forms[name].dtype.itemsize or offset + forms[name].bytes > size:
                    raise self._broken(f"tensor {name} is not inside its weights file")

    def _broken(self, reason: str) -> BundleError:
        return BundleError(f"{self.path} does not fit its network: {reason}; export the bundle "
                           "again")

    def _misfit(self, step: Step, reason: str) -> BundleError:
        return BundleError(f"{self.path / step.file} does not fit its bundle: {reason}; export the "
                           "bundle again")

    # -- files ----------------------------------------------------------------------------------
    def _parse(self, step: Step) -> onnx.ModelProto | str:
        """The graph in a step's file, or why there is none. A file larger than the graph of its
        network is not parsed, because parsing takes many times its size."""
        path = self.path / step.file
        limit = (self._built.model.ByteSize() + _SLACK_BYTES
                 + _REFERENCE_BYTES * len(self._built.tensors))
        try:
            if path.stat().st_size > limit:
                return "it is larger than that graph can be"
            return onnx.load_model_from_string(path.read_bytes())
        except OSError as error:
            raise BundleError(f"{path} cannot be read: {error.strerror or error}") from None
        except (DecodeError, ValueError):
            return "it is no ONNX graph"

    def _read_offsets(self) -> None:
        """Offsets as the step graphs of schema 1 state them. Raises BundleError for a graph that
        differs from the one built here in anything else."""
        varying = set(self._varying)
        for step in self.bundle.steps:
            found = self._parse(step)
            if isinstance(found, str):
                raise self._misfit(step, found)
            for tensor in found.graph.initializer:
                entries = {entry.key: entry.value for entry in tensor.external_data}
                text = entries.get("offset", "")
                if entries.get("location") != self.bundle.weights or not (
                        text.isascii() and text.isdecimal() and len(text) <= _MAX_DIGITS):
                    raise self._misfit(step, f"tensor {quoted(tensor.name)} is not in the weights "
                                             "file")
                offsets = (self._step_offsets[step.timestep] if tensor.name in varying
                           else self._offsets)
                if offsets.setdefault(tensor.name, int(text)) != int(text):
                    raise self._misfit(step, f"tensor {quoted(tensor.name)} differs from that of "
                                             "the first step")
                del tensor.external_data[:]
            if reason := _compare(found, self._built.model):
                raise self._misfit(step, reason)


def _compare(found: onnx.ModelProto, built: onnx.ModelProto) -> str | None:
    """The first difference from the graph built here, in words that name no part of the other."""
    if _bytes(found) == _bytes(built):
        return None
    for ours, theirs in zip(built.graph.initializer, found.graph.initializer):
        if _bytes(ours) != _bytes(theirs):
            return f"its tensor {ours.name} differs"
    for node, other in zip(built.graph.node, found.graph.node):
        if _bytes(node) != _bytes(other):
            return f"its node {node.name or node.output[0]} differs"
    for function, definition in zip(built.functions, found.functions):
        if _bytes(function) != _bytes(definition):
            return f"its definition of {function.name} differs"
    return "it has other parts"


def _bytes(message: Message) -> bytes:
    return bytes(message.SerializeToString(deterministic=True))
