"""Networks, their layers and values, as far as users look at what a parser made."""

from __future__ import annotations

import operator
from typing import Any

import onnx
from onnx import TensorProto

from .filtered import new
from .program import DOMAIN, Program

# ONNX's type -> the name of TensorRT's.
TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8",
         TensorProto.INT32: "INT32", TensorProto.BOOL: "BOOL", TensorProto.INT64: "INT64",
         TensorProto.UINT8: "UINT8", TensorProto.BFLOAT16: "BF16"}


class ITensor:
    """A value of a network."""

    def _create(self, network: Any, name: str) -> None:
        self._network, self._name, self._formats = network, name, 1

    @property
    def name(self) -> str:
        return self._name

    @property
    def allowed_formats(self) -> int:
        return self._formats

    @allowed_formats.setter
    def allowed_formats(self, formats: int) -> None:
        self._formats = operator.index(formats)

    @property
    def dtype(self) -> Any:
        kind = TYPES[self._network._program.types[self._name]]
        # Before 10, TensorRT computes with 32 bits where ONNX says 64.
        data_type = self._trt.DataType
        return getattr(data_type, kind, None) or data_type.INT32

    @property
    def shape(self) -> tuple[int, ...]:
        program = self._network._program
        return program.inputs[self._name][1] if self._name in program.inputs else ()

    is_shape_tensor = property(lambda self: False)


class ILayer:
    """A node of a network."""

    def _create(self, network: Any, node: onnx.NodeProto) -> None:
        self._network, self._node, self._precision = network, node, None

    name = property(lambda self: self._node.name)
    num_inputs = property(lambda self: len(self._node.input))
    num_outputs = property(lambda self: len(self._node.output))

    @property
    def type(self) -> Any:
        kinds = self._trt.LayerType
        if self._node.domain == DOMAIN:
            return kinds.PLUGIN_V2 if self._trt._version[0] < 10 else kinds.PLUGIN_V3
        names = {"Conv": "CONVOLUTION", "Add": "ELEMENTWISE", "Mul": "ELEMENTWISE",
                 "Constant": "CONSTANT", "QuantizeLinear": "QUANTIZE", "Concat": "CONCATENATION",
                 "DequantizeLinear": "DEQUANTIZE", "Reshape": "SHUFFLE", "Softmax": "SOFTMAX",
                 "MatMul": "MATRIX_MULTIPLY", "Resize": "RESIZE"}
        return getattr(kinds, names.get(self._node.op_type, "UNARY"))

    @property
    def precision(self) -> Any:
        return self._precision or self._trt.DataType.FLOAT

    @precision.setter
    def precision(self, kind: Any) -> None:
        self._precision = kind
        self._network._precisions[self._node.name] = kind.name

    def get_output(self, index: int) -> Any:
        return new(self._trt.ITensor, self._network, self._node.output[index])

    def get_input(self, index: int) -> Any:
        return new(self._trt.ITensor, self._network, self._node.input[index])

    def set_output_type(self, index: int, kind: Any) -> None:
        self._network._precisions[f"{self._node.name}:{index}"] = kind.name


class INetworkDefinition:
    """What a parser fills."""

    def _create(self, builder: Any, flags: int) -> None:
        self._builder, self._flags = builder, flags
        self._program: Program | None = None
        self._model: onnx.ModelProto | None = None
        self._precisions: dict[str, str] = {}
        self._layers: dict[int, Any] = {}
        self._label = "Unnamed Network 0"

    def _has(self, flag: str) -> bool:
        member = getattr(self._trt.NetworkDefinitionCreationFlag, flag, None)
        return member is not None and bool(self._flags >> int(member) & 1)

    @property
    def _strongly_typed(self) -> bool:
        return self._trt._version[0] >= 11 or self._has("STRONGLY_TYPED")


    num_layers = property(lambda self: len(self._model.graph.node) if self._model else 0)
    num_inputs = property(lambda self: len(self._program.inputs) if self._program else 0)
    num_outputs = property(lambda self: len(self._program.outputs) if self._program else 0)

    def get_layer(self, index: int) -> Any:
        if index not in self._layers:
            self._layers[index] = new(self._trt.ILayer, self, self._model.graph.node[index])
        return self._layers[index]

    def get_input(self, index: int) -> Any:
        return new(self._trt.ITensor, self, list(self._program.inputs)[index])

    def get_output(self, index: int) -> Any:
        return new(self._trt.ITensor, self, self._program.outputs[index])


TEMPLATES = {"ITensor": ITensor, "ILayer": ILayer, "INetworkDefinition": INetworkDefinition}
