"""The parser of ONNX graphs, with the refusals of real ones."""

from __future__ import annotations

import re
from typing import Any

import onnx
from onnx import TensorProto

from . import nodes
from .filtered import new
from .network import TYPES
from .program import Program, Refused

# The newest opset of a version's parser, of versions that our graphs are close to.
_OPSETS = {8: 17}
_NEWEST_OPSET = 20
# Operators that the parsers know only from some version on, and those that none of them knows.
_SINCE = {"LayerNormalization": (8, 6), "Hardmax": (8, 6), "IsInf": (8, 6)}
_UNKNOWN = frozenset((
    "AffineGrid", "Bernoulli", "BitShift", "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor",
    "CenterCropPad", "Col2Im", "Compress", "ConvInteger", "DFT", "Det", "DynamicQuantizeLinear",
    "MatMulInteger", "MaxRoiPool", "MaxUnpool", "Multinomial", "QLinearConv", "QLinearMatMul",
    "STFT", "SequenceAt", "SequenceConstruct", "SplitToSequence", "Unique"))
PLUGIN_MISSING = "Plugin not found, are the plugin name, version, and namespace correct?"


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
            if self._imports(node, newest):
                if wrong := self._quantisation(node, made):
                    return self._fail(f"Assertion failed: {wrong}", "INVALID_NODE", node=index,
                                      operator=node.op_type, name=node.name)
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

    def _imports(self, node: onnx.NodeProto, newest: int) -> bool:
        return (node.domain in ("", "ai.onnx") and onnx.defs.has(node.op_type, newest)
                and node.op_type not in _UNKNOWN
                and self._trt._version >= _SINCE.get(node.op_type, (0,)))

    def _quantisation(self, node: onnx.NodeProto, model: onnx.ModelProto) -> str:
        """What is wrong with the constants of a QuantizeLinear or DequantizeLinear."""
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return ""
        if len(node.input) < 3:
            return "" if self._trt._version[0] >= 10 else (
                f"This version of TensorRT requires 3 inputs for the {node.op_type} operator.")
        found = {entry.name: onnx.numpy_helper.to_array(entry) for entry in model.graph.initializer
                 if entry.name in node.input[1:]}
        scale, zero = (found.get(name) for name in node.input[1:3])
        if scale is not None and not (scale > 0).all():
            return "Scale coefficients must all be positive"
        if zero is not None and zero.any():
            return "TRT only supports symmetric quantization - zeroPt must be all zeros"
        if scale is not None and zero is not None and scale.size != zero.size:
            return "The scale and zero-point must have the same size"
        return ""

    def _plugin(self, index: int, node: onnx.NodeProto) -> nodes.Node | None:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry)
                      for entry in node.attribute}
        version = attributes.pop("plugin_version", b"1").decode()
        namespace = attributes.pop("plugin_namespace", b"").decode()
        where = {"node": index, "operator": node.op_type, "name": node.name}
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


TEMPLATES = {"ParserError": ParserError, "OnnxParser": OnnxParser}
