"""Networks, and the parser of ONNX graphs, with the refusals of real ones."""

from __future__ import annotations

import re
from typing import Any

import onnx
from onnx import TensorProto

from . import nodes
from .filtered import new
from .program import DOMAIN, Program, Refused

# The newest opset of a version's parser, of versions that our graphs are close to.
_OPSETS = {8: 17}
_NEWEST_OPSET = 20
PLUGIN_MISSING = "Plugin not found, are the plugin name, version, and namespace correct?"
# ONNX's type -> the name of TensorRT's.
TYPES = {TensorProto.FLOAT: "FLOAT", TensorProto.FLOAT16: "HALF", TensorProto.INT8: "INT8",
         TensorProto.INT32: "INT32", TensorProto.BOOL: "BOOL", TensorProto.INT64: "INT64",
         TensorProto.UINT8: "UINT8", TensorProto.BFLOAT16: "BF16"}


class ITensor:
    """A value of a network."""

    def _create(self, network: Any, name: str) -> None:
        self._network, self._name = network, name

    @property
    def name(self) -> str:
        return self._name

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
    is_execution_tensor = property(lambda self: True)

    @property
    def is_network_input(self) -> bool:
        return self._name in self._network._program.inputs

    @property
    def is_network_output(self) -> bool:
        return self._name in self._network._program.outputs


class ILayer:
    """A node of a network."""

    def _create(self, network: Any, node: onnx.NodeProto) -> None:
        self._network, self._node, self._precision = network, node, None

    name = property(lambda self: self._node.name)
    num_inputs = property(lambda self: len(self._node.input))
    num_outputs = property(lambda self: len(self._node.output))
    precision_is_set = property(lambda self: self._precision is not None)

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

    def reset_precision(self) -> None:
        self._precision = None
        self._network._precisions.pop(self._node.name, None)

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

    def get_flag(self, flag: Any) -> bool:
        return bool(self._flags >> int(flag) & 1)

    @property
    def _strongly_typed(self) -> bool:
        return self._trt._version[0] >= 11 or self._has("STRONGLY_TYPED")

    @property
    def name(self) -> str:
        return self._label

    @name.setter
    def name(self, value: str) -> None:
        self._label = value

    flags = property(lambda self: self._flags)
    has_implicit_batch_dimension = property(
        lambda self: self._trt._version[0] < 10 and not self._has("EXPLICIT_BATCH"))
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


class ParserError:
    """Why a graph was refused."""

    def _create(self, description: str, code: str, node: int = -1, operator: str = "",
                name: str = "") -> None:
        self._texts = (description, code, node, operator, name)

    def desc(self) -> str:
        return self._texts[0]

    def code(self) -> Any:
        return getattr(self._trt.ErrorCode, self._texts[1])

    def node(self) -> int:
        return self._texts[2]

    def node_operator(self) -> str:
        return self._texts[3]

    def node_name(self) -> str:
        return self._texts[4]

    def file(self) -> str:
        return "onnxOpImporters.cpp"

    def func(self) -> str:
        return "importFallbackPluginImporter"

    def line(self) -> int:
        return 0

    def __repr__(self) -> str:
        return f"In node {self._texts[2]}: {self._texts[1]}: {self._texts[0]}"


