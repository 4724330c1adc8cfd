"""The parser, and networks as far as users look at what it made. It refuses nodes that it has no
plugin for. What else a real one refuses is shown by NVIDIA's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import onnx
from onnx import TensorProto

from bidiff_deploy.operators.shapes import STANDARD

from . import nodes
from .objects import Object, Refused
from .program import Program

# ONNX's type -> the name of TensorRT's. Before 10 it computes with 32 bits where ONNX has 64.
TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8",
         TensorProto.INT32: "INT32", TensorProto.BOOL: "BOOL", TensorProto.INT64: "INT32"}


class ITensor(Object):
    """A value of a network."""

    name: Any = None
    dtype: Any = None
    shape: Any = None
    allowed_formats = 1
    is_shape_tensor = False

    def __init__(self, network: Any, name: str) -> None:
        self.name, self.shape = name, network._program.inputs.get(name)
        self.dtype = getattr(self._trt.DataType, TYPES[network._program.types[name]])


class ILayer(Object):
    """A node of a network."""

    precision: Any = None

    def __init__(self, network: Any, node: onnx.NodeProto) -> None:
        self._network, self._node = network, node

    num_outputs = property(lambda self: len(self._node.output))

    @property
    def type(self) -> Any:
        kinds = self._trt.LayerType
        if self._node.domain == nodes.NAMESPACE:
            return kinds.PLUGIN_V2
        return getattr(kinds, self._node.op_type.upper(), kinds.ELEMENTWISE)

    def get_output(self, index: int) -> Any:
        return self._trt.ITensor(self._network, self._node.output[index])

    def set_output_type(self, index: int, kind: Any) -> None:
        self._network._precisions[f"{self._node.name}:{index}"] = kind.name


class INetworkDefinition(Object):
    """What a parser fills."""

    def __init__(self, flags: int) -> None:
        major, kinds = self._trt._version[0], self._trt.NetworkDefinitionCreationFlag
        self._strongly_typed = major > 10 or major == 10 and bool(flags >> kinds.STRONGLY_TYPED & 1)
        self._precisions: dict[str, str] = {}

    num_layers = property(lambda self: len(self._program.model.graph.node))
    num_inputs = property(lambda self: len(self._program.inputs))

    def get_layer(self, index: int) -> Any:
        return self._trt.ILayer(self, self._program.model.graph.node[index])

    def get_input(self, index: int) -> Any:
        return self._trt.ITensor(self, list(self._program.inputs)[index])


class OnnxParser(Object):
    """Fills a network with an ONNX graph."""

    def __init__(self, network: Any, logger: Any) -> None:
        self._network, self._logger, self._errors = network, logger, []

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def set_flag(self, flag: Any) -> None:
        self._of("OnnxParserFlag", flag)

    def parse(self, model: bytes, path: str | None = None) -> bool:
        made, at = onnx.load_model_from_string(model), -1
        plugin: dict[int, nodes.Node] = {}
        try:
            for at, node in enumerate(made.graph.node):
                if node.domain not in STANDARD:
                    plugin[at] = nodes.made(node, self._trt._version[0])
            at = -1
            self._network._program = Program(made, plugin)
        except Refused as error:
            self._errors.append(SimpleNamespace(desc=error.__str__, node=lambda: at))
            return self._log(f"In node {at}: {error}")
        return True
