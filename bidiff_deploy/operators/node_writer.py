"""Writes the nodes of a definition or of a network's graph, in an order in which they can run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from .names import DOMAIN, ONNX_OPSET, VERSION

IR_VERSION = 8  # the first with model-local functions: any onnxruntime since 1.11 reads it
_OPSETS = {"": ONNX_OPSET, DOMAIN: VERSION}


class NodeWriter:
    """Collects nodes and initializers. Values are passed by name: each method that writes a node
    returns the name of the node's output."""

    def __init__(self, store: Callable[[np.ndarray, str], TensorProto] = numpy_helper.from_array
                 ) -> None:
        """``store(value, name)`` returns the tensor of an initializer; by default its bytes are
        stored in the graph."""
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: dict[str, TensorProto] = {}
        self._store = store
        self._constants: set[str] = set()
        self._unlabelled = 0

    def op(self, op_type: str, *inputs: str, name: str, domain: str = "", label: bool = False,
           **attributes: object) -> str:
        """Append a node whose output is ``name``; with ``label`` that is the node's name too.
        Attributes are Python values or protos, such as ``integer_reference`` returns."""
        return self._append(op_type, inputs, [name], domain, label, attributes)[0]

    def split(self, x: str, axis: int, *names: str) -> Sequence[str]:
        """Equal parts of x along an axis, one per name."""
        return self._append("Split", [x], names, "", False,
                            {"axis": axis, "num_outputs": len(names)})

    def pieces(self, x: str, sizes: str, axis: int, *names: str) -> Sequence[str]:
        """Parts of x along an axis, of ``sizes``, one per name."""
        return self._append("Split", [x, sizes], names, "", False, {"axis": axis})

    def scan(self, body: onnx.GraphProto, state: str, *inputs: str, axis: int,
             names: tuple[str, str]) -> str:
        """A Scan with one state along ``axis`` of ``inputs`` and of its one output; ``names``: of
        the last state and of the output, which is returned."""
        return self._append("Scan", (state, *inputs), names, "", False, {
            "body": body, "num_scan_inputs": len(inputs), "scan_input_axes": [axis] * len(inputs),
            "scan_output_axes": [axis]})[1]

    def per_channel(self, value: str, name: str) -> str:
        """A vector (C) reshaped to (1, C, 1, 1)."""
        return self.op("Reshape", value, self.integers(f"{name}_shape", 1, -1, 1, 1), name=name)

    def integers(self, name: str, *values: int) -> str:
        """A constant int64 vector."""
        return self.constant(np.array(values, np.int64), name)

    def constant(self, value: np.ndarray | np.generic, name: str) -> str:
        """A constant. A name is written once: later values of the same name are ignored."""
        if name not in self._constants:
            self._constants.add(name)
            self.op("Constant", value=numpy_helper.from_array(np.asarray(value), name), name=name)
        return name

    def initializer(self, name: str, value: np.ndarray) -> str:
        """An initializer. A name is stored once: later values of the same name are ignored."""
        if name not in self.initializers:
            self.initializers[name] = self._store(value, name)
        return name

    def function(self, name: str, inputs: Sequence[str], attributes: Sequence[str] = (),
                 defaults: Sequence[AttributeProto] = (), opsets: Mapping[str, int] = _OPSETS
                 ) -> onnx.FunctionProto:
        """The definition of an operator of our domain, whose output is the last node's.

        ``attributes``: names of required attributes. ``defaults``: attributes with defaults."""
        return helper.make_function(DOMAIN, name, inputs, self.nodes[-1].output, self.nodes,
                                    _imports(opsets), attributes, defaults)

    def model(self, name: str, inputs: Sequence[onnx.ValueInfoProto],
              shape: Sequence[int | str], functions: Iterable[onnx.FunctionProto]
              ) -> onnx.ModelProto:
        """The nodes as a graph, whose output is the last node's, float32 of ``shape``."""
        output = helper.make_tensor_value_info(self.nodes[-1].output[0], TensorProto.FLOAT, shape)
        tensors = list(self.initializers.values())
        graph = helper.make_graph(
            self.nodes, name, inputs, [output], tensors, value_info=[
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
                for tensor in tensors])
        return helper.make_model(graph, ir_version=IR_VERSION, producer_name="bidiff_deploy",
                                 opset_imports=_imports(_OPSETS), functions=functions)

    def _append(self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], domain: str,
                label: bool, attributes: Mapping[str, object]) -> Sequence[str]:
        name = outputs[0] if label else f"node_{op_type}_{self._unlabelled}"
        self._unlabelled += not label
        node = onnx.NodeProto(op_type=op_type, input=inputs, output=outputs, name=name)
        if domain:
            node.domain = domain
        node.attribute.extend(value if isinstance(value, AttributeProto)
                              else helper.make_attribute(key, value)
                              for key, value in attributes.items())
        self.nodes.append(node)
        return outputs


def integer_reference(name: str, attribute: str) -> AttributeProto:
    """Attribute ``name`` of an inner node, bound to attribute ``attribute`` of the function."""
    return AttributeProto(name=name, type=AttributeProto.INT, ref_attr_name=attribute)


def float_reference(name: str, attribute: str) -> AttributeProto:
    """As ``integer_reference``, of a float."""
    return AttributeProto(name=name, type=AttributeProto.FLOAT, ref_attr_name=attribute)


def _imports(opsets: Mapping[str, int]) -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid(*item) for item in opsets.items()]