class OnnxParser:
    """Fills a network with an ONNX graph."""

    def __init__(self, network: Any, logger: Any) -> None:
        if type(network).__name__ != "INetworkDefinition":
            raise TypeError("__init__(): incompatible constructor arguments")
        self._network, self._logger, self._errors, self._flags = network, logger, [], 0

    num_errors = property(lambda self: len(self._errors))

    def get_error(self, index: int) -> Any:
        return self._errors[index]

    def clear_errors(self) -> None:
        self._errors.clear()

    def parse(self, model: Any, path: str | None = None) -> bool:
        self._errors.clear()
        made = onnx.ModelProto()
        try:
            made.ParseFromString(bytes(model))
            if not made.graph.node:
                raise ValueError
        except Exception:
            return self._fail("Failed to parse the ONNX model.", "MODEL_DESERIALIZE_FAILED")
        if self._network.has_implicit_batch_dimension:
            return self._fail("This version of the ONNX parser only supports TensorRT "
                              "INetworkDefinitions with an explicit batch dimension. Please ensure "
                              "the network was created using the EXPLICIT_BATCH "
                              "NetworkDefinitionCreationFlag.", "INVALID_VALUE")
        opsets = {entry.domain: entry.version for entry in made.opset_import}
        newest = _OPSETS.get(self._trt._version[0], _NEWEST_OPSET)
        if opsets.get("", 0) > newest:
            return self._fail(f"opset {opsets.get('')} is newer than {newest}, the newest of this "
                              "parser", "UNSUPPORTED_GRAPH")
        if made.functions:
            return self._fail(f"local function {made.functions[0].name}: this stand-in takes none",
                              "UNSUPPORTED_GRAPH")
        for entry in made.graph.initializer:
            if entry.data_type not in TYPES or entry.data_location == TensorProto.EXTERNAL:
                return self._fail(f"Found unsupported datatype ({entry.data_type}) when importing "
                                  f"initializer: {entry.name}", "UNSUPPORTED_NODE")
        plugin: dict[int, nodes.Node] = {}
        for index, node in enumerate(made.graph.node):
            if node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, newest):
                continue
            found = self._plugin(index, node)
            if found is None:
                return False
            plugin[index] = found
        try:
            self._network._program = Program(made, plugin)
        except Refused as error:
            return self._fail(str(error), "INVALID_GRAPH")
        self._network._model = made
        return True

    def parse_from_file(self, path: str) -> bool:
        try:
            with open(path, "rb") as stream:
                return self.parse(stream.read())
        except OSError:
            return self._fail(f"Could not open file {path}", "MODEL_DESERIALIZE_FAILED")

    def _plugin(self, index: int, node: onnx.NodeProto) -> nodes.Node | None:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry)
                      for entry in node.attribute}
        version = attributes.pop("plugin_version", b"1").decode()
        namespace = attributes.pop("plugin_namespace", b"").decode()
        where = dict(node=index, operator=node.op_type, name=node.name)
        library = nodes.registered(self._trt._version[0])
        fits = namespace == nodes.NAMESPACE or (
            self._trt._version >= (10, 10) and node.domain == nodes.NAMESPACE)
        if (library is None or not fits or version != nodes.VERSION
                or node.op_type not in nodes.OPERATORS):
            self._fail(f"Assertion failed: creator && \"{PLUGIN_MISSING}\"", "UNSUPPORTED_NODE",
                       **where)
            return None
        wrong = [name for name in nodes.ATTRIBUTES
                 if not isinstance(attributes.get(name, 0), int)]
        try:
            if wrong or not all(node.input) or len(node.output) != 1:
                raise nodes.NodeError(f"bidiff::{node.op_type}: attribute "
                                      f"{(wrong or ['(an empty input)'])[0]} must be one integer")
            return nodes.Node(library, node.op_type, attributes)
        except nodes.NodeError as error:
            self._log(str(error))
            self._fail("Assertion failed: plugin && \"Could not create plugin\"",
                       "UNSUPPORTED_NODE", **where)
            return None

    def _fail(self, description: str, code: str, **where: Any) -> bool:
        error = new(self._trt.ParserError, description, code, **where)
        self._errors.append(error)
        self._log(re.sub(r"\s+", " ", repr(error)))
        return False

    def _log(self, text: str) -> None:
        self._logger.log(self._trt.ILogger.Severity.ERROR, text)


TEMPLATES = {"ITensor": ITensor, "ILayer": ILayer, "INetworkDefinition": INetworkDefinition,
             "ParserError": ParserError, "OnnxParser": OnnxParser}
