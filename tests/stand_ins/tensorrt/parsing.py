"""The parser of ONNX graphs: it refuses a newer opset, and nodes that it has no plugin for. What
else a real one refuses is shown by NVIDIA's own (`make nvidia`)."""

from __future__ import annotations

import re
from typing import Any

import onnx

from bidiff_deploy.operators.shapes import STANDARD

from . import nodes
from .filtered import new
from .program import Program, Refused

# The newest opset of a version's parser, of versions that our graphs are close to.
_OPSETS = {8: 17}
_NEWEST_OPSET = 20
PLUGIN_MISSING = "Plugin not found, are the plugin name, version, and namespace correct?"


class ParserError:
    """Why a graph was refused."""

    def _create(self, description: str, code: str, node: int = -1, operator: str = "",
                name: str = "") -> None:
        self._texts = (description, code, node, operator, name)

    def desc(self) -> str:
        return self._texts[0]

    def node(self) -> int:
        return self._texts[2]

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

    def set_flag(self, flag: Any) -> None:
        self._flags |= 1 << int(flag)

    def parse(self, model: Any, path: str | None = None) -> bool:
        self._errors.clear()
        made = onnx.ModelProto()
        try:
            made.ParseFromString(bytes(model))
            if not made.graph.node:
                raise ValueError
        except Exception:
            return self._fail("Failed to parse the ONNX model.", "MODEL_DESERIALIZE_FAILED")
        opsets = {entry.domain: entry.version for entry in made.opset_import}
        newest = _OPSETS.get(self._trt._version[0], _NEWEST_OPSET)
        if opsets.get("", 0) > newest:
            return self._fail(f"opset {opsets.get('')} is newer than {newest}, the newest of this "
                              "parser", "UNSUPPORTED_GRAPH")
        plugin: dict[int, nodes.Node] = {}
        for index, node in enumerate(made.graph.node):
            if node.domain in STANDARD and onnx.defs.has(node.op_type, newest):
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

    def _plugin(self, index: int, node: onnx.NodeProto) -> nodes.Node | None:
        assert not self._trt._rtx, "std::terminate: TensorRT-RTX was given a node of a plugin"
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
