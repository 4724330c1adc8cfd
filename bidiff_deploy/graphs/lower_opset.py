"""Part of passes ``lower_with_plugin`` and ``lower_dense``: opset 17 or 19, for TensorRT.

Before: opset 18, as in a bundle, without function bodies. After: opset 17 and the operators of
``opset.OPERATORS``, which every parser of TensorRT from 8.5 on reads; all constants in
``constants``. What parsers require (onnx-tensorrt 8.5 to 10.1, and its newest published source),
and what TensorRT fuses:

- ``Split`` has no ``num_outputs``, and the axes of ``ReduceMean`` are an attribute: both changed in
  opset 18, which 8.5 does not read. Opset 19, for parsers from 10 on, has float16 scales of
  quantisation, which 8 would misread.
- Weights of int8 layers are floats between ``QuantizeLinear`` and ``DequantizeLinear``.
- ``Shape`` returns the whole shape: ``start`` and ``end`` are not read before TensorRT 10.
- In 8.5 ``InstanceNormalization`` becomes a plugin of NVIDIA's library, with constant scales and a
  precision that cannot be set. So it is written only from opset 19 on (``norms``).
- ``PRelu`` and ``Where`` are layers of their own; adjacent sums, products, ``Min``, ``Relu`` and
  ``Sign`` become one kernel in every version.
- A choice between two numbers is a clipped sign (``choices``).
- Additions of the constant 0, which means an absent map or vector, are removed.

Sizes that depend on the number of channels alone are constants; with a static shape all sizes are,
and no ``Shape`` is left.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper

from ..errors import EngineError
from ..operators.shapes import STANDARD, Shape
from .choices import chosen
from .constant_folding import constant_of, folded
from .graph_writer import Array, GraphWriter
from .norms import normalise
from .opset import OPSET
from .pixel_rows import by_rows
from .record import Options, ParameterizedGraph

_INT32_MAX = 2**31 - 1
_CHOICES = ("GreaterOrEqual", "Where")  # replaced if the target has no such operators
_IR_VERSION = 8  # that of ONNX when TensorRT 8.5 was released; 9 is the first with opset 19

Attributes = dict[str, Any]
Ours = Callable[["Lowering", onnx.NodeProto], None]


class Lowering(GraphWriter):
    """Writes a graph again, node by node."""

    def __init__(self, model: onnx.ModelProto, constants: Mapping[str, Array],
                 shapes: Mapping[str, Shape], batch: int | None, ours: Ours,
                 opset: int = OPSET) -> None:
        """``model``: opset 18, without function bodies. ``ours``: writes the replacement of a node
        of our domain. ``opset``: to write, 17 or 19. The rest as in ``GraphWriter``."""
        super().__init__(model, constants, shapes, batch, opset)
        self._graph, self._ours = model.graph, ours
        self._same: dict[str, str] = {}
        self._normal: set[str] = set()
        self._compared: dict[str, Sequence[str]] = {}

    def run(self) -> tuple[list[onnx.NodeProto], dict[str, Array]]:
        """The nodes that the outputs depend on, and the constants that these read."""
        for node in self._graph.node:
            self.writing = set(node.output)
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            for index, name in enumerate(copy.input):
                copy.input[index] = self.found(name)
            if copy.domain in STANDARD:
                self.standard(copy)
            else:
                self._ours(self, copy)
        for value in self._graph.output:
            self._restore(value.name)
        wanted, kept = {value.name for value in self._graph.output}, []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output):
                wanted.update(node.input)
                kept.append(node)
        return kept[::-1], {name: self.constants[name] for name in self.constants
                            if name in wanted}

    def found(self, name: str) -> str:
        """The value that replaces ``name`` where the node of that output is gone."""
        return self._same.get(name, name)

    def normalise(self, x: str, groups: int, factor: str, epsilon: float, output: str,
                  bias: str = "") -> str:
        """The group norm of a map, as ``norms.normalise``."""
        return normalise(self, x, groups, factor, epsilon, output, bias)

    # -- standard operators -------------------------------------------------------------------
    def standard(self, node: onnx.NodeProto) -> None:
        """Write the replacement of a node of opset 18, whose inputs are written; ``found`` returns
        its outputs. Raises EngineError for a node that TensorRT does not read."""
        attributes: Attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        inputs, output = list(node.input), node.output[0] if node.output else ""
        special = {"Add": self._add, "Cast": self._cast, "DequantizeLinear": self._dequantize,
                   "GreaterOrEqual": self._greater_or_equal, "Identity": self._identity,
                   "InstanceNormalization": self._instance_normalization, "PRelu": self._prelu,
                   "ReduceMean": self._reduce_mean, "Reshape": self._reshape,
                   "Shape": self._shape, "Slice": self._slice,
                   "Where": self._where}.get(node.op_type)
        if node.op_type == "Constant":
            self.constants[output] = constant_of(node)
        elif inputs and all(name in self.constants for name in inputs if name) and (
                value := folded(node.op_type, [self.constants[name] for name in inputs],
                                  attributes)) is not None:
            self.constants[output] = value
        elif self.opset > OPSET and (written := by_rows(self, node)):
            self._same.update(written)
        elif node.op_type == "Split":
            self.split(node)
        elif special is not None and not (
                node.op_type in _CHOICES and node.op_type in self.operators):
            special(inputs, output, attributes, node)
        else:
            self.append(node)

    def _cast(self, inputs: list[str], output: str, attributes: Attributes,
              node: onnx.NodeProto) -> None:
        key = ("cast", inputs[0], np.dtype(helper.tensor_dtype_to_np_dtype(attributes["to"])))
        if key in self._made:
            self._same[output] = self._made[key]
        else:
            self.append(node)
            self._made[key] = output

    def _dequantize(self, inputs: list[str], output: str, attributes: Attributes,
                    node: onnx.NodeProto) -> None:
        """Stored bytes become floats that are quantised again, as 8.5 accepts no int8 constants."""
        if inputs[0] in self.constants:
            scale = self.constants[inputs[1]]
            whole = self.constants[inputs[0]].astype(np.float32)
            taps = self.constant(whole * scale.reshape(-1, *[1] * (whole.ndim - 1)),
                                 f"{output}/floats")
            node.input[0] = self.op("QuantizeLinear", taps, *inputs[1:], output=f"{output}/int8",
                                    **attributes)
        self.append(node)

    def _identity(self, inputs: list[str], output: str, *_: Any) -> None:
        self._same[output] = inputs[0]

    def _add(self, inputs: list[str], output: str, _: Any, node: onnx.NodeProto) -> None:
        rest = [name for name in inputs if not self.absent(name)]
        if len(rest) == 1:
            self._same[output] = rest[0]
            return
        wide = [found if (found := self.uncast(name)) in self.vectors else name for name in rest]
        if self.opset > OPSET and any(name in self.vectors for name in wide):
            # A vector that was cast would be a kernel of its own; the map's casts are not.
            y = self.op("Add", *(self.cast(name, np.float32) for name in wide),
                        output=f"{output}/float")
            self.as_large_as(y, output)
            self._same[output] = self.cast(y, self.dtype_of(rest[0]))
        else:
            self.append(node)

    def _slice(self, inputs: list[str], output: str, attributes: Attributes,
               node: onnx.NodeProto) -> None:
        ends = self.constants.get(inputs[2])
        if ends is not None and ends.max(initial=0) > _INT32_MAX:
            node.input[2] = self.integers(*(min(int(end), _INT32_MAX) for end in ends))
        self.append(node)

    def _reduce_mean(self, inputs: list[str], output: str, attributes: Attributes,
                     node: onnx.NodeProto) -> None:
        axes = attributes.get("axes")
        if axes is None and len(inputs) > 1 and inputs[1] in self.constants:
            axes = self.constants[inputs[1]].tolist()
        if not axes:
            raise EngineError(f"{node.op_type} {output} has no constant axes; export the bundle "
                              "again")
        self.mean(inputs[0], axes, output, attributes.get("keepdims", 1))

    def _prelu(self, inputs: list[str], output: str, *_: Any) -> None:
        self.rectify(inputs[0], inputs[1], output)

    def _shape(self, inputs: list[str], output: str, attributes: Attributes, _: Any) -> None:
        start, end = attributes.get("start", 0), attributes.get("end")
        name, shape = inputs[0], self.dims(inputs[0])
        fixed = name in self.constants or name in self.vectors
        if shape and None not in shape and (fixed or self._batch is not None):
            # The first dimension of every value that depends on images is the batch.
            sizes = shape if fixed else (self._batch, *shape[1:])
            self.constants[output] = np.array(sizes[start:end], np.int64)
        elif start == 0 and end is None:
            self.op("Shape", inputs[0], output=output)
        else:
            whole = self.op("Shape", inputs[0], output=f"{output}/whole")
            end = end if end is not None else len(shape) or _INT32_MAX
            self.op("Slice", whole, self.integers(start), self.integers(end), self.integers(0),
                    output=output)

    def _instance_normalization(self, inputs: list[str], output: str, attributes: Attributes,
                                _: Any) -> None:
        """The node must normalise a map reshaped to (N, groups, -1), with scale 1 and bias 0."""
        producer = self.producers.get(inputs[0])
        if producer is not None and producer.op_type == "Cast":
            producer = self.producers.get(producer.input[0])
        reshape = producer if producer is not None and producer.op_type == "Reshape" else None
        shape = self.constants.get(reshape.input[1]) if reshape is not None else None
        scale, bias = (self.constants.get(name) for name in inputs[1:])
        if (reshape is None or shape is None or len(shape) != 3 or (shape[0], shape[2]) != (0, -1)
                or scale is None or bias is None or np.any(scale != 1) or np.any(bias)):
            raise EngineError(f"the normalisation {output} is not that of a group norm; export "
                              "the bundle again")
        x, groups = reshape.input[0], int(shape[1])
        ones = np.ones((1, groups, self.channels(x) // groups), np.float32)
        n = self.cast(self.normalise(x, groups, self.constant(ones, "ones"),
                                     attributes.get("epsilon", 1e-5), output), np.float32)
        self._same[output] = n
        self._normal.add(n)

    def _greater_or_equal(self, inputs: list[str], output: str, *_: Any) -> None:
        self._compared[output] = inputs  # written where the result is read

    def _where(self, inputs: list[str], output: str, *_: Any) -> None:
        self._same[output] = chosen(self, self._compared.get(inputs[0], ()), inputs[1:], output)

    def _reshape(self, inputs: list[str], output: str, _: Any, node: onnx.NodeProto) -> None:
        if inputs[0] in self._normal:  # back to the map's shape, which it still has
            self._same[output] = inputs[0]
        elif inputs[0] in self.vectors and inputs[1] in self.constants:
            self._same[output] = self.reshape(inputs[0], *self.constants[inputs[1]].tolist())
        else:
            self.append(node)

    def _restore(self, name: str) -> None:
        """Renames the value that replaced an output of the graph to that output's name."""
        value = self.found(name)
        if value not in self.producers:
            raise EngineError(f"the output {name} is not computed; export the bundle again")
        for node in self.nodes:
            for names in (node.input, node.output):
                for index, found in enumerate(names):
                    if found == value:
                        names[index] = name


def lower_opset(graph: ParameterizedGraph, options: Options, ours: Ours,
                domains: Sequence[onnx.OperatorSetIdProto] = ()) -> ParameterizedGraph:
    """The graph in the target's opset, its constants all in ``constants``.

    ``ours``: writes the nodes of an operator of our domain. ``domains``: of the nodes that it
    writes, with versions. Raises EngineError for a graph that TensorRT does not take.
    """
    lowering = Lowering(graph.model, graph.constants, graph.shapes,
                        options.shape[0] if options.shape else None, ours, options.opset)
    try:
        nodes, constants = lowering.run()
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise EngineError("the bundle's graph is not its network's, so it cannot be lowered for "
                          f"TensorRT ({error!r}); export the bundle again") from None
    source = graph.model.graph
    model = helper.make_model(
        helper.make_graph(nodes, "step", source.input, source.output),
        producer_name="bidiff_deploy",
        opset_imports=[helper.make_opsetid("", options.opset), *domains],
        ir_version=_IR_VERSION + (options.opset > OPSET))
    return dataclasses.replace(graph, model=model, constants=constants)
